"""How the objects of a connection are described, once they are listed.

Any connector that lists its objects can be discovered: each is opened as a source (`source_catalog`). One whose system
describes many objects at once, as the catalog of a database does, has the ability `Catalogued`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final, Protocol, runtime_checkable

from dataflows.connectors.contract import Place
from dataflows.connectors.listing import Enforcing, Listed, ListedObject
from dataflows.data.splits import Split
from dataflows.data.statistics import Statistics
from penstock.models.domain import Schema
from penstock.models.profiles import DatasetProfile

__all__ = [
    "DOCUMENTS",
    "OF_CONNECTORS",
    "OF_DESCRIBED",
    "Catalog",
    "Catalogued",
    "Choice",
    "Found",
    "Guessing",
    "Inferring",
    "Places",
    "Profiling",
    "Spreading",
    "chosen",
    "clipped",
    "has_documents",
    "paged",
]

Places = Sequence[tuple[str, ...]]
"""Places in the documents of a column, by the names of the fields down to them; () is the whole document."""
DOCUMENTS: Final = frozenset({"json", "jsonb"})
"""Types of columns whose values have fields."""
LONGEST: Final = 1990
"""Characters of a comment or a default that are kept."""


def _ignore() -> None:
    """Default check; never interrupts."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The objects that are wanted, by patterns of whole names; `check` is called while a system is asked."""

    tables: tuple[str, ...] = ("*",)
    except_: tuple[str, ...] = ()
    check: Callable[[], None] = _ignore

    def takes(self, name: str) -> bool:
        """True if the object of that name is wanted."""
        return _matches(self.tables, name) and not _matches(self.except_, name)


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(one == name or fnmatchcase(name, one) for one in patterns)


@dataclass(frozen=True, slots=True)
class Found:
    """One object as its system describes it, named as a pipeline names it."""

    object: str
    kind: str
    schema: Schema
    description: str | None = None
    profile: DatasetProfile = field(default_factory=DatasetProfile)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    """Statistics of columns, by name. They contain values, which must not reach a log."""
    empty: bool = False
    """True if its columns only show in its rows, and there are none: those that were known stay known."""
    looked_at: int | None = None
    """Rows or files in which its columns were seen, if there may be others; None if its columns are declared."""
    well_seen: Mapping[str, Places] = field(default_factory=dict)
    """Places in documents, by column, at which a field that no sampled document has is gone."""


def has_documents(found: Found) -> bool:
    """True if a sample may show fields of documents."""
    return any(one.type in DOCUMENTS for one in found.schema.fields)


class Catalog(Protocol):
    """Descriptions of a connection's objects; opened for reading only."""

    notes: list[str]
    """Objects that could not be described, and why; complete once `described` has ended."""
    present: list[str]
    """Objects that are there, but were not described; complete like `notes`."""

    def described(self, objects: Iterable[ListedObject], check: Callable[[], None]) -> Iterator[Sequence[Found]]:
        """Yield objects in pages, as they are read; it never has more than a page in memory."""

    def sample(self, found: Found, rows: int, check: Callable[[], None]) -> Found:
        """Return an object with what at most `rows` of its rows show: statistics, and the fields of documents.

        Raises:
            PenstockError: they cannot be read, or not in a few seconds.
        """

    def close(self) -> None:
        """End the session."""


@runtime_checkable
class Catalogued(Protocol):
    """A connector whose system can describe many objects at once."""

    @staticmethod
    def catalog(place: Place) -> Catalog:
        """Open the system's catalog; the object of `place` has no meaning."""


@runtime_checkable
class Guessing(Protocol):
    """A source whose rows can have several formats, which its rows show."""

    def guess_format(self) -> None:
        """Read it in the format of its newest rows, if the pipeline names none; before `describe`."""


@runtime_checkable
class Inferring(Protocol):
    """A source whose columns are seen in some of its rows."""

    def looked_at(self) -> int | None:
        """Return in how many rows or files they were seen; None if it declares them, or all were. After `describe`."""


@runtime_checkable
class Profiling(Protocol):
    """A source that knows more of its object than columns: its size, its format, how it is divided."""

    def profile(self) -> DatasetProfile:
        """Return what it knows, without reading the rows; after `describe`."""


@runtime_checkable
class Spreading(Protocol):
    """A source of which a few splits show more than its first rows."""

    def spread(self, rows: int) -> tuple[Sequence[Split], bool]:
        """Return splits from all over it for a sample of so many rows, and True if they have all rows."""


OF_CONNECTORS: Final = (Catalogued, Enforcing, Listed)
OF_DESCRIBED: Final = (Guessing, Inferring, Profiling, Spreading)
"""Abilities of sources that discovery uses."""


def chosen(kind: Listed, place: Place, choice: Choice, hidden: list[str]) -> Iterator[ListedObject]:
    """Yield the objects that are wanted; add to `hidden` those that are only described if they are named in full."""
    for one in kind.objects_of(place, choice.tables, choice.check):
        if not choice.takes(one.name):
            continue
        if one.hidden and not one.is_view and one.name not in choice.tables:
            hidden.append(one.name)
        else:
            yield one


def paged(objects: Iterable[ListedObject], size: int) -> Iterator[list[ListedObject]]:
    """Yield the objects in pages of a size."""
    rest = iter(objects)
    while page := list(islice(rest, size)):
        yield page


def clipped(text: str | None) -> str | None:
    """Return a comment or a default as it may be recorded."""
    return text if text is None or len(text) <= LONGEST else f"{text[:LONGEST]} …"
