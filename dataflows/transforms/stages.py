"""Stages, which carry out the steps on a chunk as a Polars frame, and refuse rows without stopping the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import polars as pl

from dataflows.data.types import SqlType, carried
from dataflows.transforms.expressions.terms import frame_name
from dataflows.transforms.scope import BoundExpression
from penstock.errors import BadData

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflows.transforms.expressions.walk import Failure

__all__ = [
    "ROW",
    "Compute",
    "Deduplicate",
    "Explode",
    "Filter",
    "Lookup",
    "Mask",
    "PythonCall",
    "Refusal",
    "Stage",
    "Work",
]

ROW = "_row"
"""The column of a frame that says which row of the chunk each of its rows comes from."""
_SHOWN: Final = 60
"""Characters of a value in the reason of a dead letter."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows of the chunk (their numbers in it) that a step cannot take, and why.

    `shown` says more of each row, and shows values of the source's columns `origins`: it is left out where one of
    them is masked.
    """

    rows: Sequence[int]
    step: str
    code: str
    reason: str
    shown: Sequence[str] = ()
    origins: frozenset[str] = frozenset()


@dataclass(slots=True)
class Work:
    """A chunk on its way: the frame as it is now, and what was refused, filtered and added on the way."""

    frame: pl.DataFrame
    refused: list[Refusal] = field(default_factory=list)
    filtered: int = 0
    added: int = 0

    def refuse(self, mask: pl.Series, refusal: Callable[[list[int]], Refusal]) -> None:
        """Take out the rows where `mask` is true."""
        self.refused.append(refusal(self.frame[ROW].filter(mask).to_list()))
        self.frame = self.frame.filter(~mask)


class Stage(Protocol):
    """One step, applied to chunks."""

    def __call__(self, work: Work) -> None:
        """Change the chunk in place."""


def evaluate_frame(frame: pl.DataFrame, values: Mapping[str, BoundExpression]) -> pl.DataFrame:
    """The values by their names, and beside each that may fail a mask ``?name`` of the rows where it does."""
    sub = _named(frame, *values.values())
    wanted = {f"={key}": one.compiled.expr for key, one in values.items()}
    masks = {f"?{key}": one.compiled.wrong for key, one in values.items()}
    wanted |= {name: mask.fill_null(value=False) for name, mask in masks.items() if mask is not None}
    try:
        done = _columns(sub, wanted)
    except pl.exceptions.PolarsError:
        where = next(iter(values.values())).compiled.where
        raise BadData("the expression cannot be computed for some row", where=where, hint="report it") from None
    return done.select(
        *(pl.col(f"={key}").alias(key) for key in values), *(name for name in wanted if name.startswith("?"))
    )


def _named(frame: pl.DataFrame, *values: BoundExpression) -> pl.DataFrame:
    """The columns that expressions read, by the names that they have in them."""
    reads = {name: id_ for one in values for name, id_ in one.reads.items()}
    return frame.select(pl.col(ROW), *(pl.col(id_).alias(frame_name(name)) for name, id_ in reads.items()))


def _columns(sub: pl.DataFrame, wanted: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """Return the expressions as columns. For a constant, Polars may return a single value and then refuse it."""
    try:
        return sub.with_columns(expr.alias(name) for name, expr in wanted.items())
    except pl.exceptions.PolarsError:
        rows = pl.col(ROW).is_not_null()
        return sub.with_columns(pl.when(rows).then(expr).alias(name) for name, expr in wanted.items())


def refuse_wrong(work: Work, done: pl.DataFrame, values: Mapping[str, BoundExpression], step: str) -> None:
    """Refuse the rows where a value failed, with the reason of the first one."""
    for key, one in values.items():
        if one.compiled.wrong is None:
            continue
        mask = done[f"?{key}"]
        if mask.any():
            reason = f"{_place(one)}: {_WHY}"
            shown = _casts(_named(work.frame.filter(mask), one), one.compiled.failures)
            refusal = partial(Refusal, step=step, code="expression.failed", reason=reason, origins=one.origins)
            work.refuse(mask, partial(refusal, shown=shown))
            done = done.filter(~mask)


_WHY: Final = "an overflow, a division by zero, or a text that is no such value"


def _casts(sub: pl.DataFrame, failures: Sequence[Failure]) -> list[str]:
    """Of each row the value and the type of the first cast that fails, if one does."""
    text = pl.lit("")
    for one in reversed(failures):
        shown = pl.concat_str(
            pl.lit(f"; CAST to {one.kind}, got '"),
            one.shown.str.slice(0, _SHOWN).str.replace_all("\0", "␀", literal=True),
            pl.lit("'"),
        )
        text = pl.when(one.wrong.fill_null(value=False)).then(shown).otherwise(text)
    return _columns(sub, {"text": text})["text"].fill_null("").to_list()


def _place(one: BoundExpression) -> str:
    return one.compiled.where.partition(": ")[2] or one.compiled.where


@dataclass(frozen=True, slots=True)
class Compute:
    """New values by id, all computed from the columns before the step."""

    step: str
    values: Mapping[str, BoundExpression]

    def __call__(self, work: Work) -> None:
        done = evaluate_frame(work.frame, self.values)
        work.frame = work.frame.with_columns(done.select(list(self.values)))
        refuse_wrong(work, done, self.values, self.step)


@dataclass(frozen=True, slots=True)
class Filter:
    """Keep the rows where the condition is true: neither false nor NULL."""

    step: str
    condition: BoundExpression

    def __call__(self, work: Work) -> None:
        values = {"keep": self.condition}
        done = evaluate_frame(work.frame, values)
        keep = done["keep"].fill_null(value=False)
        if self.condition.compiled.wrong is not None and done["?keep"].any():
            keep = keep.filter(~done["?keep"])
            refuse_wrong(work, done, values, self.step)
        dropped = int((~keep).sum())
        if dropped:
            work.filtered += dropped
            work.frame = work.frame.filter(keep)


@dataclass(frozen=True, slots=True)
class Check:
    """Refuse the rows where the condition is false; NULL passes, as in a SQL CHECK."""

    step: str
    reason: str
    condition: BoundExpression

    def __call__(self, work: Work) -> None:
        values = {"holds": self.condition}
        done = evaluate_frame(work.frame, values)
        holds = done["holds"].fill_null(value=True)
        if self.condition.compiled.wrong is not None and done["?holds"].any():
            holds = holds.filter(~done["?holds"])
            refuse_wrong(work, done, values, self.step)
        if not holds.all():
            work.refuse(~holds, partial(Refusal, step=self.step, code="check.failed", reason=self.reason))


@dataclass(frozen=True, slots=True)
class Mask:
    """Replace values by their SHA-256 in hexadecimal digits, or by three asterisks. NULL stays NULL."""

    step: str
    values: Mapping[str, tuple[BoundExpression, str]]
    condition: BoundExpression | None = None

    def __call__(self, work: Work) -> None:
        texts = {key: one for key, (one, _) in self.values.items()}
        asked = texts if self.condition is None else texts | {"when": self.condition}
        done = evaluate_frame(work.frame, asked)
        masked = done.with_columns(
            pl.when(done["when"].fill_null(value=False)).then(_masked(key, how)).otherwise(pl.col(key)).alias(key)
            if self.condition is not None
            else _masked(key, how).alias(key)
            for key, (_, how) in self.values.items()
        )
        work.frame = work.frame.with_columns(masked.select(list(self.values)))
        refuse_wrong(work, done, asked, self.step)


def _masked(key: str, how: str) -> pl.Expr:
    if how == "redact":
        return pl.when(pl.col(key).is_not_null()).then(pl.lit("***"))
    import polars_hash

    hashed: pl.Expr = polars_hash.col(key).chash.sha2_256()
    return hashed


@dataclass(frozen=True, slots=True)
class Deduplicate:
    """Keep one row of each group of rows of a chunk with equal values in some columns."""

    by: tuple[str, ...]
    keep: str

    def __call__(self, work: Work) -> None:
        before = work.frame.height
        keep: Any = self.keep
        work.frame = work.frame.unique(subset=list(self.by), keep=keep, maintain_order=True)
        work.filtered += before - work.frame.height


@dataclass(frozen=True, slots=True)
class JoinKey:
    """One column of a lookup's key, as expressions whose values are equal where SQL takes the columns for equal."""

    chunk: pl.Expr
    table: pl.Expr


def comparable(name: str, kind: SqlType, other: SqlType) -> pl.Expr:
    """A column beside one of type `other`: blanks at the end of a character(n) count only where that is a text's."""
    value = pl.col(name)
    if kind.name == "character" or (kind.text and other.name == "character" and kind.name != "text"):
        return value.str.strip_chars_end(" ")
    if kind.integer:
        return value.cast(pl.Int64)
    return value.to_physical() if kind.name == "numeric" and not carried(kind) else value


@dataclass(frozen=True, slots=True)
class Lookup:
    """Add columns of a small table by its unique key; `matched` is a column of it that is always true."""

    step: str
    table: pl.DataFrame
    keys: tuple[JoinKey, ...]
    taken: Mapping[str, str]
    missing: str

    def __call__(self, work: Work) -> None:
        keys = [f"k:{at}" for at in range(len(self.keys))]
        table = self.table.select(
            *(one.table.alias(key) for key, one in zip(keys, self.keys, strict=True)),
            *(pl.col(name).alias(id_) for id_, name in self.taken.items()),
            pl.lit(value=True).alias("matched"),
        )
        left = work.frame.with_columns(one.chunk.alias(key) for key, one in zip(keys, self.keys, strict=True))
        joined = left.join(table, on=keys, how="left", maintain_order="left")
        matched = joined["matched"].fill_null(value=False)
        work.frame = joined.drop("matched", *keys)
        if self.missing == "refuse" and not matched.all():
            reason = "the looked-up table has no such key"
            work.refuse(~matched, partial(Refusal, step=self.step, code="lookup.missing", reason=reason))


@dataclass(frozen=True, slots=True)
class Explode:
    """A row for each element of a JSON array, as texts under `id`."""

    step: str
    column: str
    id: str

    def __call__(self, work: Work) -> None:
        bad, lists = _elements(work.frame[self.column])
        if bad is not None and bad.any():
            lists = lists.filter(~bad)
            reason = "the text is no JSON array"
            work.refuse(bad, partial(Refusal, step=self.step, code="explode.no_array", reason=reason))
        empty = int((lists.list.len() == 0).fill_null(value=False).sum())
        before = work.frame.height
        work.frame = work.frame.with_columns(lists.alias(self.id)).explode(self.id)
        work.filtered += empty
        work.added += work.frame.height - (before - empty)


def _elements(texts: pl.Series) -> tuple[pl.Series | None, pl.Series]:
    """Lists of texts, and where a text is no array; quick where all elements are plain values.

    The quick way takes the texts for lines: a blank one is none, and one with a line break may be two. It reads a
    number with a fraction or an exponent as a double, which may be another number than the one that is written.
    """
    kind = pl.List(pl.String)
    if not texts.str.contains(r"^\s*$|[\r\n]|\d[.eE]").any():
        with suppress(pl.exceptions.PolarsError):
            return None, texts.str.json_decode(kind)
    found = [_parsed(text) for text in texts.to_list()]
    bad = pl.Series([one is _NO_ARRAY for one in found], dtype=pl.Boolean)
    return bad, pl.Series([None if one is _NO_ARRAY else one for one in found], dtype=kind)


_NO_ARRAY: list[str | None] = []


def _parsed(text: str | None) -> list[str | None] | None:
    """Return the elements: texts by value, anything else as written."""
    import msgspec

    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=list[msgspec.Raw])
        return [
            msgspec.json.decode(one, type=str | None) if one[:1] in b'"n' else str(one, "utf-8")
            for one in map(bytes, found)
        ]
    except msgspec.MsgspecError:
        return _NO_ARRAY


@dataclass(frozen=True, slots=True)
class PythonCall:
    """Columns that a function of Python's makes of the whole chunk. The names are those that users see."""

    step: str
    function: Callable[[pa.RecordBatch], pa.RecordBatch]
    given: Mapping[str, tuple[str, SqlType]]
    made: Mapping[str, tuple[str, SqlType]]
    where: str

    def __call__(self, work: Work) -> None:
        import pyarrow as pa

        from dataflows.transforms.values import arrow_of, series_of

        given = {name: arrow_of(work.frame[id_], kind, self.where) for name, (id_, kind) in self.given.items()}
        batch = pa.RecordBatch.from_pydict(given)
        try:
            back = self.function(batch)
        except Exception as error:
            what = f"the function raised {type(error).__name__}"
            raise BadData(what, where=self.where, hint="run it on such rows by hand") from error
        if not isinstance(back, pa.RecordBatch) or back.num_rows != work.frame.height:
            what = f"the function must give back a RecordBatch of {work.frame.height} rows"
            raise BadData(what, where=self.where, hint="keep the rows, and their order")
        self._check_order(batch, back)
        missing = [name for name in self.made if name not in back.schema.names]
        if missing:
            hint = "name it in what the function returns, or leave it out of `columns`"
            raise BadData(f"the function gave back no column `{missing[0]}`", where=self.where, hint=hint)
        work.frame = work.frame.with_columns(
            series_of(back.column(name), kind, f"{self.where}: `{name}`").alias(id_)
            for name, (id_, kind) in self.made.items()
        )

    def _check_order(self, given: pa.RecordBatch, back: pa.RecordBatch) -> None:
        """Refuse rows that come back in another order, which shows in the columns that come back as they were given."""
        for name in given.schema.names:
            if name not in back.schema.names or name in self.made:
                continue
            before, after = given.column(name), back.column(name)
            if before.type != after.type or not _series(before).equals(_series(after), null_equal=True):
                what = f"the function gave back `{name}` with other values, or its rows in another order"
                hint = "keep the rows and their order; name each column that it changes in `columns`"
                raise BadData(what, where=self.where, hint=hint)


def _series(array: pa.Array) -> pl.Series:
    return pl.Series(pl.from_arrow(array))
