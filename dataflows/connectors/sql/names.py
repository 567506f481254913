"""Names of tables in SQL: quoted, with their schema, and those of shadow tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

__all__ = ["InFile", "ObjectName", "quoted", "shadow_name", "shadow_prefix"]


def quoted(*names: str, mark: str = '"') -> str:
    """The names as one quoted SQL identifier."""
    return ".".join(mark + name.replace(mark, mark * 2) + mark for name in names)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A table or view with its schema, or with its database where a system has no schemas."""

    schema: str
    name: str
    mark: ClassVar[str] = '"'
    """What the system quotes names by."""

    @property
    def sql(self) -> str:
        """Quoted, for use in a statement."""
        return quoted(self.schema, self.name, mark=self.mark)

    def beside(self, name: str) -> Self:
        """Another name in the same schema."""
        return replace(self, name=name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class InFile(ObjectName):
    """A table or view of a database file: in schema `main` it goes by its bare name."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.name if self.schema == "main" else f"{self.schema}.{self.name}"


_Name = TypeVar("_Name", bound=ObjectName)


def shadow_prefix(uid: str) -> str:
    """What the names of all shadows of a pipeline begin with."""
    return f"_penstock_{hashlib.sha256(uid.encode()).hexdigest()[:12]}_"


def shadow_name(uid: str, run: str, sink: _Name) -> _Name:
    """The shadow of a run, beside the target: 39 bytes, and never the same for two runs."""
    digest = hashlib.sha256(f"{run}\x1f{sink}".encode()).hexdigest()[:16]
    return sink.beside(shadow_prefix(uid) + digest)
