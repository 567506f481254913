"""Waiting for one's turn: of the flows that there may be only one of, one is active and the others wait, stoppable."""

from __future__ import annotations

import threading
from typing import Final

from penstock.topics.postgres import PostgresLog

__all__ = ["Stopped", "take_turn"]

LOOK: Final = 0.1
"""Seconds between two looks whether the active one is gone."""


class Stopped(Exception):
    """It was asked to stop before its turn came: no error."""


def take_turn(log: PostgresLog, name: str, stop: threading.Event) -> None:
    """Take the lock of that name on the connection of `log`.

    Raises:
        Stopped: `stop` was set first.
    """
    while not log.lock(name, wait=False):
        if stop.wait(LOOK):
            raise Stopped(name)
