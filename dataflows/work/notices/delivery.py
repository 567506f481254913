"""What a delivery may end with: a failure that is worth another attempt says how long to wait, if the receiver does."""

from __future__ import annotations

from typing import Final

from penstock.errors import PenstockError, Unavailable

__all__ = ["MAX_WAIT", "Later", "too_slow"]

MAX_WAIT: Final = 86_400.0
"""Longest wait in seconds that is reported, whatever a receiver asks for."""


class Later(Exception):
    """A failed attempt after which the receiver asks for a wait of so many seconds."""

    def __init__(self, error: PenstockError, wait: float) -> None:
        self.error, self.wait = error, min(wait, MAX_WAIT)
        super().__init__(str(error))


def too_slow(where: str, seconds: float) -> Unavailable:
    """Return the error of a receiver that hangs; what was sent to it may have arrived."""
    what = f"the receiver did not answer within {seconds:g} s"
    return Unavailable(what, where=where, hint="look at the receiver, or give it a longer `timeout`")
