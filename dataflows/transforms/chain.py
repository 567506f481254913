"""The chain of one pipeline, applied to a chunk: mapping, steps, checks, and the target's own types.

Columns that no stage reads stay the source's Arrow arrays; the others are in a Polars frame while the stages run. A
row that a stage refuses leaves the chunk and becomes a dead letter, with the step, the reason, and its values as the
source sent them. The other rows keep their order. For each chunk, rows in = rows out + filtered + refused - added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from dataflows.data.chunks import REFUSED, Chunk
from dataflows.data.display import json_of, rows_of
from dataflows.data.repeats import repeating
from dataflows.data.tables import Column
from dataflows.data.types import SqlType, arrow_type
from dataflows.transforms.cleaning import Cleaning, holds_nul
from dataflows.transforms.scope import BoundColumn
from penstock.errors import BadData

if TYPE_CHECKING:
    from dataflows.transforms.stages import Refusal, Stage, Work

__all__ = ["Chain", "Output"]

MAX_BYTES: Final = 2 << 30
"""Size limit of a chunk between two steps."""
_PADDED: Final = "character"
_LIMITED: Final = ("character varying", _PADDED)


@dataclass(frozen=True, slots=True)
class Output:
    """One column of the target, and the value written to it; `path` is its place in the pipeline file."""

    target: Column
    kind: SqlType
    value: BoundColumn
    path: str


@dataclass(frozen=True, slots=True)
class Chain:
    """All steps of a pipeline. `wanted` maps the source columns that stages read to their ids in the frame."""

    wanted: Mapping[str, str]
    stages: Sequence[Stage]
    output_columns: Sequence[Output]
    masked: frozenset[str]
    where: str
    cleaning: Cleaning | None = None
    no_nul: bool = False
    """True if the target refuses text with NUL characters and the source may send some."""
    repeats: frozenset[str] = frozenset()
    """Types of documents in which keys may repeat, which the target's `jsonb` does not keep."""
    change: str | None = None
    """Column that is not NULL in a row that does not have all values: NULL in others means nothing there."""

    def __call__(self, chunk: Chunk) -> Chunk:
        """Return the chunk for the target; `refused` rows are numbered within the chunk."""
        if chunk.data is None:
            return chunk
        if isinstance(chunk.data, memoryview):
            message = "got undecoded bytes, expected a record batch"
            raise TypeError(message)
        batch, refused, added, origins = self.traced(chunk.data)
        batches = [self.without_masked(chunk.refused)] if chunk.refused is not None else []
        batches += [refused] if refused is not None else []
        dead_letters = pa.concat_batches(batches) if batches else None
        dead, read = sum(one.num_rows for one in batches), chunk.read + added
        return replace(
            chunk, data=batch, rows=batch.num_rows, read=read, dead=dead, refused=dead_letters, origins=origins
        )

    def without_masked(self, refused: pa.RecordBatch) -> pa.RecordBatch:
        """Hide masked columns in the rows that the source refused. A raw line may contain any of them: hide it, too."""
        if not self.masked:
            return refused
        hidden = self.masked | {"_raw"}
        rows = (json.loads(text) for text in refused.column("values").to_pylist())
        texts = [json_of({name: "***" if name in hidden else value for name, value in row.items()}) for row in rows]
        return refused.set_column(refused.schema.get_field_index("values"), REFUSED.field("values"), pa.array(texts))

    def apply(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch | None, int]:
        """Return the rows for the target, the refused rows (schema `REFUSED`), and how many rows `explode` added."""
        return self.traced(batch)[:3]

    @property
    def again(self) -> Chain:
        """Mapping of the chunks of a split that is written once more."""
        return self

    def end(self, marker: Chunk) -> Chunk:
        """Return the marker of a split whose chunks have all been mapped."""
        return marker

    def traced(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch | None, int, pa.Array | None]:
        """Return what `apply` does, and the number of the given row that each row comes from; None: the same."""
        batch = batch if self.cleaning is None else self.cleaning(batch)
        work = self._run_stages(batch) if self.stages else None
        rows = None if work is None else _rows(work, batch.num_rows)
        arrays = [self._array(one, batch, work, rows) for one in self.output_columns]
        refused = [] if work is None else list(work.refused)
        made = pa.RecordBatch.from_arrays(arrays, names=[one.target.name for one in self.output_columns])
        made, late, rows = self._refuse_unfit(made, rows)
        refused += late
        dead_letters = self.dead_letters(batch, refused) if refused else None
        return made, dead_letters, 0 if work is None else work.added, rows

    def _run_stages(self, batch: pa.RecordBatch) -> Work:
        """Run the stages over a frame of the columns that they read."""
        import polars as pl

        from dataflows.transforms.stages import ROW, Work

        rows = pl.int_range(batch.num_rows, dtype=pl.UInt32, eager=True).alias(ROW)
        frame = pl.DataFrame([rows])
        if self.wanted:
            read: Any = pl.from_arrow(batch.select(list(self.wanted)))
            frame = read.rename(dict(self.wanted)).with_columns(rows)
        work = Work(frame)
        for stage in self.stages:
            stage(work)
            if work.frame.estimated_size() > MAX_BYTES:
                hint = "a step makes text much longer: look at ||, concat, lpad and replace"
                raise BadData(f"a chunk has grown beyond {MAX_BYTES >> 30} GiB", where=self.where, hint=hint)
        return work

    def _array(self, one: Output, batch: pa.RecordBatch, work: Work | None, rows: pa.Array | None) -> pa.Array:
        """Return an output column in the target's type, from the batch or the frame."""
        if one.value.source is not None:
            array = batch.column(one.value.source.name)
            array = array if rows is None else array.take(rows)
        elif work is None:
            message = "a computed column without stages"
            raise AssertionError(message)
        else:
            from dataflows.transforms.values import arrow_of

            array = arrow_of(work.frame[one.value.id], one.value.type, f"{self.where}: {one.path}")
        try:
            return _cast(array, one.value.type, one.kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            what = f"a value does not fit into `{one.target.name}` of type {one.kind}"
            raise BadData(what, where=f"{self.where}: {one.path}", hint="check the mapped types") from None

    def _refuse_unfit(
        self, made: pa.RecordBatch, rows: pa.Array | None
    ) -> tuple[pa.RecordBatch, list[Refusal], pa.Array | None]:
        """Refuse rows that the target's columns cannot store. Return the rest, the refusals, and the remaining rows."""
        refused: list[Refusal] = []
        for at, one in enumerate(self.output_columns):
            for check in self._checks(one):
                failure = check(made.column(at), one)
                if failure is None:
                    continue
                import pyarrow.compute as pc

                from dataflows.transforms.stages import Refusal

                bad, code, reason = failure
                if check is _null and self.change is not None:
                    bad = pc.and_(bad, made.column(self.change).is_null())
                    if not pc.any(bad).as_py():
                        continue
                places, keep = pc.indices_nonzero(bad), pc.invert(bad)
                numbers = places if rows is None else rows.take(places)
                refused.append(Refusal(numbers.to_pylist(), "target", code, reason))
                rows = pc.indices_nonzero(keep) if rows is None else rows.filter(keep)
                made = made.filter(keep)
        return made, refused, rows

    def _checks(self, one: Output) -> Iterator[Callable[[pa.Array, Output], tuple[pa.Array, str, str] | None]]:
        yield from (_null, _too_long, _blank)
        if self.no_nul:
            yield _nul
        if one.kind.name == "jsonb" and one.value.type.name in self.repeats:
            yield _repeats

    def dead_letters(self, batch: pa.RecordBatch, refused: Sequence[Refusal]) -> pa.RecordBatch:
        """Return the refused rows of the source's `batch` as dead letters (schema `REFUSED`)."""
        numbers = [row for one in refused for row in one.rows]
        rows = rows_of(batch.take(pa.array(numbers, pa.uint32())))
        values = [json_of({n: self._redacted(n, v) for n, v in row.items()}) for row in rows]
        seen: dict[tuple[int, str], int] = {}
        steps = [_numbered_step(seen, row, one.step) for one in refused for row in one.rows]
        codes = [one.code for one in refused for _ in one.rows]
        reasons = [reason for one in refused for reason in self._reasons(one)]
        return pa.RecordBatch.from_arrays(
            [
                pa.array(column, field.type)
                for column, field in zip((numbers, steps, codes, reasons, values), REFUSED, strict=True)
            ],
            schema=REFUSED,
        )

    def _reasons(self, one: Refusal) -> list[str]:
        """Return the reason for each row, with the value unless it comes from a masked column."""
        hidden = not one.shown or one.origins & self.masked
        return [one.reason] * len(one.rows) if hidden else list(one.shown)

    def _redacted(self, name: str, value: object) -> object:
        return "***" if name in self.masked and value is not None else value


def _numbered_step(seen: dict[tuple[int, str], int], row: int, step: str) -> str:
    """Return the step's name; numbered from the second part of the same exploded row that it refuses."""
    number = seen[row, step] = seen.get((row, step), 0) + 1
    return step if number == 1 else f"{step} ({number})"


def _rows(work: Work, height: int) -> pa.Array | None:
    """Return the numbers of the remaining rows, in order; None if all remain."""
    if not work.added and work.frame.height == height:
        return None
    from dataflows.transforms.stages import ROW

    array: pa.Array = work.frame[ROW].to_arrow()
    return array


def _null(array: pa.Array, one: Output) -> tuple[pa.Array, str, str] | None:
    """Return the rows with a NULL in a NOT NULL column of the target, if any."""
    if not array.null_count or one.target.nullable or one.target.default:
        return None
    return array.is_null(), "not_null", f"`{one.target.name}` is NULL, and the target takes none"


def _nul(array: pa.Array, one: Output) -> tuple[pa.Array, str, str] | None:
    """Return the rows with a NUL character that the target cannot store, if any."""
    if not pa.types.is_string(array.type):
        return None
    import pyarrow.compute as pc

    bad = holds_nul(array, document=one.kind.name == "jsonb")
    if not pc.any(bad).as_py():
        return None
    return bad, "nul", f"`{one.target.name}` contains a character with code 0; `clean: {{nul: strip}}` removes it"


def _repeats(array: pa.Array, one: Output) -> tuple[pa.Array, str, str] | None:
    """Return the rows whose document repeats a key, of which the target would keep the last, if any."""
    found = set(repeating(array.to_pylist()))
    if not found:
        return None
    return (
        pa.array([at in found for at in range(len(array))]),
        "repeated_name",
        f"a key occurs twice in an object of `{one.target.name}`",
    )


def _too_long(array: pa.Array, one: Output) -> tuple[pa.Array, str, str] | None:
    """Return the rows whose text is longer than the target's column, if any; blanks count, unless they only pad it."""
    if one.kind.name not in _LIMITED or one.kind.precision is None or _is_short(one):
        return None
    import pyarrow.compute as pc

    padded = _PADDED in {one.kind.name, one.value.type.name}
    length = pc.utf8_length(pc.utf8_rtrim(array, " ") if padded else array)
    bad = pc.fill_null(pc.greater(length, one.kind.precision), fill_value=False)
    if not pc.any(bad).as_py():
        return None
    return bad, "too_long", f"`{one.target.name}` is longer than {one.kind.precision} characters"


def _blank(array: pa.Array, one: Output) -> tuple[pa.Array, str, str] | None:
    """Return the rows whose text ends with a blank that is lost among those that pad the target's column, if any."""
    if one.kind.name != _PADDED or one.value.type.name == _PADDED or not pa.types.is_string(array.type):
        return None
    import pyarrow.compute as pc

    bad = pc.fill_null(pc.ends_with(array, " "), fill_value=False)
    if not pc.any(bad).as_py():
        return None
    return bad, "blank", f"`{one.target.name}` ends with a blank, which a column of type {one.kind} does not keep"


def _is_short(one: Output) -> bool:
    """Return True if the source's type already limits the length."""
    have = one.value.type
    return have.name in _LIMITED and have.precision is not None and have.precision <= (one.kind.precision or 0)


def _cast(array: pa.Array, have: SqlType, kind: SqlType) -> pa.Array:
    wanted: Any = arrow_type(kind)
    if kind.name == "numeric" and wanted == pa.string():  # numeric of any size: a number stays a number
        wanted = pa.decimal128(19, 0) if have.integer else array.type
    return array if array.type == wanted else array.cast(wanted)
