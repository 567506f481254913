"""`StreamPipelineEngine`: the dataflow of a stream, which never ends: source -> mapping -> sink, split after split.

The operators, threads and queues are those of a batch. What makes a stream is its readers, which close a split once it
is large or old enough, and its positions, which the sink moves in the transaction of each split. In memory are at most
the splits in the queues, since Bytewax passes a chunk on as soon as the writer's queue takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dataflows.pipeline import BatchPipelineEngine

__all__ = ["StreamPipelineEngine"]


@dataclass(slots=True)
class StreamPipelineEngine(BatchPipelineEngine):
    """Runs the slots of one process until `first` has an error: `Stopped`, or what went wrong."""

    endless: ClassVar[bool] = True
