"""The process that forks those of streams, `python -m dataflows.work.forks DOOR`: it has imported what most need."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from importlib import import_module
from typing import Final

from dataflows.process.fork_server import serve_forks
from dataflows.process.signals import hold_signals

__all__ = ["main"]

LOADED: Final = (
    "dataflows.runs.serving",
    "dataflows.connectors.kafka.connector",
    "dataflows.connectors.topics.connector",
    "dataflows.connectors.postgres.connector",
    "dataflows.connectors.postgres.cdc.source",
    "dataflows.transforms.stages",
    "dataflows.transforms.expressions.compiler",
)
"""Modules that every stream needs; anything else it imports by itself, into memory of its own."""


def main() -> None:
    """Import, and fork for as long as the other end of the descriptor named as argument is open."""
    hold_signals()  # what is forked reports the signals that it gets before it has begun
    for name in LOADED:
        import_module(name)
    gc.collect()
    logging.getLogger().handlers.clear()
    with socket.socket(fileno=int(sys.argv[1])) as door:
        serve_forks(door, _run)


def _run(lifeline: int) -> int:
    import_module("dataflows.runs.serving").main(["--lifeline", str(lifeline)])
    return 0


if __name__ == "__main__":
    main()
