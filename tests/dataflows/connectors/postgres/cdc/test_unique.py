"""Second unique keys of the target, and rows of one split that need each other while a bad one is looked for."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")

LETTERS = {"dead_letter": {"fail_above": 1.0}}
TO = "UPDATE {s} SET email ="
MOVES = (
    f"BEGIN; {TO} 'z' WHERE id = 2; {TO} 'b' WHERE id = 1; COMMIT",
    f"BEGIN; {TO} 'tmp' WHERE id = 3; {TO} 'c' WHERE id = 4; {TO} 'd' WHERE id = 3; COMMIT",
)


def letters(made: Changes) -> list[str]:
    """Return the codes of the dead letters."""
    assert made.letters
    with psycopg.connect(made.letters) as session:
        query = "SELECT code FROM ops.dead_letters WHERE pipeline = %s"
        return [code for (code,) in session.execute(query, (made.uid,)).fetchall()]


@pytest.mark.parametrize("target", ["own", "nullable", "lower"])
def test_values_of_a_unique_key_move_between_rows(changes: Callable[..., Changes], target: str) -> None:
    made = changes(f"id int PRIMARY KEY, email text{'' if target == 'nullable' else ' NOT NULL'} UNIQUE", rows=0)
    made.do(
        "INSERT INTO {s} VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')", "CREATE TABLE {t} (LIKE {s} INCLUDING ALL)"
    )
    if target == "nullable":
        made.do("ALTER TABLE {t} ADD mine text DEFAULT 'kept'")
    if target == "lower":
        made.do("CREATE UNIQUE INDEX ON {t} (lower(email))")
    task = made.task(errors=LETTERS)
    pid = made.launchers.start(task)
    made.until_same("id, email")
    made.do(*MOVES, "INSERT INTO {s} VALUES (5, 'e')")
    made.until_same("id, email")
    made.stop(pid, task)
    assert letters(made) == []


def test_a_bad_row_takes_no_good_ones_with_it(changes: Callable[..., Changes]) -> None:
    made = changes("id int PRIMARY KEY, email text UNIQUE, price int, body text STORAGE EXTERNAL", rows=0)
    made.do("INSERT INTO {s} SELECT g, chr(96 + g), g, repeat('x', 9000) FROM generate_series(1, 20) g")
    made.do("CREATE TABLE {t} (LIKE {s} INCLUDING ALL)", "ALTER TABLE {t} ADD CHECK (price < 1000)")
    task = made.task(errors=LETTERS)
    pid = made.launchers.start(task)
    made.until_same()
    made.do(
        "BEGIN; INSERT INTO {s} (id, price) VALUES (500, 5000); UPDATE {s} SET id = id + 100 WHERE id < 8; "
        "UPDATE {s} SET email = NULL WHERE id = 10; UPDATE {s} SET email = 'j' WHERE id = 11; "
        "UPDATE {s} SET email = 'k' WHERE id = 10; COMMIT"
    )
    made.until("SELECT EXISTS (SELECT FROM {t} WHERE id = 107)")
    made.stop(pid, task)
    assert letters(made) == ["23514"]
    assert made.value("SELECT count(*) FROM {t} WHERE length(body) = 9000") == 20
    assert made.differences() == 1


def test_a_snapshot_replaces_rows_that_others_refer_to(changes: Callable[..., Changes]) -> None:
    made = changes(rows=5)
    made.do("CREATE TABLE {t} (LIKE {s} INCLUDING ALL)", "ALTER TABLE {t} ADD CHECK (price < 1000)")
    made.do("INSERT INTO {t} (id) VALUES (1)", "CREATE TABLE {t}_c (pid int REFERENCES {t} (id) DEFERRABLE)")
    made.do("INSERT INTO {t}_c VALUES (1)", "UPDATE {s} SET price = 5000 WHERE id = 3")
    task = made.task(errors=LETTERS)
    pid = made.launchers.start(task)
    made.until("SELECT EXISTS (SELECT FROM {t} WHERE id = 2)")
    made.stop(pid, task)
    assert letters(made) == ["23514"]
    assert made.differences() == 1
