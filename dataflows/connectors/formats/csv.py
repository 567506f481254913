"""CSV: types are inferred from the beginning of the files, or declared by the pipeline, and then hold for every row.

An empty field is NULL, empty text is ``""``. A column is inferred as integer, boolean, date, time or
timestamp only if every value reads back as it was written, so that ``007`` stays text; numbers with a point become
double precision, unless a double would round one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from dataflows.connectors.formats.contract import ReadRequest, RefusedRow, Rows, Shape, check_width, declared_columns
from dataflows.connectors.formats.records import STRAY_TEXT, Block, Dialect
from dataflows.connectors.formats.texts import infer_type, parse_column
from dataflows.connectors.formats.types import no_header
from dataflows.data.tables import Column
from penstock.errors import BadData, MissingColumn, SchemaMismatch
from penstock.models.formats import CsvFormat

__all__ = ["CsvReader", "CsvWriter"]

_DELIMITERS: Final = {";": "';'", "\t": r'"\t"', "|": "'|'"}
"""Delimiters that suggest a wrong `delimiter` if found in a header of one column, and how to write them."""


@dataclass(frozen=True, slots=True)
class CsvReader:
    """Reads CSV files by a pipeline's `format`; `own`: files that a run has written."""

    form: CsvFormat
    own: bool = False

    def shape(self, stream: Any, where: str, sample: int) -> Shape:
        dialect = Dialect(self.form)
        block = next(dialect.blocks(stream, where, sample), None)
        inferred = {column.name: column for column in declared_columns(self.form.columns, where)}
        if block is None:
            return Shape(tuple(inferred.values()))
        parser = _Parser(self.form, dialect, where)
        block = parser.begin(block)
        check_width(len(parser.names), where)
        if unknown := [name for name in inferred if name not in parser.names]:
            raise MissingColumn("the file has no such column", where=where, value=unknown[0], hint="look at its header")
        sample_rows = parser.parsed(block, parser.names)
        if parser.ragged and not sample_rows.num_rows:
            line, _, count = parser.ragged_rows()[0]
            raise BadData(f"line {line}: {_ragged(count, parser.names)}", where=where, hint=_RAGGED)
        return Shape(
            tuple(inferred.get(name) or Column(name, infer_type(sample_rows.column(name))) for name in parser.names)
        )

    def batches(self, open_stream: Callable[[], Any], request: ReadRequest) -> Iterator[Rows]:
        dialect = Dialect(self.form)
        parser = _Parser(self.form, dialect, request.where, own=self.own)
        for block in dialect.blocks(open_stream(), request.where):
            rest = block if parser.names else self._begin(parser, block, request)
            batch, refused = self._read(parser, rest, request)
            for start in range(0, max(1, batch.num_rows), request.rows):
                yield Rows(batch.slice(start, request.rows), tuple(refused) if start == 0 else ())

    def _begin(self, parser: _Parser, block: Block, request: ReadRequest) -> Block:
        rest = parser.begin(block, [column.name for column in request.known])
        have = {column.name for column in request.known}
        if self.form.header and have and have.isdisjoint(parser.names):
            raise no_header(parser.names, request.where)
        if request.whole and (new := [name for name in parser.names if name not in have]):
            hint = "it is not in the sample; run again, or declare the columns in `format.columns`"
            what = f"column `{new[0]}` is in no other sampled file"
            raise SchemaMismatch(what, where=request.where, hint=hint)
        return rest

    def _read(self, parser: _Parser, block: Block, request: ReadRequest) -> tuple[pa.RecordBatch, list[RefusedRow]]:
        """Return the block's rows, and the refused ones."""
        names = [name for name in request.columns if name in parser.names]
        texts = parser.parsed(block, names or parser.names[:1])
        refused = parser.refused()
        arrays, wrong = [], None
        for name in names:
            inferred = not self.own and name not in self.form.columns
            array, mask = parse_column(texts.column(name), request.columns[name], inferred=inferred)
            arrays.append(array)
            if mask is None:
                continue
            if inferred or self.own:
                raise parser.contradiction(request.columns[name], mask)
            refused += parser.rows_of_wrong_type(
                texts, request.columns[name], mask if wrong is None else _only_new(mask, wrong)
            )
            wrong = mask if wrong is None else pc.or_(wrong, mask)
        if not names:
            return pa.RecordBatch.from_arrays([texts.column(0)], names=[texts.schema.names[0]]), refused
        batch = pa.RecordBatch.from_arrays(arrays, names=names)
        return (batch if wrong is None else batch.filter(pc.invert(wrong))), refused


def _only_new(mask: pa.Array, before: pa.Array) -> pa.Array:
    return pc.and_(mask, pc.invert(before))


_HEADER_AGAIN: Final = "it is the header again"
_RAGGED: Final = "check `format` (delimiter, quote, escape, encoding and header), or repair the file"


def _ragged(count: int, names: Sequence[str]) -> str:
    return f"it has {count} values instead of {len(names)}"


@dataclass(slots=True)
class _Parser:
    """Parses the blocks of one file to text columns, and keeps track of the line of each row."""

    form: CsvFormat
    dialect: Dialect
    where: str
    names: list[str] = field(default_factory=list)
    ragged: list[tuple[int, int]] = field(default_factory=list)
    """Records of the last block with a wrong number of values: index from 0, and that number."""
    own: bool = False
    _header: bytes = b""
    """The line with the names, if it is no row wherever it occurs."""
    _strays: list[RefusedRow] = field(default_factory=list)
    _block: Block = field(default_factory=lambda: Block(b"", 1, b""))

    def begin(self, block: Block, known: Sequence[str] = ()) -> Block:
        """Take the column names from the header, the pipeline, or ``column_1`` and so on; return the rest."""
        first, rest = self.dialect.split(block)
        values = self._values(first)
        if any("\0" in (value or "") for value in values):
            hint = "this looks like UTF-16: set `encoding: utf-16-le` or `utf-16-be` in `format`"
            raise BadData(f"line {first.line} has characters with code 0", where=self.where, hint=hint)
        self.names = [value or "" for value in values] if self.form.header else list(known or self.form.columns)
        if not self.names:
            self.names = [f"column_{at + 1}" for at in range(len(values))]
        self._check_delimiter()
        names = self.names
        if self.form.header and len(names) > 1 and not self.own:
            self._header = first.data
        if len(names) != len(values) or len(set(names)) < len(names) or "" in names:
            what = f"it has {len(values)} columns, and {len(set(names))} names for them"
            raise SchemaMismatch(what, where=self.where, hint="give each column a unique name, in `format.columns`")
        return rest if self.form.header else block

    def _values(self, record: Block) -> list[str | None]:
        block, strays = self.dialect.without_strays(record, self.where)
        if strays:
            raise BadData(f"line {record.line}: {STRAY_TEXT}", where=self.where, hint=_RAGGED)
        most = record.data.count(self.form.delimiter.encode()) + 1
        check_width(most // 4, self.where)  # Arrow takes 10 kB a column; some delimiters may be quoted
        options = csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=len(block.arrow) + 2)
        texts = {f"f{at}": pa.binary() for at in range(most)}
        parse = csv.ParseOptions(
            delimiter=self.form.delimiter, quote_char=self.form.quote, newlines_in_values=True, ignore_empty_lines=False
        )
        convert = csv.ConvertOptions(column_types=texts, strings_can_be_null=False)
        table = csv.read_csv(pa.BufferReader(block.arrow + b"\n"), options, parse, convert)
        try:
            return [self.dialect.values(column.chunk(0)).cast(pa.string())[0].as_py() for column in table.columns]
        except pa.ArrowInvalid:
            raise self.dialect.encoding_error(self.where, record.line) from None

    def _check_delimiter(self) -> None:
        """Refuse a header of one name that contains another delimiter, unless the pipeline sets `delimiter`."""
        if not self.form.header or len(self.names) != 1 or "delimiter" in self.form.model_fields_set:
            return
        other = next((one for one in _DELIMITERS if one in self.names[0] and one != self.form.delimiter), None)
        if other is not None:
            what = f"its header is one column, `{self.names[0]}`"
            hint = f"this looks like `delimiter: {_DELIMITERS[other]}`; set `delimiter` in `format`"
            raise SchemaMismatch(what, where=self.where, hint=hint)

    def parsed(self, block: Block, names: Sequence[str]) -> pa.RecordBatch:
        """Return these columns of the block as text, without malformed rows."""
        block, strays = self.dialect.without_strays(block, self.where)
        if strays and len(self.names) == 1:
            raise BadData(f"line {strays[0].line}: {STRAY_TEXT}", where=self.where, hint=_RAGGED)
        block, headers = self.dialect.without_repeats(block, self._header)
        self._block = block
        self._strays = [
            self._refused_row(one.line, "malformed", what, {"_raw": one.raw})
            for what, ones in ((STRAY_TEXT, strays), (_HEADER_AGAIN, headers))
            for one in ones
        ]
        self.ragged = []
        kind = pa.binary() if self.form.escape else pa.string()
        schema = pa.schema([(name, kind) for name in names])
        if not block.data.strip(b"\r\n") and len(self.names) > 1:
            return pa.RecordBatch.from_pylist([], schema=pa.schema([(name, pa.string()) for name in names]))
        try:
            table = csv.read_csv(
                pa.BufferReader(block.arrow), self._read(block), self._parse(), self._convert(names, kind)
            )
            table = table.select(names).combine_chunks()
            arrays = [self.dialect.values(_single_chunk(table.column(name), schema.field(name).type)) for name in names]
        except (UnicodeError, pa.ArrowInvalid) as error:
            raise self._unreadable(block, error) from None
        return pa.RecordBatch.from_arrays(arrays, names=list(names))

    def _read(self, block: Block) -> csv.ReadOptions:
        return csv.ReadOptions(use_threads=False, column_names=self.names, block_size=len(block.arrow) + 1)

    def _parse(self) -> csv.ParseOptions:
        """Return the options; an empty line is a row only in a file of one column."""
        return csv.ParseOptions(
            delimiter=self.form.delimiter,
            quote_char=self.form.quote,
            newlines_in_values=True,
            ignore_empty_lines=len(self.names) > 1,
            invalid_row_handler=self._invalid,
        )

    def _invalid(self, row: Any) -> str:
        self.ragged.append((row.number - 1, row.actual_columns))
        return "skip"

    def _convert(self, names: Sequence[str], kind: pa.DataType) -> csv.ConvertOptions:
        return csv.ConvertOptions(
            column_types=dict.fromkeys(names, kind),
            include_columns=names,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=list(self.form.null_values),
        )

    def _unreadable(self, block: Block, error: Exception) -> BadData:
        if "UTF8" in str(error):
            records = self.dialect.records(block, empty=True)
            line = next((line for line, record in records if self.dialect.is_invalid_text(record)), None)
            return self.dialect.encoding_error(self.where, line)
        what = f"the rows from line {block.line} on cannot be read"
        return BadData(what, where=self.where, hint=_RAGGED)

    def ragged_rows(self) -> list[tuple[int, str, int]]:
        """Return line, text and number of values of each ragged row of the last block."""
        records = self._records()
        return [(records[at][0], self.dialect.raw(records[at][1]), count) for at, count in self.ragged]

    def _records(self) -> list[tuple[int, bytes]]:
        """Return all records of the last block, with their lines."""
        return self.dialect.records(self._block, empty=len(self.names) == 1)

    def refused(self) -> list[RefusedRow]:
        """Return the malformed rows of the last block."""
        ragged_rows = self.ragged_rows() if self.ragged else []
        ragged = (
            self._refused_row(line, "malformed", _ragged(count, self.names), {"_raw": raw})
            for line, raw, count in ragged_rows
        )
        return [*self._strays, *ragged]

    def rows_of_wrong_type(self, texts: pa.RecordBatch, column: Column, mask: pa.Array) -> list[RefusedRow]:
        """Return the rows where `mask` is true: their value of the column is not of its declared type."""
        what = f"`{column.name}` is not of type {column.type}"
        places, lines = pc.indices_nonzero(mask).to_pylist(), self._lines()
        rows = texts.take(pa.array(places, pa.int64())).to_pylist()
        return [self._refused_row(lines[at], "not_of_type", what, row) for at, row in zip(places, rows, strict=True)]

    def _lines(self) -> list[int]:
        """Return the line of each row of the last block."""
        ragged = {at for at, _ in self.ragged}
        return [line for at, (line, _) in enumerate(self._records()) if at not in ragged]

    def contradiction(self, column: Column, mask: pa.Array) -> BadData:
        """Return the error for the first value that is not of the inferred type."""
        line = self._lines()[pc.indices_nonzero(mask)[0].as_py()]
        what = f"line {line}: the value of `{column.name}` is not exactly of type {column.type}, unlike in the sample"
        hint = f"declare its type in `format`, such as `columns: {{{column.name}: text}}`, or repair the file"
        return BadData(what, where=self.where, hint=hint)

    def _refused_row(self, line: int, code: str, reason: str, values: dict[str, Any]) -> RefusedRow:
        path = self.where.rpartition(": ")[2]
        return RefusedRow(code, f"{path}, line {line}: {reason}", {**values, "_path": path, "_line": line})


def _single_chunk(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], kind)


@dataclass(slots=True)
class CsvWriter:
    """Writes CSV with a header; NULL as nothing, empty text as ``""``."""

    stream: Any
    schema: pa.Schema
    form: CsvFormat
    _rows: int = 0
    _inner: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        if self._inner is None:
            options = csv.WriteOptions(include_header=True, delimiter=self.form.delimiter, quoting_style="needed")
            self._inner = csv.CSVWriter(self.stream, self.schema, write_options=options)
        self._inner.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=self.schema))
        self._rows += batch.num_rows

    def close(self) -> int:
        if self._inner is not None:
            self._inner.close()
        return self._rows
