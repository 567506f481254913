"""Tasks of a worker that look for files: when each is to look next, and what it has seen last.

Such a task stays at its worker, and takes a process only while it looks. On the log is only what has arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import Stalled
from penstock.models.domain import Error
from penstock.models.triggers import FileTrigger

__all__ = ["STUCK", "WATCH", "Watches"]

WATCH: Final = "watch"
"""Kind of these tasks."""
MOST: Final = 4
"""Looks at the same time, at most: each needs a process."""
LONGEST: Final = 300.0
"""Seconds after which a look is given up."""
STUCK: Final = Error(
    code=Stalled.code,
    what=f"a look for files has not ended after {LONGEST:.0f} s",
    hint="does the folder or the bucket answer? it is looked at again",
    transient=True,
)
"""The error of such a look."""
PAUSE: Final = 60.0
"""Seconds until the next look after one that failed, at least."""


@dataclass(slots=True)
class _Watch:
    task: Mapping[str, Any]
    every: float
    due: float
    round: int
    listing: str | None = None
    began: float | None = None
    error: str | None = None
    """The code of the error that the last look ended with."""


class Watches:
    """The tasks by id. `clock` is the monotonic one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watches: dict[str, _Watch] = {}

    def add(self, task: Mapping[str, Any]) -> None:
        """Add an assigned task; it looks at once."""
        trigger = FileTrigger.parse(task["spec"]["spec"]["triggers"]["files"])
        round_ = task.get("round", 0)
        self._watches[task["task"]] = _Watch(task, trigger.every.total_seconds(), self._clock(), round_)

    def drop(self, task: str) -> None:
        """Take a task out, if it is there."""
        self._watches.pop(task, None)

    def begin(self) -> Iterator[Mapping[str, Any]]:
        """Yield the tasks that look now, as their processes need them."""
        at, looking = self._clock(), sum(one.began is not None for one in self._watches.values())
        for one in sorted(self._watches.values(), key=lambda one: one.due):
            if looking >= MOST or one.due > at:
                break
            if one.began is None:
                one.began, looking = at, looking + 1
                yield {**one.task, "round": one.round, "listing": one.listing}

    def stuck(self) -> list[str]:
        """Return the tasks whose look takes too long, and is to be ended: `STUCK` is its error."""
        at = self._clock()
        return [id_ for id_, one in self._watches.items() if one.began is not None and at - one.began > LONGEST]

    def looked(self, task: str, result: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Take the result of a look; return what is to be reported, if it has not been yet.

        That is a ``report`` of files, or an ``error`` that is another one than that of the look before.
        """
        one = self._watches.get(task)
        if one is None:
            return None
        if (error := result.get("error")) is not None:
            is_new, one.error = error["code"] != one.error, error["code"]
            self._wait(one, max(PAUSE, one.every))
            return {"error": error} if is_new else None
        one.error, one.listing, report = None, result.get("listing"), result.get("report")
        one.round = max(one.round, report["round"]) if report else one.round
        self._wait(one, 0 if one.listing is None else one.every)
        return {"report": report} if report else None

    def _wait(self, one: _Watch, seconds: float) -> None:
        one.began, one.due = None, self._clock() + seconds
