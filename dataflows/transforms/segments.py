"""Plans of steps that remember earlier rows: what each reads and makes, and the columns after it.

Such a step divides a pipeline: what comes before it is a chain of its own, with the columns that the step reads as its
target; what comes after reads the step's rows as its source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from dataflows.data.tables import Column, Table
from dataflows.data.types import SqlType, column_type
from dataflows.transforms.chain import Chain, Output
from dataflows.transforms.scope import BoundColumn, Scope
from penstock.errors import SchemaMismatch
from penstock.models.transforms import TransformStep
from penstock.models.windows import MADE, Deduplicate, Window, parse_aggregate

if TYPE_CHECKING:
    from dataflows.transforms.remembering import Memory, Rows, StatefulStep
    from dataflows.transforms.stages import Stage

__all__ = ["Segment", "end_segment", "partition_columns"]

_TIMES: Final = {"timestamp with time zone", "timestamp without time zone"}


@dataclass(frozen=True, slots=True)
class Segment:
    """A step that remembers rows, with the stages before it. `columns` are those that the step reads."""

    scope: Scope
    stages: Sequence[Stage]
    columns: Mapping[str, BoundColumn]
    step: StatefulStep
    path: str

    def chain(self, where: str, masked: frozenset[str], **more: Any) -> Chain:
        """Return the chain before the step."""
        outputs = tuple(
            Output(Column(name, str(bound.type)), bound.type, bound, self.path) for name, bound in self.columns.items()
        )
        return Chain(self.scope.wanted, tuple(self.stages), outputs, masked, where, **more)

    @property
    def partitions(self) -> tuple[str, ...]:
        """Columns of the source that name the partition of a row, if it has them."""
        from dataflows.transforms.remembering import PARTITION, TOPIC

        columns = (self.columns.get(name) for name in (TOPIC, PARTITION))
        return tuple(one.source.name for one in columns if one is not None and one.source is not None)

    @property
    def reads(self) -> set[str]:
        """Columns of the source that it needs."""
        return {one.source.name for one in self.columns.values() if one.source} | set(self.scope.wanted)


def partition_columns(source: Table) -> dict[str, BoundColumn]:
    """Return the hidden columns of a source that name the partition of each row, if it has them."""
    from dataflows.transforms.remembering import PARTITION, TOPIC

    for names in (("_topic", "_partition"), ("_stream", "_shard")):
        columns = [one for one in map(source.column, names) if one is not None and one.hidden]
        if len(columns) == len(names):
            return {
                name: BoundColumn(column_type(one), one.nullable, frozenset(), source=one)
                for name, one in zip((TOPIC, PARTITION), columns, strict=True)
            }
    return {}


def end_segment(
    scope: Scope,
    stages: Sequence[Stage],
    step: TransformStep,
    where: str,
    partitions: Mapping[str, BoundColumn],
    path: str,
) -> tuple[Segment, Scope, dict[str, BoundColumn]]:
    """Plan a step that remembers rows; return the segment, and the columns and partitions after it.

    Raises:
        MissingColumn, SchemaMismatch, Refused: the step, the column, and a suggestion.
    """
    if step.window is not None:
        columns, made = _window(scope, step.name, step.window, where, partitions)
        after = {name: _passed(name, one) for name, one in columns[1].items()}
        segment = Segment(scope, stages, {**columns[0], **partitions}, made, path)
        return segment, Scope(after, masked=set(scope.masked)), {}
    rule = step.deduplicate
    assert rule is not None  # noqa: S101 - no other step remembers rows
    passed = {**scope.columns, **partitions}
    deduplication = _deduplication(scope, step.name, rule, where, partitions)
    after = {name: _passed(name, one) for name, one in scope.columns.items()}
    segment = Segment(scope, stages, passed, deduplication, path)
    still = {name: _passed(name, one) for name, one in partitions.items()}
    return segment, Scope(after, masked=set(scope.masked)), still


def _passed(name: str, bound: BoundColumn) -> BoundColumn:
    """Return a column that a step passes on, as a column of the step's rows."""
    column = Column(name, str(bound.type)) if bound.source is None else replace(bound.source, name=name, hidden=False)
    return replace(bound, source=column, id="")


def _time(scope: Scope, name: str, where: str) -> BoundColumn:
    bound = scope.require(name, f"{where}.time")
    if bound.type.name not in _TIMES:
        hint = f"cast `{name}` to timestamptz in an earlier step"
        raise SchemaMismatch(f"a time is needed, this is {bound.type}", where=f"{where}.time", value=name, hint=hint)
    return bound


def _keys(scope: Scope, names: Sequence[str], where: str) -> dict[str, tuple[str, SqlType]]:
    from dataflows.transforms.remembering import keyed

    keys = {}
    for at, name in enumerate(names):
        kind = scope.require(name, f"{where}.by").type
        if not keyed(kind):
            hint = f"cast `{name}` to text, a whole number or numeric(p,s) in an earlier step"
            raise SchemaMismatch(f"values of {kind} cannot be a key", where=f"{where}.by", value=name, hint=hint)
        keys[f"k{at}"] = (name, kind)
    return keys


def _window(
    scope: Scope, name: str, rule: Window, where: str, partitions: Mapping[str, BoundColumn]
) -> tuple[tuple[dict[str, BoundColumn], dict[str, BoundColumn]], StatefulStep]:
    """Return the columns that the step reads, those that it makes, and the step."""
    from dataflows.transforms.aggregates import planned
    from dataflows.transforms.windows import Panes, Sessions, Windows

    time, keys = _time(scope, rule.time, where), _keys(scope, rule.by, where)
    aggregates, read = [], {rule.time: time}
    made = {of: _passed(of, scope[of]) for of, _ in keys.values()}
    for one in MADE:
        made[one] = BoundColumn(time.type, nullable=False, origins=time.origins, steps=(*time.steps, name))
    columns: dict[str, tuple[str, SqlType]] = dict(keys)
    for at, (target, text) in enumerate(rule.aggregates.items()):
        function, column = parse_aggregate(text)
        bound = None if column is None else scope.require(column, f"{where}.aggregates.{target}")
        id_ = f"c{at}"
        aggregate = planned(
            f"a{at}", function, column, None if bound is None else bound.type, f"{where}.aggregates.{target}"
        )
        if bound is not None and column is not None:
            columns[id_], read[column] = (column, bound.type), bound
        aggregates.append(replace(aggregate, column=None if column is None else id_))
        origins = frozenset[str]() if bound is None else bound.origins
        steps = (name,) if bound is None else (*bound.steps, name)
        made[target] = BoundColumn(aggregate.made, function != "count", origins, steps)
    for of, _ in keys.values():
        read[of] = scope[of]
    every, gap = _microseconds(rule.every), _microseconds(rule.gap)
    shape = Panes(every, _microseconds(rule.size) or every) if every else Sessions(gap)
    form = {
        "window": [every, _microseconds(rule.size) or every, gap],
        "time": str(time.type),
        "by": [[of, str(kind)] for of, kind in keys.values()],
        "aggregates": [[one.function, str(one.kind)] for one in aggregates],
    }
    memory = _memory(name, form, where, rule.lateness, rule.idle, partitions)
    rows = _rows(rule.time, columns, rule.ahead)
    kinds = {of: one.type for of, one in made.items()}
    return (read, made), Windows(name, shape, rows, keys, tuple(aggregates), kinds, memory, where)


def _deduplication(
    scope: Scope, name: str, rule: Deduplicate, where: str, partitions: Mapping[str, BoundColumn]
) -> StatefulStep:
    from dataflows.transforms.deduplication import Deduplication

    time = _time(scope, rule.time or "", where)
    keys = _keys(scope, rule.by, where)
    within = rule.within or timedelta()
    form = {"within": _microseconds(within), "time": str(time.type), "by": [[of, str(k)] for of, k in keys.values()]}
    lateness = within if rule.lateness is None else rule.lateness
    memory = _memory(name, form, where, lateness, rule.idle, partitions)
    return Deduplication(name, _microseconds(within), _rows(rule.time or "", keys, rule.ahead), keys, memory)


def _rows(time: str, columns: Mapping[str, tuple[str, SqlType]], ahead: timedelta) -> Rows:
    from dataflows.transforms.remembering import Rows

    return Rows(time, columns, ahead)


def _memory(
    name: str,
    form: Mapping[str, Any],
    where: str,
    lateness: timedelta,
    idle: timedelta,
    partitions: Mapping[str, BoundColumn],
) -> Memory:
    from dataflows.transforms.journal import Journal
    from dataflows.transforms.remembering import Memory
    from dataflows.transforms.watermarks import Watermark

    watermark = Watermark(_microseconds(lateness), idle.total_seconds())
    text = json.dumps(form, sort_keys=True)
    return Memory(name, text, where, watermark, {}, Journal(name), by_partition=bool(partitions))


def _microseconds(length: timedelta | None) -> int:
    return 0 if length is None else length // timedelta(microseconds=1)
