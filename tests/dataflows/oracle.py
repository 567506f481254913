# ruff: noqa: E501, RUF001 - tables of values and forms, one kind a line; confusable letters on purpose
"""PostgreSQL as the oracle of expressions: random expressions over edge cases, evaluated by the server row by row."""

from __future__ import annotations

import math
import random
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from typing import cast as typed

import polars as pl
import psycopg
import pyarrow as pa

from dataflows.data.types import arrow_type, parse_type
from dataflows.transforms.expressions.compiler import Compiled, compile_expression
from dataflows.transforms.scope import BoundExpression
from dataflows.transforms.stages import ROW, evaluate_frame
from dataflows.transforms.values import arrow_of
from penstock.errors import SchemaMismatch

COLUMNS: Final = {
    "i": "integer", "j": "integer", "k": "smallint", "l": "bigint", "n": "numeric(8,2)", "m": "numeric(12,4)",
    "f": "double precision", "g": "double precision", "r": "real", "s": "text", "q": "text", "t": "character varying(20)",
    "h": "character(4)", "e": "character(6)", "b": "boolean", "c": "boolean", "d": "date", "x": "date",
    "ts": "timestamp without time zone", "tz": "timestamp with time zone", "u": "uuid", "v": "uuid",
}  # fmt: skip
TYPES: Final = {name: parse_type(kind) for name, kind in COLUMNS.items()}
FLOATS: Final = [
    "0",
    "-0",
    "1.5",
    "2.5",
    "-0.5",
    "57",
    "0.1",
    "1e15",
    "123456789012345678",
    "1e300",
    "-1e308",
    "5e-324",
    "1e-300",
    "0.3",
    "2.675",
    "9007199254740993",
    "9.2233720368547758e18",
    "2147483647.5",
    "inf",
    "-inf",
    "nan",
]
STAMPS: Final = [
    "0001-01-01 00:00:00",
    "9999-12-31 23:59:59.999999",
    "2024-02-29 23:59:59.1234",
    "1970-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "2023-12-31 12:00:00",
    "0044-03-15 00:00:01 BC",
    "1900-03-01 00:00:00",
]
UUIDS: Final = [
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
]
TEXTS: Final = [
    "", " ", "  ", "a", "A", "ab", "ab  ", "abc", " pad ", "x-y-z", "-", "50%", "a_b", "a\\b", "O'Neil", "Straße", "İßﬀΣ", "ΑΣ", "ſK", "é🙂e\u0301", "𝒳y", "$1\\1", "\tq\n",
    "0", "-7", "+12", " 12 ", "1.50", "-.5", "5.", "1e2", "-1.5E-2", "1e400", "1e-400", "1e-16383", "1e-16384", "0e-16384", "1_000", "0x1F", "0b101", "32768", "2147483648", "9223372036854775807", "-9223372036854775808", "99999999999", "1.2.3.4", "--1", "nan", "-Infinity", "inf", "1e40", "1e-46",
    "true", "OFF", "t", " yes ", "maybe", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", "A0EEBC99-9C0B4EF8-BB6D-6BB9BD380A11", "{a0eebc99",
    "2024-02-29", "2023-02-29", "0001-01-01", "0000-01-01", "2024-1-5", "0044-03-15 BC", "2024-01-01T00:00:00+02:00", "2024-01-01 00:00:00+05:45", "2024-01-01 00:00:00+0530", "2024-01-01 00:00-08", "2024-01-01 01:02:03.1234567 UTC", "2024-01-01T00:00:00Z", "2024-12-31 23:59:60", "2024-01-01 24:00:00", "2024-01-01 24:00:01", "2024-01-01 25:00:00", "2024-01-01 00:00+16", "2024-13-01",
]  # fmt: skip
EDGES: Final[dict[str, Sequence[str]]] = {
    "i": ["0", "1", "-1", "2", "7", "-5", "1000", "2147483647", "-2147483648"], "k": ["0", "1", "-3", "32767", "-32768"],
    "l": ["0", "1", "-9", "9223372036854775807", "-9223372036854775808", "9007199254740993", "1000000000000000"],
    "n": ["0.00", "1.50", "-2.25", "999999.99", "-999999.99", "0.05", "2.50"], "m": ["0.0000", "0.0001", "-12.3450", "99999999.9999", "2.5000", "1.0050"],
    "f": FLOATS, "r": ["0", "-0", "1.5", "0.1", "57", "3.4e38", "1e-45", "1e-38", "16777216", "inf", "-inf", "nan", "2.5"], "s": TEXTS,
    "t": [one for one in TEXTS if len(one) <= 20], "h": ["", "a", "ab", "abcd", "A", " b", "ß🙂", "12"], "e": ["", "a", "ab", "abcd", "abcdef", "12"], "b": ["t", "f"],
    "d": [one[:10] + one[19:][-3:] * one.endswith("BC") for one in STAMPS], "ts": STAMPS, "tz": [one.replace(" BC", "+00 BC") if "BC" in one else one + "+00" for one in STAMPS], "u": UUIDS,
}  # fmt: skip
LIKE: Final = {"j": "i", "g": "f", "q": "s", "e": "e", "c": "b", "x": "d", "v": "u"}


def edge_case_rows(rng: random.Random, count: int) -> list[tuple[str | None, ...]]:
    """Return rows as text for the server; each column has all of its edge cases, and some NULLs."""
    columns = []
    for name in COLUMNS:
        edges = list(EDGES[LIKE.get(name, name)])
        values: list[str | None] = (
            [edges[at % len(edges)] for at in range(count)] if len(edges) < count else rng.sample(edges, count)
        )
        for at in rng.sample(range(count), max(1, count // 12)):
            values[at] = None
        rng.shuffle(values)
        columns.append(values)
    return list(zip(*columns, strict=True))


# -- the grammar -----------------------------------------------------------------------------------------------------

FORMS: Final[dict[str, list[str]]] = {
    "int": [
        "{int} + {int}", "{int} - {int}", "{int} * {smallint}", "{int} / {int}", "{int} % {int}", "{int} + {c:int}", "{int} / {c:int}", "{int} % {c:int}", "-{int}", "abs({int})", "length({text})", "length({char})", "{date} - {date}", "mod({int}, {int})",
        "CAST({text} AS integer)", "CAST({text} AS smallint)", "CAST({text} AS bigint)", "CAST({num} AS integer)", "CAST({num} AS bigint)", "CAST({float} AS integer)", "CAST({float} AS bigint)", "CAST({int} AS smallint)", "CAST({bool} AS integer)", "CAST({char} AS integer)", "CAST({int} AS bigint)", "char_length({text})",
    ],
    "num": [
        "{num} + {num}", "{num} - {num}", "{num0} * {num0}", "{num} % {num}", "mod({num}, {int})", "{num} + {c:num}", "{num} * {c:num}", "{num} - {int}", "-{num}", "abs({num})", "round({num}, {c:digit})", "round({num})", "floor({num})", "ceil({num})", "{num} % {c:num}",
        "CAST({text} AS numeric(10,2))", "CAST({text} AS numeric(38,10))", "CAST({float} AS numeric(30,2))", "CAST({real} AS numeric(20,4))", "CAST({float} AS numeric(20,15))", "CAST({num} AS numeric(6,1))", "CAST({int} AS numeric(10,3))", "CAST({int} AS numeric)",
        "extract({w:part} FROM {ts})", "extract({w:part} FROM {tz})", "extract({w:daypart} FROM {date})", "CAST({num} AS numeric)", "date_part0({ts})",
    ],
    "float": [
        "{float} + {float}", "{float} - {float}", "{float} * {float}", "{float} / {float}", "{float} / {c:int}", "{float} / {c:num}", "{float} * {c:num}", "{float} / {num}", "{int} / {float}", "{float} * {int}", "{real} / {c:int}", "{real} * {float}", "-{float}", "abs({float})", "round({float})", "floor({float})", "ceil({float})", "round({int})", "floor({int})",
        "CAST({text} AS double precision)", "CAST({num} AS double precision)", "CAST({int} AS double precision)", "CAST({real} AS double precision)", "CAST({char} AS double precision)", "{c:num} / {float}", "{float} - {c:num}",
    ],
    "real": ["{real} + {real}", "{real} - {real}", "{real} * {real}", "{real} / {real}", "CAST({float} AS real)", "CAST({text} AS real)", "CAST({int} AS real)", "CAST({num} AS real)", "-{real}", "abs({real})", "CAST({float} AS real) / CAST({c:int} AS real)"],
    "text": [
        "{text} || {text}", "{text} || {char}", "{char} || {text}", "{text} || {int}", "{text} || {date}", "{text} || {ts}", "{text} || {bool}", "{text} || {c:text}", "{num0} || {text}", "{uuid} || {text}",
        "concat({text}, {int}, {char})", "concat({char}, 'x')", "concat({bool}, {num0}, {date})", "concat({tz}, {ts})", "concat_ws('-', {text}, {char}, {int})", "concat_ws({c:text}, {char}, {text}, {text})",
        "lower({text})", "upper({text})", "trim({text})", "ltrim({text})", "rtrim({text}, 'b ')", "btrim({text}, 'a-')", "trim(both 'a' from {text})", "replace({text}, 'a', '$1')", "replace({text}, ' ', '')", "substring({text} FROM {c:pos} FOR {c:digit})", "substring({text}, {int})", "substr({text}, {smallint}, {int})", "split_part({text}, '-', {c:nth})", "split_part({text}, ' ', 1)",
        "lpad({text}, {c:digit}, '0')", "rpad({text}, 5)", "left({text}, {c:pos})", "right({text}, {c:pos})", "CAST({int} AS text)", "CAST({num0} AS text)", "CAST({num} * {c:num} AS text)", "CAST({bool} AS text)", "CAST({date} AS text)", "CAST({ts} AS text)", "CAST({tz} AS text)", "CAST({uuid} AS text)", "CAST({char} AS text)", "CAST({text} AS varchar(3))", "CAST({int} AS varchar(2))", "CAST({text} AS varchar)", "CAST({char} AS varchar(3))", "CAST({bool} AS varchar(2))", "upper({char})", "lower({char})", "trim({char})", "replace({char}, 'b', 'c')", "left({char}, 2)", "substring({char} FROM 2)", "lpad({char}, 6, '*')", "CAST({num0} AS varchar(4))", "CAST(round({num}, 1) AS text)", "CAST(CAST({float} AS numeric(30,4)) AS text)",
    ],
    "char": ["CAST({text} AS char(3))", "CAST({text} AS char)", "CAST({char} AS char(2))", "CAST({char} AS char(8))", "CAST({int} AS char(5))", "CAST({text} AS bpchar)", "CAST({bool} AS char)", "CAST({date} AS char(4))"],
    "bool": [
        "{int} {cmp} {int}", "{num} {cmp} {num}", "{int} {cmp} {num}", "{float} {cmp} {float}", "{float} {cmp} {num}", "{real} {cmp} {float}", "{real} {cmp} {c:num}", "{text} {cmp} {text}", "{char} {cmp} {char}", "{char} {cmp} {text}", "{text} {cmp} {char}", "{char} {cmp} {c:text}", "{text} {cmp} {c:text}", "t {cmp} {char}", "{char} {cmp} t", "{bool} {cmp} {bool}", "{date} {cmp} {date}", "{ts} {cmp} {ts}", "{tz} {cmp} {tz}", "{date} {cmp} {ts}", "{ts} {cmp} {tz}", "{uuid} {cmp} {uuid}", "{uuid} {cmp} {c:uuid}", "{date} {cmp} {c:date}", "{ts} {cmp} {c:date}", "{tz} {cmp} {c:stamp}", "{int} {cmp} {c:quoted}", "{num} {cmp} {c:digits}", "{float} {cmp} {c:quoted}",
        "{bool} AND {bool}", "{bool} OR {bool}", "NOT {bool}", "{bool} AND {bool} OR {bool}", "NOT {bool} AND {bool}", "{bool} OR TRUE", "{bool} AND FALSE", "{int} IS NULL", "{text} IS NOT NULL", "{bool} IS TRUE", "{bool} IS NOT FALSE", "{num} IS NULL",
        "{int} IN ({c:int}, {int})", "{int} IN (1, 2.5, NULL)", "{text} IN ('a', {text})", "{char} IN ('ab', 'a ')", "{uuid} IN ({c:uuid}, {c:uuid})", "{date} IN ({c:date})", "{int} NOT IN (1, 2)", "{int} BETWEEN {int} AND {c:int}", "{num} NOT BETWEEN -1 AND {num}", "{text} BETWEEN 'a' AND 'b'", "{float} BETWEEN 0 AND 2.5", "{date} BETWEEN {c:date} AND {date}",
        "{text} LIKE {c:like}", "{text} ILIKE {c:like}", "{text} NOT LIKE {c:like}", "{char} LIKE {c:like}", "{char} ILIKE {c:like}", "{text} NOT ILIKE {c:like}", "{int} IS DISTINCT FROM {int}", "{text} IS NOT DISTINCT FROM {text}", "{char} IS DISTINCT FROM {char}", "{float} IS DISTINCT FROM {float}", "CAST({text} AS boolean)", "CAST({int0} AS boolean)", "{text} || {c:text} = {text}", "{int} + {c:int} {cmp} {int}", "{uuid} IS DISTINCT FROM {c:uuid}",
    ],
    "date": ["{date} + {c:int}", "{date} - {smallint}", "CAST({words} AS date)", "CAST({ts} AS date)", "CAST({tz} AS date)", "{c:int} + {date}", "CAST({char} AS date)"],
    "ts": ["{ts} + {c:interval}", "{ts} - {c:interval}", "{date} + {c:interval}", "CAST({words} AS timestamp)", "CAST({date} AS timestamp)", "CAST({tz} AS timestamp)", "date_trunc('{w:unit}', {ts})"],
    "tz": ["{tz} + {c:interval}", "{tz} - {c:interval}", "CAST({words} AS timestamptz)", "CAST({date} AS timestamptz)", "CAST({ts} AS timestamptz)", "date_trunc('{w:unit}', {tz})", "date_trunc('{w:unit}', {date})"],
    "uuid": ["CAST({text} AS uuid)"],
}  # fmt: skip
ANY: Final = [
    "CASE WHEN {bool} THEN {K} ELSE {K} END", "CASE WHEN {bool} THEN {K} END", "CASE WHEN {bool} THEN {K} WHEN {bool} THEN {K} ELSE {K} END", "CASE {int} WHEN 1 THEN {K} WHEN {int} THEN {K} ELSE {K} END", "CASE {text} WHEN 'a' THEN {K} ELSE {K} END", "coalesce({K}, {K})", "nullif({K}, {K})", "greatest({K}, {K})", "least({K}, {K}, {K})", "({K})", "coalesce(NULL, {K})",
]  # fmt: skip
LITERALS: Final = {"text": ["coalesce({text}, '-')", "nullif({text}, 'a')", "greatest({text}, 'b')"], "char": ["coalesce({char}, 'x  ')", "nullif({char}, 'a ')", "CASE WHEN {bool} THEN {char} ELSE 'q' END", "coalesce({char}, {text})", "greatest({char}, 'b')"], "num": ["coalesce({num}, 0)", "coalesce({int}, {num})", "nullif({num}, 0)", "greatest({num}, 1.5)"], "int": ["coalesce({int}, 0)", "nullif({int}, 0)", "nullif({int}, {smallint})"], "uuid": ["coalesce({uuid}, {c:uuid})", "nullif({uuid}, {c:uuid})", "greatest({uuid}, {c:uuid})"], "date": ["coalesce({date}, {c:date})"], "float": ["coalesce({float}, 0)", "nullif({float}, 0)", "coalesce({float}, {num})"]}  # fmt: skip
LEAVES: Final = {"int": "ijkl", "smallint": "k", "int0": "ij", "num": "nm", "num0": "nm", "float": "fg", "real": "r", "text": "sqt", "words": "sqt", "char": "he", "bool": "bc", "date": "dx", "ts": ["ts"], "tz": ["tz"], "uuid": "uv"}  # fmt: skip
CONSTANTS: Final = {
    "int": ["1", "2", "3", "100", "7", "-1", "0"], "num": ["0.5", "100.0", "0.07", "3.0", "1e2"], "digit": ["0", "1", "2", "3"], "pos": ["-2", "-1", "0", "1", "2", "5"], "nth": ["1", "2", "-1"],
    "text": ["'a'", "'ab  '", "''", "'Ab'", "' '", "'ß'", "'12'"], "like": ["'a%'", "'%b_'", "'_'", r"'50\%'", "'%'", "'A%'", "'ab  '", "'%ß%'", "'σ%'", "'k%'", r"'a\\b'", "''"],
    "uuid": ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'{a0eebc999c0b4ef8bb6d6bb9bd380a11}'", "'00000000000000000000000000000000'"], "date": ["'2024-02-29'", "'0001-01-01'", "DATE '2000-01-01'"], "stamp": ["'2024-01-01T00:00:00+02:00'", "'2024-01-01'"], "quoted": ["'1'", "'7'", "' 2 '"], "digits": ["'1.501'", "'0.0551'", "' 2 '", "'1e-3'"],
    "interval": [f"interval '{one}'" for one in ("1 day", "1 month", "-1 month", "1 day ago", "- 1 day", "2 years 3 days", "1 month -1 day ago", "90 minutes", "25 hours", "1 week", "5 seconds ago", "-3 hours 2 minutes", "1 year 1 mon")] + ["interval '2' day", "interval '1' month"],
}  # fmt: skip
WORDS: Final = {"part": ["year", "month", "day", "dow", "isodow", "doy", "week", "quarter", "isoyear", "epoch", "hour", "minute", "second"], "daypart": ["year", "month", "day", "dow", "isodow", "doy", "week", "quarter", "isoyear", "epoch"], "unit": ["year", "quarter", "month", "week", "day", "hour", "minute", "second"]}  # fmt: skip
KINDS: Final = list(FORMS)


def expression(rng: random.Random, kind: str | None = None, depth: int = 2) -> str:
    """Return a random expression of a kind; no part is constant, as PostgreSQL's planner would compute it early."""
    kind = rng.choice(KINDS) if kind is None else kind
    if depth <= 0 or kind not in FORMS or (depth < 2 and rng.random() < 0.35):
        return rng.choice(LEAVES[kind])
    forms = FORMS[kind] * 2 + [one.replace("{K}", "{" + kind + "}") for one in ANY] + LITERALS.get(kind, [])
    return fill_form(rng, rng.choice([one for one in forms if "date_part0" not in one]), depth)


def fill_form(rng: random.Random, form: str, depth: int) -> str:
    """Fill the blanks of a form; some parts get no parentheses."""
    out, rest = "", form
    while "{" in rest:
        before, _, rest = rest.partition("{")
        blank, _, rest = rest.partition("}")
        if blank == "cmp":
            part = rng.choice(["=", "<>", "<", "<=", ">", ">="])
        elif blank.startswith("c:"):
            part = rng.choice(CONSTANTS[blank[2:]])
        elif blank.startswith("w:"):
            part = rng.choice(WORDS[blank[2:]])
        else:
            part = expression(rng, blank, depth - 1)
            part = f"({part})" if rng.random() < 0.8 and not part.isalnum() else part
        out += before + part
    return out + rest


BETWEEN: Final = [
    "=", "<>", "<", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM", "AND", "OR", "+", "-", "%", "||", "LIKE 'a%' =", "BETWEEN 1 AND", "NOT BETWEEN c AND", "BETWEEN i = j AND",
]  # fmt: skip
BEHIND: Final = [
    "IS NULL", "IS NOT NULL", "IS TRUE", "IS NOT TRUE", "NOT NULL", "ISNULL", "NOTNULL", "IN (b, c)", "NOT IN (i, 1)", "NOT LIKE 'a%'", "::text", "::int",
]  # fmt: skip


def chain(rng: random.Random) -> str:
    """A random row of operators without parentheses; the parser often refuses it, as PostgreSQL's grammar does."""
    parts = []
    for at in range(rng.choice([2, 2, 3])):
        parts += [rng.choice(BETWEEN)] * (at > 0)
        while rng.random() < 0.2:
            parts.append(rng.choice(["NOT", "-", "+"]))
        parts.append(rng.choice(["b", "c", "i", "j", "t", "TRUE", "1", "(b)"]))
        while rng.random() < 0.3:
            parts.append(rng.choice(BEHIND))
    return " ".join(parts).replace(" ::", "::")


# -- PostgreSQL and Penstock -----------------------------------------------------------------------------------------

FAILED: Final = "\x01"
"""Prefix of the SQLSTATE of a row that raises."""


@dataclass(slots=True)
class Oracle:
    """A server with a table of rows, and the same rows as Arrow."""

    server: psycopg.Connection[Any]
    batch: pa.RecordBatch = field(init=False)

    def fill(self, rows: Sequence[tuple[str | None, ...]]) -> None:
        """Store these rows in the server and as Arrow."""
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        self.server.execute(f"DROP TABLE IF EXISTS r; CREATE TABLE r (at int PRIMARY KEY, {columns})")
        marks = ", ".join(["%s"] * (len(COLUMNS) + 1))
        with self.server.cursor() as cursor:
            cursor.executemany(f"INSERT INTO r VALUES ({marks})", [(at, *row) for at, row in enumerate(rows)])
        read = [_READ.get(kind, "{}").format(name) for name, kind in COLUMNS.items()]
        found = self.server.execute(f"SELECT {', '.join(read)} FROM r ORDER BY at").fetchall()
        arrays = [
            _array(list(values), kind) for values, kind in zip(zip(*found, strict=True), COLUMNS.values(), strict=True)
        ]
        self.batch = pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS))

    def postgres_values(self, forms: Sequence[tuple[str, Compiled]]) -> list[list[str | None]]:
        """Return, for each expression and row, type and value as text (``text:abc``), or the SQLSTATE that it raises.

        What the server cannot parse raises in every row.
        """
        made = [self._made(at, text, compiled) for at, (text, compiled) in enumerate(forms)]
        asked = [
            f"array_agg(pg_temp.e{at}(at) ORDER BY at)" if state is None else f"array_agg('{state}'::text)"
            for at, state in enumerate(made)
        ]
        found = self.server.execute(f"SELECT {', '.join(asked)} FROM r").fetchone()
        return list(found or ())

    def _made(self, at: int, text: str, compiled: Compiled) -> str | None:
        """Make the function that evaluates an expression for one row; how it fails, if the server refuses the text."""
        value = _READ.get(compiled.type.name, "format('%s', {0})").format("v")
        try:
            self.server.execute(
                f"CREATE OR REPLACE FUNCTION pg_temp.e{at}(_at int) RETURNS text LANGUAGE plpgsql AS $penstock$ "
                f"BEGIN RETURN (SELECT pg_typeof(v) || CASE WHEN v IS NULL THEN '' ELSE ':' || {value} END FROM (SELECT ({text}) AS v FROM r "
                "WHERE at = _at OFFSET 0) AS x); "
                f"EXCEPTION WHEN others THEN RETURN '{FAILED}' || SQLSTATE; END $penstock$"
            )
        except psycopg.Error as error:
            return f"{FAILED}{error.sqlstate}"
        return None


_READ: Final = {
    "date": "({0} - DATE '1970-01-01')",
    "timestamp without time zone": "(extract(epoch FROM {0}) * 1000000)::bigint",
    "timestamp with time zone": "(extract(epoch FROM {0}) * 1000000)::bigint",
}


def _array(values: list[Any], kind: str) -> pa.Array:
    wanted = arrow_type(parse_type(kind))
    if kind == "uuid":
        values = [None if one is None else str(one) for one in values]
    if kind == "date" or kind.startswith("timestamp"):
        return pa.array(values, pa.int32() if kind == "date" else pa.int64()).cast(wanted)
    return pa.array(values, wanted)


def our_values(forms: Sequence[Compiled], batch: pa.RecordBatch) -> list[list[Any]]:
    """Return Penstock's value for each expression and row, and FAILED where the row is a dead letter."""
    frame = typed("pl.DataFrame", pl.from_arrow(batch)).with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).alias(ROW))
    values = {f"v{at}": BoundExpression(one, {name: name for name in one.columns}) for at, one in enumerate(forms)}
    done = evaluate_frame(frame, values)
    return [_values(done, name, one.compiled) for name, one in values.items()]


def _values(done: pl.DataFrame, name: str, compiled: Compiled) -> list[Any]:
    array = arrow_of(done[name], compiled.type, "oracle")
    if pa.types.is_date32(array.type) or pa.types.is_timestamp(array.type):
        array = array.cast(pa.int32() if pa.types.is_date32(array.type) else pa.int64())
    wrong = done[f"?{name}"].to_list() if compiled.wrong is not None else [False] * done.height
    return [FAILED if bad else value for bad, value in zip(wrong, array.to_pylist(), strict=True)]


def matches(have: Any, want: str | None, kind: str) -> bool:
    """True if a value equals the one that the server wrote as `want`."""
    if want is None or want == FAILED or have is None or have == FAILED:
        return bool(have == want)
    if kind in {"real", "double precision"}:
        form = "f" if kind == "real" else "d"
        return struct.pack(form, have) == struct.pack(form, float(want)) or (math.isnan(have) and want == "NaN")
    if kind == "numeric":
        return want not in {"NaN", "Infinity", "-Infinity"} and Decimal(want) == have
    return str(have) == {"t": "True", "f": "False"}.get(want, want) if kind == "boolean" else str(have) == want


@dataclass(slots=True)
class Result:
    """Return the number of expressions that compiled, and each difference as a sentence."""

    compiled_count: int = 0
    differences: list[str] = field(default_factory=list)


def compare(oracle: Oracle, rng: random.Random, texts: Sequence[str]) -> Result:
    """Evaluate expressions in PostgreSQL and Penstock, in a chunk of 1 or 2 rows and in one of 1,000."""
    forms = []
    for text in texts:
        with suppress(SchemaMismatch):
            forms.append((text, compile_expression(text, TYPES, "oracle")))
    result = Result(len(forms))
    wanted = oracle.postgres_values(forms)
    one, two = rng.randrange(oracle.batch.num_rows), rng.randrange(oracle.batch.num_rows - 1)
    for rows in (rng.choice([[one], [two, two + 1]]), [at % oracle.batch.num_rows for at in range(1000)]):
        have = our_values([compiled for _, compiled in forms], oracle.batch.take(pa.array(rows)))
        for (text, compiled), values, wants in zip(forms, have, wanted, strict=True):
            found = _differences(oracle, text, compiled, rows, values, wants)
            result.differences += [one for one in found if f"{text}: row" not in "".join(result.differences[-1:])][:1]
    return result


def _differences(
    oracle: Oracle, text: str, compiled: Compiled, rows: list[int], values: list[Any], wants: list[str | None]
) -> Iterator[str]:
    height = len(wants)
    if any(str(value) != str(values[at % height]) for at, value in enumerate(values[height:])):
        yield f"{text}: row of equal values differ in a chunk of {len(rows)}"
    for at, value in zip(rows[:height], values, strict=False):
        want = wants[at] or ""
        kind, known, shown = want.partition(":")
        if want.startswith(FAILED):
            wanted: str | None = FAILED
        elif not known:
            wanted = None
        else:  # character without a length becomes text, without trailing blanks
            wanted = shown.rstrip(" ") if kind == "character" and compiled.type.name == "text" else shown
        refused = want.startswith(f"{FAILED}42")
        fine = matches(value, wanted, compiled.type.name) and (want.startswith(FAILED) or _same_type(kind, compiled))
        if refused or not (fine or (value == FAILED and is_known_deviation(oracle, text, at))):
            row = {name: str(oracle.batch.column(name)[at].cast(pa.string())) for name in sorted(compiled.columns)}
            yield f"{text}: row {row}: Penstock {compiled.type} {value!r}, PostgreSQL {want!r}, in a chunk of {len(rows)}"


def _same_type(kind: str, compiled: Compiled) -> bool:
    texts = {"text", "character varying", "character", "unknown"}
    return kind == compiled.type.name or (kind in texts and compiled.type.name in texts)


def is_known_deviation(oracle: Oracle, text: str, at: int) -> bool:
    """True for documented differences: no NaN in numeric, no infinite times, and no floats written as ``0x1F``."""
    row = {str(column[at].cast(pa.string())).strip().lower() for column in oracle.batch.columns}
    odd = [("numeric", ("nan", "inf")), ("date|timestamp", ("inf",)), ("real|double", ("0x1f",))]
    return any(re.search(kinds, text) and any(word in one for word in words for one in row) for kinds, words in odd)
