"""Whether what a watched run waits for can still come: told, or an error, and never silence without an end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dataflows.process.site import ACTIVE_CONTROL
from penstock.errors import NotFound, Refused, Unavailable

if TYPE_CHECKING:
    from api.client import Client
    from catalog.entries import RunEntry

__all__ = ["Vigil", "Waiting"]

GRACE: Final = 15.0
"""Seconds for what has died to come back, and for what was asked to take effect."""
LOOK: Final = 0.5
"""Seconds between two looks."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the run waits for, in words."""

    what: str


class Vigil:
    """Over one open run. Each thing that it waits for is told once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next = 0.0
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def look(self, entry: RunEntry | None) -> Iterator[Waiting]:
        """Look, if it is time to; `entry` is the open run as the catalog has it.

        Raises:
            Refused: its pipeline was paused, stopped or deleted by somebody: it does not go on by itself.
            Unavailable: no control process has been active for a while: nothing is decided any more.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK
        self._look_at_control()
        if entry is not None:
            self._look_at_pipeline(entry)
            yield from self._look_at_workers(entry)

    def _look_at_control(self) -> None:
        if self._lasts("no control", not self._client.log.holder(ACTIVE_CONTROL), GRACE):
            hint = "penstock up; what is committed stays, and the run goes on from there"
            raise Unavailable("no control process is active: nothing is decided any more", hint=hint)

    def _look_at_pipeline(self, entry: RunEntry) -> None:
        try:
            status: str = self._client.store.pipeline(entry.pipeline).status
        except NotFound:
            status = "deleted"
        where = f"pipeline {entry.pipeline}"
        # Seen twice: the run may have ended just before, which the next look at its entry tells.
        if self._lasts("paused", status == "paused", LOOK):
            raise Refused(f"was paused; run {entry.id} keeps its place", where=where, hint=_resume(entry))
        # A run of these is ended by itself, at its last commit.
        if self._lasts("ended", status not in {"active", "paused"}, GRACE):
            hint = _resume(entry) if status == "stopped" else "penstock list"
            raise Refused(f"is {status}; run {entry.id} has not ended", where=where, hint=hint)

    def _look_at_workers(self, entry: RunEntry) -> Iterator[Waiting]:
        joined = any(worker.status == "joined" for worker in self._client.store.workers())
        if self._lasts("no worker", not joined, GRACE) and self._is_new("no worker"):
            yield Waiting("no worker is there: it waits for one (penstock up, or penstock flow worker)")
        queued = joined and entry.status == "queued"
        if self._lasts("queued", queued, GRACE) and self._is_new("queued"):
            yield Waiting("it waits for its turn: `penstock runs` shows what runs before it")

    def _lasts(self, what: str, holds: bool, seconds: float) -> bool:  # noqa: FBT001 - it is what is asked about
        """Whether `what` has held at every look for so long."""
        if not holds:
            self._since.pop(what, None)
            return False
        return time.monotonic() - self._since.setdefault(what, time.monotonic()) >= seconds

    def _is_new(self, what: str) -> bool:
        new = what not in self._told
        self._told.add(what)
        return new


def _resume(entry: RunEntry) -> str:
    return f"penstock resume {entry.pipeline}, then penstock run {entry.pipeline} --watch"
