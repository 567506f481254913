"""Listing of the objects of a connection: their names, primary keys and foreign keys, without describing any.

A connector can list if it has the ability `Listed`. Sets of pipelines and discovery both begin with a listing. The
order of a set is that of first loads: an object comes after those that its foreign keys refer to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dataflows.connectors.contract import Place

__all__ = ["Arrived", "Enforcing", "FileWatch", "Listed", "ListedObject", "Watched", "in_order"]


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object of a source: `name` is what a pipeline's `object` says; `refers_to` are names of the same form.

    `schema` is empty where there are none; `kind` is the catalog's word for it. An object that is `hidden` is only
    selected by its name in full; discovery describes views in any case.
    """

    name: str
    schema: str
    table: str
    key: tuple[str, ...] = ()
    refers_to: tuple[str, ...] = ()
    hidden: bool = False
    kind: str = "table"
    readable: bool = True
    """False if this user may not read it."""
    nameable: bool = True
    """False if no pipeline can name it, and so no set can select it."""
    identity: str | None = None
    """What the server keeps for a table that gets another name; only of tables named ``schema.table``."""

    @property
    def is_view(self) -> bool:
        """True if it shows the rows of other objects."""
        return self.kind.endswith("view")

    def to_dict(self) -> dict[str, Any]:
        """Return what a listing's record has of it."""
        found = {"object": self.name, "schema": self.schema, "table": self.table, "key": list(self.key)}
        return found | ({} if self.identity is None else {"identity": self.identity})


@dataclass(frozen=True, slots=True)
class Arrived:
    """Files that have arrived, by path, and all that were noticed so far, as text."""

    files: tuple[str, ...]
    seen: str


class FileWatch(Protocol):
    """Looks for files of one set that have arrived."""

    def look(self) -> str:
        """List the files; return a text that is the same as long as they are."""

    def arrived(self, seen: str | None, pause: Callable[[], None]) -> Arrived | None:
        """Return which of the files listed have arrived since `seen`; None for none.

        `pause` waits for as long as a file has to stay as it is.
        """


@runtime_checkable
class Watched(Protocol):
    """A connector that notices files that arrive."""

    @staticmethod
    def watch(place: Place) -> FileWatch:
        """Return what looks for the files of the object of `place`."""


@runtime_checkable
class Listed(Protocol):
    """A connector that can list the objects of a connection."""

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:
        """Yield the objects of the connection of `place`, in any order; system objects and our own are left out.

        It reads names, and describes no object. What no pattern can match may be left out, or not looked for. Call
        `check` while waiting.
        """


@runtime_checkable
class Enforcing(Protocol):
    """A connector to a system whose tables may enforce foreign keys."""

    @staticmethod
    def references_of(
        place: Place, targets: Collection[str], check: Callable[[], None]
    ) -> Collection[tuple[str, str]] | None:
        """Return pairs of a table and one that it refers to by a foreign key, if rows that break it are refused now.

        Names are those of `named`; what is not among `targets` may be left out. None if this cannot be known now, since
        a run has locked the file.
        """


def in_order(objects: Iterable[ListedObject]) -> list[ListedObject]:
    """Return the objects by the length of the longest chain of references below each, then by name.

    A circle of references does not count.
    """
    by_name = {one.name: one for one in objects}
    depths = _depths(by_name)
    return sorted(by_name.values(), key=lambda one: (depths[one.name], one.name))


def _depths(by_name: Mapping[str, ListedObject]) -> dict[str, int]:
    """Return the depth of each object, without recursion: chains may be long."""
    depths: dict[str, int] = {}
    for begin in sorted(by_name):
        path, open_ = [begin], {begin}
        while path:
            name = path[-1]
            referred = [one for one in by_name[name].refers_to if one in by_name and one not in open_]
            below = next((one for one in referred if one not in depths), None)
            if below is not None and name not in depths:
                path.append(below)
                open_.add(below)
                continue
            depths.setdefault(name, max((depths[one] + 1 for one in referred), default=0))
            open_.discard(path.pop())
    return depths
