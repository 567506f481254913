"""Names of what a pipeline owns at its source: one publication, and a slot for each snapshot that it began."""

from __future__ import annotations

import hashlib

__all__ = ["publication_name", "slot_name", "slot_prefix"]


def publication_name(uid: str) -> str:
    """Return the name of the pipeline's publication; also that of its sessions for replication."""
    return f"penstock_{hashlib.sha256(uid.encode()).hexdigest()[:16]}"


def slot_prefix(uid: str) -> str:
    """Return what the names of the pipeline's slots begin with."""
    return f"{publication_name(uid)}_"


def slot_name(uid: str, generation: int) -> str:
    """Return the slot's name: a process that was suspended drops no slot of its successor, which has a greater one."""
    return f"{slot_prefix(uid)}{generation}"
