"""Cut CSV text into blocks of whole records, by RFC 4180 and an optional escape character.

A quote opens a value only at its beginning, and closes it only at its end. Arrow silently accepts other text after a
closing quote; such records are detected before Arrow sees them. Escaped characters are replaced by two bytes that are
invalid in UTF-8, so that an escaped quote or line break is not taken for one.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.formats.contract import MAX_VALUE_BYTES, check_plain_text
from penstock.errors import BadData
from penstock.models.formats import CsvFormat

__all__ = ["STRAY_TEXT", "Block", "Dialect", "Stray"]

STRAY_TEXT: Final = "there is text after a closing quote"

BLOCK_BYTES: Final = 2 << 20
READ_BYTES: Final = 8 << 20
_ESCAPE_MARK: Final = b"\xff"
_FILLER: Final = b"\xfe"
_BOM: Final = b"\xef\xbb\xbf"
_RECORD_END: Final = re.compile(rb"\r\n|\n|\r|\Z")


@dataclass(frozen=True, slots=True)
class Block:
    """Block of whole records; the first begins on line `line` of its file."""

    data: bytes
    line: int
    masked: bytes
    """The same bytes with quoted values overwritten: the remaining line breaks end records."""

    @property
    def arrow(self) -> bytes:
        """The bytes for a reader of Arrow, which leaves out a byte order mark: only the first one of a file is one."""
        return _BOM + self.data if self.data.startswith(_BOM) else self.data


@dataclass(frozen=True, slots=True)
class Stray:
    """A record that is left out: the line on which it begins, and its text."""

    line: int
    raw: str


@dataclass(frozen=True)
class Dialect:
    """Rules that separate the records of a file: quote, delimiter, escape and encoding."""

    form: CsvFormat

    def blocks(self, stream: Any, where: str, size: int = BLOCK_BYTES) -> Iterator[Block]:
        """Yield the whole file, about `size` bytes at a time; a longer record makes a longer block.

        Raises:
            BadData: a record longer than 64 MiB, or a quote that is not closed.
        """
        stream, rest, line = self._as_utf8(stream), b"", 1
        while data := self._read(stream, min(max(size, len(rest)), READ_BYTES), where, first=line == 1 and not rest):
            if self._escape is not None and (odd := data.find(_ESCAPE_MARK)) >= 0:
                raise self.encoding_error(where, line + self._lines(rest + data[:odd]))
            rest += self._marked(data)
            if len(rest) > MAX_VALUE_BYTES:
                what = f"line {line}: a row is longer than {MAX_VALUE_BYTES >> 20} MiB"
                raise BadData(what, where=where, hint="look for a quote that is not closed, or at `quote` in `format`")
            masked = self._mask_quoted(rest)
            if end := _end_of_last_record(masked):
                yield Block(rest[:end], line, masked[:end])
                line += self._lines(rest[:end])
                rest = rest[end:]
        if rest:
            masked = self._mask_quoted(rest + b"\n")
            if masked.endswith(_FILLER):
                hint = "double quotes inside values, or set another `quote` or an `escape` in `format`"
                raise BadData(f"line {line}: a quote is not closed", where=where, hint=hint)
            yield Block(rest, line, masked[:-1])

    def _as_utf8(self, stream: Any) -> Any:
        """Return a stream of the file's text as UTF-8."""
        if codecs.lookup(self.form.encoding).name == "utf-8":
            return stream
        return pa.transcoding_input_stream(stream, self.form.encoding, "utf-8")

    def _read(self, stream: Any, size: int, where: str, *, first: bool) -> bytes:
        """Read the next bytes; never half of an escape sequence."""
        try:
            data = bytes(stream.read(size))
            if first:
                if codecs.lookup(self.form.encoding).name == "utf-8":
                    check_plain_text(data, where)
                data = data.removeprefix(_BOM)
            if self._escape is None:
                return data
            while (len(data) - len(data.rstrip(self._escape))) % 2 and (more := bytes(stream.read(1))):
                data += more
        except UnicodeError:
            raise self.encoding_error(where) from None
        return data

    def _marked(self, data: bytes) -> bytes:
        return (
            data
            if self._escape is None
            else self._escaped.sub(lambda match: _ESCAPE_MARK + self._marks[match[1]], data)
        )

    def encoding_error(self, where: str, line: int | None = None) -> BadData:
        """Return the error for bytes that are not valid text."""
        at = "the file" if line is None else f"line {line}"
        return BadData(f"{at} is not in {self.form.encoding}", where=where, hint="set its `encoding` in `format`")

    @property
    def _escape(self) -> bytes | None:
        return self.form.escape.encode() if self.form.escape else None

    @cached_property
    def _marks(self) -> dict[bytes, bytes]:
        """Map each character that can be escaped to its replacement byte; before others the escape is plain text."""
        quote, delimiter, escape = self.form.quote.encode(), self.form.delimiter.encode(), self._escape or b""
        characters = dict.fromkeys((escape, quote, delimiter, b"\n", b"\r"))
        return {one: bytes([0xC0 + at]) for at, one in enumerate(characters)}

    @cached_property
    def _escaped(self) -> re.Pattern[bytes]:
        every = b"".join(map(re.escape, self._marks))
        return re.compile(re.escape(self._escape or b"") + b"([" + every + b"])")

    def values(self, texts: pa.Array) -> pa.Array:
        """Return values with escape marks resolved.

        Raises:
            ArrowInvalid: bytes that are not valid text.
        """
        if self._escape is None:
            return texts
        for one, mark in self._marks.items():
            texts = pc.replace_substring(texts, _ESCAPE_MARK + mark, one)
        return texts.cast(pa.string())

    def raw(self, data: bytes) -> str:
        """Return the original text of records in the file."""
        if self._escape is not None:
            for one, mark in self._marks.items():
                data = data.replace(_ESCAPE_MARK + mark, self._escape + one)
        return data.decode(errors="replace").rstrip("\r\n")

    def is_invalid_text(self, data: bytes) -> bool:
        """True if bytes of a record are not valid text."""
        marked = self._escape is not None and _ESCAPE_MARK in data
        try:
            (data.replace(_ESCAPE_MARK, b"") if marked else data).decode()
        except UnicodeDecodeError:
            return not marked
        return False

    @cached_property
    def _quoted(self) -> re.Pattern[bytes]:
        """Pattern of a quoted value, without backtracking."""
        quote, delimiter = re.escape(self.form.quote.encode()), re.escape(self.form.delimiter.encode())
        text = rb"(?:(?<=[%b\r\n])|\A)%b(?>[^%b]*+(?:%b%b[^%b]*+)*+)(?:%b|\Z)"
        return re.compile(text % (delimiter, quote, quote, quote, quote, quote, quote))

    @cached_property
    def _stray(self) -> re.Pattern[bytes]:
        return re.compile(rb"(?<!%b)%b++(?![%b\r\n]|\Z)" % (_FILLER, _FILLER, re.escape(self.form.delimiter.encode())))

    def _mask_quoted(self, data: bytes) -> bytes:
        data = data.replace(_FILLER, b"?")
        if self.form.quote.encode() not in data:
            return data
        return self._quoted.sub(lambda match: _FILLER * len(match[0]), data)

    def _lines(self, data: bytes) -> int:
        lines = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
        return lines + (data.count(_ESCAPE_MARK + self._marks[b"\n"]) if self._escape else 0)

    def records(self, block: Block, *, empty: bool) -> list[tuple[int, bytes]]:
        """Return each record with its line; `empty`: also empty records."""
        records, start, line = [], 0, block.line
        for match in _RECORD_END.finditer(block.masked):
            data = block.data[start : match.start()]
            if data or (empty and match[0]):
                records.append((line, data))
            line += self._lines(block.data[start : match.end()])
            start = match.end()
        return records

    def split(self, block: Block) -> tuple[Block, Block]:
        """Return the first non-empty record, and the rest."""
        start, line = 0, block.line
        for match in _RECORD_END.finditer(block.masked):
            end = match.end()
            first = Block(block.data[start : match.start()], line, block.masked[start : match.start()])
            line += self._lines(block.data[start:end])
            if first.data or end == len(block.data):
                return first, Block(block.data[end:], line, block.masked[end:])
            start = end
        return block, Block(b"", line, b"")

    def without_strays(self, block: Block, where: str) -> tuple[Block, list[Stray]]:
        """Replace records that have text after a closing quote by empty lines; return the block and those records.

        Raises:
            BadData: the end of such a record is ambiguous, or a backslash before the quote suggests an `escape`.
        """
        strays, data, masked, at, line = list[Stray](), list[bytes](), list[bytes](), 0, block.line
        while match := self._stray.search(block.masked, at):
            start = max(block.masked.rfind(end, 0, match.start()) for end in (b"\n", b"\r")) + 1
            ends = _RECORD_END.search(block.data, match.end())
            assert ends  # noqa: S101 - it matches the end of the block, too
            line += self._lines(block.data[at:start])
            record = block.data[start : ends.end()]
            self._check_stray(block.data[start : match.end()], block.data[match.end() : ends.end()], line, where)
            strays.append(Stray(line, self.raw(record)))
            empty = ends[0] * self._lines(record)
            data += block.data[at:start], empty
            masked += block.masked[at:start], empty
            at, line = ends.end(), line + self._lines(record)
        if not strays:
            return block, strays
        data.append(block.data[at:])
        masked.append(block.masked[at:])
        return Block(b"".join(data), block.line, b"".join(masked)), strays

    def without_repeats(self, block: Block, header: bytes) -> tuple[Block, list[Stray]]:
        """Replace records that are the header again, as in files that were joined, by empty lines; return them, too."""
        if not header or header not in block.data:
            return block, []
        strays, data, masked, at, line = list[Stray](), list[bytes](), list[bytes](), 0, block.line
        again = rb"(?:(?<=[\r\n])|\A)(?:%b)?%b(?=[\r\n]|\Z)" % (_BOM, re.escape(header))
        for match in re.finditer(again, block.data):
            start, end = match.span()
            around = block.masked[max(0, start - 1) : start] + block.masked[end : end + 1]
            if around.strip(b"\r\n"):
                continue  # it is inside of quotes
            line += self._lines(block.data[at:start])
            strays.append(Stray(line, self.raw(match[0])))
            empty = b"\n" * self._lines(match[0])
            data += block.data[at:start], empty
            masked += block.masked[at:start], empty
            line, at = line + self._lines(match[0]), end
        data.append(block.data[at:])
        masked.append(block.masked[at:])
        return Block(b"".join(data), block.line, b"".join(masked)), strays

    def _check_stray(self, before: bytes, after: bytes, line: int, where: str) -> None:
        """Check a record up to its closing quote, and what comes after it up to the end of the line."""
        what = f"line {line}: {STRAY_TEXT}"
        if before.endswith(b"\\" + self.form.quote.encode()) and self.form.escape is None:
            hint = 'this looks like quotes escaped by a backslash: set `escape: "\\\\"` in `format`'
            raise BadData(what, where=where, hint=hint)
        if b"\n" in before or b"\r" in before or self._leaves_open(after):
            hint = "double quotes inside values, or set another `quote` or an `escape` in `format`"
            raise BadData(f"{what}, and the end of its row is ambiguous", where=where, hint=hint)

    def _leaves_open(self, after: bytes) -> bool:
        """True if a value may be open at the end of the line, after text that follows a closing quote."""
        if after.count(self.form.quote.encode()) % 2:
            return True
        values = after[max(after.find(self.form.delimiter.encode()), 0) :]
        return self._mask_quoted(values + b"\n").endswith(_FILLER)


def _end_of_last_record(masked: bytes) -> int:
    """Return the end of the last whole record. A carriage return at the very end may be half of a line break."""
    return max(masked.rfind(b"\n"), masked.rfind(b"\r", 0, -1)) + 1
