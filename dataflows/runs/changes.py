"""Rules of a pipeline whose source sends changes of rows: what it may say, and how its key and columns are mapped.

A deletion has only the key, and an update may leave out values that it did not change. So nothing may decide by values
whether such a row is passed on, and a column that is computed from one that may be left out has to need no other.
A log (`append`) has each change as a row like any other, which steps may also leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from dataflows.connectors.contract import Source
from dataflows.connectors.streaming import ChangeSource
from dataflows.data.changes import CHANGE, COMMITTED, PLACE_OF_CHANGE, UNCHANGED
from dataflows.data.tables import Column, Table
from dataflows.data.types import column_type
from dataflows.transforms.mapping import BoundMapping, Rules
from penstock.errors import Refused
from penstock.models.pipeline import PipelineSpec, SchemaRules
from penstock.models.sets import DATABASES

__all__ = [
    "check_changes",
    "check_mapped_log",
    "check_mapping",
    "check_unchanging",
    "fills",
    "numbers_of",
    "of_changes",
    "source_key",
]

_STEPS: Final = ("rename", "select", "cast", "set", "mask")


def of_changes(rules: Rules, write: str) -> Rules:
    """Return the rules with the columns that say what each row does, and in a history since when it holds.

    A log needs neither.
    """
    if write == "append":
        return rules
    carried = {CHANGE, COMMITTED} if write == "scd2" else {CHANGE}
    return replace(rules, carried=rules.carried | carried, changes=True)


def check_unchanging(name: str, spec: PipelineSpec) -> None:
    """Refuse what only goes with changes.

    Raises:
        Refused: with the path of the first such setting.
    """
    if spec.limits.slot_drop is not None:
        what = "only a stream of changes has a slot"
        raise Refused(what, where=f"{name}: spec.limits.slot_drop", hint="leave it out")
    if spec.mode == "stream" and spec.sink.write == "scd2":
        what = "a stream cannot keep a history yet, unless it is one of changes"
        raise Refused(what, where=f"{name}: spec.sink.write", hint="write: append or merge")


def check_changes(name: str, spec: PipelineSpec, into: str) -> None:
    """Refuse what does not go with changes; `into` is the type of the sink's connection.

    Raises:
        Refused: with the path of the first such setting.
    """
    own = "changes come in the order of their commits, with the deletions among them"
    checked = bool(spec.validate_.not_null or spec.validate_.checks)
    if spec.sink.write == "append":
        _check_log(name, spec, keyed=into not in DATABASES)
        return
    wrong = [
        ("spec.sink.delete", spec.sink.delete is not None, own, "leave it out"),
        ("spec.sink.version", spec.sink.version is not None, own, "leave it out"),
        *_unfollowed(spec.schema_),
        ("spec.validate", checked, "a deletion has only the key: it would be refused, too", "leave it out"),
    ]
    for at, step in enumerate(spec.transforms):
        path = f"spec.transforms[{at}] ({step.name})"
        what = f"`{step.operation}` would lose deletions, which have only the key"
        wrong.append((path, step.operation not in _STEPS, what, f"changes pass {', '.join(_STEPS)}"))
        conditional = step.operation == "mask" and step.when is not None
        wrong.append((f"{path}.when", conditional, "changes cannot be masked in some rows only yet", "leave it out"))
    for path, holds, what, hint in wrong:
        if holds:
            raise Refused(what, where=f"{name}: {path}", hint=hint)


def _check_log(name: str, spec: PipelineSpec, *, keyed: bool) -> None:
    """Refuse what does not go with rows that are events; in a database a key would be a primary key.

    Raises:
        Refused: with the path of the first such setting.
    """
    remembers = next((f"spec.transforms[{at}]" for at, one in enumerate(spec.transforms) if one.remembers), "")
    compared = spec.check is not None or spec.deletes is not None
    wrong = [
        *_unfollowed(spec.schema_),
        (remembers, bool(remembers), "a step cannot remember rows of changes yet", "leave it out"),
        (
            "spec.sink.key",
            bool(spec.sink.key) and not keyed,
            "a log has several rows with the same key",
            "leave it out; or write: merge",
        ),
        ("spec.check", compared, "a log of changes is not comparable to its table", "leave check and deletes out"),
    ]
    for path, holds, what, hint in wrong:
        if holds:
            raise Refused(what, where=f"{name}: {path}", hint=hint)


def check_mapped_log(name: str, source: Source, table: Table, there: Table, mapping: BoundMapping) -> None:
    """Refuse a log whose target allows one row only of each key, and one that loses what an update says.

    Raises:
        Refused: by name.
    """
    _check_repeating(name, there, mapping)
    _check_sent(name, source, table, mapping)


def _check_sent(name: str, source: Source, table: Table, mapping: BoundMapping) -> None:
    """Refuse a log that does not show which values an update has left out, or computes from one.

    Raises:
        Refused: by column.
    """
    assert isinstance(source, ChangeSource)  # noqa: S101 - its connector says so
    shown = mapping.unchanged(UNCHANGED) is not None
    for target, (origins, steps) in mapping.lineage.items():
        unsent = sorted(source.unsent & set(origins))
        if not unsent or (shown and len(origins) == 1 and not steps):
            continue
        what = f"`{target}` needs `{unsent[0]}`, whose value an update that does not change it may leave out"
        hint = f"ALTER TABLE {table.name.sql} REPLICA IDENTITY FULL, or copy the column as it is, and `{UNCHANGED}` too"
        raise Refused(what, where=f"{name}: spec.mapping", hint=hint)


def _check_repeating(name: str, there: Table, mapping: BoundMapping) -> None:
    """Refuse a target that allows one row only of each key of the source: a log has one for each change.

    Raises:
        Refused: by the columns of the key.
    """
    for key in there.keys:
        origins = [mapping.lineage[one][0] if one in mapping.lineage else () for one in key]
        if not all(origins) or set(PLACE_OF_CHANGE) <= {one for some in origins for one in some}:
            continue
        what = f"{there.name} allows one row of each ({', '.join(key)}), and a log has one for each change"
        hint = "drop this key, or write to a table that does not exist yet"
        raise Refused(what, where=f"{name}: spec.sink.object", value=str(there.name), hint=hint)


def _unfollowed(rules: SchemaRules) -> list[tuple[str, bool, str, str]]:
    """Return the rules for a changed schema that a stream of changes cannot carry out."""
    lost, renamed = rules.lost in {"apply", "ignore"}, rules.renames == "apply"
    why = "a change does not tell what an ALTER did to the rows that were there"
    hint = "write pause or propose; a pipeline that names its columns loses others without a word"
    return [("spec.schema.lost", lost, why, hint), ("spec.schema.renames", renamed, why, "write pause or propose")]


def source_key(spec: PipelineSpec, mapping: BoundMapping) -> tuple[str, ...]:
    """Return the source's columns of the sink's key; empty if one of them is not copied unchanged."""
    found = tuple(_origin(mapping, name) for name in spec.sink.key)
    return tuple(one for one in found if one is not None) if None not in found else ()


def numbers_of(spec: PipelineSpec, key: Sequence[str], target: Table) -> AbstractSet[str]:
    """Return those of the source's columns of the key which the target has as decimal numbers."""
    columns = {of: target.column(name) for of, name in zip(key, spec.sink.key, strict=True)}
    return {of for of, one in columns.items() if one is not None and column_type(one).name == "numeric"}


def _origin(mapping: BoundMapping, target: str) -> str | None:
    origins, steps = mapping.lineage.get(target, ((), ()))
    return origins[0] if len(origins) == 1 and not steps else None


def check_mapping(
    spec: PipelineSpec, name: str, source: Source, table: Table, mapping: BoundMapping, *, keeps_values: bool = True
) -> None:
    """Refuse a key by which changes cannot be followed, and columns whose values an update may not tell.

    `keeps_values`: the sink keeps its own value where none was sent.

    Raises:
        Refused: by name.
    """
    assert isinstance(source, ChangeSource)  # noqa: S101 - its connector says so
    where = f"{name}: spec.sink.key"
    if not (key := source_key(spec, mapping)):
        hint = "a deletion names its row by the key: copy it as it is"
        raise Refused("a column of the key is computed", where=where, hint=hint)
    keys = [one for one in table.keys if source.identity is None or set(one) <= set(source.identity)]
    if not any(set(key) == set(one) for one in keys):
        known = " or ".join(f"[{', '.join(one)}]" for one in keys)
        hint = f"key: {known}" if known else f"give {table.name} a primary key"
        what = f"{table.name} has no unique key ({', '.join(key)}) that its changes name"
        raise Refused(what, where=where, hint=hint)
    for target, (origins, _) in mapping.lineage.items():
        unsent = sorted(source.unsent & set(origins))
        if unsent and not keeps_values:
            what = f"an update may leave out the value of `{unsent[0]}`, which a topic cannot keep as it was"
            hint = f"ALTER TABLE {table.name.sql} REPLICA IDENTITY FULL"
            raise Refused(what, where=f"{name}: spec.mapping", hint=hint)
        if unsent and len(origins) > 1:
            what = f"`{target}` needs `{unsent[0]}`, whose value an update that does not change it may leave out"
            hint = f"ALTER TABLE {table.name.sql} REPLICA IDENTITY FULL, or copy the columns as they are"
            raise Refused(what, where=f"{name}: spec.mapping", hint=hint)


def fills(
    name: str, source: Source, known: Mapping[str, str], mapping: BoundMapping, target: Table
) -> Sequence[tuple[Column, str | None]]:
    """Return the columns of the target that rows were written without, each with the value that all of them have.

    Raises:
        Refused: a column is computed from one of them.
    """
    if not isinstance(source, ChangeSource) or not known:
        return ()
    lineage = {into: mapping.lineage[into] for into in mapping.targets if into in mapping.lineage}
    new = source.filled(known, {one for columns, _ in lineage.values() for one in columns})
    found = []
    for into, (columns, steps) in lineage.items():
        wanted = [one for one in columns if one in new]
        plain = len(columns) == 1 and not steps
        if wanted and not plain and any(new[one] is not None for one in wanted):
            what = f"`{into}` is computed from column `{wanted[0]}`, which is new: rows that were written lack it"
            hint = "copy it as it is; or `penstock run NAME --from earliest --reset` replaces all rows"
            raise Refused(what, where=f"{name}: spec.mapping", hint=hint)
        column = target.column(into)
        if wanted and plain and column is not None and (column.nullable or new[wanted[0]] is not None):
            found.append((column, new[wanted[0]]))
    return found
