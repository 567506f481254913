"""Python's cyclic garbage collector: rarely needed, and a fifth of the start-up time where it looks through imports."""

from __future__ import annotations

import gc

__all__ = ["collect_rarely"]


def collect_rarely() -> None:
    """Let the collector run rarely: there are few cycles, and a pass over a large state takes long."""
    gc.set_threshold(200_000, 20, 100)
