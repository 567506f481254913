# ruff: noqa: E501 - tables and grammars of invalid input
"""Hostile JSON lines, compared with Python's json module."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from decimal import Decimal
from typing import Any

from penstock.models.formats import JsonlFormat
from tests.hostile.csv_files import PARSERS, packed
from tests.hostile.reading import corrupted, read_file

VALUES = [
    "null", "true", "false", "0", "-0", "1", "-1", "1.5", "1e5", "1E400", "-1e400", "1e-400", "9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551616", "123456789012345678901234567890", "9" * 39, str(2**128 + 7), "0.1234567890123456789", "NaN",
    "Infinity", "-Infinity", "01", "1.", ".5", "+1", "0x1", '""', '"a"', '"é🙂"', '"\\u00e9"', '"\\ud83d\\ude42"', '"\\ud800"', '"\\udc00a"', '"\\u0000"', '"\\x"', '"a\\nb"', '"2024-01-01"', '"2024-01-01T00:00:00Z"', '"12"', "{}", "[]", '{"a": 1}', '{"a": {"b": [1, null, "x"]}}', "[1, 2.5]", '[{"a": 1}]',
    '{"a": 9007199254740993}', '{"a": 1.10}', '{"a": 1, "a": 2}', "[" * 50 + "]" * 50, "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, "'a'", "tru", "{", "[1,]", '"' + "x" * 3000 + '"', '"\u2028"', '"\0"', '"\t"', "undefined",
]  # fmt: skip
SOUND = ["null", "true", "1", "-7", "1.5", '"a"', '"é🙂"', '{"a": 1}', "[1, 2]", '""', '"a\\nb"']


def generate(number: int) -> tuple[str, bytes, JsonlFormat, bytes]:
    rng = random.Random(number)
    names = rng.sample(["id", "name", "x", "é", "a.b", "", "c", "a\\nb", "d"], rng.randrange(1, 5))
    kinds = rng.choice(
        [
            {},
            {},
            {},
            {
                name: rng.choice(
                    [
                        "text",
                        "bigint",
                        "json",
                        "jsonb",
                        "date",
                        "numeric(10,2)",
                        "double precision",
                        "boolean",
                        "time",
                        "timestamptz",
                        "uuid",
                        "interval",
                    ]
                )
                for name in names
                if name
            },
        ]
    )
    form = JsonlFormat.parse({"type": "jsonl", "columns": kinds})
    pools = {
        name: rng.choice(
            [
                VALUES,
                SOUND,
                ["1", "2", "null"],
                ["1.5", "2"],
                ['"a"', '"b"', "null"],
                ["true", "false"],
                ['{"a": 1}', "[1]", "null"],
                [rng.choice(VALUES)],
            ]
        )
        for name in names
    }
    lines = []
    for _ in range(rng.choice([0, 1, 2, 4, 4, 20])):
        some = [name for name in names if rng.random() < 0.9]
        if rng.random() < 0.02:
            some += some[:1]
        if rng.random() < 0.03:
            some.append(rng.choice(["new", "e"]))
        parts = [f'"{name}": {rng.choice(pools.get(name, SOUND))}' for name in some]
        lines.append(rng.choice([", "] * 20 + [",", ",,", ",\r"]).join(parts).join("{}"))
    if rng.random() < 0.15:
        lines.insert(
            rng.randrange(len(lines) + 1),
            rng.choice(["", " ", "[1]", "1", "null", '"a"', "{}{}", "# x", "{} {}", "\r", "{", "}"]),
        )
    end = rng.choice(["\n", "\n", "\n", "\r\n"])
    data = (end.join(lines) + rng.choice([end, "", end * 2])).encode()
    if rng.random() < 0.05:
        data = rng.choice(
            [
                b"\xef\xbb\xbf" + data,
                data.decode().encode("utf-16"),
                data.replace(b"a", b"\xed\xa0\x80"),
                data.replace(b"a", b"\xff"),
            ]
        )
    if rng.random() < 0.2:
        data = corrupted(rng, data)
    plain = data
    name = "a.jsonl"
    if rng.random() < 0.1:
        name, data = packed(rng, data)
        name = name.replace("csv", "jsonl")
    return name, data, form, plain


def expected(plain: bytes, *, all_read: bool) -> dict[int, dict[str, Any] | None]:
    """Return the object of each non-blank line by its number; None if it is invalid."""
    rows: dict[int, dict[str, Any] | None] = {}
    for number, line in enumerate(plain.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip(b" \t\r"):
            continue
        try:
            found = json.loads(
                line.decode(errors="strict" if all_read else "replace"), parse_float=Decimal, parse_constant=_no
            )
        except (ValueError, RecursionError):
            found = None
        rows[number] = found if isinstance(found, dict) and _is_unicode(found) else None
    return rows


def _is_unicode(row: dict[str, Any]) -> bool:
    """True if no string has a lone surrogate."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _no(text: str) -> None:
    raise ValueError(text)


def twice(plain: bytes) -> bool:
    """True if some object has a key twice; JSON does not say which value counts."""
    found = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found |= len(dict(pairs)) < len(pairs)

    for line in plain.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        with suppress(ValueError, RecursionError):
            json.loads(line.decode(errors="replace"), object_pairs_hook=look)
    return found


def check(case: tuple[str, bytes, JsonlFormat, bytes]) -> str:
    name, data, form, plain = case
    table, types, refused = read_file(name, data, form)
    lines = expected(plain, all_read=not form.columns)
    aside = {one["_line"] for one in refused}
    unreadable = {number for number, row in lines.items() if row is None}
    assert unreadable <= aside, f"lines {unreadable - aside} are not objects, and were not refused"
    repeated = {number for number, line in enumerate(plain.split(b"\n"), 1) if twice(line)}
    assert form.columns or aside <= unreadable | repeated, (
        f"objects were refused: {[one for one in refused if one['_line'] not in unreadable | repeated]}"
    )
    rows = [row for number, row in lines.items() if row is not None and number not in aside]
    assert table.num_rows == len(rows), f"{table.num_rows} rows instead of {len(rows)}"
    if twice(plain):
        return "read, with duplicate keys"
    for mine, row in zip(table.to_pylist(), rows, strict=True):
        unread = set(row) - set(mine)
        assert form.columns or not unread, f"columns {unread} are missing"
        for column, value in mine.items():
            wanted = row.get(column)
            if column in form.columns and type(wanted) is int:  # a declared type converts as in PostgreSQL
                if isinstance(value, float):
                    wanted = float(wanted)
                elif isinstance(value, bool) and wanted in {0, 1}:
                    wanted = bool(wanted)
            if column in form.columns and isinstance(wanted, str) and isinstance(value, int | float):
                wanted = Decimal(wanted)  # so does a text
            assert same(value, wanted, types[column], inferred=not form.columns), (
                f"{column} ({types[column]}): {value!r} instead of {wanted!r}"
            )
    return "read" if rows else "read, no rows"


def same(mine: Any, value: Any, kind: str, *, inferred: bool) -> bool:
    """True if a value is that of the document, in every digit; a declared double is the nearest one."""
    if mine is None or value is None:
        return mine is value
    if kind in {"json", "jsonb"}:
        return bool(json.loads(mine, parse_float=Decimal) == value)
    if isinstance(mine, str) and not isinstance(value, str):
        mine = json.loads(mine, parse_float=Decimal)
    if isinstance(value, bool) or isinstance(mine, bool):
        return mine is value
    if isinstance(mine, float) and isinstance(value, int | Decimal):
        return Decimal(repr(mine)) == value if inferred else mine == float(value)
    parse = PARSERS.get(kind.partition("(")[0], str) if isinstance(value, str) else None
    try:
        return bool(mine == (parse(value) if parse else value))
    except ValueError:
        return False
