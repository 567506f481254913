"""For whom a slot is kept: the members of a set that read from it, and for a while those that have left.

Most that leave come back at once: they were killed, or have failed and are tried again. One that was paused, stopped or
refused does not, and must not keep the server's WAL. The list is in a file, so that whoever reads the slot next
knows whom to wait for.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Holds"]

LEFT_SECONDS: Final = 900.0
"""Seconds for which the slot is kept for a member that has left, and does not try again."""
UNKNOWN: Final = ""
"""Stands for members that may exist, if the list is lost."""


@dataclass(slots=True)
class _Hold:
    place: int
    until: float | None


@dataclass(slots=True)
class Holds:
    """Places up to which the sinks of members have the changes; times are seconds of a clock that is never set."""

    file: Path
    confirmed: int = 0
    """The slot has nothing before; it never moves back."""
    _of: dict[str, _Hold] = field(default_factory=dict)

    def begin(self, confirmed: int, now: float, *, new: bool) -> None:
        """Begin to read a slot: for those that are in the file, or all that may exist, unless it is `new`."""
        self.confirmed = confirmed
        known: list[str] = []
        if not new:
            try:
                known = [str(one) for one in json.loads(self.file.read_text())]
            except (OSError, ValueError):
                known = [UNKNOWN]
        self._of = {uid: _Hold(confirmed, now + LEFT_SECONDS) for uid in known}
        self._save()

    def keep(self, uid: str, place: int) -> None:
        """Keep the slot for a member that reads from it."""
        self._put(uid, _Hold(place, None))

    def leave(self, uid: str, now: float, seconds: float = LEFT_SECONDS) -> None:
        """Keep it so many seconds for a member that has left; 0 if that has given up what it has not read."""
        if uid in self._of:
            self._of[uid].until = now + seconds

    def wait(self, uid: str, until: float) -> None:
        """Keep what there is now for a member that has read less elsewhere, until it has caught up."""
        known = self._of.get(uid)
        if known is None or known.until is not None:
            self._put(uid, _Hold(self.confirmed, until))

    def renew(self, uid: str, now: float) -> None:
        """Keep it longer for a member that tries to come back."""
        if uid in self._of and self._of[uid].until is not None:
            self._of[uid].until = now + LEFT_SECONDS

    def least(self, now: float, reached: int) -> tuple[int, list[str]]:
        """Return the place up to which all have the changes, and for whom the slot is not kept any more.

        If there is nobody, it follows what is `reached`.
        """
        gone = [uid for uid, one in self._of.items() if one.until is not None and one.until <= now]
        for uid in gone:
            del self._of[uid]
        if gone:
            self._save()
        self.confirmed = max(self.confirmed, min((one.place for one in self._of.values()), default=reached))
        return self.confirmed, gone

    def _put(self, uid: str, hold: _Hold) -> None:
        known = uid in self._of
        self._of[uid] = hold
        if not known:
            self._save()

    def _save(self) -> None:
        new = self.file.with_suffix(".new")
        try:
            new.write_text(json.dumps(sorted(self._of)))
            new.replace(self.file)
        except OSError:  # without a file the next reader of the slot keeps all, with an old one it may not
            with contextlib.suppress(OSError):
                self.file.unlink()
