"""Primary key of a table that a run creates: the one that the pipeline names, or, in a `replace`, the source's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dataflows.connectors.abilities import Keyed, KeyLimits
from dataflows.connectors.contract import Target
from dataflows.connectors.history import HISTORY
from dataflows.data.cursors import ORDERED
from dataflows.data.tables import Column, Table
from dataflows.data.types import LABEL, column_type
from dataflows.runs.job import Job
from dataflows.transforms.mapping import RulePlan
from penstock.errors import MissingColumn, did_you_mean

__all__ = ["NewKey", "new_key"]

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
