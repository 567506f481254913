"""Limit of a run's memory: whatever its rows are, the run ends by name, and the machine goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from dataflows.data.movement import Movement, eased
from dataflows.pipeline import FirstError
from dataflows.process.memory import limited_memory, unlimited_memory, used_memory
from dataflows.runs.job import Job
from penstock.errors import OutOfMemory, PenstockError

__all__ = ["measured", "named", "too_much"]

TICK_SECONDS: Final = 0.1
NEAR_SECONDS: Final = 0.01
QUIET_SECONDS: Final = 10.0
"""Seconds between two looks at a run in which nothing moves."""
SAME: Final = 1 << 20
"""Bytes by which the memory of such a run may change."""


def too_much(job: Job) -> PenstockError:
    """Return the error of a run that used more than its pipeline allows."""
    return OutOfMemory.beyond(job.spec.limits.memory, job.pipeline)


@contextmanager
def named(job: Job) -> Iterator[None]:
    """Raise `OutOfMemory` in place of an allocation that failed, and of what was raised because of it."""
    try:
        yield
    except Exception as error:
        if not _is_of_memory(error):
            raise
        unlimited_memory()
        raise too_much(job) from error


def _is_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def measured(
    job: Job, movement: Movement, first: FirstError, give_up: Callable[[BaseException], None]
) -> Iterator[None]:
    """Limit the memory of this process and of those that it starts, until the context ends.

    What they use together is measured ten times a second, a hundred times near the limit, and rarely while nothing
    moves. Beyond it, `give_up` is called, from another thread, and must end the process. What grows faster than that
    meets the kernel's limit.
    """
    over, lock = threading.Event(), threading.Lock()
    limit = job.spec.limits.memory

    def watch() -> None:
        used, seen, changed = 0, movement.number, time.monotonic()
        while True:
            tick = NEAR_SECONDS if used > limit // 2 else TICK_SECONDS
            if movement.rest(over, seen, tick, eased(tick, QUIET_SECONDS, time.monotonic() - changed)):
                return
            before, used = (used, seen), used_memory()
            seen = movement.number
            if seen != before[1] or abs(used - before[0]) > SAME:
                changed = time.monotonic()
            if used > limit:
                with lock:
                    if not over.is_set():
                        unlimited_memory()
                        first.put(too_much(job))
                        give_up(too_much(job))

    with limited_memory(limit), named(job):
        threading.Thread(target=watch, daemon=True, name="memory").start()
        try:
            yield
        finally:
            with lock:
                over.set()
            movement.wake()
