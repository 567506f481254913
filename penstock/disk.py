"""Room on a disk, and folders that others cannot enter.

The message of a program that found no room may itself find none.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["is_full", "make_private"]

NEEDED: Final = 16 << 20
"""Bytes of one segment of PostgreSQL's write-ahead log."""


def is_full(folder: Path) -> bool:
    """Return True if the file system of `folder` has no room for a server's next step; False if that is unknown."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < NEEDED


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can enter, or make a folder of this account's so."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_dir() and folder.stat().st_mode & 0o077:
        with suppress(PermissionError):  # it belongs to another account
            folder.chmod(0o700)
