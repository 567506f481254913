"""Partitions of a topic whose positions are offsets: where a stream begins in them, and whether those still stand.

An offset alone lies: in a topic that was deleted and made again under its name it is as valid as before, and skips. So
a position has the topic's id with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from penstock.errors import Refused

__all__ = [
    "START_OVER",
    "TopicPosition",
    "check_position",
    "given_offsets",
    "part_name",
    "part_number",
    "shift_of",
    "topic_of",
]

START_OVER: Final = "to go on, choose from where: `penstock run NAME --from earliest|latest|TIME --reset`"
"""The hint where a position no longer stands on what the topic has."""
_OFFSETS: Final = "write partitions and offsets, such as 0=120,1=80"


class TopicPosition(Protocol):
    """A position in a partition of a topic."""

    @property
    def offset(self) -> int:
        """The next offset to read."""

    @property
    def topic(self) -> str:
        """The topic's id."""


def part_name(topic: str, part: int) -> str:
    """Return the name of a partition, as a sink stores it."""
    return f"{topic}/{part}"


def part_number(name: str) -> int:
    """Return the number of a partition of that name."""
    return int(name.rpartition("/")[2])


def topic_of(name: str) -> str:
    """Return the topic of a partition of that name."""
    return name.rpartition("/")[0]


def check_position(at: TopicPosition, name: str, topic: str, ends: tuple[int, int] | None, where: str) -> None:
    """Check that what comes next in the partition `name` is there; `topic` is the id of its topic now.

    Raises:
        Refused: the topic was made again; its retention has deleted what comes next; or it has lost messages.
    """
    if at.topic != topic:
        what = f"the topic was deleted and made again: {name} was read up to offset {at.offset} of another topic"
        raise Refused(what, where=where, hint=f"what the old one still held is lost; {START_OVER}")
    if ends is None:
        raise Refused(f"{name} is gone", where=where, hint=START_OVER)
    low, high = ends
    if at.offset < low:
        what = f"{low - at.offset:,} messages of {name} were deleted by its retention before they were read"
        raise Refused(f"{what}: it begins at offset {low}, not {at.offset}", where=where, hint=START_OVER)
    if at.offset > high:
        what = f"{name} ends at offset {high}, before the position {at.offset}: messages were lost"
        raise Refused(what, where=where, hint=START_OVER)


def given_offsets(
    given: Mapping[str, str], stands: Mapping[int, int], ends: Mapping[int, tuple[int, int]], where: str
) -> dict[int, int]:
    """Return the offset of each partition: as given, else the one where it stands, else its first.

    Raises:
        Refused: there is no such partition or offset.
    """
    begins = {part: stands.get(part, low) for part, (low, _) in ends.items()}
    for name, text in given.items():
        part = int(name) if name.isdigit() else -1
        if part not in begins:
            raise Refused("there is no such partition", where=where, value=name, hint=_OFFSETS)
        low, high = ends[part]
        if not (text.isdigit() and low <= int(text) <= high):
            raise Refused(f"partition {part} has offsets {low} to {high}", where=where, value=text, hint=_OFFSETS)
        begins[part] = int(text)
    return begins


def shift_of(name: str, stands: TopicPosition | None, begin: TopicPosition) -> str | None:
    """Say what a partition repeats or skips if it goes on from `begin`; None if it stays where it is, or is new."""
    if stands is None:
        return None
    if stands.topic != begin.topic:
        at = f"{name} begins at offset {begin.offset} of another topic"
        return f"{at}; it stood at {stands.offset} of the old one"
    moved = begin.offset - stands.offset
    if moved == 0:
        return None
    does = "skips" if moved > 0 else "repeats"
    return f"{name} {does} {abs(moved):,} messages: from offset {begin.offset} on, in place of {stands.offset}"
