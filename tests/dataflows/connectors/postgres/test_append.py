"""Rows that are appended by a stage are compared with what the table has of them, by their locations."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from dataflows.connectors.postgres.append import Append
from dataflows.connectors.postgres.merge import STAGE
from dataflows.connectors.postgres.tables import TableName
from dataflows.data.tables import Column

COLUMNS = (Column("id", "bigint"), Column("a name", "text"))


@pytest.fixture
def session(database: str) -> Any:
    with psycopg.connect(database) as session:
        session.execute('CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, "a name" text, more text)')
        session.execute("INSERT INTO t (more) VALUES ('older')")
        yield session


def unlike(session: Any, change: str | None = None) -> int:
    """Append two rows and change them; return how many are not as they were sent."""
    append = Append(TableName("public", "t"), COLUMNS)
    session.execute(append.begin)
    session.execute(f"INSERT INTO {STAGE.sql} VALUES (7, 'one'), (8, NULL)")
    session.execute(append.end)
    if change:
        session.execute(change)
    (found,) = session.execute(append.unlike).fetchone()
    return int(found)


@pytest.mark.parametrize(
    ("trigger", "changed"),
    [
        (None, 0),
        ("new.more := 'x'; RETURN new", 0),
        ('new."a name" := upper(new."a name"); RETURN new', 1),
        ("new.id := new.id + 1; RETURN new", 2),
        ("RETURN CASE WHEN new.id = 7 THEN NULL ELSE new END", 1),
    ],
)
def test_a_row_that_is_changed_or_dropped_on_the_way_is_counted(
    session: Any, trigger: str | None, changed: int
) -> None:
    if trigger:
        session.execute(f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {trigger}; END $$")
        session.execute("CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
    assert unlike(session) == changed


@pytest.mark.parametrize(
    ("change", "changed"),
    [("DELETE FROM t WHERE id = 7", 1), ("DELETE FROM t", 2), ("DELETE FROM t WHERE more = 'older'", 0)],
)
def test_a_row_that_is_gone_afterwards_is_counted(session: Any, change: str, changed: int) -> None:
    assert unlike(session, change) == changed


def test_an_equal_row_of_before_does_not_stand_for_one_that_is_dropped(session: Any) -> None:
    session.execute("INSERT INTO t (id, \"a name\") OVERRIDING SYSTEM VALUE VALUES (7, 'one')")
    assert unlike(session, "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE id = 7)") == 1
