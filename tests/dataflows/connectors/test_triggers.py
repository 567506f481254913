# ruff: noqa: E501 - tables of statements, one a line
"""Triggers of a target that drop or change rows: the run names them and commits nothing, or all rows are as sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from tests.dataflows.connectors.conftest import Flow, Flows, SourceFile, System
from tests.pairs import pairs_of

NewSystem = Callable[[str], System]
PLPGSQL = "CREATE OR REPLACE FUNCTION alter_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN new; END $$;"
TRIGGERS = {
    ("mysql", "changes"): "CREATE TRIGGER alters_rows BEFORE INSERT ON copied FOR EACH ROW SET NEW.name = upper(NEW.name)",
    ("mysql", "changes a number"): "CREATE TRIGGER alters_rows BEFORE INSERT ON copied FOR EACH ROW SET NEW.price = NEW.price + 0.5",
    ("mysql", "leaves"): "CREATE TRIGGER alters_rows BEFORE INSERT ON copied FOR EACH ROW SET NEW.more = 'x'",
    ("sqlite", "changes"): "CREATE TRIGGER alters_rows AFTER INSERT ON copied BEGIN UPDATE copied SET name = upper(name) WHERE id = NEW.id; END",
    ("sqlite", "drops"): "CREATE TRIGGER alters_rows BEFORE INSERT ON copied WHEN NEW.id = 7 BEGIN SELECT RAISE(IGNORE); END",
    ("sqlite", "leaves"): "CREATE TRIGGER alters_rows AFTER INSERT ON copied BEGIN UPDATE copied SET more = 'x' WHERE id = NEW.id; END",
    ("postgres", "changes"): PLPGSQL.format("new.name := upper(new.name);") + "CREATE TRIGGER alters_rows BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION alter_row()",
    ("postgres", "changes later"): PLPGSQL.format("UPDATE copied SET name = upper(name) WHERE id = new.id;") + "CREATE TRIGGER alters_rows AFTER INSERT ON copied FOR EACH ROW EXECUTE FUNCTION alter_row()",
    ("postgres", "changes at the commit"): PLPGSQL.format("UPDATE copied SET name = upper(name) WHERE id = new.id;") + "CREATE CONSTRAINT TRIGGER alters_rows AFTER INSERT ON copied DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION alter_row()",
    ("postgres", "leaves"): PLPGSQL.format("new.more := 'x';") + "CREATE TRIGGER alters_rows BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION alter_row()",
}  # fmt: skip
STAMPS = {
    "mysql": "CREATE TRIGGER alters_rows BEFORE UPDATE ON copied FOR EACH ROW SET NEW.price = NEW.price + 1000",
    "sqlite": "CREATE TRIGGER alters_rows AFTER UPDATE OF name ON copied BEGIN UPDATE copied SET price = price + 1000 WHERE id = NEW.id; END",
    "postgres": PLPGSQL.format("new.price := new.price + 1000;") + "CREATE TRIGGER alters_rows BEFORE UPDATE ON copied FOR EACH ROW EXECUTE FUNCTION alter_row()",
}  # fmt: skip
"""Triggers that make the version newer than that of the merged row."""


def ask(target: System, statement: str) -> list[tuple[Any, ...]]:
    if target.name == "mysql":
        return target.rows(statement)
    if target.name == "sqlite":
        with closing(sqlite3.connect(target.connection["path"], isolation_level=None)) as session:
            return session.execute(statement).fetchall()
    with psycopg.connect(target.connection["dsn"], autocommit=True) as session:
        found = session.execute(statement)
        return found.fetchall() if found.description else []


def rows(target: System) -> list[tuple[Any, ...]]:
    return ask(target, "SELECT id, name, price FROM copied ORDER BY id")


def made(target: System, source_file: SourceFile, into: Flows, write: str, trigger: str) -> Flow:
    """Make a pipeline whose target has rows of a first run and a column that is not written, then gets a trigger."""
    source_file.add(6)
    found = into(target, write, **({"key": ["id"]} if write == "merge" else {}))
    found.completed("r1")
    if write == "append":
        sqlite = target.name == "sqlite"
        ask(target, f"{'CREATE UNIQUE INDEX by_id ON copied' if sqlite else 'ALTER TABLE copied ADD PRIMARY KEY'} (id)")
    ask(target, "ALTER TABLE copied ADD COLUMN more VARCHAR(9)")
    ask(target, trigger)
    source_file.add(6)
    return found


@pairs_of(("name", "body", "write"), [(*one, write) for one in TRIGGERS for write in ("append", "merge", "replace")])
def test_a_trigger_that_drops_or_changes_rows_is_named(
    new_system: NewSystem, source_file: SourceFile, into: Flows, name: str, body: str, write: str
) -> None:
    target = new_system(name)
    flow = made(target, source_file, into, write, TRIGGERS[name, body])
    before = rows(target)
    if body == "leaves":
        flow.completed("r2")
        assert rows(target) == source_file.rows("SELECT id, name, price FROM items ORDER BY id")
        assert {row[0] for row in ask(target, "SELECT more FROM copied WHERE id > 6")} == {"x"}
    else:
        assert "alters_rows" in flow.failed("r2")["what"]
        assert rows(target) == before


@pytest.mark.parametrize("name", STAMPS)
def test_a_trigger_that_makes_the_version_newer_is_named(
    new_system: NewSystem, source_file: SourceFile, into: Flows, name: str
) -> None:
    target = new_system(name)
    source_file.add(6)
    flow = into(target, "merge", key=["id"], version="price")
    flow.completed("r1")
    ask(target, STAMPS[name])
    ask(target, "UPDATE copied SET price = price - 1 WHERE id = 2")
    ask(target, "DROP TRIGGER alters_rows ON copied" if name == "postgres" else "DROP TRIGGER alters_rows")
    ask(target, "UPDATE copied SET price = 3 WHERE id < 5")
    ask(target, "UPDATE copied SET price = 5000, name = 'newer' WHERE id = 3")
    source_file.rows("UPDATE items SET name = 'changed', price = 4 WHERE id < 4")
    flow.completed("r2")
    assert [row[1] for row in rows(target)[:3]] == ["changed", "changed", "newer"]
    ask(target, STAMPS[name])
    source_file.rows("UPDATE items SET name = 'again', price = 5 WHERE id < 4")
    before = rows(target)
    assert "alters_rows" in flow.failed("r3")["what"]
    assert rows(target) == before


@pytest.mark.parametrize("name", ["mysql", "sqlite"])
def test_an_append_without_a_key_is_refused_if_a_trigger_may_change_rows(
    new_system: NewSystem, source_file: SourceFile, into: Flows, name: str
) -> None:
    target = new_system(name)
    source_file.add(3)
    flow = into(target, "append")
    flow.completed("r1")
    ask(target, TRIGGERS[name, "changes"])
    source_file.add(3)
    error = flow.failed("r2")
    assert (error["code"], "only a unique key" in error["what"]) == ("refused", True), error
    assert target.ids() == [1, 2, 3]


def test_hidden_triggers_are_detected_too(new_system: NewSystem, source_file: SourceFile, into: Flows) -> None:
    """MySQL shows triggers only to users with the privilege TRIGGER."""
    target = new_system("mysql")
    flow = made(target, source_file, into, "merge", TRIGGERS["mysql", "changes"])
    database = target.connection["database"]
    ask(target, "DROP USER IF EXISTS plain@'%'")
    ask(target, "CREATE USER plain@'%'")
    rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, CREATE TEMPORARY TABLES, LOCK TABLES"
    ask(target, f"GRANT {rights} ON {database}.* TO plain@'%'")
    flow.connections["mysql"] = {key: value for key, value in target.connection.items() if key != "password"} | {
        "user": "plain"
    }
    before = rows(target)
    assert "rows were changed by" in flow.failed("r2")["what"]
    assert rows(target) == before
    ask(target, "DROP TRIGGER alters_rows")
    flow.completed("r3")
    assert rows(target) == source_file.rows("SELECT id, name, price FROM items ORDER BY id")
