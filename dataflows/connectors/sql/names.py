"""Names of tables in SQL: quoting, schemas, and the names of shadow tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

__all__ = ["FileObjectName", "ObjectName", "quoted", "shadow_name", "shadow_prefix"]


def quoted(*names: str, mark: str = '"') -> str:
    """Return the names as one quoted SQL identifier."""
    return ".".join(mark + name.replace(mark, mark * 2) + mark for name in names)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """Name of a table or view, with its schema, or with its database in systems without schemas."""

    schema: str
    name: str
    mark: ClassVar[str] = '"'
    """Quotation mark of the system."""

    @property
    def sql(self) -> str:
        """The quoted name, for use in a statement."""
        return quoted(self.schema, self.name, mark=self.mark)

    def sibling(self, name: str) -> Self:
        """Return another name in the same schema."""
        return replace(self, name=name)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class FileObjectName(ObjectName):
    """Name of a table or view in a database file; schema `main` is left out of its text."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.name if self.schema == "main" else f"{self.schema}.{self.name}"


_Name = TypeVar("_Name", bound=ObjectName)


def shadow_prefix(uid: str) -> str:
    """Return the common prefix of the names of a pipeline's shadow tables."""
    return f"_penstock_{hashlib.sha256(uid.encode()).hexdigest()[:12]}_"


def shadow_name(uid: str, run: str, sink: _Name) -> _Name:
    """Return the name of a run's shadow table, in the target's schema: 39 bytes, unique for each run."""
    digest = hashlib.sha256(f"{run}\x1f{sink}".encode()).hexdigest()[:16]
    return sink.sibling(shadow_prefix(uid) + digest)
