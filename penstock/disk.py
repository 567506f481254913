"""Room on a disk: the message of a program that found none may itself find no room."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["is_full"]

NEEDED: Final = 16 << 20
"""Bytes of one segment of PostgreSQL's write-ahead log."""


def is_full(folder: Path) -> bool:
    """Return True if the file system of `folder` has no room for a server's next step; False if that is unknown."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < NEEDED
