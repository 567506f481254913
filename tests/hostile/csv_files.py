# ruff: noqa: E501, RUF001, PLR0124, RUF005 - tables and grammars of invalid input
"""Hostile CSV, compared with Python's csv module."""

from __future__ import annotations

import csv
import gzip
import io
import math
import random
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa

from penstock.models.formats import CsvFormat
from tests.hostile.reading import corrupted, read_file

CELLS = [
    "", "", "1", "-7", "0", "007", "1.5", "-", "e5", "1e400", "1e-400", "-0", "NaN", "inf", "9223372036854775807", "9223372036854775808", "9" * 37, "9" * 40, "9" * 39, str(2**128 + 7), "0.1234567890123456789", "true", "False", "T", "2024-02-29",
    "2024-02-30", "9999-99-99", "0000-01-01", "2024-01-01 00:00:00", "2024-01-01T25:00:00", "2024-01-01T00:00:00Z", "12:34:56", "24:00:00", "99:99:99", "a", "b c", "é🙂", "\u2028", "\0", "'", "\\", "\\N", "NA", "NULL", '""', 'a"b', ",", "x" * 5000, "a\nb", "a\r\nb", "a\rb", " 1", "1 ", "\t",
    "=1+1", "\ufeff", "１２",
]  # fmt: skip
ENCODINGS = ["utf-8"] * 12 + [
    "latin-1",
    "utf-16",
    "utf-16-le",
    "utf-8-sig",
    "cp1252",
    "shift_jis",
    "utf-7",
    "nope",
    "rot13",
    "hex",
    "idna",
    "undefined",
    "zlib",
    "unicode_escape",
]


def cell(rng: random.Random, text: str, form: _Form) -> str:
    special = any(sign in text for sign in (form.delimiter, form.quote, "\n", "\r"))
    if (special and rng.random() < 0.97) or rng.random() < 0.1:
        doubled = text.replace(form.quote, form.quote * 2) if rng.random() < 0.97 else text
        return form.quote + doubled + (form.quote if rng.random() < 0.97 else "")
    return text


class _Form(NamedTuple):
    delimiter: str
    quote: str
    header: bool


def generate(number: int) -> tuple[str, bytes, dict[str, Any], str]:
    """Return a file's name and content, its format in the pipeline, and its text."""
    rng = random.Random(number)
    width, height = rng.choice([1, 2, 3, 3, 5, 40]), rng.choice([0, 1, 3, 3, 10, 60])
    names = [
        rng.choice(["id", "name", "a b", "é", "x", "y", "z", "select", '"', "n,m", ""])
        if rng.random() < 0.2
        else f"c{at}"
        for at in range(width)
    ]
    kinds = rng.choice(
        [
            {},
            {},
            dict.fromkeys(names, "text"),
            dict.fromkeys(
                names,
                rng.choice(
                    [
                        "integer",
                        "numeric(10,2)",
                        "date",
                        "boolean",
                        "time",
                        "timestamptz",
                        "double precision",
                        "uuid",
                        "json",
                        "bytea",
                        "nope",
                        "interval",
                    ]
                ),
            ),
            {"nope": "text"},
        ]
    )
    options: dict[str, Any] = {
        "type": "csv",
        "delimiter": rng.choice([",", ",", ",", ";", "\t", "|", "a", '"']),
        "quote": rng.choice(['"', '"', '"', "'"]),
        "header": rng.random() < 0.8,
        "encoding": rng.choice(ENCODINGS),
        "columns": {name: kind for name, kind in kinds.items() if name},
        **({"null_values": ["NA", ""]} if rng.random() < 0.1 else {}),
    }
    form = _Form(options["delimiter"], options["quote"], options["header"])
    plain = rng.choice(
        [
            CELLS,
            CELLS[:20],
            ["1", "2", "", "3"],
            ["1.5", "-", ""],
            ["2024-02-29", "2024-02-30", ""],
            ["true", "false"],
            ["a", "b", ""],
        ]
    )
    end = rng.choice(["\n", "\n", "\r\n", "\r"])
    lines = [form.delimiter.join(cell(rng, one, form) for one in names)] if form.header else []
    for _ in range(height):
        ragged = 0 if rng.random() < 0.985 else rng.choice([-1, 1, 5])
        lines.append(form.delimiter.join(cell(rng, rng.choice(plain), form) for _ in range(max(width + ragged, 0))))
    if rng.random() < 0.1 and lines:
        lines.insert(rng.randrange(len(lines)), rng.choice(["", " ", "#", end]))
    text = end.join(lines) + rng.choice([end, end, "", end * 2, "\x1a"])
    if rng.random() < 0.05:
        text = text.replace(end, "\n", 2)
    encoding = (
        options["encoding"]
        if options["encoding"]
        in ENCODINGS[:12] + ["latin-1", "utf-16", "utf-16-le", "utf-8-sig", "cp1252", "shift_jis"]
        else "utf-8"
    )
    data = text.encode(encoding, "replace")
    text = data.decode(encoding)
    if encoding == "utf-8" and rng.random() < 0.1:
        data = b"\xef\xbb\xbf" + data
    if rng.random() < 0.25:
        data = corrupted(rng, data)
        text = data.decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace").removeprefix("\ufeff")
    name = "a.csv"
    if rng.random() < 0.2:
        name, data = packed(rng, data)
    return name, data, options, text


def packed(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Compress `data`: valid, in two parts, or corrupted."""
    zstd = rng.random() < 0.4
    press = (lambda one: pa.compress(one, "zstd", asbytes=True)) if zstd else gzip.compress
    name = "a.csv.zst" if zstd else "a.csv.gz"
    half = len(data) // 2
    whole = bytes(press(data)) if rng.random() < 0.5 else bytes(press(data[:half])) + bytes(press(data[half:]))
    way = rng.randrange(6)
    if way == 0:
        return name, whole[: rng.randrange(len(whole) + 1)]
    if way == 1 and not zstd:  # zstd has no checksum here
        return name, corrupted(rng, whole)
    if way == 2:
        return name, whole + rng.choice([b"\0" * 9, b"garbage", data])
    if way == 3 and not zstd:
        return name, whole[:-4] + struct.pack("<I", 1)
    return name, whole


def expected(text: str, form: CsvFormat) -> list[list[str]] | None:
    """Return the rows that Python reads; None if it cannot tell where a row ends, by its strict rules.

    A value such as `"a"b` is common. It is harmless if its row is one line: then every reader ends the row there.
    """
    csv.field_size_limit(1 << 30)
    rules: dict[str, Any] = {"delimiter": form.delimiter, "quotechar": form.quote}
    lines, rows, at = list(io.StringIO(text, newline="")), [], 0
    while at < len(lines):
        reader = csv.reader(iter(lines[at:]), **rules, strict=True)
        done = 0
        try:
            for row in reader:
                rows.append(row)
                done = reader.line_num
            return rows
        except csv.Error:
            at += done
        loose = csv.reader(iter([*lines[at:-1], lines[-1].rstrip("\r\n") + "\n"]), **rules)
        rows.append(next(loose))
        if loose.line_num > 1 or any("\n" in one for one in rows[-1]):
            return None
        at += 1
    return rows


def check(case: tuple[str, bytes, dict[str, Any], str]) -> str:
    name, data, given, text = case
    form = CsvFormat.parse(given, where="p.yaml")
    table, types, refused = read_file(name, data, form)
    rows = expected(text.removeprefix("\ufeff"), form)
    assert rows is not None or not table.num_rows, f"Python refuses it, Penstock read {table.num_rows} rows"
    if rows is None:
        return "all rows refused"
    width = len(table.columns)
    while form.header and rows and not rows[0]:  # empty lines before the header
        del rows[0]
    rows = [row or [""] for row in rows if row or width == 1][form.header :]
    found = f"{table.num_rows} rows and {len(refused)} refused instead of {len(rows)}: {rows[:5]}"
    assert table.num_rows + len(refused) == len(rows), f"{name}: {found}"
    kinds = [types[column] for column in table.schema.names]
    read = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    at = 0
    for row in rows:
        mine = read[at] if at < len(read) and len(row) == width else None
        if mine is not None and all(
            same(*cell, form, inferred=not form.columns) for cell in zip(mine, row, kinds, strict=True)
        ):
            at += 1
        else:
            sound = len(row) == width and not form.columns and form.quote not in text
            assert not sound, f"{row!r} was refused, or read as {mine!r}"
    assert at == len(read), f"{read[at]!r} is not a row of the file"
    return "read" if len(rows) else "read, no rows"


def same(mine: Any, text: str, kind: str, form: CsvFormat, *, inferred: bool) -> bool:
    """True if a value is that of its text, in every digit; a declared double is the nearest one."""
    if mine is None:
        return text in form.null_values
    name = kind.partition("(")[0]
    try:
        if isinstance(mine, bool):
            return text.strip().lower() in (TRUE if mine else FALSE)
        if isinstance(mine, float) and not (inferred and math.isfinite(mine)):
            return float(text) == mine or (mine != mine and "nan" in text.lower())
        if isinstance(mine, int | float) or name == "numeric":
            return Decimal(repr(mine) if isinstance(mine, float) else mine) == Decimal(text.strip())
        return bool(PARSERS.get(name, str)(text) == mine)
    except (ValueError, InvalidOperation):
        return False


TRUE, FALSE = {"true", "t", "yes", "on", "1"}, {"false", "f", "no", "off", "0"}


def moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


PARSERS: dict[str, Callable[[str], Any]] = {
    "date": date.fromisoformat, "time without time zone": time.fromisoformat,
    "timestamp with time zone": moment, "timestamp without time zone": datetime.fromisoformat, "uuid": lambda text: str(UUID(text)),
    "bytea": lambda text: bytes.fromhex(text.removeprefix("\\x")),
}  # fmt: skip
