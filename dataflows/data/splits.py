"""Splits: what one commit writes. A bounded run plans them as ranges of a key; a stream makes them as it reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from dataflows.data.positions import Move

__all__ = ["Split", "between", "of_slot", "slot_names"]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows with a key above `lower` and up to `upper`, both as the server writes them; None means no bound.

    A split of a stream has `moves` in their place.
    """

    number: int
    lower: str | None = None
    upper: str | None = None
    moves: tuple[Move, ...] = ()
    times: tuple[float, float] | None = None
    """When the oldest and the newest of its events happened, in seconds of Unix time, if its source says so."""
    turns: tuple[tuple[str, int], ...] = ()
    """The order in which its partitions were read: the name of one, and the offset up to which, in turns."""


def between(lower: str | None, bounds: Iterable[str], upper: str | None, first: int) -> tuple[Split, ...]:
    """Return the ranges between `lower` and `upper` that `bounds` separate, numbered from `first`."""
    edges = (lower, *bounds, upper)
    return tuple(Split(number, *ends) for number, ends in enumerate(pairwise(edges), first))


def slot_names(count: int) -> tuple[str, ...]:
    """Return ``00``, ``01`` …: padded, because Bytewax indexes them in sorted order."""
    return tuple(f"{number:02d}" for number in range(count))


def of_slot(splits: tuple[Split, ...], slot: int, slots: int) -> tuple[Split, ...]:
    """Return the splits of one slot: those of its residue class."""
    return tuple(split for split in splits if split.number % slots == slot)
