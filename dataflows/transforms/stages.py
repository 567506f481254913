"""What steps become: stages that work on one chunk as a Polars frame, and refuse rows without stopping the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from dataflows.data.types import SqlType
from dataflows.transforms.expressions.terms import frame_name
from dataflows.transforms.scope import Computed
from penstock.errors import BadData

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ROW",
    "Called",
    "Compute",
    "Deduplicated",
    "Exploded",
    "Filtered",
    "Joined",
    "Masked",
    "Refusal",
    "Stage",
    "Work",
]

ROW = "_row"
"""The column of a frame that says which row of the chunk each of its rows comes from."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows of the chunk (their numbers in it) that a step cannot take, and why; no value stands in it."""

    rows: Sequence[int]
    step: str
    code: str
    reason: str


@dataclass(slots=True)
class Work:
    """A chunk on its way: the frame as it is now, and what was refused, filtered and added on the way."""

    frame: pl.DataFrame
    refused: list[Refusal] = field(default_factory=list)
    filtered: int = 0
    added: int = 0

    def refuse(self, mask: pl.Series, step: str, code: str, reason: str) -> None:
        """Take out the rows where `mask` is true."""
        self.refused.append(Refusal(self.frame[ROW].filter(mask).to_list(), step, code, reason))
        self.frame = self.frame.filter(~mask)


class Stage(Protocol):
    """One step at work."""

    def __call__(self, work: Work) -> None:
        """Change the chunk in place."""


def evaluated(frame: pl.DataFrame, values: Mapping[str, Computed]) -> pl.DataFrame:
    """The values by their names, and beside each that may fail a mask ``?name`` of the rows where it does."""
    reads = {name: id_ for one in values.values() for name, id_ in one.reads.items()}
    names = [pl.col(id_).alias(frame_name(name)) for name, id_ in reads.items()]
    sub = frame.select(pl.col(ROW), *names) if names else frame.select(ROW)
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


def _columns(sub: pl.DataFrame, wanted: Mapping[str, pl.Expr]) -> pl.DataFrame:
    """The expressions as columns. Where all rows come out alike, Polars may give one value for all, and refuse it."""
    try:
        return sub.with_columns(expr.alias(name) for name, expr in wanted.items())
    except pl.exceptions.PolarsError:
        rows = pl.col(ROW).is_not_null()
        return sub.with_columns(pl.when(rows).then(expr).alias(name) for name, expr in wanted.items())


def refuse_wrong(work: Work, done: pl.DataFrame, values: Mapping[str, Computed], step: str) -> None:
    """Refuse the rows where one of the values failed; the first that did says why."""
    for key, one in values.items():
        if one.compiled.wrong is None:
            continue
        mask = done[f"?{key}"]
        if mask.any():
            reason = f"{_place(one)}: an overflow, a division by zero, or a text that is no such value"
            work.refuse(mask, step, "expression.failed", reason)
            done = done.filter(~mask)


def _place(one: Computed) -> str:
    return one.compiled.where.partition(": ")[2] or one.compiled.where


@dataclass(frozen=True, slots=True)
class Compute:
    """New values, by the ids that they get; all of them are computed from the columns as the step found them."""

    step: str
    values: Mapping[str, Computed]

    def __call__(self, work: Work) -> None:
        done = evaluated(work.frame, self.values)
        work.frame = work.frame.with_columns(done.select(list(self.values)))
        refuse_wrong(work, done, self.values, self.step)


@dataclass(frozen=True, slots=True)
class Filtered:
    """Rows stay where the condition is true: neither false nor NULL."""

    step: str
    condition: Computed

    def __call__(self, work: Work) -> None:
        values = {"keep": self.condition}
        done = evaluated(work.frame, values)
        keep = done["keep"].fill_null(value=False)
        if self.condition.compiled.wrong is not None and done["?keep"].any():
            keep = keep.filter(~done["?keep"])
            refuse_wrong(work, done, values, self.step)
        dropped = int((~keep).sum())
        if dropped:
            work.filtered += dropped
            work.frame = work.frame.filter(keep)


@dataclass(frozen=True, slots=True)
class Checked:
    """Rows are refused where the condition is false; NULL passes, as in a CHECK of SQL."""

    step: str
    reason: str
    condition: Computed

    def __call__(self, work: Work) -> None:
        values = {"holds": self.condition}
        done = evaluated(work.frame, values)
        holds = done["holds"].fill_null(value=True)
        if self.condition.compiled.wrong is not None and done["?holds"].any():
            holds = holds.filter(~done["?holds"])
            refuse_wrong(work, done, values, self.step)
        if not holds.all():
            work.refuse(~holds, self.step, "check.failed", self.reason)


@dataclass(frozen=True, slots=True)
class Masked:
    """Values that nobody may read: their SHA-256 in hexadecimal digits, or three asterisks. NULL stays NULL."""

    step: str
    values: Mapping[str, tuple[Computed, str]]
    condition: Computed | None = None

    def __call__(self, work: Work) -> None:
        texts = {key: one for key, (one, _) in self.values.items()}
        asked = texts if self.condition is None else texts | {"when": self.condition}
        done = evaluated(work.frame, asked)
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
class Deduplicated:
    """One row of those of a chunk that agree in some columns."""

    by: tuple[str, ...]
    keep: str

    def __call__(self, work: Work) -> None:
        before = work.frame.height
        keep: Any = self.keep
        work.frame = work.frame.unique(subset=list(self.by), keep=keep, maintain_order=True)
        work.filtered += before - work.frame.height


@dataclass(frozen=True, slots=True)
class Joined:
    """Columns of a small table, by its key, which is unique there; `found` is a column of it that is true."""

    step: str
    table: pl.DataFrame
    left: tuple[str, ...]
    right: tuple[str, ...]
    taken: Mapping[str, str]
    missing: str

    def __call__(self, work: Work) -> None:
        table = self.table.select(
            *(pl.col(name).alias(f"k:{at}") for at, name in enumerate(self.right)),
            *(pl.col(name).alias(id_) for id_, name in self.taken.items()),
            pl.lit(value=True).alias("found"),
        )
        keys = [f"k:{at}" for at in range(len(self.right))]
        joined = work.frame.join(
            table, left_on=list(self.left), right_on=keys, how="left", maintain_order="left", coalesce=True
        )
        found = joined["found"].fill_null(value=False)
        work.frame = joined.drop("found", *(key for key in keys if key in joined.columns))
        if self.missing == "refuse" and not found.all():
            work.refuse(~found, self.step, "lookup.missing", "the looked-up table has no such key")


@dataclass(frozen=True, slots=True)
class Exploded:
    """A row for each element of a JSON array, as texts under `id`."""

    step: str
    column: str
    id: str

    def __call__(self, work: Work) -> None:
        bad, lists = _elements(work.frame[self.column])
        if bad is not None and bad.any():
            lists = lists.filter(~bad)
            work.refuse(bad, self.step, "explode.no_array", "the text is no JSON array")
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
    """The elements: texts by their value, anything else as it is written."""
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
class Called:
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
        missing = [name for name in self.made if name not in back.schema.names]
        if missing:
            hint = "name it in what the function returns, or leave it out of `columns`"
            raise BadData(f"the function gave back no column `{missing[0]}`", where=self.where, hint=hint)
        work.frame = work.frame.with_columns(
            series_of(back.column(name), kind, f"{self.where}: `{name}`").alias(id_)
            for name, (id_, kind) in self.made.items()
        )
