"""Names of what a pipeline owns at its source: one publication, and a slot for each snapshot that it began.

The members of a set share the publication, and one slot of the publication's name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = ["Names", "publication_name", "slot_name", "slot_prefix"]


def publication_name(uid: str) -> str:
    """Return the name of the pipeline's publication; also that of its sessions for replication."""
    return f"penstock_{hashlib.sha256(uid.encode()).hexdigest()[:16]}"


def slot_prefix(uid: str) -> str:
    """Return what the names of the pipeline's slots begin with."""
    return f"{publication_name(uid)}_"


def slot_name(uid: str, generation: int) -> str:
    """Return the slot's name: a process that was suspended drops no slot of its successor, which has a greater one."""
    return f"{slot_prefix(uid)}{generation}"


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a pipeline with that `uid`, a member of the set with the id `whole`, if any."""

    uid: str
    whole: str | None = None

    @property
    def publication(self) -> str:
        """The publication, of the set if there is one."""
        return publication_name(self.whole or self.uid)

    @property
    def shared(self) -> str | None:
        """The slot of the set."""
        return None if self.whole is None else self.publication

    @property
    def prefix(self) -> str:
        """What the names of its own slots begin with."""
        return slot_prefix(self.uid)

    def slot(self, generation: int) -> str:
        """Return the name of its own slot."""
        return slot_name(self.uid, generation)
