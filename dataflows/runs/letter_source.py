"""Dead letters as a source: the rows that were refused, as the source sent them, with the values that a fix gives them.

A letter shows its values as JSON. What cannot be made from that again exactly (a masked value, one that was never read,
a text with a character of code 0) keeps its letter from being written, unless the fix sets that column.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import time, timedelta
from itertools import groupby
from typing import Any, Final

import pyarrow as pa

from catalog.redrives import Redrives, Sent
from dataflows.connectors.contract import ReadOrder, SplitReader
from dataflows.connectors.formats.readable import readable
from dataflows.data.chunks import REFUSED, Chunk
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.decimals import cast_text
from dataflows.data.display import json_of
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from dataflows.data.types import column_type
from dataflows.transforms.chain import Chain
from dataflows.transforms.mapping import FieldSpec, Rules, bind
from dataflows.transforms.steps import Resources
from penstock.errors import BadData, MissingColumn, did_you_mean
from penstock.models.letters import LetterFix
from penstock.models.transforms import TransformStep

__all__ = ["Fix", "LettersSource", "Restored", "array_of", "restored"]

MASKED: Final = "***"
NUL_SHOWN: Final = "␀"
_MATCHES: Final = "_penstock_fixed"
"""Column that is true in the rows that a fix is for."""
_MISSING: Final = object()
_BOOLEANS: Final = {"t": True, "f": False}
"""As PostgreSQL writes them: so they are in a row that was refused before it was decoded, and in a key of before."""
_WRONG: Final = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError, TypeError, OverflowError)
Open = Callable[[], Redrives]
Judge = Callable[[int, "Restored", Sequence[Sent]], None]
"""Decides, for the split of a number, which of its rows stay or are dropped, besides those that cannot be sent."""


@dataclass(slots=True)
class LettersSource:
    """The letters of one redrive; `table` is what the pipeline's source is now."""

    table: Table
    redrive: str
    open: Open
    fix: LetterFix | None
    resources: Resources
    judge: Judge | None = None
    """Of changes of rows: what becomes of each."""
    form: str | None = None

    def describe(self) -> Table:
        """Return the columns of the pipeline's source."""
        return self.table

    def split_key(self, table: Table) -> Column | None:
        """Return None: letters are split by their number."""
        return None

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        """Return an open window."""
        return Window(None, None)

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        """Return the splits that were numbered when the letters were claimed."""
        redrives = self.open()
        try:
            return tuple(Split(number) for number in redrives.splits(self.redrive))
        finally:
            redrives.close()

    def hold(self, table: Table, limit: timedelta) -> str | None:
        """Return None."""
        return None

    def reader(self, order: ReadOrder) -> SplitReader:
        """Return a reader with a session of its own."""
        fix = None if self.fix is None else Fix.of(self.fix, order, self.resources)
        return _Reader(order, self.redrive, self.open(), fix, self.judge)

    def close(self) -> None:
        """Do nothing: readers have sessions of their own."""


@dataclass(slots=True)
class _Reader:
    order: ReadOrder
    redrive: str
    redrives: Redrives
    fix: Fix | None
    judge: Judge | None

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the letters in order, then the marker; those that stay come as refused rows, each in its place.

        Those that are dropped count as read.
        """
        sent = self.redrives.sent(self.redrive, split.number)
        rows = restored(sent, self.order, self.fix)
        if self.judge is not None:
            self.judge(split.number, rows, sent)
        sequence = 0
        for (stays, dropped), numbers in groupby(range(len(sent)), key=rows.fate):
            part = list(numbers)
            step = 1 if stays else self.order.batch_rows
            for at in range(0, len(part), step):
                some = part[at : at + step]
                batch = rows.batch.take(pa.array([] if stays or dropped else some, pa.int64()))
                chunk = Chunk(slot, split.number, sequence, batch, batch.num_rows, read=len(some))
                yield replace(chunk, refused=rows.refused(some[0], sent[some[0]]), dead=1) if stays else chunk
                sequence += 1
                self.order.check()
        count = len(sent) - len(rows.stays) - len(rows.dropped)
        yield Chunk(slot, split.number, sequence, None, count, last=True, read=len(sent))

    def close(self) -> None:
        """Release the session."""
        self.redrives.close()


@dataclass(slots=True)
class Restored:
    """The rows of letters; `stays` has the step, code and reason of each row that cannot be sent."""

    batch: pa.RecordBatch
    stays: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    """Those of them that the fix is not for: they stay as they are."""
    dropped: set[int] = field(default_factory=set)
    """Rows that are not sent, and do not stay."""
    fixed: Callable[[int, str], bool] = lambda row, name: False  # noqa: ARG005 - nothing is set
    """Tells if the fix has set a column of a row."""
    needs: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    """The columns that each part of the fix is computed from."""

    def fate(self, row: int) -> tuple[bool, bool]:
        """Return whether a row stays, and whether it is dropped."""
        return row in self.stays, row in self.dropped

    def refused(self, row: int, sent: Sent) -> pa.RecordBatch:
        """Return a row that stays as the only row of its chunk."""
        values = [0, *self.stays[row], json_of(sent.values)]
        arrays = [pa.array([value], one.type) for value, one in zip(values, REFUSED, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=REFUSED)


def restored(sent: Sequence[Sent], order: ReadOrder, fix: Fix | None) -> Restored:
    """Return the rows as the source sent them, fixed, in the types that the pipeline reads."""
    assert order.schema is not None  # noqa: S101 - letters are always decoded
    arrays, wrong = [], dict[int, dict[str, str]]()
    for one in order.schema:
        array, errors = _column([each.values.get(one.name, _MISSING) for each in sent], one, order.table)
        arrays.append(array)
        for row, what in errors.items():
            wrong.setdefault(row, {})[one.name] = what
    batch = pa.RecordBatch.from_arrays(arrays, schema=order.schema)
    found = Restored(batch)
    if fix is not None:
        found.fixed, found.needs = fix.apply(found, sent), fix.needs
    for row, found_wrong in wrong.items():
        why = next((what for name, what in found_wrong.items() if not found.fixed(row, name)), None)
        if why is not None and row not in found.stays:
            found.stays[row] = ("letter", "not_kept", why)
    return found


def _column(values: Sequence[Any], wanted: pa.Field, table: Table) -> tuple[pa.Array, dict[int, str]]:
    """Return the values in the wanted type, and for each row that does not have its own one, why."""
    name, column = wanted.name, table.column(wanted.name)
    why: dict[int, str] = {}
    for row, value in enumerate(values):
        if value is _MISSING:
            why[row] = f"the letter has no value of `{name}`: set it"
        elif value == MASKED:
            why[row] = f"the letter shows `{name}` masked: set it"
        elif isinstance(value, str) and NUL_SHOWN in value:
            why[row] = f"`{name}` contains a character with code 0, shown as {NUL_SHOWN}: set it"
    kept = [None if value is _MISSING or value == MASKED else value for value in values]
    kind = column.type if column is not None else wanted.type
    array, errors = readable(kept, wanted.type, _converter(wanted, f"`{name}` is no {kind}: set it"))
    return array, {row: error.what for row, error in errors.items()} | why


def _converter(wanted: pa.Field, what: str) -> Callable[[Any], pa.Array]:
    def convert(values: Sequence[Any]) -> pa.Array:
        try:
            return array_of(values, wanted.type)
        except _WRONG:
            raise BadData(what, where=wanted.name) from None

    return convert


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return values of letters in a type that the pipeline reads.

    Raises:
        ArrowException, ValueError, TypeError, OverflowError: one of them is not of that type.
    """
    if pa.types.is_boolean(kind):
        return pa.array([_BOOLEANS.get(one, one) if isinstance(one, str) else one for one in values], kind)
    if pa.types.is_nested(kind):
        return pa.array(values, kind)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.array([None if one is None else bytes.fromhex(one.removeprefix("\\x")) for one in values], kind)
    if pa.types.is_time(kind):
        return pa.array([None if one is None else time.fromisoformat(one) for one in values], kind)
    texts = [one if one is None or isinstance(one, str) else json.dumps(one) for one in values]
    return cast_text(pa.array(texts, pa.string()), kind)


@dataclass(frozen=True, slots=True)
class Fix:
    """A fix, bound to the columns that the pipeline reads."""

    names: frozenset[str]
    chain: Chain
    reads: tuple[str, ...]
    whole: bool
    """True if it is for all rows."""
    needs: Mapping[str, AbstractSet[str]]
    """The columns that each part of it is computed from, by how the command names that part."""

    @classmethod
    def of(cls, fix: LetterFix, order: ReadOrder, resources: Resources) -> Fix:
        """Bind a fix.

        Raises:
            MissingColumn, SchemaMismatch: it names a column that is not read, or gives it another type.
        """
        from dataflows.transforms.expressions.compiler import compile_expression

        columns = tuple(one for one in order.table.columns if one.name in set(order.columns))
        shown = [one.name for one in columns if not one.hidden]
        for name in fix.set:
            if name not in shown:
                hint = did_you_mean(name, shown) or f"they have {', '.join(shown[:12])}"
                raise MissingColumn("the letters have no such column", where="--set", value=name, hint=hint)
        fields = [FieldSpec(one.name, one.name) for one in columns]
        made = [replace(one, nullable=True, default=False, generated=False, hidden=False) for one in columns]
        if fix.where is not None:
            fields.append(FieldSpec(_MATCHES, sql=f"coalesce({fix.where}, false)", path="--where"))
            made.append(Column(_MATCHES, "boolean"))
        step = TransformStep(name="fix", set=fix.set, when=None if fix.where is None else _MATCHES)
        table, target = replace(order.table, columns=columns), Table("the letters", "r", tuple(made))
        bound = bind(Rules(tuple(fields), (step,)), table, target, "--set", undecoded=False, resources=resources)
        assert isinstance(bound.chain, Chain)  # noqa: S101 - there is a step, and it remembers nothing
        parts = {f"--set {name}": text for name, text in fix.set.items()}
        parts |= {} if fix.where is None else {"--where": fix.where}
        kinds = {one.name: column_type(one) for one in columns}
        needs = {part: compile_expression(text, kinds, part).columns for part, text in parts.items()}
        return cls(frozenset(fix.set), bound.chain, bound.reads, fix.where is None, needs)

    def apply(self, found: Restored, sent: Sequence[Sent]) -> Callable[[int, str], bool]:
        """Give the rows their new values; return what tells if a column of a row was set."""
        made, refused, _, origins = self.chain.traced(found.batch.select(list(self.reads)))
        rows = list(range(len(sent))) if origins is None else origins.to_pylist()
        for one in [] if refused is None else refused.to_pylist():
            found.stays[one["row"]] = ("fix", one["code"], one["reason"])
        matches = [True] * len(rows) if self.whole else made.column(_MATCHES).to_pylist()
        fixed = {row for row, match in zip(rows, matches, strict=True) if match}
        found.left = set(rows) - fixed
        for row in found.left:
            found.stays[row] = (sent[row].step, sent[row].code, sent[row].reason)
        at = {row: number for number, row in enumerate(rows)}
        take = pa.array([at.get(row) for row in range(len(sent))], pa.int64())
        arrays = [
            made.column(one.name).take(take).cast(one.type) if one.name in made.schema.names else array
            for one, array in zip(found.batch.schema, found.batch.columns, strict=True)
        ]
        found.batch = pa.RecordBatch.from_arrays(arrays, schema=found.batch.schema)
        return lambda row, name: row in fixed and name in self.names
