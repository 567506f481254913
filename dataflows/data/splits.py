"""Splits: the ranges of a key that a bounded run reads, each written in one commit."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Split", "of_slot", "slot_names"]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows whose key is above `lower` and not above `upper`, both as the server writes them; None is no bound."""

    number: int
    lower: str | None = None
    upper: str | None = None


def slot_names(count: int) -> tuple[str, ...]:
    """``00``, ``01`` …: padded, since Bytewax indexes them in sorted order."""
    return tuple(f"{number:02d}" for number in range(count))


def of_slot(splits: tuple[Split, ...], slot: int, slots: int) -> tuple[Split, ...]:
    """The splits of one slot: those of its residue class."""
    return tuple(split for split in splits if split.number % slots == slot)
