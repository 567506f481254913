"""Tables that several pipelines write to, though the rows of one would not stay.

A stream of changes keeps a table as a mirror of its source: its snapshot deletes every row that it does not have. A
`replace` deletes the rows of streams, which never write them again. Whoever comes second is refused: `check_sharing` is
called before anything is changed, and again under the sink's lock when the run begins and when a `replace` ends.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.publication import check_no_streams
from dataflows.connectors.sql.names import ObjectName
from dataflows.data.changes import PART
from penstock.errors import Refused
from penstock.models.letters import redrive_uid

__all__ = ["MirrorState", "check_sharing"]

APART: Final = "write to a table of its own, or `penstock delete` the"


class MirrorState(Protocol):
    """The part of a state that knows which other pipelines write to its sink."""

    def exists(self) -> bool:
        """True if anything is kept."""

    def others(self) -> list[str]:
        """Return the other pipelines whose last run wrote to this sink."""

    def other_streams(self, part: str | None = None) -> list[str]:
        """Return those of them that are streams; with `part` those that read this partition."""


def check_sharing(state: MirrorState, owner: Owner, name: ObjectName, place: Place) -> None:
    """Refuse a table in which the rows of this pipeline, or those of another one, would not stay.

    Raises:
        Refused: the other one's number.
    """
    own = {redrive_uid(owner.uid), owner.redrives}
    if owner.changes:
        _check_alone(state, own, name, place)
    elif owner.shadowed:
        check_no_streams(state, place)
    else:
        _check_no_mirror(state, own, name, place)


def _check_alone(state: MirrorState, own: AbstractSet[str | None], name: ObjectName, place: Place) -> None:
    """Refuse a table that another pipeline writes to, whose rows a snapshot would delete.

    Raises:
        Refused: the other one's number.
    """
    if state.exists() and (others := [one for one in state.others() if one not in own]):
        what = f"another pipeline writes to {name}, and a snapshot deletes what this one has not written"
        raise Refused(what, where=f"{place.pipeline}: spec.sink.object", value=others[0], hint=f"{APART} other one")


def _check_no_mirror(state: MirrorState, own: AbstractSet[str | None], name: ObjectName, place: Place) -> None:
    """Refuse a table that a stream of changes keeps as a mirror of its source.

    Raises:
        Refused: that pipeline's number.
    """
    if state.exists() and (others := [one for one in state.other_streams(PART) if one not in own]):
        what = f"a stream of changes keeps {name} as a mirror of its source: other rows would not stay in it"
        raise Refused(what, where=f"{place.pipeline}: spec.sink.object", value=others[0], hint=f"{APART} stream")
