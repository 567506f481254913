"""A row without a cursor: the run is refused and nothing is written; once it has one, all rows are read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import duckdb
import psycopg

from tests.dataflows.connectors.conftest import Flows, SourceFile, System
from tests.pairs import all_pairs


def ask(system: System, statement: str) -> None:
    if system.name == "mysql":
        system.rows(statement)
        return
    if system.name == "postgres":
        with psycopg.connect(system.connection["dsn"], autocommit=True) as server:
            server.execute(statement)
        return
    opened = sqlite3.connect if system.name == "sqlite" else duckdb.connect
    with closing(opened(system.connection["path"])) as session:
        session.execute(statement)
        session.commit()


@all_pairs(name=["postgres", "mysql", "sqlite", "duckdb"], cursor=["n", "seen"], write=["append", "merge"])
def test_a_row_without_a_cursor_is_refused_and_nothing_is_written(
    new_system: Callable[[str], System], source_file: SourceFile, out_of: Flows, name: str, cursor: str, write: str
) -> None:
    system = new_system(name)
    kind = {"mysql": "DATETIME(6)", "duckdb": "TIMESTAMP"}.get(
        name, "TIMESTAMP(6)" if name == "postgres" else "TIMESTAMP"
    )
    ask(system, f"CREATE TABLE copied (id INTEGER PRIMARY KEY, n BIGINT, seen {kind})")
    rows = "(1, 1, '2024-01-01 00:00:00.25'), (2, NULL, NULL), (3, 3, '2024-01-03 00:00:00.25')"
    ask(system, f"INSERT INTO copied VALUES {rows}")
    flow = out_of(system, write)
    flow.source["cursor"] = {"field": cursor} | ({"ordered": True} if cursor == "n" else {"lag": "1h"})
    flow.sink |= {"key": ["id"]} if write == "merge" else {}
    error = flow.failed("r1")
    assert (error["code"], f"`{cursor}` IS NULL" in error["what"]) == ("data.bad", True), error
    there = source_file.rows("SELECT 1 FROM sqlite_master WHERE name = 'back'")
    assert not there or source_file.rows("SELECT count(*) FROM back") == [(0,)]
    ask(system, "UPDATE copied SET n = 2, seen = '2024-01-02 00:00:00.25' WHERE id = 2")
    assert flow.completed("r2") == 3
    assert source_file.rows("SELECT id FROM back ORDER BY id") == [(1,), (2,), (3,)]
