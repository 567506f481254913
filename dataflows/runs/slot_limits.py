"""Limits of what a source keeps for a stream of changes: reported at one, and at the other the slot is dropped.

A slot keeps the source's WAL for as long as the sink does not have it: a stream that is stopped makes it grow, and a
full disk stops the source's database. Only to drop the slot frees the disk. This costs the stream its place, so it is
done only where the pipeline says so, and the stream is refused until it is rebuilt.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from shlex import quote

from dataflows.connectors.contract import Source
from dataflows.connectors.streaming import SlotHealth, SlotReporting
from dataflows.pipeline import FirstError
from dataflows.runs.job import Job
from penstock.errors import Refused

__all__ = ["StreamSlot", "check_slot_limit", "given_up", "stream_slot"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class StreamSlot:
    """Looks after the slot of a running stream."""

    job: Job
    source: SlotReporting
    first: FirstError
    dropped: str | None = None
    """Name of the slot that is to be dropped."""
    _reported: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> SlotHealth | None:
        """Return the slot; report it if it keeps too much, and above the limit drop it and end the run."""
        found = self.source.slot()
        if found is None:
            return None
        alert = found.retained >= self.job.spec.limits.slot_alert or found.status in {"unreserved", "lost"}
        if alert and not self._reported:
            size, limit = _size(found.retained), _size(self.job.spec.limits.slot_alert)
            told = "%s: its server keeps %s of WAL for this stream (slot %s, %s; limits.slot_alert: %s)"
            _log.warning(told, self.job.at_source, size, found.name, found.status, limit)
        self._reported = alert
        if _is_over(self.job, found):
            self.dropped = found.name
            self.first.put(_error(self.job, found))
            self.drop()
        return found

    def drop(self) -> None:
        """Drop the slot that is to be dropped, if any and if it is still there."""
        with self._lock:
            if self.dropped is not None:
                self.source.give_up(self.dropped)


def stream_slot(job: Job, source: Source, first: FirstError) -> StreamSlot | None:
    """Return what looks after the slot; None if the source has none."""
    return StreamSlot(job, source, first) if isinstance(source, SlotReporting) else None


@contextmanager
def given_up(slot: StreamSlot | None) -> Iterator[None]:
    """Drop the slot at the end if it was to be dropped, since the thread that looks at it ends with the run."""
    try:
        yield
    finally:
        if slot is not None:
            slot.drop()


def check_slot_limit(job: Job) -> None:
    """Drop a slot that keeps too much, before the sink is asked: it may be what does not answer.

    Raises:
        Refused: the slot was dropped.
    """
    if job.spec.limits.slot_drop is None or job.begin is not None:  # one that begins again drops it anyway
        return
    with closing(job.open_source()) as source:
        if isinstance(source, SlotReporting) and (found := source.slot()) is not None and _is_over(job, found):
            source.give_up(found.name)
            raise _error(job, found)


def _is_over(job: Job, found: SlotHealth) -> bool:
    limit = job.spec.limits.slot_drop
    return limit is not None and found.retained >= limit


def _error(job: Job, found: SlotHealth) -> Refused:
    limit = job.spec.limits.slot_drop or 0
    what = (
        f"replication slot {found.name} was dropped: it kept {_size(found.retained)} of the server's WAL, and "
        f"limits.slot_drop is {_size(limit)}; changes that the sink does not have are lost"
    )
    again = f"penstock run {quote(job.pipeline)} --from earliest --reset"
    hint = f"`{again}` rebuilds it by a new snapshot, in one transaction"
    return Refused(what, where=job.at_source, hint=hint)


def _size(count: int) -> str:
    return f"{count / 10**9:.1f} GB" if count >= 10**9 else f"{count / 10**6:.1f} MB"
