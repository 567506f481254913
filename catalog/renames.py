"""Columns that were renamed: one that is gone and one that is new are the same column, as far as can be told.

By the likeness of the names, the type, the neighbours, what else is said of the column, and the values where there are
statistics. Nothing proves it, so each pair has a confidence, and who acts on it has a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from catalog.types import parse_type, widens
from penstock.models.domain import Field

__all__ = ["LIKELY", "Likeness", "renames"]

Likeness = Mapping[tuple[tuple[str, ...], tuple[str, ...]], float]
"""How like the values of an old and a new column are, by their paths: 0 to 1."""

LIKELY: Final = 0.75
"""Confidence from which a pair is reported as renamed."""

_WEIGHTS: Final = {"name": 0.45, "type": 0.25, "place": 0.2, "rest": 0.1}
_OF_VALUES: Final = 0.4
"""Weight of statistics, where there are any; the others share what remains."""
_PART_CHARACTERS: Final = 4
_PART: Final = 0.9
"""Likeness of a name that contains the other: ``phone`` and ``phones``, ``id`` and ``order_id``. Short ones are in many
names, and count as whole words only.
"""
_WORD: Final = re.compile(r"[^\W_]+")
_CANDIDATES: Final = 5
_RIVAL: Final = 0.15
"""Taken off the confidence where another pair of one of both columns is as likely."""
_CLOSE: Final = 0.05
_ITSELF: Final = 2
"""A pair is among those of either of its columns."""


def renames(
    at: tuple[str, ...], old: Sequence[Field], new: Sequence[Field], likeness: Likeness, above: float = LIKELY
) -> dict[str, tuple[str, float]]:
    """Return the new name and the confidence of each renamed field of `old`, by its old name.

    Takes the most likely pair first, and each field once.
    """
    before, after = {one.name: one for one in old}, {one.name: one for one in new}
    gone = {name: one for name, one in before.items() if name not in after}
    come = {name: one for name, one in after.items() if name not in before}
    if not gone or not come:
        return {}
    places = _neighbours(list(before), after), _neighbours(list(after), before)
    scores = {}
    for name, to in _candidates(gone, come, places, at, likeness):
        score = _structure(gone[name], come[to], _same_place(places[0][name], places[1][to]))
        values = likeness.get(((*at, name), (*at, to)))
        scores[name, to] = score if values is None else score * (1 - _OF_VALUES) + values * _OF_VALUES
    return _chosen(scores, above)


def _chosen(scores: Mapping[tuple[str, str], float], above: float) -> dict[str, tuple[str, float]]:
    """Return the most likely pairs, each name once; less certain where one of them has another as likely."""
    rivals: dict[tuple[bool, str], list[float]] = {}
    for (name, to), score in scores.items():
        rivals.setdefault((False, name), []).append(score)
        rivals.setdefault((True, to), []).append(score)
    found: dict[str, tuple[str, float]] = {}
    taken: set[str] = set()
    for (name, to), score in sorted(scores.items(), key=lambda one: (-one[1], one[0])):
        near = [abs(score - more) <= _CLOSE for more in (*rivals[False, name], *rivals[True, to])]
        confidence = round(score - _RIVAL * (sum(near) > _ITSELF), 2)
        if confidence >= above and name not in found and to not in taken:
            found[name] = (to, confidence)
            taken.add(to)
    return found


_Places = dict[str, tuple[str | None, str | None]]


def _neighbours(names: Sequence[str], others: Mapping[str, Field]) -> _Places:
    """Return the next field on either side of each that the other schema has, too."""
    left: dict[str, str | None] = {}
    last: str | None = None
    for name in names:
        left[name] = last
        last = name if name in others else last
    found: _Places = {}
    last = None
    for name in reversed(names):
        found[name] = (left[name], last)
        last = name if name in others else last
    return found


def _same_place(one: tuple[str | None, str | None], other: tuple[str | None, str | None]) -> float:
    return sum(mine == theirs for mine, theirs in zip(one, other, strict=True)) / 2


def _candidates(
    gone: Mapping[str, Field],
    come: Mapping[str, Field],
    places: tuple[_Places, _Places],
    at: tuple[str, ...],
    likeness: Likeness,
) -> Iterable[tuple[str, str]]:
    """Return pairs to look at: the likest names, and those in the same place; not all, of a thousand columns."""
    from rapidfuzz import fuzz, process  # noqa: PLC0415 - every flow's start would load it, and few schemas change

    names = list(come)
    lowered = [name.lower() for name in names]
    in_place: dict[tuple[str | None, str | None], list[str]] = {}
    for name in names:
        in_place.setdefault(places[1][name], []).append(name)
    pairs: dict[tuple[str, str], None] = {}
    for name in gone:
        near = process.extract(name.lower(), lowered, scorer=fuzz.ratio, limit=_CANDIDATES)
        pairs |= {(name, names[index]): None for _, _, index in near}
        pairs |= {(name, to): None for to in in_place.get(places[0][name], ())[:_CANDIDATES]}
        pairs |= {(name, to): None for to in names if ((*at, name), (*at, to)) in likeness} if likeness else {}
    return pairs


def _structure(old: Field, new: Field, place: float) -> float:
    parts = {"name": _name(old.name.lower(), new.name.lower()), "type": _type(old.type, new.type), "place": place}
    said = (old.nullable == new.nullable, old.default == new.default, old.description == new.description)
    parts["rest"] = sum(said) / len(said)
    return sum(weight * parts[name] for name, weight in _WEIGHTS.items())


def _name(old: str, new: str) -> float:
    from rapidfuzz import fuzz  # noqa: PLC0415 - as above

    few, many = sorted((set(_WORD.findall(old)), set(_WORD.findall(new))), key=len)
    short = min(len(old), len(new)) < _PART_CHARACTERS
    part = (bool(few) and few <= many) or (not short and (old in new or new in old))
    return max(fuzz.ratio(old, new) / 100, _PART if part else 0.0)


def _type(old: str, new: str) -> float:
    if old == new:
        return 1.0
    kinds = parse_type(old), parse_type(new)
    return 0.6 if widens(*kinds) or widens(*reversed(kinds)) else 0.0
