"""Changes between two schemas of a dataset, as data: found by `compare`, carried out by `apply`.

Pure, and exact: `apply(old, compare(old, new)) == new` for any two schemas. Only that a column was renamed, rather than
one dropped and another added, is an inference; it has a confidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from catalog.renames import LIKELY, Likeness, renames
from penstock.errors import MissingColumn
from penstock.models.domain import Field, ForeignKey, Schema

__all__ = ["Change", "ChangeKind", "Path", "apply", "compare", "completes", "detailed", "path_text"]

Path = tuple[str, ...]
"""Names from a column down to one of its parts; empty for the table itself."""

ChangeKind = Literal[
    "added",
    "removed",
    "renamed",
    "retyped",
    "nullability",
    "default",
    "comment",
    "reordered",
    "key",
    "unique",
    "foreign",
]


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `path` is where it is in the new schema; of what was removed, in the old one.

    `before` and `after` are a field (added, removed), names (renamed), the values of an attribute, lists of names
    (reordered, key, unique), or foreign keys; None is nothing.
    """

    kind: ChangeKind
    path: Path
    before: Any = None
    after: Any = None
    at: int | None = None
    """Position of what was added."""
    confidence: float = 1.0
    """Below 1 for what is inferred: a rename."""

    def to_dict(self) -> dict[str, Any]:
        """Return the change as builtins, for people's programs."""
        shown: dict[str, Any] = {"kind": self.kind, "path": path_text(self.path)}
        shown |= {"before": _plain(self.before), "after": _plain(self.after)}
        shown |= {} if self.at is None else {"position": self.at + 1}
        return shown | ({"confidence": self.confidence} if self.kind == "renamed" else {})


def path_text(path: Path) -> str:
    """Return a path as people write it: ``address.city``; names that contain a point are quoted."""
    return ".".join(f'"{name}"' if "." in name else name for name in path)


def compare(old: Schema, new: Schema, likeness: Likeness | None = None, *, above: float = LIKELY) -> tuple[Change, ...]:
    """Return the changes that make `new` of `old`, in the order of the new schema.

    A column that is gone and one that is new are one renamed column if the confidence is at least `above`. `likeness`
    maps pairs of an old and a new path to how like their values are, between 0 and 1, where statistics say so.
    """
    changes = _fields((), old.fields, new.fields, likeness or {}, above)
    named = {one.before: one.after for one in changes if one.kind == "renamed" and len(one.path) == 1}
    key = _renamed(old.key, named)
    if key != new.key:
        changes.append(Change("key", (), key, new.key))
    changes += _sets("unique", [_renamed(one, named) for one in old.unique or ()], new.unique or ())
    changes += _sets("foreign", [_following(one, named) for one in old.foreign or ()], new.foreign or ())
    return tuple(changes)


def apply(old: Schema, changes: Iterable[Change]) -> Schema:
    """Return `old` with the changes made.

    Raises:
        MissingColumn: they are those of another schema.
    """
    found = tuple(changes)
    by_level: dict[Path, list[Change]] = defaultdict(list)
    for one in found:
        by_level[one.path if one.kind == "reordered" else one.path[:-1]].append(one)
    levels = {level[:depth] for level in by_level for depth in range(len(level) + 1)}
    fields = _applied(old.fields, (), by_level, levels)
    named = {one.before: one.after for one in by_level[()] if one.kind == "renamed"}
    key = next((one.after for one in found if one.kind == "key"), _renamed(old.key, named))
    sets: dict[str, set[Any]] = {
        "unique": {_renamed(one, named) for one in old.unique or ()},
        "foreign": {_following(one, named) for one in old.foreign or ()},
    }
    for one in found:
        if one.kind in sets:
            sets[one.kind].discard(one.before)
            sets[one.kind] |= set() if one.after is None else {one.after}
    return Schema(fields=fields, key=key, unique=tuple(sets["unique"]), foreign=tuple(sets["foreign"]))


def detailed(seen: Schema, known: Schema) -> Schema:
    """Return `seen`, of which only the columns were looked at, with what `known` says besides."""
    before = {one.name: one for one in known.fields}
    fields = tuple(_detailed(one, before.get(one.name)) for one in seen.fields)
    names = {one.name for one in fields}
    return Schema(
        fields=fields,
        key=seen.key or (known.key if names.issuperset(known.key) else ()),
        unique=seen.unique or tuple(one for one in known.unique or () if names.issuperset(one)),
        foreign=seen.foreign or tuple(one for one in known.foreign or () if names.issuperset(one.columns)),
    )


def completes(seen: Schema, known: Schema, *, described: bool) -> bool:
    """True if `seen` has changed nothing in `known`: it was only looked at more closely.

    Of a schema that was not `described`, only names, types and nullability are known; of a document without fields,
    that nobody has found any.
    """
    if not described:
        return seen.outline == known.outline
    before = {one.name: one.fields for one in known.fields}
    fields = tuple(one if before.get(one.name) else one.model_copy(update={"fields": None}) for one in seen.fields)
    return seen.model_copy(update={"fields": fields}) == known


def _detailed(seen: Field, known: Field | None) -> Field:
    if known is None or known.type != seen.type:
        return seen
    more = {name: getattr(known, name) for name in ("description", "default", "fields") if getattr(seen, name) is None}
    return seen.model_copy(update=more)


def _fields(at: Path, old: Sequence[Field], new: Sequence[Field], likeness: Likeness, above: float) -> list[Change]:
    before, after = {one.name: one for one in old}, {one.name: one for one in new}
    named = renames(at, old, new, likeness, above)
    changes = [Change("removed", (*at, name), one) for name, one in before.items() if name not in after.keys() | named]
    origins = {to: (name, confidence) for name, (to, confidence) in named.items()}
    kept = []
    for index, (name, field) in enumerate(after.items()):
        path = (*at, name)
        origin, confidence = origins.get(name, (name, 1.0))
        if origin not in before:
            changes.append(Change("added", path, None, field, index))
            continue
        if origin != name:
            changes.append(Change("renamed", path, origin, name, confidence=confidence))
        kept.append(name)
        changes += _field(path, before[origin], field, likeness, above)
    order = [named[name][0] if name in named else name for name in before if name in after or name in named]
    if order != kept:
        changes.append(Change("reordered", at, tuple(order), tuple(kept)))
    return changes


_ATTRIBUTES: Final[tuple[tuple[ChangeKind, str], ...]] = (
    ("retyped", "type"), ("nullability", "nullable"), ("default", "default"), ("comment", "description"),
)  # fmt: skip


def _field(path: Path, old: Field, new: Field, likeness: Likeness, above: float) -> list[Change]:
    changes = [
        Change(kind, path, getattr(old, name), getattr(new, name))
        for kind, name in _ATTRIBUTES
        if getattr(old, name) != getattr(new, name)
    ]
    return changes + _fields(path, old.fields or (), new.fields or (), likeness, above)


def _applied(
    fields: Sequence[Field], at: Path, by_level: Mapping[Path, list[Change]], levels: set[Path]
) -> tuple[Field, ...]:
    if at not in levels:
        return tuple(fields)
    by_name, updates = {one.name: one for one in fields}, defaultdict[str, dict[str, Any]](dict)
    here = by_level.get(at, [])
    named = {one.before: one.after for one in here if one.kind == "renamed"}
    gone = {one.path[-1] for one in here if one.kind == "removed"}
    for one in here:
        if name := dict(_ATTRIBUTES).get(one.kind):
            updates[one.path[-1]][name] = one.after
    made = {named.get(name, name): one for name, one in by_name.items() if name not in gone}
    order = next((one.after for one in here if one.kind == "reordered"), tuple(made))
    parts_of = {level[-1] for level in levels if level[:-1] == at and level}
    if unknown := (gone | named.keys()) - by_name.keys() | ({*updates, *order} | parts_of) - made.keys():
        raise MissingColumn("the schema has no such field", value=path_text((*at, min(unknown))))
    found = []
    for name in order:
        parts = _applied(made[name].fields or (), (*at, name), by_level, levels)
        found.append(made[name].model_copy(update={"name": name, **updates[name], "fields": parts or None}))
    for one in here:
        if one.kind == "added":
            found.insert(one.at if one.at is not None else len(found), one.after)
    return tuple(found)


def _renamed(names: Sequence[str], named: Mapping[str, str]) -> Path:
    return tuple(named.get(name, name) for name in names)


def _following(key: ForeignKey, named: Mapping[str, str]) -> ForeignKey:
    """Return a foreign key with the new names of its columns."""
    return key.model_copy(update={"columns": _renamed(key.columns, named)})


def _sets(kind: ChangeKind, old: Iterable[Any], new: Iterable[Any]) -> list[Change]:
    before, after = list(old), list(new)
    gone = [Change(kind, (), before=one) for one in before if one not in after]
    return gone + [Change(kind, (), after=one) for one in after if one not in before]


def _plain(value: Any) -> Any:
    if isinstance(value, Field | ForeignKey):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value
