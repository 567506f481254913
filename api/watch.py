"""Watch over runs: yields progress and failed attempts as they are reported, and the entry of each run at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from api.vigil import Halted, Vigil, Waiting
from catalog.entries import RunEntry
from catalog.store import MetadataStore
from penstock.records import Record, records_of
from penstock.records.execution import RunProgress, TaskFailed
from penstock.records.families import body
from penstock.topics.log import TopicLog
from penstock.topics.partitioner import partition_of
from penstock.topics.table import CONTROL, METRICS, Topic

__all__ = ["OPEN", "Watch"]

POLL_SECONDS: Final = 0.25
"""Seconds between two polls while the catalog does not change: progress is not in the catalog."""
READ: Final = 1000
OPEN: Final = frozenset({"queued", "running"})
"""The statuses of a run that has not ended."""

Event = RunProgress | TaskFailed | Waiting | Halted | RunEntry


class Watch:
    """Follows reports from its creation on, so create it before requesting the runs. For one thread."""

    def __init__(self, log: TopicLog, store: MetadataStore, look_after: Callable[[], None]) -> None:
        """Create it; `look_after` is called at each look, to restart processes that the runs need."""
        self._log, self._store, self._look_after = log, store, look_after
        self._vigil = Vigil(log, store)
        self._at = {(METRICS, part): log.end(METRICS, part) for part in range(METRICS.partitions)}
        self._at[CONTROL, 0] = log.end(CONTROL, 0)

    def follow(self, runs: Iterable[str]) -> Iterator[Event]:
        """Yield what happens until each of `runs` has ended (its entry) or is halted.

        Raises:
            Unavailable: the control process has ended.
        """
        left = set(runs)
        while left:
            seen = self._store.commits.listen()
            entries = self._store.runs_by_id(left)
            yield from self._progress(left)
            yield from self._failures(left)
            for entry in entries:
                if entry.status not in OPEN:
                    left.discard(entry.id)
                    yield entry
            if not left:
                return
            self._look_after()
            for event in self._vigil.look([entry for entry in entries if entry.id in left]):
                if isinstance(event, Halted):
                    left.discard(event.run)
                yield event
            self._store.commits.wait(seen, POLL_SECONDS)

    def _progress(self, runs: set[str]) -> Iterator[RunProgress]:
        """Yield the latest progress of each run."""
        parts = {partition_of(run.encode(), METRICS.partitions) for run in runs}
        records = (record for part in sorted(parts) for record in self._new(METRICS, part))
        last = {record.key: record for record in records if record.key in runs and record.type == "run.progress"}
        yield from (body(record) for record in last.values())  # type: ignore[misc]  # as their type says

    def _failures(self, runs: set[str]) -> Iterator[TaskFailed]:
        for record in self._new(CONTROL, 0):
            if record.type == "task.failed" and record.payload.get("run") in runs:
                yield body(record)  # type: ignore[misc]  # as its type says

    def _new(self, topic: Topic, part: int) -> Iterator[Record]:
        stored = self._log.read(topic, part, self._at[topic, part], READ)
        if stored:
            self._at[topic, part] = stored[-1].offset + 1
        return (record for _, record in records_of(stored))
