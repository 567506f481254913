"""Parse lines of JSON to columns: by Arrow if that is exact, else line by line, by the text of each value.

Both paths give the same result; the slow one defines it, and names the invalid line and column. A number is read as a
double only if that loses nothing; in a text column it keeps its spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json

from dataflows.connectors.formats.contract import check_width
from dataflows.connectors.formats.texts import infer_type, parse_column
from dataflows.connectors.formats.types import UNKNOWN, common_type
from dataflows.data.repeats import may_repeat, repeated
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type

__all__ = ["BLANK", "BadLine", "Lines", "infer_columns", "parse_object"]

MAX_DEPTH: Final = 500
BLANK: Final = b" \t\r"
"""Characters of a line that is skipped; any other line that is not an object is refused."""
_OBJECT: Final = re.compile(rb"^[ \t\r]*\{", re.MULTILINE)
_NOT_OBJECT: Final = re.compile(rb"^[ \t\r]*[^{ \t\r\n]", re.MULTILINE)
_SIGNS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_DOUBTFUL: Final = re.compile(rb"[0-9.]{17}|[0-9.][eE][-+]?[0-9]{3}")
"""A number that a double may round or cannot represent; some text matches, too."""
_UNREADABLE: Final = (pa.ArrowInvalid, pa.ArrowNotImplementedError, msgspec.DecodeError, RecursionError)
_JSON: Final = {"json", "jsonb"}
_EXACT_IN_ARROW: Final = {"boolean", "smallint", "integer", "bigint", "double precision", "text", "character varying"}
"""Types for which Arrow is as strict as the slow path."""
_MAX_STRUCT_FIELDS: Final = 300
"""Number of columns beyond which rows are decoded as dictionaries, not structs."""
_INVALID_FIELD_NAME: Final = re.compile(r'["\\\x00-\x1f]')
"""Characters that a field name of a msgspec struct cannot have."""
_ABSENT: Final = msgspec.Raw(b"")
Row = dict[str, msgspec.Raw]
_ROWS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line, numbered from 0, that cannot be read; `contradicts`: it is well-formed, but not of the inferred types."""

    line: int
    code: str
    what: str
    column: str | None = None
    contradicts: bool = False


@dataclass(frozen=True)
class Lines:
    """Reads the `columns` of whole lines. If `known` columns are given, any other key makes the line invalid.

    `inferred`: the types come from a sample. `own`: JSON values are strings, as `JsonlWriter` writes them.
    """

    columns: Mapping[str, Column]
    known: Sequence[Column] | None
    inferred: bool
    own: bool = False

    def read(self, block: bytes) -> tuple[pa.Table, list[BadLine]]:
        """Return the valid rows, and the invalid lines, in order."""
        try:
            table = self._fast(block) if _is_utf8(block) else None
        except _UNREADABLE:
            table = None
        return (table, []) if table is not None else self._slow(block)

    @cached_property
    def _nested(self) -> list[str]:
        return [] if self.own else [name for name, one in self.columns.items() if parse_type(one.type).name in _JSON]

    @cached_property
    def _doubles(self) -> bool:
        return any(parse_type(one.type).name in {"double precision", "real"} for one in self.columns.values())

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(one.name for one in self.known or ())

    def _fast(self, block: bytes) -> pa.Table | None:
        """Return all lines read by Arrow; None if it may not read them exactly."""
        if _NOT_OBJECT.search(block) or _too_deep(block):  # either may crash Arrow
            return None
        if self._doubles and _DOUBTFUL.search(block):
            return None
        if not self.columns or self._nested:
            odd = len(self.columns) > _MAX_STRUCT_FIELDS or any(
                _INVALID_FIELD_NAME.search(name) for name in self._fields
            )
            return None if odd else self._structured(block)
        table = self._arrow(block, list(self.columns.values()))
        if table is None:
            return None
        arrays = [
            parse_column(table.column(name).combine_chunks(), one, inferred=self.inferred)
            for name, one in self._as_texts()
        ]
        if any(mask is not None for _, mask in arrays):
            return None
        read = dict(zip((name for name, _ in self._as_texts()), (array for array, _ in arrays), strict=True))
        return pa.table([read.get(name, table.column(name)) for name in self.columns], names=list(self.columns))

    def _as_texts(self) -> list[tuple[str, Column]]:
        return [(name, one) for name, one in self.columns.items() if not _plain(one)]

    def _arrow(self, block: bytes, columns: Sequence[Column]) -> pa.Table | None:
        """Read these columns by Arrow's reader; types that Arrow reads less strictly are read as text."""
        fields = [pa.field(one.name, _read_as(one)) for one in columns]
        table = json.read_json(
            pa.BufferReader(block),
            json.ReadOptions(use_threads=True, block_size=max(1 << 20, len(block) + 1)),
            json.ParseOptions(
                explicit_schema=pa.schema(fields),
                unexpected_field_behavior="ignore" if self.known is None else "error",
                newlines_in_values=False,
            ),
        )
        return table if table.num_rows == len(_OBJECT.findall(block)) else None

    def _structured(self, block: bytes) -> pa.Table | None:
        """Read only the known keys of all lines; each value keeps its text."""
        lines = [line for line in block.split(b"\n") if line.strip(BLANK)]
        if may_repeat(lines):
            return None
        rows = [self._decoder.decode(line) for line in lines]
        tokens = {
            name: [getattr(row, f"f{at}") for row in rows]
            for at, name in enumerate(self._fields)
            if name in self.columns
        }
        arrays = [self._column(one, tokens[name]) for name, one in self.columns.items()]
        if any(mask is not None for _, mask in arrays):
            return None
        if not arrays:
            return pa.table({"": pa.nulls(len(rows))})
        return pa.table([array for array, _ in arrays], names=list(self.columns))

    @cached_property
    def _fields(self) -> list[str]:
        return list(dict.fromkeys([*self.columns, *sorted(self._names)]))

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        fields: Any = [(f"f{at}", msgspec.Raw, _ABSENT) for at in range(len(self._fields))]
        rename = {f"f{at}": name for at, name in enumerate(self._fields)}
        known = self.known is not None
        made = msgspec.defstruct("Line", fields, rename=rename, forbid_unknown_fields=known, gc=False)
        return msgspec.json.Decoder(made)

    def _slow(self, block: bytes) -> tuple[pa.Table, list[BadLine]]:
        """Parse line by line; return the valid rows, and the invalid lines."""
        rows: list[Row] = []
        at: list[int] = []
        wrong: list[BadLine] = []
        for number, line in enumerate(block.split(b"\n")):
            if not line.strip(BLANK):
                continue
            row = parse_object(line)
            if row is None:
                wrong.append(BadLine(number, "malformed", "it is not a JSON object"))
                continue
            if self.known is not None and not row.keys() <= self._names:
                new = next(name for name in row if name not in self._names)
                what = f"column `{new}` is in no sampled line"
                wrong.append(BadLine(number, "unknown_column", what, new, contradicts=True))
            if (twice := repeated(line, self.columns)) is not None:
                wrong.append(BadLine(number, "repeated_name", f"a key occurs twice in one object (`{twice}`)", twice))
                continue
            rows.append(row)
            at.append(number)
        arrays, bad = [], [False] * len(rows)
        for name, column in self.columns.items():
            array, mask = self._column(column, [row.get(name) for row in rows])
            arrays.append(array)
            for place in pc.indices_nonzero(mask).to_pylist() if mask is not None else ():
                if not bad[place]:
                    what = f"the value of `{name}` is not {'exactly ' if self.inferred else ''}of type {column.type}"
                    what += ", unlike in the sample" if self.inferred else ""
                    wrong.append(BadLine(at[place], "not_of_type", what, name, contradicts=self.inferred))
                bad[place] = True
        table = pa.table(arrays, names=list(self.columns)) if arrays else pa.table({"": pa.nulls(len(rows))})
        kept = table.filter(pa.array([not one for one in bad], pa.bool_())) if any(bad) else table
        return kept, sorted(wrong, key=lambda one: one.line)

    def _column(self, column: Column, tokens: Sequence[msgspec.Raw | None]) -> tuple[pa.Array, pa.Array | None]:
        """Convert the text of values to the column's type; return a mask of those that are not of it."""
        kind = parse_type(column.type)
        if kind.name in _JSON and not self.own:
            return pa.array([_document(token) for token in tokens], pa.string()), None
        values = [_text(token, quoted=not self.inferred or kind.text) for token in tokens]
        texts = pa.array([text for text, _ in values], pa.string())
        odd = pa.array([fits is False for _, fits in values]) if any(fits is False for _, fits in values) else None
        array, mask = parse_column(texts, column, inferred=self.inferred)
        if odd is None:
            return array, mask
        empty = pc.if_else(odd, pa.scalar(None, array.type), array)
        return empty, odd if mask is None else pc.or_(odd, mask)


def _is_utf8(block: bytes) -> bool:
    """True if the block is UTF-8, which Arrow does not check."""
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain(column: Column) -> bool:
    kind = parse_type(column.type)
    return kind.name in _EXACT_IN_ARROW and not (kind.text and kind.precision)


def _read_as(column: Column) -> pa.DataType:
    return arrow_type(parse_type(column.type)) if _plain(column) else pa.string()


def _document(token: msgspec.Raw | None) -> str | None:
    """Return a value of a JSON column as it is written."""
    text = "" if token is None else str(bytes(token), "utf-8")
    return None if text in {"", "null"} else text


def _text(token: msgspec.Raw | None, *, quoted: bool) -> tuple[str | None, bool]:
    """Return a value's text, and True if it is valid in such a column; `quoted`: strings are."""
    data = b"" if token is None else bytes(token)
    if data in {b"", b"null"}:
        return None, True
    if data[:1] == b'"':
        return msgspec.json.decode(data, type=str), quoted
    return data.decode(), True


def parse_object(line: bytes) -> Row | None:
    """Return the values of an object by key, each as it is written; None if the line is not an object."""
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
        return None
    try:
        line.decode()
        return _ROWS.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def infer_columns(rows: Iterable[Row], where: str) -> tuple[Column, ...]:
    """Return the columns of objects, in order of appearance, with types inferred from their values.

    Raises:
        BadData: there are too many.
    """
    texts: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        check_width(max(len(row), len(texts)), where)
        for name, token in row.items():
            data = bytes(token)
            texts.setdefault(name, {}).setdefault(_SIGN.get(data[:1], "number"), []).append(data.decode())
    check_width(len(texts), where)
    return tuple(Column(name, _infer_kind(kinds)) for name, kinds in texts.items())


_SIGN: Final = {b"n": "null", b"t": "boolean", b"f": "boolean", b'"': "text", b"{": "json", b"[": "json"}


def _infer_kind(kinds: Mapping[str, list[str]]) -> str:
    """Return the type for values of these kinds; text if they are mixed."""
    result = UNKNOWN
    for kind, texts in kinds.items():
        if kind != "null":
            inferred = infer_type(pa.array(texts)) if kind == "number" else kind
            result = common_type(result, inferred, text=True) or "text"
    return result


def _too_deep(block: bytes) -> bool:
    """True if a line nests so deeply that parsers may run out of stack."""
    if block.count(b"[") + block.count(b"{") - block.count(b"\n") <= MAX_DEPTH:
        return False
    return any(
        _depth(line) > MAX_DEPTH for line in block.split(b"\n") if line.count(b"[") + line.count(b"{") > MAX_DEPTH
    )


def _depth(line: bytes) -> int:
    deepest = depth = 0
    for sign in _SIGNS.findall(line):  # strings match as a whole
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(sign, 0)
        deepest = max(deepest, depth)
    return deepest
