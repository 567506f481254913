"""Supervision of watched runs: reports what an open run waits for, and gives up on one that cannot continue."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Final

from api.switches import is_halted, resume_hint
from dataflows.process.site import ACTIVE_CONTROL
from penstock.errors import PenstockError, Refused, Unavailable

if TYPE_CHECKING:
    from catalog.entries import RunEntry
    from catalog.store import MetadataStore
    from penstock.topics.log import TopicLog

__all__ = ["Halted", "Vigil", "Waiting"]

GRACE: Final = 15.0
"""Seconds for a process that died to come back, and for a command to take effect."""
POLL_SECONDS: Final = 0.5
"""Seconds between two polls."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Reason why a run waits, in a sentence; for all open runs if `run` is None."""

    what: str
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Halted:
    """Open run that does not continue by itself, and the reason."""

    run: str
    error: PenstockError


class Vigil:
    """Looks after the open runs of one watch. Reports each thing that a run waits for once."""

    def __init__(self, log: TopicLog, store: MetadataStore) -> None:
        self._log, self._store = log, store
        self._next = 0.0
        self._since: dict[str, float] = {}
        self._reported: set[str] = set()

    def look(self, runs: Sequence[RunEntry]) -> Iterator[Waiting | Halted]:
        """Look at `runs`, the open ones as the catalog has them, if `POLL_SECONDS` seconds have passed.

        Raises:
            Unavailable: no control process has been active for `GRACE` seconds.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + POLL_SECONDS
        self._look_at_control()
        statuses = self._store.statuses({run.pipeline for run in runs})
        for run in runs:
            yield from self._look_at_pipeline(run, statuses.get(run.pipeline, "deleted"))
        yield from self._look_at_workers(runs)

    def _look_at_control(self) -> None:
        if self._lasts("no control", not self._log.holder(ACTIVE_CONTROL), GRACE):
            hint = "penstock up; what is committed stays, and the run continues from there"
            raise Unavailable("no control process is active, so the run cannot continue", hint=hint)

    def _look_at_pipeline(self, run: RunEntry, status: str) -> Iterator[Halted]:
        where = f"pipeline {run.pipeline}"
        # For two looks: the run may have ended just before, which the catalog then shows.
        if self._lasts(f"{run.id} paused", status == "paused", POLL_SECONDS):
            yield Halted(run.id, Refused(f"was paused; run {run.id} keeps its place", where=where, hint=_resume(run)))
        # A run of a stopped or deleted pipeline is ended by the control plane, at its last commit.
        if self._lasts(f"{run.id} ended", status not in {"active", "draining", "paused"}, GRACE):
            hint = _resume(run) if status == "stopped" else "penstock list"
            yield Halted(run.id, Refused(f"is {status}; run {run.id} has not ended", where=where, hint=hint))

    def _look_at_workers(self, runs: Sequence[RunEntry]) -> Iterator[Waiting]:
        joined = any(worker.status == "joined" for worker in self._store.workers())
        if self._lasts("no worker", not joined, GRACE) and self._is_new("no worker"):
            yield Waiting("no worker has joined: runs wait for one (penstock up, or penstock flow worker)")
        waits = joined and any(run.status == "queued" for run in runs)
        halted = waits and is_halted(self._store, "orchestrator")
        if self._lasts("halted", halted, GRACE) and self._is_new("halted"):
            hint = resume_hint(self._store, "orchestrator")
            yield Waiting(f"the orchestrator is halted: no run is given to a worker until `{hint}`")
        for run in runs:
            queued = joined and not halted and run.status == "queued"
            if self._lasts(f"{run.id} queued", queued, GRACE) and self._is_new(f"{run.id} queued"):
                held = f"`penstock status {quote(run.pipeline)}` if a connection is held back"
                yield Waiting(f"it waits for its turn: `penstock runs` shows what runs before it, {held}", run.id)

    def _lasts(self, what: str, holds: bool, seconds: float) -> bool:  # noqa: FBT001 - the condition itself
        """True if `what` has held at every look for that long."""
        if not holds:
            self._since.pop(what, None)
            return False
        return time.monotonic() - self._since.setdefault(what, time.monotonic()) >= seconds

    def _is_new(self, what: str) -> bool:
        new = what not in self._reported
        self._reported.add(what)
        return new


def _resume(run: RunEntry) -> str:
    return f"penstock resume {quote(run.pipeline)}, then penstock run {quote(run.pipeline)} --watch"
