"""Names of tables in SQL: quoted, with their schema, and those of shadow tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = ["ObjectName", "quoted", "shadow_name", "shadow_prefix"]


def quoted(*names: str) -> str:
    """The names as one quoted SQL identifier."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A table or view with its schema, `main` unless told."""

    name: str
    schema: str = "main"

    @property
    def sql(self) -> str:
        """Quoted, for use in a statement."""
        return quoted(self.schema, self.name)

    def __str__(self) -> str:
        return self.name if self.schema == "main" else f"{self.schema}.{self.name}"


def shadow_prefix(uid: str) -> str:
    """What the names of all shadows of a pipeline begin with."""
    return f"_penstock_{hashlib.sha256(uid.encode()).hexdigest()[:12]}_"


def shadow_name(uid: str, run: str, sink: ObjectName) -> ObjectName:
    """The table that a `replace` fills; never the same for two runs."""
    digest = hashlib.sha256(f"{run}\x1f{sink}".encode()).hexdigest()[:16]
    return ObjectName(shadow_prefix(uid) + digest, sink.schema)
