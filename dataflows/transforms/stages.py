"""Stages carry out steps on a chunk (a Polars frame), and refuse single rows without failing the chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from traceback import walk_tb
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
    "Check",
    "Compute",
    "Deduplicate",
    "Explode",
    "Filter",
    "JoinKey",
    "Lookup",
    "PythonCall",
    "Refusal",
    "Stage",
    "Work",
    "comparable",
    "evaluate_frame",
    "refuse_wrong",
]

ROW = "_row"
"""Column of the frame with the row number in the chunk."""
_SHOWN: Final = 60
"""Characters of a value shown in the reason of a dead letter."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows of the chunk, by number, that a step refuses, and why.

    `shown` has a more detailed reason for each row. It shows values of the source columns `origins`, and is not used
    if one of them is masked.
    """

    rows: Sequence[int]
    step: str
    code: str
    reason: str
    shown: Sequence[str] = ()
    origins: frozenset[str] = frozenset()


@dataclass(slots=True)
class Work:
    """A chunk in progress: the current frame, and the rows refused, filtered and added so far."""

    frame: pl.DataFrame
    refused: list[Refusal] = field(default_factory=list)
    filtered: int = 0
    added: int = 0

    def refuse(self, mask: pl.Series, refusal: Callable[[list[int]], Refusal]) -> None:
        """Remove the rows where `mask` is true."""
        self.refused.append(refusal(self.frame[ROW].filter(mask).to_list()))
        self.frame = self.frame.filter(~mask)


class Stage(Protocol):
    """One step, applied to chunks."""

    def __call__(self, work: Work) -> None:
        """Change the chunk in place."""


def evaluate_frame(frame: pl.DataFrame, values: Mapping[str, BoundExpression]) -> pl.DataFrame:
    """Return the values by name and, for each that may fail, a mask ``?name`` of the rows where it does."""
    sub = _named(frame, *values.values())
    wanted = {f"={key}": one.compiled.expr for key, one in values.items()}
    masks = {f"?{key}": one.compiled.wrong for key, one in values.items()}
    wanted |= {name: mask.fill_null(value=False) for name, mask in masks.items() if mask is not None}
    try:
        done = _columns(sub, wanted)
    except pl.exceptions.PolarsError:
        where = next(iter(values.values())).compiled.where
        raise BadData("the expression cannot be computed for some row", where=where, hint="report a bug") from None
    return done.select(
        *(pl.col(f"={key}").alias(key) for key in values), *(name for name in wanted if name.startswith("?"))
    )


def _named(frame: pl.DataFrame, *values: BoundExpression) -> pl.DataFrame:
    """Return the columns that the expressions read, under the names that the expressions use."""
    reads = {name: id_ for one in values for name, id_ in one.reads.items()}
    return frame.select(pl.col(ROW), *(pl.col(id_).alias(frame_name(name)) for name, id_ in reads.items()))


def _columns(sub: pl.DataFrame, wanted: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """Return the expressions as columns. Of a constant, Polars may make a single value, and then refuse its length."""
    try:
        return sub.with_columns(expr.alias(name) for name, expr in wanted.items())
    except pl.exceptions.PolarsError:
        rows = pl.col(ROW).is_not_null()
        return sub.with_columns(pl.when(rows).then(expr).alias(name) for name, expr in wanted.items())


def refuse_wrong(work: Work, done: pl.DataFrame, values: Mapping[str, BoundExpression], step: str) -> None:
    """Refuse the rows where a value failed, with the reason of the first failure."""
    for key, one in values.items():
        if one.compiled.wrong is None:
            continue
        mask = done[f"?{key}"]
        if mask.any():
            reason = f"{_place(one)}: {_WHY}"
            casts = _casts(_named(work.frame.filter(mask), one), one.compiled.failures)
            shown = [f"{_place(one)}: {cast}" if cast else reason for cast in casts]
            refusal = partial(Refusal, step=step, code="expression.failed", reason=reason, origins=one.origins)
            work.refuse(mask, partial(refusal, shown=shown))
            done = done.filter(~mask)


_WHY: Final = "an overflow, a division by zero, or a CAST of what is no such value; guard it with CASE or NULLIF"


def _casts(sub: pl.DataFrame, failures: Sequence[Failure]) -> list[str]:
    """Return what is wrong with the first failing cast of each row, as text; empty if none fails.

    The value comes last, after ``, got ``: a run's error is cut there.
    """
    text = pl.lit("")
    for one in reversed(failures):
        shown = pl.concat_str(
            pl.lit(
                f"a value is not of type {one.kind}, or beyond its range; guard the CAST with CASE or NULLIF, got '"
            ),
            one.shown.str.slice(0, _SHOWN).str.replace_all("\0", "␀", literal=True),
            pl.lit("'"),
        )
        text = pl.when(one.wrong.fill_null(value=False)).then(shown).otherwise(text)
    return _columns(sub, {"text": text})["text"].fill_null("").to_list()


def _place(one: BoundExpression) -> str:
    return one.compiled.where.partition(": ")[2] or one.compiled.where


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute new values by id, all from the columns before the step."""

    step: str
    values: Mapping[str, BoundExpression]

    def __call__(self, work: Work) -> None:
        done = evaluate_frame(work.frame, self.values)
        work.frame = work.frame.with_columns(done.select(list(self.values)))
        refuse_wrong(work, done, self.values, self.step)


@dataclass(frozen=True, slots=True)
class Filter:
    """Keep the rows where the condition is true; drop those where it is false or NULL."""

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
class Deduplicate:
    """Keep one row of each group of rows of the chunk that are equal in the columns `by`."""

    by: tuple[pl.Expr, ...]
    """The columns as they compare."""
    keep: str

    def __call__(self, work: Work) -> None:
        before = work.frame.height
        keep: Any = self.keep
        keys = {f"?{at}": one for at, one in enumerate(self.by)}
        frame = work.frame.with_columns(**keys).unique(subset=list(keys), keep=keep, maintain_order=True)
        work.frame = frame.drop(keys)
        work.filtered += before - work.frame.height


@dataclass(frozen=True, slots=True)
class JoinKey:
    """One column of a lookup's key: expressions over chunk and table that are equal where SQL's ``=`` is true."""

    chunk: pl.Expr
    table: pl.Expr


def comparable(name: str, kind: SqlType, other: SqlType) -> pl.Expr:
    """Return a column as it compares with one of type `other`.

    Trailing blanks of a character(n) are ignored unless the other column is text.
    """
    value = pl.col(name)
    if kind.name == "character" or (kind.text and other.name == "character" and kind.name != "text"):
        return value.str.strip_chars_end(" ")
    if kind.integer:
        return value.cast(pl.Int64)
    return value.to_physical() if kind.name == "numeric" and not carried(kind) else value


@dataclass(frozen=True, slots=True)
class Lookup:
    """Add columns of a small table, joined by its unique key."""

    step: str
    table: pl.DataFrame
    keys: tuple[JoinKey, ...]
    taken: Mapping[str, str]
    missing: str
    current: Callable[[], pl.DataFrame] | None = None
    """Returns the table as it is now, if a stream reads it again and again."""

    def __call__(self, work: Work) -> None:
        keys = [f"k:{at}" for at in range(len(self.keys))]
        table = (self.table if self.current is None else self.current()).select(
            *(one.table.alias(key) for key, one in zip(keys, self.keys, strict=True)),
            *(pl.col(name).alias(id_) for id_, name in self.taken.items()),
            pl.lit(value=True).alias("matched"),
        )
        left = work.frame.with_columns(one.chunk.alias(key) for key, one in zip(keys, self.keys, strict=True))
        joined = left.join(table, on=keys, how="left", maintain_order="left")
        matched = joined["matched"].fill_null(value=False)
        work.frame = joined.drop("matched", *keys)
        if self.missing == "refuse" and not matched.all():
            reason = "the lookup table has no such key"
            work.refuse(~matched, partial(Refusal, step=self.step, code="lookup.missing", reason=reason))


@dataclass(frozen=True, slots=True)
class Explode:
    """Make one row of each element of a JSON array; the elements are text, in the column `id`."""

    step: str
    column: str
    id: str

    def __call__(self, work: Work) -> None:
        bad, lists = _elements(work.frame[self.column])
        if bad is not None and bad.any():
            lists = lists.filter(~bad)
            reason = "the value is not a JSON array"
            work.refuse(bad, partial(Refusal, step=self.step, code="explode.no_array", reason=reason))
        empty = int((lists.list.len() == 0).fill_null(value=False).sum())
        before = work.frame.height
        work.frame = work.frame.with_columns(lists.alias(self.id)).explode(self.id)
        work.filtered += empty
        work.added += work.frame.height - (before - empty)


def _elements(texts: pl.Series) -> tuple[pl.Series | None, pl.Series]:
    """Return the arrays as lists of text, and a mask of the values that are not arrays (None if all are).

    Fast path: Polars decodes the column as lines of JSON. It is not safe for blank values (skipped), values with line
    breaks (taken for two), and numbers with a fraction or an exponent (read as doubles, so digits may change).
    """
    kind = pl.List(pl.String)
    if not texts.str.contains(r"^\s*$|[\r\n]|\d[.eE]").any():
        with suppress(pl.exceptions.PolarsError):
            return None, texts.str.json_decode(kind)
    arrays = [_parsed(text) for text in texts.to_list()]
    bad = pl.Series([one is _NO_ARRAY for one in arrays], dtype=pl.Boolean)
    return bad, pl.Series([None if one is _NO_ARRAY else one for one in arrays], dtype=kind)


_NO_ARRAY: list[str | None] = []


def _parsed(text: str | None) -> list[str | None] | None:
    """Return the elements: strings unquoted, anything else as written."""
    import msgspec

    if text is None:
        return None
    try:
        elements = msgspec.json.decode(text, type=list[msgspec.Raw])
        return [
            msgspec.json.decode(one, type=str | None) if one[:1] in b'"n' else str(one, "utf-8")
            for one in map(bytes, elements)
        ]
    except msgspec.MsgspecError:
        return _NO_ARRAY


@dataclass(frozen=True, slots=True)
class PythonCall:
    """Compute columns by a Python function on the whole chunk; it sees all columns by their names in the pipeline."""

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
        except (Exception, SystemExit) as error:
            what = f"the function raised {type(error).__name__}{_line_of(error, self.function)}"
            raise BadData(what, where=self.where, hint="run it on such rows by hand") from error
        if not isinstance(back, pa.RecordBatch) or back.num_rows != work.frame.height:
            what = f"the function must return a RecordBatch of {work.frame.height} rows"
            raise BadData(what, where=self.where, hint="keep the rows, and their order")
        self._check_order(batch, back)
        missing = [name for name in self.made if name not in back.schema.names]
        if missing:
            hint = "return it from the function, or leave it out of `columns`"
            raise BadData(f"the function returned no column `{missing[0]}`", where=self.where, hint=hint)
        work.frame = work.frame.with_columns(
            series_of(back.column(name), kind, f"{self.where}: `{name}`").alias(id_)
            for name, (id_, kind) in self.made.items()
        )

    def _check_order(self, given: pa.RecordBatch, back: pa.RecordBatch) -> None:
        """Raise if the rows were reordered, detected by the returned columns that the function must not change."""
        for name in given.schema.names:
            if name not in back.schema.names or name in self.made:
                continue
            before, after = given.column(name), back.column(name)
            if before.type != after.type or not _series(before).equals(_series(after), null_equal=True):
                what = f"the function returned `{name}` with other values, or its rows in another order"
                hint = "keep the rows and their order; name each column that it changes in `columns`"
                raise BadData(what, where=self.where, hint=hint)


def _series(array: pa.Array) -> pl.Series:
    return pl.Series(pl.from_arrow(array))


def _line_of(error: BaseException, function: Callable[..., object]) -> str:
    """Return the last line of the function's own file that an error came through; "" if there is none."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f" in line {lines[-1]} of {Path(str(file)).name}" if lines else ""
