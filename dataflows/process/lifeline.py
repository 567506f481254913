"""Lifeline of a child process: it ends with its parent, because it watches a pipe that only the parent holds open."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

__all__ = ["watch_lifeline"]

LOST_PARENT: Final = 70
"""The exit code of a process whose parent has died."""

PATIENCE: Final = 10.0
"""Seconds for a clean shutdown, if `stop` is given."""


def watch_lifeline(descriptor: int, stop: threading.Event | None = None) -> None:
    """End this process when the other end of `descriptor` is closed, however its owner died.

    Without `stop`, at once. With it, set it for a clean shutdown (which stops the embedded server if no other process
    uses it), and exit after `PATIENCE` seconds in any case.
    """

    def watch() -> None:
        while os.read(descriptor, 1):
            pass
        if stop is not None:
            stop.set()
            time.sleep(PATIENCE)
        os._exit(LOST_PARENT)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
