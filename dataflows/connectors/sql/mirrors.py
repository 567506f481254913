"""Tables that a stream of changes keeps as a mirror of its source: no other pipeline may write to them.

A snapshot deletes every row that it does not have, and rows of others would not stay. Whoever comes second is refused.
"""

from __future__ import annotations

from typing import Final, Protocol

from dataflows.connectors.contract import Place
from dataflows.connectors.sql.names import ObjectName
from dataflows.data.changes import PART
from penstock.errors import Refused

__all__ = ["MirrorState", "check_alone", "check_no_mirror"]

APART: Final = "write to a table of its own, or `penstock delete` the"


class MirrorState(Protocol):
    """The part of a state that knows which other pipelines write to its sink."""

    def exists(self) -> bool:
        """True if anything is kept."""

    def others(self) -> list[str]:
        """Return the other pipelines whose last run wrote to this sink."""

    def other_streams(self, part: str | None = None) -> list[str]:
        """Return those of them that are streams; with `part` those that read this partition."""


def check_alone(state: MirrorState, name: ObjectName, place: Place) -> None:
    """Refuse a table that another pipeline writes to, whose rows a snapshot would delete.

    Raises:
        Refused: the other one's number.
    """
    if state.exists() and (others := state.others()):
        what = f"another pipeline writes to {name}, and a snapshot deletes what this one has not written"
        raise Refused(what, where=f"{place.pipeline}: spec.sink.object", value=others[0], hint=f"{APART} other one")


def check_no_mirror(state: MirrorState, name: ObjectName, place: Place) -> None:
    """Refuse a table that a stream of changes keeps as a mirror of its source.

    Raises:
        Refused: that pipeline's number.
    """
    if state.exists() and (others := state.other_streams(PART)):
        what = f"a stream of changes keeps {name} as a mirror of its source: other rows would not stay in it"
        raise Refused(what, where=f"{place.pipeline}: spec.sink.object", value=others[0], hint=f"{APART} stream")
