"""Tables of database files as objects of a set."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.dataflows.connectors.ducks import query_file
from tests.dataflows.listings import before, columns, found

LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""
ODD = ["Two Words", 'quo"ted', "it's", "dot.ted", "sl/ash", "Größe 東", "select", "br{ac}e [x]*", "%per_cent"]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def lite(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as session:
        session.executescript(
            """
            CREATE TABLE lines ("order" INTEGER REFERENCES Orders (id), no INTEGER, PRIMARY KEY (no, "order"));
            CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT REFERENCES "Two Words");
            CREATE TABLE keyless (x); CREATE TABLE _penstock_positions (x);
            CREATE VIEW recent AS SELECT * FROM orders; CREATE VIEW broken AS SELECT * FROM nowhere;
            CREATE VIRTUAL TABLE notes USING fts5(text);
            """
        )
        for name in ODD:
            session.execute(f"CREATE TABLE {quoted(name)} (a TEXT PRIMARY KEY)")
    return {"type": "sqlite", "path": str(path)}


def test_sqlite_enforces_no_foreign_keys(lite: dict[str, str]) -> None:
    assert before(lite, "lines", "orders") == {}


def test_tables_of_sqlite_are_objects(lite: dict[str, str]) -> None:
    objects = found(lite, "*")
    assert set(objects) == {"lines", "orders", "keyless", "notes", *ODD}
    assert (objects["lines"].key, objects["keyless"].key) == (("no", "order"), ())
    order = list(objects)
    assert order.index("Two Words") < order.index("orders") < order.index("lines")
    assert {(one.schema, one.table == one.name) for one in objects.values()} == {("", True)}
    assert [columns(lite, name) for name in ODD] == [["a"]] * len(ODD)
    assert set(found(lite, "o*", "recent")) == {"orders", "recent"}, "a view, named in full"


def test_tables_of_duckdb_are_objects(tmp_path: Path) -> None:
    path = tmp_path / "shop.duckdb"
    for statement in (
        "CREATE TABLE orders (id INTEGER PRIMARY KEY)",
        'CREATE TABLE lines ("order" INTEGER REFERENCES orders (id), no INTEGER, PRIMARY KEY (no, "order"))',
        "CREATE TABLE _penstock_positions (x INTEGER)",
        "CREATE VIEW recent AS SELECT * FROM orders",
        'CREATE SCHEMA "Other Schema"',
        'CREATE TABLE "Other Schema".keyless (x INTEGER)',
        'CREATE SCHEMA "dot.ted"',
        'CREATE SCHEMA "a b"',
        'CREATE TABLE "dot.ted".lost (x INTEGER)',
        *(f"CREATE TABLE {schema}.{quoted(name)} (a TEXT PRIMARY KEY)" for name in ODD for schema in ("main", '"a b"')),
    ):
        query_file(path, statement)
    duck = {"type": "duckdb", "path": str(path)}
    assert before(duck, "lines", "main.Orders", "keyless") == {"lines": ["main.Orders"]}
    assert before({**duck, "path": f"{path}.new"}, "lines", "orders") == {}
    with subprocess.Popen([sys.executable, "-c", LOCK, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert before(duck, "lines", "orders") is None, "a run has locked the file"
        other.communicate()
    objects = found(duck, "*")
    bare = {"main.dot.ted" if name == "dot.ted" else name for name in ODD}
    assert set(objects) == {"orders", "lines", "Other Schema.keyless", *bare, *(f"a b.{name}" for name in ODD)}
    assert (objects["lines"].key, objects["Other Schema.keyless"].key) == (("no", "order"), ())
    assert list(objects).index("orders") < list(objects).index("lines")
    assert (objects["orders"].schema, objects["a b.it's"].schema) == ("main", "a b")
    assert (objects["main.dot.ted"].table, objects["a b.dot.ted"].table) == ("dot.ted", "dot.ted")
    assert {tuple(columns(duck, name)) for name in [*bare, *(f"a b.{name}" for name in ODD)]} == {("a",)}
    assert set(found(duck, "*.keyless", "recent")) == {"Other Schema.keyless", "recent"}
