"""A child lives no longer than its parent: it watches a pipe that only the parent can hold open."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

__all__ = ["LOST_PARENT", "watch_lifeline"]

LOST_PARENT: Final = 70
"""The exit code of a process whose parent is gone."""

PATIENCE: Final = 10.0
"""Seconds for a clean end, where one is asked for."""


def watch_lifeline(descriptor: int, stop: threading.Event | None = None) -> None:
    """End this process when the other end of `descriptor` is closed, however its owner died.

    At once; or with `stop` by setting it, so that what only a clean end gives back (the last one out stops the embedded
    server) is given back, and after `PATIENCE` seconds in any case.
    """

    def watch() -> None:
        while os.read(descriptor, 1):
            pass
        if stop is not None:
            stop.set()
            time.sleep(PATIENCE)
        os._exit(LOST_PARENT)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
