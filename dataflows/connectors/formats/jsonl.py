"""JSON lines: one object a line. Types are told from the beginning of the files, or by the pipeline; then they hold.

A name that a line does not have is NULL; one that no line of the sample had is an error, unless the pipeline names the
columns itself. Objects and arrays are kept as JSON text; numbers inside of them as double precision.
"""

from __future__ import annotations

import json as json_text
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json

from dataflows.connectors.formats.contract import Shape, declared
from dataflows.connectors.formats.types import UNKNOWN
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import BadData
from penstock.models.formats import JsonlFormat

__all__ = ["UNREADABLE", "JsonlReader", "JsonlWriter", "Lines", "kinds_of"]

BLOCK_BYTES: Final = 4 << 20
SAMPLE_BYTES: Final = 1 << 20
LINE_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 500
_OBJECT: Final = re.compile(rb"^[ \t\r]*\{", re.MULTILINE)
_NO_OBJECT: Final = re.compile(rb"^[ \t\r]*[^{ \t\r\n]", re.MULTILINE)
_SIGNS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_BLANK: Final = b" \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"
_AS_TEXT: Final = {"date", "time without time zone", "uuid"}


@dataclass(frozen=True, slots=True)
class JsonlReader:
    """Reads files of JSON lines as a pipeline's `format` says; those that `JsonlWriter` wrote hold JSON as texts."""

    form: JsonlFormat
    own: bool = False

    def shape(self, stream: Any, where: str) -> Shape:
        if self.form.columns:
            return Shape(declared(self.form.columns, where))
        head = next(_blocks(stream, SAMPLE_BYTES, where), b"")
        numbered = enumerate(head.splitlines(), start=1)
        return Shape(kinds_of(_object(line, number, where) for number, line in numbered if line.strip()))

    def batches(
        self,
        opened: Callable[[], Any],
        groups: Sequence[int] | None,
        columns: Mapping[str, Column],
        known: Sequence[Column],
        rows: int,
        where: str,
    ) -> Iterator[pa.RecordBatch]:
        line = 1
        block_reader = Lines(columns, known, strict=not self.form.columns, own=self.own)
        for block in _blocks(opened(), BLOCK_BYTES, where):
            if block.strip(_BLANK):
                try:
                    table = block_reader.read(block)
                except UNREADABLE:
                    raise block_reader.located(block, line, where) from None
                yield from table.combine_chunks().to_batches(max_chunksize=rows)
            line += block.count(b"\n")


UNREADABLE: Final = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pl.exceptions.PolarsError, orjson.JSONDecodeError)
"""What `Lines.read` raises for lines that do not fit."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Reads whole lines."""

    columns: Mapping[str, Column]
    known: Sequence[Column]
    strict: bool
    own: bool = False

    def read(self, block: bytes) -> pa.Table:
        """The columns of these lines, of the types that are asked for."""
        if _NO_OBJECT.search(block) or _too_deep(block):  # Arrow may end the process over either
            message = "no object, or nested too deep"
            raise pa.ArrowInvalid(message)
        nested = [column.name for column in self.known if column.type in {"json", "jsonb"} and not self.own]
        fields = [pa.field(one.name, _read_as(one)) for one in self.known if one.name not in nested]
        unexpected = "error" if self.strict and not nested else "ignore"
        parsed = json.read_json(
            pa.BufferReader(block),
            json.ReadOptions(use_threads=True, block_size=max(1 << 20, len(block) + 1)),
            json.ParseOptions(
                explicit_schema=pa.schema(fields), unexpected_field_behavior=unexpected, newlines_in_values=False
            ),
        )
        if parsed.num_rows != len(_OBJECT.findall(block)):
            message = "more than an object on a line"
            raise pa.ArrowInvalid(message)
        if self.strict and nested and not _names_in(block) <= {column.name for column in self.known}:
            message = "a name that no line of the sample had"
            raise pa.ArrowInvalid(message)
        wanted = [name for name in self.columns if name in nested]
        texts = pl.read_ndjson(block, schema=dict.fromkeys(wanted, pl.String)).to_arrow() if wanted else None
        arrays = [
            _documents(texts.column(name).cast(pa.string()), name, block)
            if texts is not None and name in wanted
            else _typed(parsed, column)
            for name, column in self.columns.items()
        ]
        if not arrays:
            return parsed
        return pa.table(arrays, names=list(self.columns))

    def located(self, block: bytes, first: int, where: str) -> BadData:
        """The error of the first line that cannot be read."""
        at, column = self.culprit(block)
        what = (
            f"the value of `{column}` is not of its type" if column else "no JSON object of the columns that are known"
        )
        hint = "give the columns and their types in `format.columns`, or mend the file"
        return BadData(f"line {first + at}: {what}", where=where, hint=hint)

    def culprit(self, block: bytes) -> tuple[int, str | None]:
        """The first line that cannot be read, from 0, and the column that is why, found by halving."""
        lines = block.splitlines(keepends=True)
        low, high = 0, len(lines)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fails(b"".join(lines[low:middle])) else (middle, high)
        return low, next((one.name for one in self.known if self._alone(one).fails(lines[low])), None)

    def _alone(self, column: Column) -> Lines:
        return Lines({column.name: column}, (column,), strict=False, own=self.own)

    def fails(self, block: bytes) -> bool:
        if not block.strip():
            return False
        try:
            self.read(block)
        except UNREADABLE:
            return True
        return False


def _names_in(block: bytes) -> set[str]:
    return {name for line in block.split(b"\n") if line.strip() for name in orjson.loads(line)}


def _documents(texts: pa.ChunkedArray, name: str, block: bytes) -> pa.ChunkedArray:
    """Values of a JSON column as JSON; texts and other plain values among them come without their quotes."""
    if pc.all(pc.match_substring_regex(texts, r"^[{\[]")).as_py() is not False:
        return texts
    values = [orjson.loads(line).get(name) for line in block.split(b"\n") if line.strip()]
    return pa.chunked_array(
        [[None if value is None else orjson.dumps(value).decode() for value in values]], pa.string()
    )


def _too_deep(block: bytes) -> bool:
    """Whether a line nests deeper than parsers do without running out of stack."""
    if block.count(b"[") + block.count(b"{") - block.count(b"\n") <= MAX_DEPTH:
        return False
    return any(
        _depth(line) > MAX_DEPTH for line in block.split(b"\n") if line.count(b"[") + line.count(b"{") > MAX_DEPTH
    )


def _depth(line: bytes) -> int:
    deepest = depth = 0
    for sign in _SIGNS.findall(line):  # texts are passed over as a whole
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(sign, 0)
        deepest = max(deepest, depth)
    return deepest


def _blocks(stream: Any, size: int, where: str) -> Iterator[bytes]:
    """Whole lines, about `size` bytes of them at a time."""
    rest, first = b"", True
    while data := bytes(stream.read(size)):
        block = rest + (data.removeprefix(_BOM) if first else data)
        first = False
        whole, newline, rest = block.rpartition(b"\n")
        if newline:
            yield whole + newline
        elif len(rest) > LINE_BYTES:
            raise BadData("a line is longer than 64 MiB", where=where, hint="one object a line is what is read")
    if rest:
        yield rest


def _object(line: bytes, number: int, where: str) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadData(f"line {number} is no JSON object", where=where, hint="mend the file, or say its format")
    if any(isinstance(value, float) and abs(value) >= _BIGINT for value in found.values()):
        return dict(json_text.loads(line))  # orjson rounds whole numbers that are larger than 64 bits
    return found


def kinds_of(objects: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """The columns of objects, in the order in which they come, with the types that their values tell."""
    kinds: dict[str, set[str]] = {}
    for one in objects:
        for name, value in one.items():
            kinds.setdefault(name, set()).add(_kind(value))
    return tuple(Column(name, _told(found - {"null"})) for name, found in kinds.items())


def _kind(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "integer" if abs(value) < _EXACT else "long integer" if -_BIGINT <= value < _BIGINT else "huge integer"
    return _NAMES.get(type(value), "text")


def _told(kinds: set[str]) -> str:
    """The type for values of these kinds; where they are mixed, text: a value that is none is then an error."""
    if not kinds:
        return UNKNOWN
    if kinds == {"integer", "number"}:
        return "double precision"
    if kinds <= {"integer", "long integer"}:
        return "bigint"
    return _KINDS.get(next(iter(kinds)), "text") if len(kinds) == 1 else "text"


_EXACT: Final = 1 << 53
"""Whole numbers below it are kept by double precision."""
_BIGINT: Final = 1 << 63
_NAMES: Final = {type(None): "null", bool: "truth", float: "number", dict: "nested", list: "nested"}
_KINDS: Final = {"truth": "boolean", "number": "double precision", "nested": "json"}


def _read_as(column: Column) -> pa.DataType:
    return pa.string() if column.type in _AS_TEXT else arrow_type(parse_type(column.type))


def _typed(table: pa.Table, column: Column) -> pa.ChunkedArray:
    found = table.column(column.name)
    if column.type == "time without time zone":
        series = cast("pl.Series", pl.from_arrow(found)).str.to_time("%H:%M:%S%.f")
        return pa.chunked_array([(series.cast(pl.Int64) // 1000).to_arrow().cast(pa.time64("us"))])
    return found.cast(pa.date32()) if column.type == "date" else found


@dataclass(slots=True)
class JsonlWriter:
    """Writes one object a line: numerics, dates and times as texts, JSON columns as texts that hold JSON."""

    stream: Any
    where: str
    _rows: int = 0

    def write(self, batch: pa.RecordBatch) -> None:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_floating(column.type) and pc.all(pc.is_finite(column)).as_py() is False:
                what = f"`{name}` holds NaN or infinity, which JSON cannot say"
                raise BadData(what, where=self.where, hint="write Parquet, or map the column to text")
        frame = cast("pl.DataFrame", pl.from_arrow(pa.Table.from_batches([batch])))
        self.stream.write(frame.write_ndjson().encode())
        self._rows += batch.num_rows

    def close(self) -> int:
        return self._rows
