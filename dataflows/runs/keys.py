"""Keys: the primary key of a table that a run creates, and whether rows can be found by key in the right order.

A table that a run creates has the key that the pipeline names, or, in a `replace`, the source's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from dataflows.connectors.abilities import Keyed, KeyLimits, LastKept, Pruning
from dataflows.connectors.contract import Target
from dataflows.connectors.history import HISTORY
from dataflows.data.changes import COMMITTED
from dataflows.data.cursors import ORDERED
from dataflows.data.tables import Column, Table
from dataflows.data.types import LABEL, SqlType, column_type, parse_type
from dataflows.runs.job import Job
from dataflows.transforms.mapping import BoundMapping, RulePlan
from penstock.errors import MissingColumn, Refused, SchemaMismatch, did_you_mean

__all__ = ["MIXED", "NewKey", "check_keyed", "check_mark", "made_by", "new_key", "no_version", "version_of"]

_INDEXED: Final = ORDERED | {
    "boolean", "character", "bytea", "real", "double precision", "time without time zone", "time with time zone",
    "interval", "bit", "bit varying", "inet", "cidr", "macaddr", "macaddr8", "oid", LABEL.name,
}  # fmt: skip
"""Types whose values are equal in every system if they are equal at the source, and can be in an index."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """Key of a table to create; `note` says why the source's key is not made."""

    columns: tuple[str, ...] = ()
    from_source: bool = False
    note: str | None = None


def new_key(job: Job, source: Table, rules: RulePlan, made: tuple[Column, ...], target: Target) -> NewKey:
    """Return the key of a table to create with the columns `made`."""
    if key := job.spec.sink.key:
        _check_made(job, key, made)
        return NewKey((*key, HISTORY[0]) if job.write == "scd2" else key)
    if job.write != "replace" or not source.keys or not isinstance(target, Keyed):
        return NewKey()
    if why := _obstacle(job, source, rules, made, target):
        return NewKey(note=f"{job.sink.object} gets no key: {why}")
    return NewKey(tuple(name for one in source.keys[0] if (name := rules.unchanged(one))), from_source=True)


def _check_made(job: Job, key: tuple[str, ...], made: tuple[Column, ...]) -> None:
    known = [one.name for one in made]
    for name in key:
        if name not in known:
            where = f"{job.pipeline}: spec.sink.key"
            raise MissingColumn("no such column is written", where=where, value=name, hint=did_you_mean(name, known))


def _obstacle(job: Job, source: Table, rules: RulePlan, made: tuple[Column, ...], target: Target) -> str | None:
    """Return why the target cannot have the source's key; None if it can."""
    if any(step.explode or step.python for step in job.rules.steps):
        return "a step may repeat rows"
    there = {one.name: one for one in made}
    names = {one: rules.unchanged(one) for one in source.keys[0]}
    for one, name in names.items():
        if name is None or name not in there:
            return f"`{one}`, part of the source's key, is not written unchanged"
        if column_type(there[name]).name not in _INDEXED and not _same_type(source.column(one), there[name]):
            return f"`{name}`, part of the source's key, has type {there[name].type}"
        if there[name].nullable:
            return f"`{name}` may become NULL"
    wanted = tuple(name for name in names.values() if name)
    return target.key_obstacle(made, wanted) if isinstance(target, KeyLimits) else None


def _same_type(source: Column | None, made: Column) -> bool:
    """True if both have the same type of the source's own, which its key has shown to be fit for an index."""
    return source is not None and not made.builtin and source.type == made.type


def version_of(job: Job, mapping: BoundMapping | RulePlan) -> str | None:
    """Return the column that says which of two rows with the same key is newer; None if there is none."""
    if job.rules.changes:
        return COMMITTED if job.write == "scd2" else None
    return job.spec.sink.version or (mapping.unchanged(job.cursor) if job.cursor else None)


def no_version(job: Job) -> Refused:
    """Return the error of a history without a version."""
    hint = "name the column with the time since which a row is valid, or write the cursor as it is"
    return Refused("`scd2` needs a version", where=f"{job.pipeline}: spec.sink.version", hint=hint)


def check_keyed(
    job: Job, mapping: BoundMapping, table: Table, split: Column | None, version: str | None, target: Target
) -> bool:
    """Refuse a merge whose result would depend on the order of writers, or that cannot find its rows.

    Return True if the run must be one split: a deleted row leaves no version behind, so an older version read after it
    would restore it; and a history needs the changes of a key in order.
    """
    sink = job.spec.sink
    for part, names in (("key", sink.key), ("version", (version,) if version else ()), ("delete", (sink.delete,))):
        for name in names:
            if name is not None and name not in mapping.targets:
                hint = did_you_mean(name, mapping.targets)
                where = f"{job.pipeline}: spec.sink.{part}"
                raise MissingColumn("no such column is written", where=where, value=name, hint=hint)
    _check_flag(job, mapping)
    _check_texts(job, mapping, table, target)
    if job.write == "scd2" and version is None:
        raise no_version(job)
    if isinstance(target, LastKept) and target.keeps_last:
        return _check_last_kept(job, mapping, table)
    if sink.delete is not None and version is None and job.cursor is not None:
        hint = "name a `version`, or write the cursor as it is"
        what = "an older row that is read again would restore a deleted one: nothing shows which is newer"
        raise Refused(what, where=f"{job.pipeline}: spec.sink.version", hint=hint)
    bound = _bound(sink.key, mapping, table, split)
    if job.workers > 1 and version is None and not bound:
        hint = "name a `version`, or set limits.workers to 1"
        raise Refused(
            "two workers may read rows with the same key, and without a version the newer one is unknown",
            where=f"{job.pipeline}: spec.sink.version",
            hint=hint,
        )
    ordered = job.workers == 1 and split is not None and version == mapping.unchanged(split.name)
    return (sink.delete is not None or job.write == "scd2") and not (bound or ordered)


def _check_flag(job: Job, mapping: BoundMapping) -> None:
    """Refuse a `delete` that is not true or false: databases take other values for true by rules of their own.

    Raises:
        SchemaMismatch: with the type.
    """
    flag = job.spec.sink.delete
    column = next((one for one in mapping.columns if one.name == flag), None)
    if column is not None and column_type(column).name != "boolean":
        hint = f"map it by sql, such as {{target: {flag}, sql: {flag} IS NOT NULL}}"
        what = f"`delete` has to be true or false; `{flag}` is {column.type}"
        raise SchemaMismatch(what, where=f"{job.pipeline}: spec.sink.delete", hint=hint)


def _check_texts(job: Job, mapping: BoundMapping, table: Table, target: Target) -> None:
    """Refuse a key that the target compares as text although its values may have several: one row would become two.

    Raises:
        Refused: by name.
    """
    last = isinstance(target, LastKept) and target.keeps_last
    there = {one.name: column_type(one) for one in mapping.columns}
    for name in job.spec.sink.key:
        origins, steps = mapping.lineage.get(name, ((), ()))
        column = table.column(origins[0]) if len(origins) == 1 and not steps else None
        if column is None or not (last or there[name].text or there[name].name == "json"):
            continue
        kind = column_type(column)
        if not _has_spellings(kind):
            continue
        what = f"the key is compared as text, and equal values of type {kind} may differ, such as {_example(kind)}"
        hint = f"choose another key, or convert `{column.name}` in a view of the source"
        if kind.name == "numeric":
            hint = f"give it a scale: sql: CAST(CAST({column.name} AS numeric(38,9)) AS text); or choose another key"
        raise Refused(what, where=f"{job.pipeline}: spec.sink.key", value=name, hint=hint)


def _has_spellings(kind: SqlType) -> bool:
    """True if equal values of a type may be written as different texts."""
    if kind.name.endswith("[]"):
        return _has_spellings(parse_type(kind.name[:-2]))
    return kind.name in _SPELLINGS or (kind.name == "numeric" and kind.precision is None)


def _example(kind: SqlType) -> str:
    return _SPELLINGS.get(kind.name.removesuffix("[]"), "1.0 and 1.00")


_SPELLINGS: Final = {
    "interval": "1 day and 24:00:00",
    "json": "{} and { }",
    "jsonb": "1.0 and 1.00",
    "numrange": "[1.0,2) and [1.00,2)",
    "nummultirange": "{[1.0,2)} and {[1.00,2)}",
}
"""Types of which equal values may have several texts, with two of one value."""


def _check_last_kept(job: Job, mapping: BoundMapping, table: Table) -> bool:
    """Refuse a merge whose target keeps the last row of a key, if that is not the newest; return False.

    Raises:
        Refused: by name.
    """
    sink, where = job.spec.sink, f"{job.pipeline}: spec.sink"
    if sink.version is not None:
        what = f"{job.sink.object} keeps the last message of each key, and cannot compare versions"
        raise Refused(what, where=f"{where}.version", hint="leave it out")
    if job.workers > 1 and not job.streams:
        what = "two workers may write rows of one key, and the last one written stays, not the newest"
        raise Refused(what, where=f"{job.pipeline}: spec.limits.workers", hint="set it to 1")
    if not job.streams and not _bound(sink.key, mapping, table, None):
        known = " or ".join(f"[{', '.join(one)}]" for one in table.keys) or "a key, which it lacks"
        what = "the last row of a key that is written stays, and a batch may read those of one key in any order"
        raise Refused(what, where=f"{where}.key", hint=f"key: columns that are unique at the source: {known}")
    return False


def _bound(key: Sequence[str], mapping: BoundMapping, table: Table, split: Column | None) -> bool:
    """True if all rows with the same key are in one split, or keys are unique."""
    if split is not None and mapping.unchanged(split.name) in key:
        return True
    return any(all(mapping.unchanged(name) in key for name in one) for one in table.keys)


MIXED: Final = "mixed"
"""`made_by` of rows that runs have made in several ways."""


def made_by(job: Job, mapping: BoundMapping) -> str:
    """Return a digest of how the columns of the sink's key are made; of copies, it is the same whatever the steps."""
    origins = {name: mapping.lineage.get(name, ((), ())) for name in job.spec.sink.key}
    steps = any(len(columns) != 1 or how for columns, how in origins.values())
    spec = job.spec.model_dump(mode="json", include={"mapping", "transforms"}) if steps else None
    return sha256(json.dumps([origins, spec], sort_keys=True).encode()).hexdigest()[:16]


def check_mark(job: Job, written: Sequence[str], there: Table, target: Target) -> None:
    """Refuse what `deletes` cannot work with: a target that cannot delete by key, or a column that marks no row.

    Raises:
        Refused, SchemaMismatch: by name.
    """
    where = f"{job.pipeline}: spec.deletes"
    if job.spec.deletes is not None and not isinstance(target, Pruning):
        what = f"rows of a connection of type {job.sink.settings.type} cannot be deleted by key"
        raise Refused(what, where=where, hint="leave it out")
    if job.mark is None:
        return
    column = there.column(job.mark)
    if job.mark in written:
        what = "the pipeline writes this column itself"
        raise Refused(what, where=f"{where}.mark", value=job.mark, hint="name a column that it does not write")
    if column is None:
        hint = "add it, nullable, of type timestamptz; or write schema: {additive: apply}"
        raise SchemaMismatch(f"{there.name} has no such column", where=f"{where}.mark", value=job.mark, hint=hint)
    if not column.nullable or column.generated or not parse_type(column.type).name.startswith("timestamp"):
        what = f"`{job.mark}` of {there.name} is {column.type}{'' if column.nullable else ' NOT NULL'}"
        raise SchemaMismatch(what, where=f"{where}.mark", hint="it has to be a nullable column of times")
