"""Which readers and rows each change of a schema keeps working, and the rules that a dataset may set for that.

*Backward*: what is built for the new schema takes the rows of the old one, without loss. *Forward*: what was built for
the old schema takes the rows of the new one. *Full* is both, *breaking* neither. A column that is gone is breaking: its
values would have no place any more, and who reads it finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from catalog.evolution import Change, compare, path_text
from catalog.types import loss, parse_type
from penstock.models.domain import Compatibility, Schema

__all__ = ["Conflict", "Judged", "Level", "conflict", "judged", "overall"]

Level = Literal["full", "backward", "forward", "breaking"]

_KEEPS: Final[dict[Level, frozenset[str]]] = {
    "full": frozenset({"backward", "forward"}),
    "backward": frozenset({"backward"}),
    "forward": frozenset({"forward"}),
    "breaking": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A change, what it keeps working, and the reason."""

    change: Change
    level: Level
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as builtins."""
        return {**self.change.to_dict(), "compatibility": self.level, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Conflict:
    """The first change that a dataset's rule does not allow, and the oldest version that it conflicts with."""

    rule: Compatibility
    path: str
    reason: str
    version: int

    def __str__(self) -> str:
        where = self.path or "the table"
        return f"{where}: {self.reason}, so it is not {self.rule} compatible with version {self.version}"


def judged(change: Change) -> Judged:
    """Return what the change keeps working."""
    level, reason = _RULES[change.kind](change)
    return Judged(change, level, reason)


def overall(levels: Iterable[Level]) -> Level:
    """Return what all changes together keep working."""
    kept = frozenset({"backward", "forward"})
    for level in levels:
        kept &= _KEEPS[level]
    return next(level for level, keeps in _KEEPS.items() if keeps == kept)


def conflict(rule: Compatibility, versions: Sequence[tuple[int, Schema]], new: Schema) -> Conflict | None:
    """Return why `new` may not follow `versions` (oldest first, with their numbers) by the rule; None if it may.

    Only the last version counts, unless the rule is transitive.
    """
    wanted = next((keeps for level, keeps in _KEEPS.items() if rule.startswith(level)), frozenset())
    for number, old in versions if rule.endswith("_transitive") else versions[-1:]:
        for one in map(judged, compare(old, new)):
            if not wanted <= _KEEPS[one.level]:
                return Conflict(rule, path_text(one.change.path), one.reason, number)
    return None


_Verdict = tuple[Level, str]


def _added(change: Change) -> _Verdict:
    field = change.after
    if field.nullable or field.default is not None:
        with_ = "NULL" if field.default is None else "its default"
        return "full", f"it is new: rows of before have {with_} in it, and who does not know it leaves it out"
    return "forward", "it is new and NOT NULL without a default: rows of before have no value for it"


def _removed(_: Change) -> _Verdict:
    return "breaking", "it is gone: its values have no place any more, and who reads it finds nothing"


def _renamed(change: Change) -> _Verdict:
    return "breaking", f"it was called `{change.before}`: who reads it by that name finds nothing"


def _retyped(change: Change) -> _Verdict:
    old, new = parse_type(change.before), parse_type(change.after)
    there, back = loss(old, new), loss(new, old)
    if there is None:
        both: _Verdict = ("full", f"{old} and {new} store the same values")
        return both if back is None else ("backward", f"{new} stores each value of {old}; {old} does not store {back}")
    if back is None:
        return "forward", f"{new} does not store {there}, which {old} does"
    return "breaking", f"{new} does not store {there}, and {old} not {back}"


def _nullability(change: Change) -> _Verdict:
    if change.after:
        return "backward", "it may be NULL now, which who reads it may not expect"
    return "forward", "it is NOT NULL now, and rows of before may have NULL in it"


def _default(_: Change) -> _Verdict:
    return "full", "the default is for rows to come"


def _comment(_: Change) -> _Verdict:
    return "full", "a comment changes no row"


def _reordered(_: Change) -> _Verdict:
    return "full", "columns are read by their names"


def _key(change: Change) -> _Verdict:
    before, after = set(change.before), set(change.after)
    shown = f"({', '.join(change.before)}) -> ({', '.join(change.after)})"
    if before == after:
        return "full", f"the key has the same columns in another order: {shown}"
    if after and (not before or after < before):
        return "forward", f"the key is stricter: rows of before may repeat it: {shown}"
    if before and (not after or before < after):
        return "backward", f"the key allows more rows: what merges by the old one may repeat: {shown}"
    return "breaking", f"rows are told apart by another key: {shown}"


def _unique(change: Change) -> _Verdict:
    if change.before is None:
        return "forward", f"({', '.join(change.after)}) is unique now: rows of before may repeat it"
    return "backward", f"({', '.join(change.before)}) is no longer unique, which who reads it may rely on"


def _foreign(change: Change) -> _Verdict:
    if change.before is None:
        return "forward", f"it refers to {change.after.object} now: rows of before may not"
    return "backward", f"it no longer refers to {change.before.object}, which who reads it may rely on"


_RULES: Final = {
    "added": _added,
    "removed": _removed,
    "renamed": _renamed,
    "retyped": _retyped,
    "nullability": _nullability,
    "default": _default,
    "comment": _comment,
    "reordered": _reordered,
    "key": _key,
    "unique": _unique,
    "foreign": _foreign,
}
