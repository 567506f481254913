"""A child lives no longer than its parent: it watches a pipe that only the parent can hold open."""

from __future__ import annotations

import os
import threading
from typing import Final

__all__ = ["LOST_PARENT", "watch_lifeline"]

LOST_PARENT: Final = 70
"""The exit code of a process whose parent is gone."""


def watch_lifeline(descriptor: int) -> None:
    """End this process at once when the other end of `descriptor` is closed, however its owner died."""

    def watch() -> None:
        while os.read(descriptor, 1):
            pass
        os._exit(LOST_PARENT)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
