"""CSV: types are told from the beginning of the files, or by the pipeline, and then hold for every row.

Nothing between two delimiters is NULL, an empty text is ``""``. A sample makes a column whole numbers, boolean, date,
time or a timestamp only where every value reads back as it was written, so that ``007`` and the like stay texts;
numbers with a point become double precision, unless they have more than 15 digits.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from dataflows.connectors.formats.contract import Shape, declared
from dataflows.connectors.formats.types import UNKNOWN
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import BadData, MissingColumn, SchemaMismatch
from penstock.models.formats import CsvFormat

__all__ = ["CsvReader", "CsvWriter", "told_by"]

BLOCK_BYTES: Final = (2 << 20, 64 << 20, 1 << 30)
"""The first is what is read at a time; a larger one only for a file with a row that is larger."""
SAMPLE_BYTES: Final = 1 << 20
_DAY: Final = r"\d{4}-\d\d-\d\d"
_CLOCK: Final = r"\d\d:\d\d:\d\d(\.\d{1,6})?"
_KINDS: Final = (
    ("boolean", r"^(true|false|True|False|TRUE|FALSE)$"), ("bigint", r"^(0|-?[1-9][0-9]{0,17})$"),
    ("numeric(38,0)", r"^(0|-?[1-9][0-9]{0,36})$"),
    ("double precision", r"^-?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"), ("date", f"^{_DAY}$"),
    ("timestamp without time zone", f"^{_DAY}[ T]{_CLOCK}$"),
    ("timestamp with time zone", rf"^{_DAY}[ T]{_CLOCK}(Z|[+-]\d\d(:?\d\d)?)$"),
    ("time without time zone", f"^{_CLOCK}$"),
)  # fmt: skip
_EXACT_DIGITS: Final = r"^[-.0]*([0-9][.]?){0,15}([eE].*)?$"


@dataclass(frozen=True, slots=True)
class CsvReader:
    """Reads CSV files as a pipeline's `format` says."""

    form: CsvFormat

    def _undecoded(self, where: str) -> BadData:
        return BadData(f"the file is not in {self.form.encoding}", where=where, hint="tell its `encoding` in `format`")

    def shape(self, stream: Any, where: str) -> Shape:
        try:
            return self._shape(stream, where)
        except UnicodeError:
            raise self._undecoded(where) from None

    def _shape(self, stream: Any, where: str) -> Shape:
        head = _head(self._plain(stream), self.form.quote)
        told = {column.name: column for column in declared(self.form.columns, where)}
        if not head:
            return Shape(tuple(told.values()))
        names = self._names(head, where)
        if unknown := [name for name in told if name not in names]:
            raise MissingColumn("the file has no such column", where=where, value=unknown[0], hint="look at its header")
        sample = self._sample(head, names, where)
        return Shape(tuple(told.get(name) or Column(name, told_by(sample.column(at))) for at, name in enumerate(names)))

    def _names(self, head: bytes, where: str) -> list[str]:
        """The header's names; without one the pipeline's, or ``column_1`` and so on."""
        first = self._read(head, csv.ReadOptions(autogenerate_column_names=True, block_size=len(head)), where)
        names = [str(one) for one in _first_row(first)] if self.form.header else list(self.form.columns)
        count = len(first.schema.names)
        if not names and not self.form.header:
            names = [f"column_{at + 1}" for at in range(count)]
        if len(names) != count or len(set(names)) < len(names) or "" in names:
            what = f"it has {count} columns, and {len(set(names))} names for them"
            raise SchemaMismatch(what, where=where, hint="give each column a name of its own, in `format.columns`")
        return names

    def _sample(self, head: bytes, names: list[str], where: str) -> pa.RecordBatch:
        skipped = int(self.form.header)
        options = csv.ReadOptions(column_names=names, skip_rows_after_names=skipped, block_size=len(head))
        return self._read(head, options, where, names)

    def _read(self, head: bytes, options: csv.ReadOptions, where: str, names: Sequence[str] = ()) -> pa.RecordBatch:
        """The first rows as texts; a row that the sample cuts off is not among them."""
        options.use_threads = False
        texts = {name: pa.string() for name in names or [f"f{at}" for at in range(10_000)]}
        convert = self._convert(texts)
        convert.strings_can_be_null = bool(names)  # a header's names are taken as they are
        try:
            with csv.open_csv(pa.BufferReader(head), options, self._parse(names), convert) as reader:
                try:
                    return reader.read_next_batch()
                except StopIteration:
                    return pa.RecordBatch.from_pylist([], schema=reader.schema)
        except UnicodeError:
            raise self._undecoded(where) from None
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return pa.RecordBatch.from_pylist([], schema=pa.schema([(name, pa.string()) for name in names]))
            raise _bad(error, names, where) from None

    def batches(
        self,
        opened: Callable[[], Any],
        groups: Sequence[int] | None,
        columns: Mapping[str, Column],
        known: Sequence[Column],
        rows: int,
        where: str,
    ) -> Iterator[pa.RecordBatch]:
        done, strict = 0, False
        for size in BLOCK_BYTES:
            try:
                for batch in self._blocks(self._plain(opened()), size, done, columns, known, where):
                    if not strict and _has_lines(batch):
                        strict = True
                        self._check_quotes(opened, where)
                    for start in range(0, batch.num_rows, rows):
                        yield batch.slice(start, rows)
                    done += batch.num_rows
            except UnicodeError:
                raise self._undecoded(where) from None
            except pa.ArrowInvalid as error:
                if "Empty CSV" in str(error):
                    return
                if "straddl" not in str(error) or size == BLOCK_BYTES[-1]:
                    names = self._names(_head(self._plain(opened()), self.form.quote), where)
                    raise _bad(error, names, where) from None
            else:
                return

    def _blocks(
        self, stream: Any, size: int, skipped: int, columns: Mapping[str, Column], known: Sequence[Column], where: str
    ) -> Iterator[pa.RecordBatch]:
        """The rows after the first `skipped`, a block of about `size` bytes at a time, which must hold a whole row."""
        options = csv.ReadOptions(use_threads=False, block_size=size)
        options.skip_rows_after_names = skipped
        if not self.form.header:
            options.column_names = [column.name for column in known]
        wanted = {name: arrow_type(parse_type(column.type)) for name, column in columns.items()}
        with csv.open_csv(stream, options, self._parse(known), self._convert(wanted)) as reader:
            _check_names(reader.schema.names, known, where)
            yield from reader

    def _plain(self, stream: Any) -> Any:
        """The file's text as UTF-8."""
        if codecs.lookup(self.form.encoding).name == "utf-8":
            return _Ended(stream)
        return _Ended(pa.transcoding_input_stream(stream, self.form.encoding, "utf-8"))

    def _check_quotes(self, opened: Callable[[], Any], where: str) -> None:
        """A quote that is not closed, or not where a value begins and ends, hides rows in a value: Arrow takes it so.

        Only a value with a line's end in it can hide any; all rows of such a file are read once more, by strict rules.
        """
        import csv as strict
        import sys

        strict.field_size_limit(sys.maxsize)
        lines = io.TextIOWrapper(opened(), self.form.encoding, newline="")
        rows = strict.reader(lines, delimiter=self.form.delimiter, quotechar=self.form.quote, strict=True)
        try:
            for _ in rows:
                pass
        except strict.Error:
            what = f"line {rows.line_num}: a quote is not closed, or stands in the middle of a value"
            hint = "double quotes inside of values, or tell another `quote` in `format`"
            raise BadData(what, where=where, hint=hint) from None

    def _parse(self, columns: Sequence[Any]) -> csv.ParseOptions:
        """An empty line is a row only where there is one column."""
        return csv.ParseOptions(
            delimiter=self.form.delimiter,
            quote_char=self.form.quote,
            newlines_in_values=True,
            ignore_empty_lines=len(columns) > 1,
        )

    def _convert(self, types: Mapping[str, Any]) -> csv.ConvertOptions:
        return csv.ConvertOptions(
            column_types=types,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=list(self.form.null_values),
        )


def _head(stream: Any, quote: str) -> bytes:
    """The beginning of the file, up to the end of a line where the file goes on."""
    head = bytes(stream.read(SAMPLE_BYTES))
    if len(head) < SAMPLE_BYTES or b"\n" not in head:
        return head
    if not stream.read(1):
        return head
    return _whole_rows(head, quote.encode())


def _whole_rows(head: bytes, quote: bytes) -> bytes:
    """Up to the last line's end that stands outside of quotes, as far as counting quotes tells."""
    parts = head.split(quote)
    for at in range(len(parts) - 1 - (len(parts) - 1) % 2, -1, -2):  # those outside of quotes, from the last
        line_end = parts[at].rfind(b"\n")
        if line_end >= 0:
            return quote.join([*parts[:at], parts[at][: line_end + 1]])
    return head


class _Ended(io.RawIOBase):
    """A stream whose last line has an end, so that a quote which is not closed shows as a text over a line's end."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._last = inner, b"\n"

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = bytes(self._inner.read(size) if size >= 0 else self._inner.read())
        if not data and self._last != b"\n":
            data = b"\n"
        self._last = data[-1:] or b"\n"
        return data

    def close(self) -> None:
        self._inner.close()
        super().close()


def _has_lines(batch: pa.RecordBatch) -> bool:
    """Whether a text goes over a line's end."""
    texts = (column for column in batch.columns if pa.types.is_string(column.type))
    return any(pc.any(pc.match_substring_regex(column, r"[\r\n]")).as_py() for column in texts)


def _first_row(batch: pa.RecordBatch) -> list[Any]:
    return [column[0].as_py() or "" for column in batch.columns] if batch.num_rows else []


def _check_names(names: Sequence[str], known: Sequence[Column], where: str) -> None:
    have = {column.name for column in known}
    if new := [name for name in names if name not in have]:
        hint = "it came after the columns were told; run again, or name the columns in `format.columns`"
        raise SchemaMismatch(f"column `{new[0]}` is in no other file that was looked at", where=where, hint=hint)


def told_by(values: pa.Array) -> str:
    """The type of a column whose values, as texts, are these: the first that all of them read back from exactly."""
    have = values.drop_null()
    if not len(have):
        return UNKNOWN
    for kind, pattern in _KINDS:
        if pc.all(pc.match_substring_regex(have, pattern)).as_py() and _reads(have, kind):
            exact = kind != "double precision" or pc.all(pc.match_substring_regex(have, _EXACT_DIGITS)).as_py()
            return kind if exact else "text"
    return "text"


def _reads(texts: pa.Array, kind: str) -> bool:
    """Whether all texts can be read as this type: not ``2024-02-30`` as a date, nor ``1e999`` as a number."""
    try:
        found = texts.cast(arrow_type(parse_type(kind)))
    except pa.ArrowInvalid:
        return False
    return not pa.types.is_floating(found.type) or bool(pc.all(pc.is_finite(found)).as_py())


def _bad(error: Exception, names: Sequence[str], where: str) -> BadData:
    """What pyarrow says, without the value that it quotes."""
    text = str(error)
    row, column = re.search(r"Row #(\d+)", text), re.search(r"column #(\d+)", text)
    at = f"row {row.group(1)}" if row else "a row"
    if column and int(column.group(1)) < len(names):
        what = f"{at}: the value of `{names[int(column.group(1))]}` is not of its type"
        return BadData(what, where=where, hint="give the column another type in `format.columns`, or mend the file")
    wrong = re.search(r"Expected (\d+) columns, got (\d+)", text)
    what = f"{at} has {wrong.group(2)} values where {wrong.group(1)} are due" if wrong else f"{at} cannot be read"
    return BadData(what, where=where, hint="look at `format`: delimiter, quote, encoding and header, or mend the file")


@dataclass(slots=True)
class CsvWriter:
    """Writes CSV with a header; NULL as nothing, an empty text as ``""``."""

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
