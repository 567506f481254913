"""Dry runs of a pipeline: its unit tests, and a preview of the rows after each step.

Unit tests need no system; the others read the source and the target, and change neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import ReadOrder
from dataflows.data.cursors import Window
from dataflows.data.display import rows_of
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from dataflows.runs.job import Job, rules_of
from dataflows.runs.lookups import resources_of
from dataflows.runs.survey import Ends, cursor_risks
from dataflows.transforms.mapping import BoundMapping, Rules, bind, output_columns
from dataflows.transforms.steps import LookupTable, Resources
from penstock.errors import BadData, PenstockError, SchemaMismatch
from penstock.models.pipeline import Pipeline, PipelineTest

__all__ = ["StepRows", "TrialResult", "inspect_cursor", "preview", "run_tests"]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Result of a test; if it failed, the rows expected and the actual ones, or the error that prevented it."""

    test: str
    passed: bool
    expected: Sequence[Row] = ()
    got: Sequence[Row] = ()
    refused: Sequence[Row] = ()
    error: str | None = None

    @property
    def differences(self) -> list[str]:
        """What differs from the rows expected: each column with both values, and rows that are missing or too many."""
        found = []
        for at, (wanted, row) in enumerate(zip(self.expected, self.got, strict=False), start=1):
            for name, value in wanted.items():
                if name not in row:
                    found.append(f"row {at}: there is no column `{name}`")
                elif _comparable(row[name]) != _comparable(value):
                    found.append(f"row {at}: `{name}` is {_shown(row[name])}, expected {_shown(value)}")
            found += [
                f"row {at}: `{name}` is {_shown(row[name])}, expected no such column" for name in row.keys() - wanted
            ]
        less = len(self.expected) - len(self.got)
        return found + (
            [f"{abs(less)} row{'s' if abs(less) > 1 else ''} too {'few' if less > 0 else 'many'}"] if less else []
        )


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows after a step; `refused` are the rows it refused, with step and reason."""

    step: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    refused: Sequence[Row] = ()
    note: str | None = None


def run_tests(
    pipeline: Pipeline, modules: frozenset[str] = frozenset(), mask_key: Callable[[], bytes] | None = None
) -> list[TrialResult]:
    """Run the tests of the pipeline file over the rows given there."""
    return [
        _run_test(pipeline, test, Resources(partial(_lookup_table, test), modules, mask_key))
        for test in pipeline.spec.tests
    ]


def _run_test(pipeline: Pipeline, test: PipelineTest, resources: Resources) -> TrialResult:
    try:
        table = _given_table(pipeline, test)
        chain = _bind(rules_of(pipeline.spec), table, pipeline.name, resources)
        out, refused = _apply(chain, _batch(table, test.given))
    except PenstockError as error:
        return TrialResult(test.name, passed=False, expected=test.expect, error=str(error))
    wanted = [{name: _comparable(value) for name, value in row.items()} for row in test.expect]
    names = {name for row in test.expect for name in row}
    got = [{name: value for name, value in row.items() if name in names} for row in out]
    passed = [{name: _comparable(value) for name, value in row.items()} for row in got] == wanted
    return TrialResult(test.name, passed, test.expect, got, refused)


def _given_table(pipeline: Pipeline, test: PipelineTest) -> Table:
    """Return the source as the test gives it: declared types, else those of the values."""
    return _table(pipeline.spec.source.object, test.given, test.types)


def _table(name: str, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> Table:
    names = list(dict.fromkeys(column for row in rows for column in row))
    kinds = {**{column: _type_of([row.get(column) for row in rows]) for column in names}, **types}
    return Table(name, "r", tuple(Column(column, kind) for column, kind in kinds.items()))


def _lookup_table(test: PipelineTest, _: str, object_: str) -> LookupTable:
    """Return the table that a lookup reads, as the test gives it."""
    if object_ not in test.tables:
        hint = f"add `tables: {{{object_}: [...]}}` to the test"
        raise SchemaMismatch(
            "the test gives no rows of the table that is looked up", where=test.name, value=object_, hint=hint
        )
    import polars as pl

    rows = test.tables[object_]
    table = _table(object_, rows, {})
    types = {column.name: parse_type(column.type) for column in table.columns}
    return LookupTable(types, pl.DataFrame(pl.from_arrow(pa.Table.from_batches([_batch(table, rows)]))))


def _type_of(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    return (
        _KINDS.get(next(iter(kinds)), "text")
        if len(kinds) == 1
        else "numeric(38,9)"
        if kinds == {int, float}
        else "text"
    )


_KINDS: Final = {bool: "boolean", int: "bigint", float: "numeric(38,9)", str: "text"}


def _batch(table: Table, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    arrays = []
    for column in table.columns:
        kind = arrow_type(parse_type(column.type))
        if kind is None:
            what, hint = "tests cannot give values of this type", "declare another one in `types`"
            raise SchemaMismatch(what, where=f"given: {column.name}", value=column.type, hint=hint)
        arrays.append(_array([row.get(column.name) for row in rows], kind, column))
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in table.columns])


def _array(values: list[Any], kind: pa.DataType, column: Column) -> pa.Array:
    texts = [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
    try:
        return pa.array(texts, pa.string()).cast(kind) if not pa.types.is_boolean(kind) else pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        what = f"a given value is not of type {column.type}"
        raise BadData(what, where=f"given: {column.name}", hint="see `types`") from None


def _bind(rules: Rules, table: Table, name: str, resources: Resources) -> BoundMapping:
    target = Table("the target", "r", output_columns(rules, table, name, resources))
    return bind(replace(rules, filled=frozenset()), table, target, name, undecoded=False, resources=resources)


def _apply(bound: BoundMapping, batch: pa.RecordBatch) -> tuple[list[Row], list[Row]]:
    if bound.chain is None:
        message = "a dry run decodes its rows"
        raise TypeError(message)
    out, refused, _ = bound.chain.apply(batch.select(list(bound.reads)))
    return rows_of(out), [] if refused is None else refused.to_pylist()


def _shown(value: Any) -> str:
    """Return a value as YAML would write it; texts in quotes, so that 1 and '1' differ."""
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) else str(value)


def _comparable(value: Any) -> Any:
    """Normalise a value for comparison: numbers by their value, times by their text."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float | Decimal):
        return Decimal(str(value)).normalize()
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value


def preview(job: Job, ends: Ends, rows: int) -> list[StepRows]:
    """Return up to `rows` rows of the source, and the rows after each step."""
    table, resources = ends.source.describe(), resources_of(job)
    whole = _bind(job.rules, table, job.pipeline, resources)
    batch, aside = _first(job, ends, table, whole.reads, rows)
    kinds = {column.name: column.type for column in table.columns}
    shown = [StepRows("source", {name: kinds[name] for name in whole.reads}, rows_of(batch), aside, table.types_from)]
    for count in range(len(job.rules.steps) + 1):
        part = replace(job.rules, steps=job.rules.steps[:count])
        part = part if count == len(job.rules.steps) else Rules(part.fields, part.steps)
        out, refused = _apply(_bind(part, table, job.pipeline, resources), batch)
        made = {column.name: column.type for column in output_columns(part, table, job.pipeline, resources)}
        shown.append(StepRows(job.rules.steps[count - 1].name if count else "mapping", made, out, refused))
    return shown


def _first(job: Job, ends: Ends, table: Table, names: Sequence[str], rows: int) -> tuple[pa.RecordBatch, Sequence[Row]]:
    """Return the first rows of the source, and those among them that it cannot read."""
    kinds = {column.name: arrow_type(parse_type(column.type)) or pa.string() for column in table.columns}
    schema = pa.schema([(name, kinds[name]) for name in names])
    order = ReadOrder(table, tuple(names), None, schema, max(rows, 1), lambda: None)
    batches: list[pa.RecordBatch] = []
    aside: list[Row] = []
    with closing(ends.source.reader(order)) as reader:
        for split in ends.source.plan(table, None, Window(None, None), job.split_rows, 0):
            for chunk in reader.read("preview", split):
                if chunk.data is not None:
                    batches.append(chunk.data)
                if chunk.refused is not None:
                    aside += chunk.refused.to_pylist()
                if sum(one.num_rows for one in batches) >= rows:
                    break
            if sum(one.num_rows for one in batches) >= rows:
                break
    whole = pa.Table.from_batches(batches, schema=schema).slice(0, rows).combine_chunks().to_batches()
    return whole[0] if whole else pa.RecordBatch.from_pylist([], schema=schema), aside


def inspect_cursor(job: Job) -> tuple[str, ...]:
    """Return the risks of the cursor that its source reports; the sink is not contacted.

    Raises:
        PenstockError: a cursor by which rows would be lost, or a source that cannot be inspected.
    """
    if job.cursor is None:
        return ()
    with closing(job.open_source()) as source:
        return cursor_risks(job, source, source.describe())
