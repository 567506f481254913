"""Retries: which errors are worth one, and how long to wait before it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from penstock.models.pipeline import Retry

__all__ = ["CRASHED", "delay", "is_worth_retrying"]

CRASHED = "run.crashed"
"""The code of a run whose process died without a result."""
MOST_JITTER: Final = 0.5
"""Share of a wait by which it may be longer, at most, so that those who fail together do not come back together."""


def is_worth_retrying(error: Mapping[str, Any]) -> bool:
    """Return True if a retry may succeed: after a crash, or a temporary error."""
    return bool(error.get("transient")) or error["code"] in {CRASHED, "fenced"}


def delay(retry: Retry, failures: int, seed: str = "") -> timedelta:
    """Return the wait after the `failures`-th failure in a row: ``min(max, base * factor ** (failures - 1))``.

    With a `seed`, such as the id of the record that reports the failure, it is longer by a share that the seed
    determines: at most by `factor` - 1 of it, so that no wait is shorter than the one before, and never above `max`.
    """
    try:
        wait = min(retry.max, retry.base * retry.factor ** (failures - 1))
        return min(retry.max, wait + wait * (min(MOST_JITTER, retry.factor - 1) * _share(seed)))
    except OverflowError:
        return retry.max


def _share(seed: str) -> float:
    """Return a number from 0 to 1 that the seed determines; 0 for none."""
    if not seed:
        return 0.0
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:6], "big") / 2**48
