"""Values of messages that are one record of CSV each, without a header; read as strictly as files of CSV."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final

import pyarrow as pa

from dataflows.connectors.formats.contract import ReadRequest
from dataflows.connectors.formats.csv import CsvReader
from dataflows.connectors.formats.lines import BadLine
from dataflows.connectors.formats.records import Dialect
from dataflows.connectors.formats.texts import parse_column
from dataflows.data.tables import Column
from penstock.errors import BadData
from penstock.models.formats import CsvFormat

__all__ = ["CsvValues"]

_WHERE: Final = "message"
_BOM: Final = "\ufeff"
_LINE: Final = re.compile(r"^line \d+: ")


@dataclass(frozen=True)
class CsvValues:
    """Reads the `wanted` columns of records that have all `declared` ones, in their order."""

    form: CsvFormat
    declared: Sequence[Column]
    wanted: Mapping[str, Column]

    @cached_property
    def _form(self) -> CsvFormat:
        """The format of a file of the records, below a header, so that no message decides how many values there are."""
        return self.form.model_copy(update={"header": True, "encoding": "utf-8", "delimiter": self.form.delimiter})

    @cached_property
    def _header(self) -> bytes:
        quote, escape = self.form.quote, self.form.escape
        names = [one.name.replace(escape, escape * 2) if escape else one.name for one in self.declared]
        return self.form.delimiter.join(f"{quote}{one.replace(quote, quote * 2)}{quote}" for one in names).encode()

    @cached_property
    def _dialect(self) -> Dialect:
        return Dialect(self._form)

    @cached_property
    def _request(self) -> ReadRequest:
        return ReadRequest(self.wanted, self.declared, 1 << 31, _WHERE)

    @cached_property
    def _doubtful(self) -> set[str]:
        """Characters that a value without does not need to be looked at for the end of its record."""
        return {"\n", "\r", self.form.quote, self.form.escape or "\n"}

    def __call__(self, values: Sequence[bytes | None]) -> tuple[pa.Table, list[BadLine]]:
        records: list[bytes] = []
        places: list[int] = []
        wrong = []
        for at, value in enumerate(values):
            if value is None:
                continue
            try:
                records.append(self._record(value))
                places.append(at)
            except BadData as error:
                wrong.append(_bad(at, error))
        table, more = self._read(records)
        wrong += [BadLine(places[one.line], one.code, one.what) for one in more]
        bad = {one.line for one in wrong}
        numbers = iter(range(table.num_rows))
        rows = [None if value is None else next(numbers) for at, value in enumerate(values) if at not in bad]
        return (table.take(pa.array(rows, pa.int64())) if None in rows else table), wrong

    def _record(self, value: bytes) -> bytes:
        """Return the value as a record of UTF-8 without its line's end.

        Raises:
            BadData: it is not in the encoding, or not one record.
        """
        try:
            text = codecs.decode(value, self.form.encoding).removeprefix(_BOM)
        except UnicodeError:
            raise BadData(f"it is not in {self.form.encoding}", where=_WHERE) from None
        text = text.removesuffix("\n").removesuffix("\r")
        record = text.encode()
        if not record and len(self.declared) > 1:
            raise BadData("it is empty", where=_WHERE)
        if any(one in text for one in self._doubtful):
            blocks = self._dialect.blocks(io.BytesIO(record), _WHERE)
            count = sum(len(self._dialect.records(block, empty=True)) for block in blocks)
            if count != 1:
                raise BadData(f"it has {count} records instead of one", where=_WHERE)
        return record

    def _read(self, records: Sequence[bytes]) -> tuple[pa.Table, list[BadLine]]:
        """Read records; where they cannot be read together, by halves, so that one spoils no other."""
        try:
            found = self._together(records)
        except BadData as error:
            if len(records) == 1:
                return self._none, [_bad(0, error)]
            found = None
        if found is not None:
            return found
        if len(records) == 1:
            return self._none, [BadLine(0, "malformed", "it is not one record")]
        half = len(records) // 2
        first, wrong = self._read(records[:half])
        second, more = self._read(records[half:])
        return pa.concat_tables([first, second]), wrong + [BadLine(half + one.line, one.code, one.what) for one in more]

    def _together(self, records: Sequence[bytes]) -> tuple[pa.Table, list[BadLine]] | None:
        """Return what the reader of files makes of a file of the records; None if it finds another number of them."""
        if not records:
            return self._none, []
        data = b"\n".join((self._header, *records, b""))
        found = list(CsvReader(self._form).batches(lambda: io.BytesIO(data), self._request))
        starts = accumulate((one.count(b"\n") + 1 for one in (self._header, *records)), initial=1)
        numbers = {line: at for at, line in enumerate(starts, -1)}
        wrong = []
        for row in (row for rows in found for row in rows.refused):
            line = row.values["_line"]
            if line not in numbers:
                return None
            wrong.append(BadLine(numbers[line], row.code, row.reason.partition(f"line {line}: ")[2]))
        table = pa.Table.from_batches([rows.batch for rows in found])
        return (table, wrong) if table.num_rows + len({one.line for one in wrong}) == len(records) else None

    @cached_property
    def _none(self) -> pa.Table:
        """No rows, with the columns that others have."""
        names = list(self.wanted) or [self.declared[0].name]
        empty = pa.array([], pa.string())
        arrays = [
            parse_column(empty, self.wanted[name], inferred=False)[0] if name in self.wanted else empty
            for name in names
        ]
        return pa.table(arrays, names=names)


def _bad(at: int, error: BadData) -> BadLine:
    return BadLine(at, "malformed", _LINE.sub("", error.what))
