"""The one adapter of agents to Bytewax: a fold as a stateful operator over batches of the control topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from bytewax import operators as op
from bytewax.dataflow import Stream
from bytewax.operators import KeyedStream, StatefulBatchLogic

from agents.fold import Fold
from catalog.entries import Snapshot
from penstock.errors import Fenced
from penstock.records import Record, encode
from penstock.telemetry import exporting
from penstock.telemetry import record as record_span
from penstock.topics.log import Message
from penstock.topics.operators import Wakeup

__all__ = ["run_agent"]

SNAPSHOT_EVERY: Final = 20_000
"""Records between two snapshots of an agent: half a second of folding at a start, and few pauses under load."""

Batch = list[tuple[int, Record]]
"""Records of one read, in order, with their offsets."""

Output = list[Message] | Snapshot


def run_agent(
    name: str, fold: Callable[[], Fold], batches: Stream[Batch], wakeup: Wakeup
) -> tuple[KeyedStream[list[Message]], KeyedStream[Snapshot]]:
    """Run an agent over `batches`; return its decisions, each the messages of ONE append, and its snapshots.

    `fold` is called when the first batch arrives. `wakeup` is the one of the flow, which an error ends.
    """
    keyed = op.map(f"for_{name}", batches, lambda batch: (name, batch))
    outputs = op.stateful_batch(f"agent_{name}", keyed, lambda _: _Logic(fold(), wakeup))
    decided = op.filter_map_value(f"decided_{name}", outputs, lambda one: None if isinstance(one, Snapshot) else one)
    taken = op.filter_map_value(f"taken_{name}", outputs, lambda one: one if isinstance(one, Snapshot) else None)
    return decided, taken


def _trace(cause: Record, decided: Record) -> None:
    """Export the span of a decision: from the append of its cause on, so that it shows how long the topic took."""
    if exporting():
        why = decided.payload
        told = {name: why.get(name) for name in ("agent", "action", "outcome", "subject", "confidence")}
        at = int(cause.at.timestamp() * 1e9)
        record_span(f"decide {why.get('action', 'nothing')}", cause.traceparent, at, cause=cause.type, **told)


class _Logic(StatefulBatchLogic[Batch, Output, None]):
    """The state is in the fold; it is restored from the log and the snapshots, not by Bytewax."""

    def __init__(self, fold: Fold, wakeup: Wakeup) -> None:
        self._fold, self._saved, self._wakeup = fold, fold.next, wakeup

    def on_batch(self, values: list[Batch]) -> tuple[Iterable[Output], bool]:
        return self._wakeup.guarded(partial(self._decided, values), []), StatefulBatchLogic.RETAIN

    def _decided(self, values: list[Batch]) -> list[Output]:
        out: list[Output] = []
        for offset, record in (item for batch in values for item in batch):
            if record.type == "brain.started" and offset > self._fold.brain:
                raise Fenced("another control process took over", where=f"brain {self._fold.brain}", value=offset)
            if decided := self._fold.step(offset, record):
                _trace(record, decided[0])
                out.append([encode(one) for one in decided])
        return out + self._snapshot(SNAPSHOT_EVERY)

    def on_eof(self) -> tuple[Iterable[Output], bool]:
        return self._wakeup.guarded(partial(self._snapshot, 1), []), StatefulBatchLogic.RETAIN

    def _snapshot(self, after: int) -> list[Output]:
        taken = self._fold.snapshot() if self._fold.next - self._saved >= after else None
        if taken is None:
            return []
        self._saved = taken.offset
        return [taken]

    def snapshot(self) -> None:
        """Return None: Bytewax stores no state here."""
