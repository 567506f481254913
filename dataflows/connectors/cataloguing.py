"""How a connector shows what its system has, without being asked for an object by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Protocol, runtime_checkable

from dataflows.connectors.contract import Place
from dataflows.connectors.listing import Listed
from dataflows.data.statistics import Statistics
from penstock.models.domain import Schema
from penstock.models.profiles import DatasetProfile

__all__ = ["OF_CONNECTORS", "Catalog", "Catalogued", "Choice", "Found", "Sampling", "clipped"]

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
        return any(fnmatchcase(name, one) for one in self.tables) and not any(
            fnmatchcase(name, one) for one in self.except_
        )


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


class Catalog(Protocol):
    """Catalog of a system: descriptions of its objects; opened for reading only."""

    notes: list[str]
    """Objects that could not be described, and why; complete once `objects` has ended."""
    present: list[str]
    """Objects that are there, but were not described; complete like `notes`."""

    def objects(self, choice: Choice) -> Iterator[Sequence[Found]]:
        """Yield the objects that are wanted in pages, as they are read; it never has more than a page in memory."""

    def close(self) -> None:
        """End the session."""


@runtime_checkable
class Catalogued(Protocol):
    """A connector whose system can list and describe its objects."""

    @staticmethod
    def catalog(place: Place) -> Catalog:
        """Open the system's catalog; the object of `place` has no meaning."""


@runtime_checkable
class Sampling(Protocol):
    """A catalog that can also look at rows, for objects of which its system has no statistics."""

    def samples(self, rows: int, seconds: float, check: Callable[[], None]) -> Iterator[Sequence[Found]]:
        """Yield those of the objects that were yielded without statistics, now with some; after `objects`.

        At most `rows` rows of each are read, and for `seconds` in all.
        """


OF_CONNECTORS: Final = (Catalogued, Listed)


def clipped(text: str | None) -> str | None:
    """Return a comment or a default as it may be recorded."""
    return text if text is None or len(text) <= LONGEST else f"{text[:LONGEST]} …"
