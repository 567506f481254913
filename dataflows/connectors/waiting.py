"""Wait for slow work while polling a check that may end the run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final, TypeVar

__all__ = ["run_checked"]

CHECK_SECONDS: Final = 0.2


T = TypeVar("T")


def run_checked(pool: ThreadPoolExecutor | None, check: Callable[[], None], work: Callable[[], T]) -> T:
    """Run `work` in the pool, calling `check` five times a second; without a pool, run it in this thread."""
    if pool is None:
        check()
        return work()
    future = pool.submit(work)
    while True:
        try:
            return future.result(timeout=CHECK_SECONDS)
        except FutureTimeout:
            if future.done():
                raise
            check()
