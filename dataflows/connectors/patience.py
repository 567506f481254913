"""Wait for slow work while a check may still end the run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Final, TypeVar

__all__ = ["patiently"]

ASK_SECONDS: Final = 0.2


T = TypeVar("T")


def patiently(pool: ThreadPoolExecutor | None, check: Callable[[], None], work: Callable[[], T]) -> T:
    """Run `work` in the pool and call `check` five times a second; without a pool, run it here."""
    if pool is None:
        check()
        return work()
    future = pool.submit(work)
    while True:
        try:
            return future.result(timeout=ASK_SECONDS)
        except Late:
            if future.done():
                raise
            check()
