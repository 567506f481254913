"""Retries: which errors are worth one, and how long to wait before it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from penstock.models.pipeline import Retry

__all__ = ["CRASHED", "delay", "is_worth_retrying"]

CRASHED = "run.crashed"
"""The code of a run whose process died without a result."""


def is_worth_retrying(error: Mapping[str, Any]) -> bool:
    """Return True if a retry may succeed: after a crash, or a temporary error."""
    return bool(error.get("transient")) or error["code"] in {CRASHED, "fenced"}


def delay(retry: Retry, failures: int) -> timedelta:
    """Return the wait after the `failures`-th failure in a row: ``min(max, base * factor ** (failures - 1))``."""
    try:
        return min(retry.max, retry.base * retry.factor ** (failures - 1))
    except OverflowError:
        return retry.max
