# ruff: noqa: E501 - tables of values, one a line; what is parametrized comes by position
"""Values between database files and PostgreSQL: there and back exactly, or refused by the name of their column."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from dataflows.connectors.contract import ReadOrder
from dataflows.connectors.sql import database
from dataflows.connectors.sqlite.types import listed
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.types import arrow_type, column_type
from penstock.clock import now
from penstock.errors import AccessDenied, BadData, MissingTable, Refused, SchemaMismatch, Unavailable

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers
    from tests.dataflows.connectors.sql.conftest import File

    Files = Callable[[str], File]

KINDS = pytest.mark.parametrize("kind", ["sqlite", "duckdb"])


def step(
    launchers: Launchers, folder: Path, ends: tuple[tuple[Any, str], tuple[Any, str]], **spec: Any
) -> dict[str, Any]:
    """Run one full copy from a connection and object to another."""
    (source, read), (sink, written) = ends
    task = {
        "run": "r1",
        "attempt": 1,
        "uid": f"00000000-0000-4000-a000-{abs(hash((read, written))) % 10**12:012d}",
        "connections": {"from": source, "to": sink},
        "pipeline": {
            "apiVersion": "penstock/v1",
            "kind": "Pipeline",
            "metadata": {"name": "items"},
            "spec": {
                "source": {"connection": "from", "object": read},
                "sink": {"connection": "to", "object": written, "write": "replace"},
                **spec,
            },
        },
        "result": str(folder / "result.json"),
        "progress": None,
    }
    return launchers.run(task)


COLUMNS = """id bigint PRIMARY KEY, s smallint, i integer, b bigint, r real, d double precision, t boolean, n numeric(38,10),
c character varying(9), x text, da date, ts timestamp, tz timestamptz, ti time, u uuid, j jsonb, by bytea"""
ROWS = (
    (
        "(1, -32768, 2147483647, -9223372036854775808, 1.5, 0.1, true, 1234567890123456789012345678.0123456789, 'ü', "
        "E'line\\n\"quoted\\'\\\\ \\t🜛', '0001-01-01', '9999-12-31 23:59:59.999999', '1999-01-01 00:00:00.000001+05', "
        "'23:59:59.999999', '00000000-0000-0000-0000-0000000000ff', '{\"a\": [1, null]}', '\\x00ff10')"
    ),
    (
        "(2, 0, 0, 9223372036854775807, '-Infinity', 1e308, false, -0.0000000001, '', '', '2024-02-29', "
        "'1969-12-31 23:59:59.5', '2024-06-01 12:00:00+00', '00:00', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '1', '')"
    ),
    "(3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    (
        "(4, 7, -7, 1, 3.4e38, 5e-324, true, 0, '1e5', '1e5', '1970-01-01', '2000-01-01', '2000-01-01', '12:00', "
        "'12345678-1234-1234-1234-123456789012', '\"7\"', '\\x31')"
    ),
)


@pytest.mark.parametrize("way", [("sqlite", "duckdb"), ("duckdb", "sqlite")])
def test_every_type_there_and_back(
    new_database: Callable[[], str], files: Files, launchers: Launchers, tmp_path: Path, way: tuple[str, str]
) -> None:
    """From PostgreSQL to one file, the other, and back: every value, and every type except varchar's length, is kept."""
    dsn = new_database()
    postgres = {"type": "postgres", "dsn": dsn}
    first, second = (files(kind) for kind in way)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE TABLE every ({COLUMNS})")
        session.execute(f"INSERT INTO every VALUES {', '.join(ROWS)}")
        stops = [(postgres, "every"), (first.connection, "t"), (second.connection, "t"), (postgres, "back")]
        for ends in itertools.pairwise(stops):
            found = step(launchers, tmp_path, ends)
            assert found["status"] == "completed", found
        names = [
            row[0]
            for row in session.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'every'::regclass AND attnum > 0"
            )
        ]
        shown = ", ".join(f"{name}::text" if name != "j" else "j::jsonb::text" for name in names)
        wanted = session.execute(f"SELECT {shown} FROM every ORDER BY every.id").fetchall()
        assert session.execute(f"SELECT {shown} FROM back ORDER BY back.id").fetchall() == wanted
        query = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        before, after = ({row[0]: row[1] for row in session.execute(query, (name,))} for name in ("every", "back"))
        assert {name: (before[name], after[name]) for name in names if before[name] != after[name]} == {
            "c": ("character varying(9)", "text"),
            "j": ("jsonb", "json"),
        }


@KINDS
def test_an_empty_table_and_a_wide_one(files: Files, launchers: Launchers, tmp_path: Path, kind: str) -> None:
    source, sink = files(kind), files({"sqlite": "duckdb", "duckdb": "sqlite"}[kind])
    wide = ", ".join(f"c{at} BIGINT" for at in range(200))
    source.script(
        "CREATE TABLE empty (id BIGINT, x VARCHAR)",
        f"CREATE TABLE wide ({wide})",
        f"INSERT INTO wide VALUES ({', '.join(map(str, range(200)))})",
        f"INSERT INTO wide VALUES ({', '.join(['NULL'] * 200)})",
    )
    for name in ("empty", "wide"):
        found = step(launchers, tmp_path, ((source.connection, name), (sink.connection, name)))
        assert found["status"] == "completed", found
    assert sink.rows("SELECT * FROM empty") == []
    assert sink.rows("SELECT * FROM wide") == [tuple(range(200)), (None,) * 200]


@KINDS
def test_refused_rows_are_counted(
    files: Files, launchers: Launchers, tmp_path: Path, new_database: Callable[[], str], kind: str
) -> None:
    source, sink = files(kind), files("sqlite")
    source.script(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, x VARCHAR)",
        "INSERT INTO t VALUES (1, '5'), (2, 'five'), (3, '7'), (4, NULL)",
    )
    spec = {
        "transforms": [{"name": "numbers", "cast": {"x": "integer"}}, {"name": "some", "filter": "x IS NULL OR x < 6"}]
    }
    found = step(launchers, tmp_path, ((source.connection, "t"), (sink.connection, "t")), **spec)
    assert found["status"] == "failed"  # no place for dead letters: the first one fails the run
    assert "five" not in json.dumps(found)


SQLITE_REFUSED = [
    ("INTEGER", "'seven'"), ("INTEGER", "2.5"), ("TEXT", "x'00'"), ("BLOB", "'text'"), ("DATE", "'01/02/2024'"),
    ("DATE", "19000"), ("TIMESTAMP", "'2024-01-01 00:00:00Z'"), ("TIMESTAMP", "'2024-01-01 00:00:00.1234567'"),
    ("TIMESTAMPTZ", "'2024-01-01 00:00:00'"), ("BOOLEAN", "2"), ("BOOLEAN", "'yes'"), ("DOUBLE", "'x'"),
    ("DECIMAL(20,2)", "9007199254740993"), ("DECIMAL_TEXT(5,2)", "'1.234'"), ("DECIMAL_TEXT(5,2)", "'1234567.1'"),
    ("INT2", "40000"), ("FLOAT4", "0.1"), ("TIME", "'24:00:00'"), ("TEXT", "CAST(x'ff' AS TEXT)"),
]  # fmt: skip


def read(file: File, name: str = "t", rows: int = 100_000) -> list[tuple[Any, ...]]:
    from tests.dataflows.connectors.sql.conftest import read as table

    found = table(file.source(name), rows)
    return list(zip(*(column.to_pylist() for column in found.columns), strict=True))


@pytest.mark.parametrize(("kind", "value"), SQLITE_REFUSED)
def test_values_that_sqlite_holds_and_their_column_cannot(files: Files, kind: str, value: str) -> None:
    file = files("sqlite")
    file.script(f"CREATE TABLE t (n INTEGER, odd {kind})", f"INSERT INTO t VALUES (1, NULL), (2, {value}), (3, NULL)")
    assert read(file) == [(1, None), (3, None)]
    (letter,) = refused(file)
    assert (letter["code"], "`odd`" in letter["reason"], value in letter["reason"]) == ("not_of_type", True, False)
    assert json.loads(letter["values"])["n"] == 2
    if "x'ff'" in value:
        assert (json.loads(letter["values"])["odd"], "is not UTF-8" in letter["reason"]) == ("\\xff", True)


def refused(file: File, key: str | None = None, rows: int = 1000) -> list[dict[str, Any]]:
    """Return the rows that a source of the table `t` refuses, read in splits by `key`."""
    source = file.source("t")
    table = source.describe()
    schema = pa.schema([(one.name, arrow_type(column_type(one))) for one in table.columns])
    by = table.column(key) if key else None
    with closing(source.reader(ReadOrder(table, schema.names, by, schema, 1000, lambda: None))) as reader:
        splits = source.plan(table, by, Window(None, None), rows, 0)
        chunks = [chunk for split in splits for chunk in reader.read("00", split)]
    return [row for chunk in chunks if chunk.refused is not None for row in chunk.refused.to_pylist()]


def test_texts_that_are_not_utf_8_are_set_aside_by_row_in_any_column(files: Files) -> None:
    file = files("sqlite")
    file.script(
        "CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY, x TEXT, u UUID, d DATE)",
        "WITH RECURSIVE n(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM n WHERE g < 5000) INSERT INTO t SELECT "
        "printf('%05d', g) || CASE WHEN g % 100 IN (0, 1) THEN CAST(x'c328ff' AS TEXT) ELSE 'é' END, "
        "CASE WHEN g = 4507 THEN CAST(x'ff' AS TEXT) ELSE 'x' || g END, CASE WHEN g = 8 THEN CAST(x'f0' AS TEXT) END, "
        "CASE WHEN g = 9 THEN CAST('2024-01-0' || x'ff' AS TEXT) END FROM n",
        "INSERT INTO t VALUES (CAST(x'ff' AS TEXT), NULL, NULL, NULL), ('\\x41', 'A', NULL, NULL), (x'00', 'b', NULL, NULL)",
    )
    kept = {f"{g:05d}é" for g in range(1, 5001) if g % 100 > 1 and g not in {8, 9, 4507}} | {"\\x41"}
    for rows in (100, 33, 100_000):
        assert sorted(row[0] for row in read(file, rows=rows)) == sorted(kept)
        letters = refused(file, "k", rows)
        assert len(letters) == 5003 - len(kept)
        values = [json.loads(one["values"]) for one in letters]
        assert {one["k"] for one in values} >= {"\\x3030313030c328ff", "\\xff", "\\x00", "00008é"}
        assert {str(one["d"]) for one in values} == {"None", "\\x323032342d30312d30ff"}


@pytest.mark.parametrize(
    ("kind", "values"),
    [("TEXT", ["'a'", "x'00'"]), ("INTEGER", ["1", "'x'"]), ("TIMESTAMP", ["'2024-01-01 10:00:00'", "1700000000"]),
     ("DATE", ["'2024-01-01'", "x'ff'"]), ("INTEGER", ["1", "1.5"]), ("BIGINT", ["1", "x'ff'"])],
)  # fmt: skip
def test_cursors_of_another_class_are_refused_since_no_window_holds_them(
    files: Files, kind: str, values: list[str]
) -> None:
    file = files("sqlite")
    rule = CursorRule(idempotent=True, ordered=True)
    file.script(f"CREATE TABLE t (k {kind} NOT NULL)", f"INSERT INTO t VALUES ({values[0]})")
    source = file.source("t")
    table = source.describe()
    assert source.window(table, table.columns[0], None, rule).upper is not None
    file.script(f"INSERT INTO t VALUES ({values[1]})")
    with pytest.raises(BadData, match="`k` holds values of another class"):
        source.window(table, table.columns[0], None, rule)


@pytest.mark.parametrize(
    ("kind", "values", "type_"),
    [("DECIMAL(9,2)", [1, 2.5, -3], "double precision"), ("", [1, 2], "bigint"), ("", ["a"], "text"), ("", [b"a"], "bytea"),
     ("VARCHAR(2)", ["longer", ""], "text"), ("UNSIGNED BIG INT", [2**63 - 1], "bigint"), ("DATETIME", ["2024-01-01T10:00"], "timestamp without time zone"),
     ("INT", [2**40], "bigint"), ("BOOLEAN", [0, 1], "boolean"), ("STRING", ["a", ""], "text"), ("STRING", [7, 1.5], "double precision"),
     ("XML", ["<a/>"], "text"), ("MONEY", ["x"], "double precision"), ("JSON", ['{"a":  1.10}', "null"], "json")],
)  # fmt: skip
def test_types_of_sqlite_columns(files: Files, kind: str, values: list[Any], type_: str) -> None:
    file = files("sqlite")
    file.rows(f"CREATE TABLE t (x {kind})")
    for value in values:
        file.rows("INSERT INTO t VALUES (?)", (value,))
    assert file.source("t").describe().columns[0].type == type_
    if type_ != "timestamp without time zone" and kind != "MONEY":
        assert [row[0] for row in read(file)] == values


def test_numbers_in_a_json_column_of_sqlite_are_json(files: Files) -> None:
    """SQLite stores a text that looks like a number as a number there."""
    file = files("sqlite")
    file.script("CREATE TABLE t (n INTEGER, j JSON)")
    file.script("INSERT INTO t VALUES (1, '[]'), (2, '5'), (3, '1.5'), (4, 9e999), (5, NULL), (6, x'00')")
    assert read(file) == [(1, "[]"), (2, "5"), (3, "1.5"), (5, None)]
    assert [json.loads(letter["values"])["n"] for letter in refused(file)] == [4, 6]


def test_small_decimals_are_stored_in_sqlite_with_all_digits_and_no_exponent() -> None:
    values = pa.array([Decimal("0E-10"), Decimal("-1E-10"), Decimal("12.5000000000"), None], pa.decimal128(38, 10))
    texts = ["0.0000000000", "-0.0000000001", "12.5000000000"]
    assert listed(values, "n", "here") == [*texts, None]


def test_a_column_of_several_kinds_cannot_be_read(files: Files, launchers: Launchers, tmp_path: Path) -> None:
    file, sink = files("sqlite"), files("duckdb")
    file.script("CREATE TABLE t (odd)", "INSERT INTO t VALUES (1), ('x')")
    found = step(launchers, tmp_path, ((file.connection, "t"), (sink.connection, "t")))
    assert found["error"]["code"] == "schema.mismatch", found
    assert "`odd`" in found["error"]["what"]
    assert not sink.path.exists()


DUCK_READ = [
    ("TINYINT", "-128", -128), ("UTINYINT", "255", 255), ("UINTEGER", "4294967295", 2**32 - 1),
    ("UBIGINT", "18446744073709551615", 2**64 - 1), ("HUGEINT", "-170141183460469231731687303715884105728", str(-(2**127))),
    ("UUID", "'00000000-0000-0000-0000-0000000000ff'", "00000000-0000-0000-0000-0000000000ff"),
    ("ENUM('a', 'b')", "'b'", "b"), ("INTEGER[]", "[1, NULL]", "[1,null]"), ("STRUCT(a INTEGER, b VARCHAR)", "{'a': 1, 'b': 'x'}", '{"a":1,"b":"x"}'),
    ("JSON", "'{\"a\":  1}'", '{"a":  1}'), ("INTERVAL", "INTERVAL '1 month 2 days'", "1 month 2 days"), ("BLOB", "'\\x00a'::BLOB", b"\x00a"),
    ("UHUGEINT", "340282366920938463463374607431768211455", str(2**128 - 1)), ("BIGNUM", f"'-{2**200}'", str(-(2**200))),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "wanted"), DUCK_READ)
def test_duckdbs_own_types_are_converted(files: Files, kind: str, value: str, wanted: Any) -> None:
    file = files("duckdb")
    file.script(f"CREATE TABLE t (x {kind})", f"INSERT INTO t VALUES ({value}), (NULL)")
    assert read(file) == [(wanted,), (None,)]


@pytest.mark.parametrize(
    "value",
    [
        "DATE 'infinity'",
        "TIMESTAMP '-infinity'",
        "DATE '10000-01-01'",
        "DATE '0001-01-01 (BC)'",
        "TIMESTAMPTZ 'infinity'",
    ],
)
def test_times_that_no_other_system_can_hold(files: Files, value: str) -> None:
    file = files("duckdb")
    file.script(f"CREATE TABLE t AS SELECT 1 AS n, {value} AS odd UNION ALL SELECT 2, NULL")
    assert read(file) == [(2, None)]
    assert ["`odd`" in one["reason"] for one in refused(file)] == [True]


@pytest.mark.parametrize(
    "kind",
    [
        "TIMESTAMP_NS",
        "UNION(a INTEGER, b VARCHAR)",
        "TIME_NS",
        "TIMESTAMPTZ_NS",
        "VARIANT",
        "TUPLE(INTEGER, INTEGER)",
        "GEOMETRY",
    ],
)
def test_types_of_duckdb_that_are_refused_by_name(
    files: Files, launchers: Launchers, tmp_path: Path, kind: str
) -> None:
    file, sink = files("duckdb"), files("sqlite")
    file.script(f"CREATE TABLE t (odd {kind})")
    found = step(launchers, tmp_path, ((file.connection, "t"), (sink.connection, "t")))
    assert found["error"]["code"] == "schema.mismatch", found
    assert "`odd`" in found["error"]["what"]
    assert not sink.path.exists()


@pytest.mark.parametrize(
    "kind", ["HUGEINT", "UHUGEINT", "BIGNUM", "UBIGINT", "DECIMAL(38,2)", "TIMESTAMP_S", "TIMESTAMP_MS"]
)
def test_windows_of_duckdbs_own_types(files: Files, kind: str) -> None:
    file, last = (
        files("duckdb"),
        {"HUGEINT": 2**127 - 1, "UHUGEINT": 2**128 - 1, "BIGNUM": 2**200, "UBIGINT": 2**64 - 1}.get(kind, 3),
    )
    given = (
        [f"'2024-01-01 00:00:0{at}'" for at in range(3)] if "_" in kind else [f"'{one}'" for one in (1, last - 1, last)]
    )
    file.script(
        f"CREATE TABLE t (id INTEGER, c {kind} NOT NULL)", f"INSERT INTO t VALUES (1, {given[0]}), (2, {given[1]})"
    )
    source = file.source("t")
    table = source.describe()
    rule, cursor = CursorRule(timedelta(hours="_" in kind), ordered=True), table.columns[1]
    order = ReadOrder(table, ["id"], cursor, pa.schema([("id", pa.int32())]), 10, lambda: None)

    def found(window: Window) -> list[int]:
        with closing(source.reader(order)) as reader:
            chunks = [chunk for split in source.plan(table, cursor, window, 1, 0) for chunk in reader.read("00", split)]
        return [one for chunk in chunks if chunk.data is not None for one in chunk.data.column("id").to_pylist()]

    first = source.window(table, cursor, None, rule)
    file.script(f"INSERT INTO t VALUES (3, {given[2]})")
    assert (found(first), found(source.window(table, cursor, first.position, rule))) == ([1, 2], [3])
    if "_" in kind:
        with pytest.raises(Refused, match="resolution"):
            source.window(table, cursor, None, CursorRule())


@pytest.mark.parametrize(
    ("kind", "source", "sink"),
    [("duckdb", "DOUBLE", "FLOAT"), ("duckdb", "DECIMAL(9,3)", "DECIMAL(9,2)"), ("duckdb", "BIGINT", "INTEGER"), ("duckdb", "VARCHAR", "INTEGER[]"),
     ("duckdb", "TIMESTAMP", "TIMESTAMP_S"), ("sqlite", "DECIMAL(9,3)", "DECIMAL(9,3)"), ("sqlite", "VARCHAR", "INTEGER"), ("sqlite", "BIGINT", "")],
)  # fmt: skip
def test_a_sink_that_would_change_values_is_refused(
    files: Files, launchers: Launchers, tmp_path: Path, kind: str, source: str, sink: str
) -> None:
    given, target = files("duckdb"), files(kind)
    given.script(f"CREATE TABLE t (odd {source})")
    target.script(f"CREATE TABLE t (odd {sink})")
    found = step(launchers, tmp_path, ((given.connection, "t"), (target.connection, "t")))
    assert found["error"]["code"] == "schema.mismatch", found
    assert "`odd`" in found["error"]["what"]
    assert target.tables() == {"t"}


@KINDS
def test_a_constant_default_does_not_make_values_that_grow(files: Files, kind: str) -> None:
    file = files(kind)
    number = "n INTEGER PRIMARY KEY" if kind == "sqlite" else "n INTEGER DEFAULT nextval('s')"
    made = ["CREATE SEQUENCE s"] if kind == "duckdb" else []
    file.script(
        *made, f"CREATE TABLE t ({number}, zero INTEGER DEFAULT 0, v INTEGER)", "INSERT INTO t (v) VALUES (1), (2)"
    )
    source = file.source("t")
    table = source.describe()
    assert source.window(table, table.columns[0], None, CursorRule()).upper == "2"
    with pytest.raises(Refused, match="programs make its values"):
        source.window(table, table.columns[1], None, CursorRule())


def test_nan_is_not_null(files: Files, launchers: Launchers, tmp_path: Path) -> None:
    source, sink = files("duckdb"), files("sqlite")
    source.script("CREATE TABLE t (odd DOUBLE)", "INSERT INTO t VALUES ('nan'), (1)")
    found = step(launchers, tmp_path, ((source.connection, "t"), (sink.connection, "t")))
    assert found["error"]["code"] == "data.bad"
    assert "`odd`" in found["error"]["what"]
    assert sink.rows("SELECT count(*) FROM t") == [(0,)]


@KINDS
def test_splits_hold_each_row_once(files: Files, kind: str) -> None:
    file = files(kind)
    file.script(
        "CREATE TABLE t (k VARCHAR NOT NULL PRIMARY KEY)",
        "WITH RECURSIVE n(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM n WHERE g < 999) INSERT INTO t SELECT 'ü ''' || g FROM n",
    )
    source = file.source("t")
    table = source.describe()
    assert len(source.plan(table, source.split_key(table), Window(None, None), 100, 7)) == 10
    assert sorted(read(file, rows=100)) == sorted(file.rows("SELECT k FROM t"))


@KINDS
def test_windows(files: Files, kind: str) -> None:
    file = files(kind)
    file.script("CREATE TABLE t (at TIMESTAMP NOT NULL, n BIGINT, x VARCHAR)".replace("at TIME", '"at" TIME'))
    source = file.source("t")
    table = source.describe()
    at, n, x = table.columns
    again = CursorRule(idempotent=True)
    assert source.window(table, at, None, again) == Window(None, None)
    file.script("INSERT INTO t VALUES ('2024-01-01 10:00:00', 1, 'a'), ('2999-01-01 10:00:00', 5, 'b')")
    window = source.window(table, at, None, again)  # a future time does not hide earlier rows
    assert window.upper == "2024-01-01 10:00:00"
    assert window.notes == ("1 row has a cursor in the future (`at`), to be read when that time has come",)
    file.script("INSERT INTO t VALUES ('2024-01-01 11:00:00', 2, 'c')")
    assert source.window(table, at, "2024-01-01 10:00:00", again).upper is not None
    lagging = source.window(table, at, "2024-01-01 10:00:00", CursorRule(timedelta(hours=1), idempotent=True))
    assert lagging.upper is not None
    assert "2024-01-01" < lagging.upper < "2999"
    assert source.window(table, at, "2998-01-01 00:00:00", CursorRule(timedelta(hours=1))).upper is None
    assert source.window(table, n, "1", CursorRule(ordered=True)) == Window("1", "5")
    assert source.window(table, n, "5", CursorRule(ordered=True)) == Window("5", None)
    with pytest.raises(SchemaMismatch, match="lag"):
        source.window(table, x, None, CursorRule(timedelta(1)))
    file.script("INSERT INTO t VALUES ('2024-01-01 10:00:00', 9223372036854775807, 'a')")
    assert source.window(table, n, "1", CursorRule(ordered=True)).upper == "5"
    file.script("INSERT INTO t VALUES ('2024-01-01 10:00:00', NULL, 'a')")
    with pytest.raises(BadData, match="`n` IS NULL"):
        source.window(table, n, None, CursorRule(ordered=True))


def test_a_time_as_number_of_sqlite_does_not_begin_again(files: Files) -> None:
    file = files("sqlite")
    file.script("CREATE TABLE t (at INTEGER DEFAULT (strftime('%s', 'now')), v INT)")
    file.script("INSERT INTO t VALUES (5, 1), (6, 2)", "DELETE FROM t WHERE at = 6")
    source = file.source("t")
    table = source.describe()
    assert source.window(table, table.columns[0], "6", CursorRule(ordered=True)).upper is None


@pytest.mark.parametrize("more", ["AUTOINCREMENT", ""])
def test_numbers_of_sqlite_that_begin_again_are_refused(files: Files, more: str) -> None:
    file = files("sqlite")
    file.script(f"CREATE TABLE t (id INTEGER PRIMARY KEY {more}, v INT)", "INSERT INTO t (v) VALUES (1), (2), (3)")
    source, once = file.source("t"), CursorRule()
    table = source.describe()
    assert source.window(table, table.columns[0], None, once).upper == "3"
    file.script("DELETE FROM t WHERE id = 3")
    if more:
        assert source.window(table, table.columns[0], "3", once).upper is None
        file.script("DELETE FROM sqlite_sequence", "DELETE FROM t", "INSERT INTO t (v) VALUES (4), (5)")
    with pytest.raises(Refused, match="numbers of `id` begin again: the next is 3, and rows were read up to 3"):
        source.window(table, table.columns[0], "3", once)
    assert source.window(table, table.columns[0], "3", CursorRule(ordered=True)).upper is None, "the pipeline vouches"


@pytest.mark.parametrize(
    ("kind", "first", "then", "refused"),
    [
        ("timestamp", "2024-01-01T10:00:00.25", "2024-01-01 11:00:00.5", True), ("timestamp", "2024-01-01 10:00:00.25", "2024-01-02", False),
        ("timestamp", "2024-01-01 10:00:00.25", "2024-01-01 10:00:00.125", False), ("timestamptz", "2024-01-01 10:00:00.25Z", "2024-01-01 10:00:00.5Z", True),
        ("timestamptz", "2024-01-01T10:00:00.250Z", "2024-01-01T10:00:00.500Z", False), ("timestamptz", "2024-01-01 10:00:00.25+00:00", "2024-01-01 10:00:00.5+00:00", False),
        ("timestamptz", "2024-01-01 10:00:00.25+02:00", "2024-01-01 10:00:00.5+02:00", True), ("timestamptz", "2024-01-01 10:00:00.25Z", "2024-01-01 10:00:00.25+00:00", True),
    ],
)  # fmt: skip
def test_times_as_texts_that_sort_otherwise_are_no_cursor(
    files: Files, kind: str, first: str, then: str, refused: bool
) -> None:
    file = files("sqlite")
    file.script(f"CREATE TABLE t (c {kind} NOT NULL)", f"INSERT INTO t VALUES ('{first}'), ('{then}')")
    source = file.source("t")
    table, rule = source.describe(), CursorRule(timedelta(hours=1), idempotent=True)
    for ask in (source.risks, lambda table, column, rule: source.window(table, column, None, rule)):
        if refused:
            with pytest.raises(SchemaMismatch, match="sort otherwise"):
                ask(table, table.columns[0], rule)
        else:
            ask(table, table.columns[0], rule)


@pytest.mark.parametrize(("length", "unit"), [(10, "1 day"), (16, "1 minute"), (19, "1 second")])
def test_the_resolution_of_times_as_texts_is_that_of_the_longest(files: Files, length: int, unit: str) -> None:
    file = files("sqlite")
    file.script("CREATE TABLE t (c timestamp NOT NULL)", f"INSERT INTO t VALUES ('{'2024-01-01 10:00:00'[:length]}')")
    source = file.source("t")
    table = source.describe()
    with pytest.raises(Refused, match=f"resolution of {unit}"):
        source.window(table, table.columns[0], None, CursorRule())
    file.script(f"INSERT INTO t VALUES (substr(strftime('%Y-%m-%d %H:%M:%S', 'now'), 1, {length}))")
    found = source.window(table, table.columns[0], None, CursorRule(timedelta(microseconds=1)))
    assert found.upper == "2024-01-01 10:00:00"[:length]


def test_a_row_of_today_is_read_today_however_its_time_is_written(files: Files) -> None:
    for written in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"):
        file, at = files("sqlite"), now().strftime(written)
        file.script("CREATE TABLE t (at TIMESTAMP NOT NULL)", f"INSERT INTO t VALUES ('{at}')")
        source = file.source("t")
        assert (
            source.window(source.describe(), source.describe().columns[0], None, CursorRule(idempotent=True)).upper
            == at
        )


@KINDS
def test_errors_say_what_is_wrong_with_the_file(files: Files, kind: str, tmp_path: Path) -> None:
    file = files(kind)
    with pytest.raises(MissingTable, match="no such database file"):
        file.source("t").describe()
    file.script("CREATE TABLE orders (id INTEGER)")
    with pytest.raises(MissingTable, match="did you mean `orders`"):
        file.source("order").describe()
    file.path = tmp_path / "none" / f"x.{kind}"
    target = file.target("t")
    with pytest.raises(AccessDenied):
        target.state.make()
    target.close()
    file.path = tmp_path / "text"
    file.path.write_text("this is no database, but a text that is long enough to be looked at\n" * 40)
    with pytest.raises(Refused, match=r"is not an? .* database"):
        file.source("t").describe()


def test_a_process_that_has_a_duckdb_file_open_blocks_readers(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.2)
    file = files("duckdb")
    file.script("CREATE TABLE t (id INTEGER)")
    program = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable, match="another process") as refused:
            file.source("t").describe()
        assert refused.value.transient
        other.stdin.close()
    assert file.source("t").describe().columns[0].name == "id"


MEASURED = """
import json, resource, sys
from dataflows.runs.launcher import run_task
task = json.load(sys.stdin)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = run_task(task)
print("\\npeak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""
