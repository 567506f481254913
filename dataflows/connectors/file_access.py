"""Rights of this process's account on files, asked for so that an error names the file and the remedy."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.errors import AccessDenied

__all__ = ["denied", "lacking"]


def lacking(path: Path, *, write: bool) -> tuple[str, str] | None:
    """Return what this account may not do with a file or folder, and the command that allows it; None if it may.

    A path that does not exist yet is judged by the folder that it would be created in.
    """
    for folder in reversed(path.absolute().parents):
        if folder.is_dir() and not _may(folder, os.X_OK):
            return _lack("enter", folder, "x")
    if path.exists():
        if not _may(path, os.R_OK):
            return _lack("read", path, "r")
        if write and not _may(path, os.W_OK):
            return _lack("write to", path, "w")
    if not write or path.is_dir():
        return None
    folder = next((one for one in path.absolute().parents if one.exists()), path.parent)
    return None if _may(folder, os.W_OK) else _lack("write to", folder, "w")


def denied(path: Path, where: str, *, write: bool) -> AccessDenied | None:
    """Return the error for a path that this account may not read or write; None if it may."""
    found = lacking(path, write=write)
    return None if found is None else AccessDenied(found[0], where=where, hint=found[1])


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _lack(what: str, path: Path, right: str) -> tuple[str, str]:
    if right == "w" and os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"the file system of {path} is read-only", "mount it for writing, or name another path"
    return f"account {os.geteuid()} may not {what} {path}", f"chmod u+{right} {path} as its owner, or chown it"
