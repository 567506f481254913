"""A proposed change, tried on a sample of the source: how many rows would fail if values had to fit the target's type.

The sample has a budget of rows and time. What it tells are numbers, never a value.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from pydantic import ValidationError

from dataflows.connectors.contract import ReadOrder, Source
from dataflows.connectors.sql.names import quoted
from dataflows.data.cursors import Window, cursor_column
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, column_type, fits
from dataflows.runs.job import Job
from dataflows.runs.lookups import resources_of
from dataflows.transforms.chain import Chain
from dataflows.transforms.mapping import FieldSpec, RulePlan, Rules, bind, output_columns
from penstock.errors import PenstockError
from penstock.models.transforms import TransformStep, Validation

__all__ = ["Proof", "proven"]

ROWS: Final = 10_000
SECONDS: Final = 5.0
_WHY: Final = {"expression.failed": "are no {kind}", "check.failed": "would be cut or rounded"}


class _TimeOver(Exception):
    """The budget of time is used up."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Rows of a sample, and those whose value of a column cannot be cast exactly to `kind`, by reason."""

    column: str
    """The target's column."""
    origin: str
    kind: str
    rows: int
    reasons: tuple[tuple[str, int], ...]

    @property
    def failing(self) -> int:
        """Rows that could not be cast exactly."""
        return sum(count for _, count in self.reasons)

    def __str__(self) -> str:
        why = ", ".join(f"{count:,} {_WHY.get(code, 'fail').format(kind=self.kind)}" for code, count in self.reasons)
        tried = f"tried on a sample, {self.failing:,} of {self.rows:,} rows would fail as {self.kind}"
        return f"{tried} ({why})" if why else tried


def proven(job: Job, source: Source, plan: RulePlan, table: Table, there: Table, lower: str | None) -> Proof | None:
    """Return what a sample says about the first column whose type does not fit; None if it says nothing.

    The sample begins above `lower`, the position of the cursor, or else with the first rows.
    """
    for name, bound in plan.scope.columns.items():
        column, origin = there.column(name), plan.origin(name)
        if column is None or origin is None or fits(bound.type, column_type(column)):
            continue
        # no such cast or type, or a source that cannot be read: the verdict stands without it
        with suppress(PenstockError, ValidationError):
            rows, failed = _tried(job, source, table, origin, column.type, lower)
            return Proof(name, origin, column.type, rows, tuple(failed.most_common())) if rows else None
        break
    return None


def _tried(job: Job, source: Source, table: Table, name: str, kind: str, lower: str | None) -> tuple[int, Counter[str]]:
    """Return the rows of the sample, and how many of them fail, by reason."""
    column = next(one for one in table.columns if one.name == name)
    chain, schema = _cast(job, column, kind)
    key = cursor_column(table, job.cursor, job.at_source) if job.cursor and lower is not None else None
    rows, failed = 0, Counter[str]()
    for splits in _places(source, table, key, lower, job):
        for batch in _sample(source, table, key, schema, splits):
            _, refused, _ = chain.apply(batch)
            rows += batch.num_rows
            failed.update(refused.column("code").to_pylist() if refused is not None else ())
        if rows:
            break
    return rows, failed


def _places(
    source: Source, table: Table, key: Column | None, lower: str | None, job: Job
) -> Iterator[tuple[Split, ...]]:
    """Yield what the next run would read, and if that is nothing, all rows."""
    if key is not None:
        yield (Split(0, lower),)
    yield source.plan(table, key or source.split_key(table), Window(None, None), job.split_rows, 0)


def _cast(job: Job, column: Column, kind: str) -> tuple[Chain, pa.Schema]:
    """Return a chain that refuses each row whose value is another one after a cast there and back."""
    name = quoted(column.name)
    rules = Rules(
        (FieldSpec(column.name, column.name),),
        (TransformStep(name="tried", set={"tried": f"CAST({name} AS {kind})"}),),
        Validation(checks={"exact": f"CAST(tried AS {column.type}) = {name}"}),
    )
    table = Table("the sample", "r", (column,))
    made = Table("the sample", "r", output_columns(rules, table, job.pipeline, resources_of(job)))
    bound = bind(rules, table, made, job.pipeline, undecoded=False, resources=resources_of(job))
    assert isinstance(bound.chain, Chain)  # noqa: S101 - rows are decoded
    return bound.chain, pa.schema([(column.name, arrow_type(column_type(column)) or pa.string())])


def _sample(
    source: Source, table: Table, key: Column | None, schema: pa.Schema, splits: tuple[Split, ...]
) -> Iterator[pa.RecordBatch]:
    left, check = ROWS, _until(time.monotonic() + SECONDS)
    order = ReadOrder(table, tuple(schema.names), key or source.split_key(table), schema, ROWS, check)
    with suppress(_TimeOver), closing(source.reader(order)) as reader:
        for split in splits:
            for chunk in reader.read("sample", split):
                check()
                if isinstance(chunk.data, pa.RecordBatch):
                    yield chunk.data.slice(0, left)
                    left -= chunk.data.num_rows
                if left <= 0:
                    return


def _until(end: float) -> Callable[[], None]:
    def check() -> None:
        if time.monotonic() > end:
            raise _TimeOver

    return check
