"""An audit of a long log in two halves, one of them in a process of its own.

Each agent is judged without the others, and the orchestrator makes about half of all decisions. So where there is a
second core, its half runs beside that of the others; each reads the whole log.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar

from agents.orchestrator import Orchestrator
from agents.protocol import Agent
from dataflows.control import agents
from dataflows.process.lifeline import watch_lifeline
from penstock.errors import Unavailable

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from penstock.topics.log import TopicLog

__all__ = ["LONG", "judged"]

LONG: Final = 50_000
"""Messages from which on a second process is faster: it takes a second to start."""


class Joining(Protocol):
    """What was found about some agents; it takes up what was found about others."""

    def join(self, other: Any, /) -> None: ...


Found = TypeVar("Found", bound=Joining)
Found_co = TypeVar("Found_co", covariant=True)
Told = Callable[[int], None]
"""Is told how many records were read so far."""


class Judging(Protocol[Found_co]):
    """Judges the decisions of some agents on a log; it can be pickled."""

    def __call__(self, log: TopicLog, agents: Sequence[Agent], /, *, told: Told) -> Found_co: ...


def judged(
    log: TopicLog,
    end: int,
    judge: Judging[Found],
    opened: Callable[[], TopicLog],
    told: Told = lambda _: None,
    long: int = LONG,
) -> Found:
    """Return what `judge` finds about all agents on `log` up to `end`; in halves, if it has `long` messages or more.

    `opened`, which can be pickled, opens the log again, for the other process. `told` learns how many records both
    have judged.

    Raises:
        Unavailable: the other process was ended, or could not read the log.
    """
    if end < long or _cores() < 2:  # noqa: PLR2004 - one for each half
        return judge(log, agents(), told=told)
    with _Other(opened, judge) as other:
        rest = [one for one in agents() if one.name != Orchestrator.name]
        found = judge(log, rest, told=lambda at: told(min(at, other.read_so_far())))
        found.join(other.result(told))
        return found


class _Other(Generic[Found]):
    """The process that judges the orchestrator's decisions."""

    def __init__(self, opened: Callable[[], TopicLog], judge: Judging[Found]) -> None:
        context = get_context("spawn")  # a fork would share connections with this process
        self._here, there = context.Pipe(duplex=False)
        self._process = context.Process(target=_half, args=(there, opened, judge), daemon=True)
        with _interrupts_blocked():
            self._process.start()
        there.close()
        self._said: Any = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._here.close()

    def read_so_far(self) -> int:
        """Return how many records it has read, as it said last."""
        while self._here.poll() and isinstance(self._said, int):
            self._said = self._received()
        return self._said if isinstance(self._said, int) else sys.maxsize

    def result(self, told: Told) -> Found:
        """Wait for its result."""
        while isinstance(self._said, int):
            told(self._said)
            self._said = self._received()
        found: Found = self._said
        return found

    def _received(self) -> Any:
        try:
            said = self._here.recv()
        except EOFError as error:
            raise _unjudged("the process that judges half of the decisions was ended; memory may be short") from error
        if isinstance(said, str):
            raise _unjudged(f"the process that judges half of the decisions failed: {said}")
        return said


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT, as a process that starts meanwhile does for good: Ctrl-C is for its parent, which ends it."""
    resource_tracker.ensure_running()  # its start would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unjudged(what: str) -> Unavailable:
    return Unavailable(what, where="audit", hint="run it again")


def _half(there: Connection, opened: Callable[[], TopicLog], judge: Judging[object]) -> None:
    """Judge the orchestrator's decisions: send how many records were read, then the result or what went wrong."""
    if (parent := parent_process()) is not None:
        watch_lifeline(parent.sentinel)
    try:
        with closing(opened()) as log:
            found = judge(log, [Orchestrator()], told=there.send)
    except Exception as error:  # noqa: BLE001 - the parent raises it
        found = f"{type(error).__name__}: {error}"
    there.send(found)
