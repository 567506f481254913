"""Types that grow in SQLite, which cannot alter a column: the text of its table is edited, and values written again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.sql.tombstones import Tombstones
from dataflows.connectors.sqlite.connector import SqliteConnector
from dataflows.connectors.sqlite.declarations import Declared, redeclared
from dataflows.connectors.sqlite.target import SqliteTarget
from dataflows.data.tables import Column
from penstock.errors import PenstockError
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink

TABLE = """
CREATE TABLE t (id INT4 PRIMARY KEY, "a b, (c)" INT4 -- one, (two
 CONSTRAINT "NOT NULL" NOT NULL ON CONFLICT ABORT CHECK ("a b, (c)" IS NOT NULL), price DECIMAL_TEXT ( 9 , 2 )
 DEFAULT 'NOT NULL, )', day DATE NOT NULL /* NOT NULL */, [x] REFERENCES o (id) ON DELETE SET NULL,
 twice INT4 AS (id * 2), UNIQUE (price, day), CHECK (day <> 'INT4'))"""
SHAPE = 'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "house.sqlite"
    with closing(sqlite3.connect(found)) as session:
        session.executescript(f'{TABLE}; CREATE INDEX by_size ON t ("a b, (c)", price);')
        session.executescript("CREATE VIEW v AS SELECT * FROM t; CREATE TABLE s (n INT) STRICT;")
        session.executescript(
            """INSERT INTO t (id, "a b, (c)", price, day)
            VALUES (1, -5, '3.10', '2024-02-29'), (2, 7, NULL, '0001-01-01')"""
        )
    return found


@pytest.fixture
def target(path: Path) -> Iterator[SqliteTarget]:
    with closing(opened(path, "t")) as made:
        yield made


def opened(path: Path, name: str, **write: Any) -> SqliteTarget:
    settings = parse_connection("house", {"type": "sqlite", "path": str(path)})
    owner = Owner("u1", "shop: t", Sink.parse({"connection": "house", "object": name, **write}))
    return SqliteConnector.target(Place("p", "house", settings, name), owner)


def asked(path: Path, query: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(path)) as session:
        return session.execute(query, values).fetchall()


def widen(target: SqliteTarget, *columns: Column) -> None:
    with target.database.transaction():
        target.widen_columns(columns)


def test_a_column_gets_a_type_and_all_else_stays(path: Path, target: SqliteTarget) -> None:
    before = asked(path, SHAPE, "t")
    wider = (
        Column("a b, (c)", "numeric(12,2)", nullable=True),
        Column("price", "numeric(12,4)"),
        Column("day", "timestamp without time zone", nullable=False),
        Column("id", "bigint", nullable=False),
    )
    for _ in range(2):
        widen(target, *wider)
    after = asked(path, SHAPE, "t")
    types = {"id": "BIGINT", "a b, (c)": "DECIMAL_TEXT(12,2)", "price": "DECIMAL_TEXT(12,4)", "day": "TIMESTAMP"}
    assert [row[1] for row in after] == [types.get(row[0], row[1]) for row in before]
    assert [(row[0], row[2] and row[0] != "a b, (c)", *row[3:]) for row in before] == [
        (row[0], row[2], *row[3:]) for row in after
    ]
    query = 'SELECT "a b, (c)", typeof("a b, (c)"), price, day, twice FROM t INDEXED BY by_size ORDER BY id'
    assert asked(path, query) == [
        ("-5.00", "text", "3.1000", "2024-02-29 00:00:00.000000", 2),
        ("7.00", "text", None, "0001-01-01 00:00:00.000000", 4),
    ]
    assert asked(path, "PRAGMA integrity_check") == [("ok",)]
    ((text,),) = asked(path, "SELECT sql FROM sqlite_schema WHERE name = 't'")
    assert "DEFAULT 'NOT NULL, )'" in text
    assert "/* NOT NULL */" in text
    assert asked(path, "SELECT count(*) FROM v") == [(2,)]


def test_a_session_that_was_open_sees_the_types(path: Path, target: SqliteTarget) -> None:
    with closing(sqlite3.connect(path)) as other:
        assert len(other.execute("SELECT * FROM t").fetchall()) == 2
        widen(target, Column("id", "bigint", nullable=False))
        assert other.execute(SHAPE, ("t",)).fetchone()[1] == "BIGINT"
        other.execute("INSERT INTO t (id, \"a b, (c)\", day) VALUES (3, 1, '2024-01-01')")
        other.commit()
    assert asked(path, "PRAGMA integrity_check") == [("ok",)]


def test_what_ends_in_the_middle_has_changed_nothing(
    path: Path, target: SqliteTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = asked(path, "SELECT sql FROM sqlite_schema"), asked(path, "SELECT * FROM t")
    table = TABLE.strip()
    for text, expected in (
        ("CREATE TABLE t (id", "malformed database schema"),
        (table.replace("id INT4", "id BIGINT").replace("DATE NOT", "TIMESTAMP NOT"), "as they were meant"),
        (table.replace("id INT4", "id BIGINT").replace("day DATE NOT NULL", "day DATE"), "as they were meant"),
        (table, "as they were meant"),
    ):
        monkeypatch.setattr("dataflows.connectors.sqlite.target.redeclared", lambda *_, text=text: text)
        with pytest.raises(PenstockError, match=expected):
            widen(target, Column("id", "bigint", nullable=False))
        assert (asked(path, "SELECT sql FROM sqlite_schema"), asked(path, "SELECT * FROM t")) == before
        assert target.database.rows("SELECT count(*) FROM t") == [(2,)]
        with pytest.raises(PenstockError):
            target.database.change("UPDATE sqlite_schema SET sql = sql")
    assert asked(path, "PRAGMA integrity_check") == [("ok",)]


def test_tables_whose_types_cannot_be_changed_are_refused_by_name(path: Path, target: SqliteTarget) -> None:
    def refused(name: str, *columns: Column) -> str:
        with closing(opened(path, name)) as one, pytest.raises(PenstockError) as found:
            widen(one, *columns)
        return found.value.what

    assert "strict" in refused("s", Column("n", "numeric(38,0)"))
    asked(path, "CREATE TABLE numbered (id INTEGER PRIMARY KEY)")
    assert "the number of its rows" in refused("numbered", Column("id", "numeric(38,0)", nullable=False))
    with closing(sqlite3.connect(path)) as session:
        session.execute("CREATE TRIGGER seen AFTER UPDATE ON t BEGIN SELECT 1; END")
    assert "trigger seen" in refused("t", Column("price", "numeric(12,4)"))
    asked(path, "CREATE TABLE rowless (id INT4 PRIMARY KEY NOT NULL, size INT4) WITHOUT ROWID")
    assert "values of `id` (WITHOUT ROWID)" in refused("rowless", Column("id", "numeric(12,2)", nullable=False))
    asked(path, "CREATE TABLE day (id DATE PRIMARY KEY NOT NULL, n INT4)")
    asked(path, "CREATE TABLE visit (id INT4 PRIMARY KEY, day DATE REFERENCES Day)")
    wider = "timestamp without time zone"
    assert "foreign key of visit to Day" in refused("day", Column("id", wider, nullable=False))
    assert "foreign key of visit to Day" in refused("visit", Column("day", wider))
    with closing(opened(path, "day")) as one:
        widen(one, Column("n", "numeric(12,2)"))


def test_a_key_of_rows_that_were_deleted_stays_as_it_is_remembered(path: Path) -> None:
    """Another text of the same number would not be found: an older version of the row would come back."""
    asked(path, "CREATE TABLE sold (id DECIMAL_TEXT(9,1) PRIMARY KEY NOT NULL, v INT4, gone BOOLEAN)")
    write = {"write": "merge", "key": ["id"], "version": "v", "delete": "gone"}
    with closing(opened(path, "sold", **write)) as one:
        id_, version = Column("id", "numeric(9,1)", nullable=False), Column("v", "integer")
        gone = Tombstones.of("u1", one.name, ("id",), "v", "gone")
        assert gone is not None
        one.database.change(gone.make((id_, version), one.database.ddl_type))
        with pytest.raises(PenstockError, match="deleted rows are remembered by the values of `id`"):
            widen(one, Column("id", "numeric(9,2)", nullable=False))
        widen(one, Column("v", "bigint"))


names = st.text("ab\"]`'(),- /*é", min_size=1, max_size=4)
quotes = st.sampled_from(['"{}"', "[{}]", "`{}`"])
extras = st.sampled_from(
    ["", " DEFAULT (1 + (2))", " CHECK (1 < 2)", " COLLATE nocase", " /* , ) NOT NULL */ UNIQUE", " DEFAULT 'a, b'"]
)


@given(st.lists(st.tuples(names, quotes, extras, st.booleans()), min_size=1, max_size=4), st.data())
def test_sqlite_reads_each_edited_text_as_it_was_meant(columns: list[tuple[str, str, str, bool]], data: Any) -> None:
    seen: dict[str, str] = {}
    for name, quote, extra, filled in columns:
        if name.lower() in {one.lower() for one in seen} or (quote[0] == "[" and "]" in name):
            continue
        inner = name if quote[0] == "[" else name.replace(quote[0], quote[0] * 2)
        seen[name] = f"{quote.format(inner)} INT4{' NOT NULL' if filled else ''}{extra}"
    if not seen:
        return
    text = f"CREATE TABLE t ({', '.join(seen.values())}, CHECK (1))"
    name = data.draw(st.sampled_from(sorted(seen)))
    nullable = data.draw(st.booleans())
    made = redeclared(text, {name: Declared("BIGINT", nullable)})
    assert made is not None
    before, after = shape(text), shape(made)
    expected = [(one[0], "BIGINT", 0 if nullable else one[2], *one[3:]) if one[0] == name else one for one in before]
    assert after == expected


def shape(text: str) -> list[Any]:
    with closing(sqlite3.connect(":memory:")) as session:
        session.execute(text)
        return session.execute(SHAPE, ("t",)).fetchall()
