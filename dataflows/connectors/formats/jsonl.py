"""JSON lines: one object a line. Types are inferred from the beginning of the files, or declared by the pipeline.

A key missing in a line is NULL. A key that was not in the sample is an error, unless the pipeline declares the columns,
or its mapping does not take all of them. Objects and arrays are kept as they are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.formats.contract import (
    MAX_VALUE_BYTES,
    ReadRequest,
    RefusedRow,
    Rows,
    Shape,
    check_plain_text,
    declared_columns,
)
from dataflows.connectors.formats.lines import BLANK, BadLine, Lines, infer_columns, parse_object
from dataflows.data.tables import Column
from penstock.errors import BadData
from penstock.models.formats import JsonlFormat

__all__ = ["JsonlReader", "JsonlWriter"]

MAX_SHOWN: Final = 12
"""Columns that an error lists."""
BLOCK_BYTES: Final = 4 << 20
READ_BYTES: Final = 8 << 20
_BLANK: Final = b" \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class JsonlReader:
    """Reads JSON lines by a pipeline's `format`; `own`: files of `JsonlWriter`, with JSON values as strings."""

    form: JsonlFormat
    own: bool = False

    def shape(self, stream: Any, where: str, sample: int) -> Shape:
        if self.form.columns:
            return Shape(declared_columns(self.form.columns, where))
        head = next(_blocks(stream, sample, where), b"")
        lines = [(number, line) for number, line in enumerate(head.split(b"\n"), start=1) if line.strip(BLANK)]
        objects = [parse_object(line) for _, line in lines]
        if 2 * objects.count(None) > len(lines):
            number = next(number for (number, _), one in zip(lines, objects, strict=True) if one is None)
            what = f"line {number} is not a JSON object"
            raise BadData(what, where=where, hint="repair the file, or set its `format`")
        return Shape(infer_columns((one for one in objects if one is not None), where))

    def batches(self, open_stream: Callable[[], Any], request: ReadRequest) -> Iterator[Rows]:
        line = 1
        known = request.known if request.whole and not self.form.columns else None
        lines = Lines(request.columns, known, inferred=not (self.form.columns or self.own), own=self.own)
        for block in _blocks(open_stream(), BLOCK_BYTES, request.where):
            if block.strip(_BLANK):
                table, wrong = lines.read(block)
                refused = tuple(self._refused_rows(wrong, block, line, request))
                batches = table.combine_chunks().to_batches(max_chunksize=request.rows)
                for at, batch in enumerate(batches or [pa.RecordBatch.from_pylist([], schema=table.schema)]):
                    yield Rows(batch, () if at else refused)
            line += block.count(b"\n")

    def _refused_rows(
        self, wrong: Iterable[BadLine], block: bytes, first: int, request: ReadRequest
    ) -> Iterator[RefusedRow]:
        """Yield the refused lines.

        Raises:
            BadData: a line contradicts the sample.
        """
        where = request.where
        path, lines = where.rpartition(": ")[2], block.split(b"\n")
        for one in wrong:
            line = first + one.line
            if one.contradicts or self.own:
                hint = f"repair the file, or declare the types: {_declaration(request.known, one.column)}"
                raise BadData(f"line {line}: {one.what}", where=where, hint=hint)
            raw = lines[one.line].decode(errors="replace").rstrip("\r")
            values = {"_raw": raw, "_path": path, "_line": line}
            yield RefusedRow(one.code, f"{path}, line {line}: {one.what}", values)


def _declaration(columns: Iterable[Column], odd: str | None) -> str:
    """Return the YAML that declares these columns, and `odd` as text; the first few of many."""
    kinds = {one.name: one.type for one in columns} | ({odd: "text"} if odd else {})
    shown = [f"{name if name.isidentifier() else json.dumps(name)}: {_yaml(kind)}" for name, kind in kinds.items()]
    more = ", …" if len(shown) > MAX_SHOWN else ""
    return f"`format: {{type: jsonl, columns: {{{', '.join(shown[:MAX_SHOWN])}{more}}}}}` in the pipeline's source"


def _yaml(kind: str) -> str:
    """Return a type as a value in a YAML flow mapping, where a comma would end it."""
    return json.dumps(kind) if "," in kind else kind


def _blocks(stream: Any, size: int, where: str) -> Iterator[bytes]:
    """Yield whole lines, about `size` bytes of them at a time."""
    rest, first = b"", True
    while data := bytes(stream.read(min(max(size, len(rest)), READ_BYTES))):
        if len(rest) + len(data) > MAX_VALUE_BYTES:
            raise BadData("a line is longer than 64 MiB", where=where, hint="write one object a line")
        if first:
            check_plain_text(data, where)
        block = rest + (data.removeprefix(_BOM) if first else data)
        first = False
        whole, newline, rest = block.rpartition(b"\n")
        if newline:
            yield whole + newline
    if rest:
        yield rest


@dataclass(slots=True)
class JsonlWriter:
    """Writes one object a line; numerics, dates, times and JSON values as strings."""

    stream: Any
    where: str
    _rows: int = 0

    def write(self, batch: pa.RecordBatch) -> None:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_floating(column.type) and pc.all(pc.is_finite(column)).as_py() is False:
                what = f"`{name}` contains NaN or infinity, which JSON cannot represent"
                raise BadData(what, where=self.where, hint="write Parquet, or map the column to text")
        frame = cast("pl.DataFrame", pl.from_arrow(pa.Table.from_batches([batch])))
        self.stream.write(frame.write_ndjson().encode())
        self._rows += batch.num_rows

    def close(self) -> int:
        return self._rows
