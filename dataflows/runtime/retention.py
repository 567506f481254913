"""Clean-up of an installation's home at start: old folders of runs, and large logs."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

__all__ = ["KEPT", "LARGEST", "drop_leftovers"]

KEPT: Final = timedelta(days=30)
"""Time for which a run's folder (its results and its log) is kept after its last change."""
KEYS_KEPT: Final = timedelta(days=1)
"""The same for the keys that a comparison listed, if its worker was killed, too."""
LARGEST: Final = 10_000_000
"""Bytes of a process's log above which it is emptied."""

_log = logging.getLogger(__name__)


def drop_leftovers(home: Path, at: datetime) -> None:
    """Remove the folders of runs unchanged for `KEPT`, and empty logs larger than `LARGEST`.

    Safe while other processes do the same, or write to these logs: they append. What cannot be
    removed stays, with a warning in the log: no start fails because of it.
    """
    for folder in _entries(home / "runs"):
        with suppress(FileNotFoundError):
            if folder.is_dir() and at - _changed(folder) > KEPT:
                shutil.rmtree(folder, ignore_errors=True)
                if folder.exists():
                    _log.warning("%s is kept: it cannot be removed", folder)
            for keys in folder.glob("keys-*"):
                if at - _changed(keys) > KEYS_KEPT:
                    shutil.rmtree(keys, ignore_errors=True)
    for path in _entries(home / "logs"):
        try:
            if path.suffix == ".log" and path.stat().st_size > LARGEST:
                os.truncate(path, 0)
        except OSError as error:
            _log.warning("%s is kept: %s", path, error)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _changed(folder: Path) -> datetime:
    """Return when the folder, or an entry of it, was last written."""
    times = [one.stat().st_mtime for one in (folder, *folder.iterdir())]
    return datetime.fromtimestamp(max(times)).astimezone()
