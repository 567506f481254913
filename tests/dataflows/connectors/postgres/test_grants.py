"""What `plan` says about rows, statements and privileges of PostgreSQL, against a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import AccessDenied, PenstockError, Refused, SchemaMismatch
from tests.dataflows.conftest import Launchers, task_of

ROLE = "The Loader"
GROWS = {"additive": "apply"}
STRANGE = 'Select "x" Ü'
"""A name with capitals, blanks, quotes and a reserved word."""


@pytest.fixture
def session(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as one:
        one.execute(sql.SQL("DROP ROLE IF EXISTS {0}; CREATE ROLE {0} LOGIN").format(sql.Identifier(ROLE)))
        yield one
        one.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(ROLE)))


@pytest.fixture
def task(database: str, session: psycopg.Connection[Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a task whose two connections are the database's owner, and the role without any privilege."""
    as_role = conninfo.make_conninfo(database, user=ROLE)

    def made(run: str, source: dict[str, Any], sink: dict[str, Any], **spec: Any) -> dict[str, Any]:
        connections = {"owner": {"type": "postgres", "dsn": database}, "role": {"type": "postgres", "dsn": as_role}}
        return task_of(run, "u", connections, {"source": source, "sink": sink, **spec}, tmp_path)

    return made


def planned(task: dict[str, Any]) -> dict[str, Any]:
    job = Job.from_task(task)
    with opened(job) as ends:
        return plan(job, ends)


def of(object_: str, connection: str = "owner", **more: Any) -> dict[str, Any]:
    return {"connection": connection, "object": object_, **more}


def test_rows_are_estimated_without_analyze_for_partitions_and_for_views(
    session: psycopg.Connection[Any], task: Callable[..., dict[str, Any]]
) -> None:
    session.execute(
        "CREATE TABLE plain (id int PRIMARY KEY, b text) WITH (autovacuum_enabled = off);"
        "INSERT INTO plain SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n;"
        "CREATE TABLE parts (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM (0) TO (1000) WITH (autovacuum_enabled = off);"
        "CREATE TABLE p2 PARTITION OF parts FOR VALUES FROM (1000) TO (100000) WITH (autovacuum_enabled = off);"
        "INSERT INTO parts SELECT generate_series(1, 30000); ANALYZE p2;"
        "CREATE VIEW seen AS SELECT * FROM parts; CREATE TABLE none_yet (id int)"
    )
    query = "SELECT relname, reltuples FROM pg_class WHERE relname IN ('plain', 'parts', 'p1') ORDER BY 1"
    assert session.execute(query).fetchall() == [("p1", -1), ("parts", -1), ("plain", -1)]
    for name, rows in (("plain", 20000), ("parts", 30000), ("seen", 30000)):
        found = planned(task("r", of(f"public.{name}"), of(f"public.to_{name}", write="replace")))["estimated_rows"]
        assert 0.4 * rows < found < 2.5 * rows, name
    assert planned(task("r", of("public.none_yet"), of("public.to_it", write="replace")))["estimated_rows"] < 5000


def test_an_append_is_estimated_above_its_position(
    session: psycopg.Connection[Any], task: Callable[..., dict[str, Any]], launchers: Launchers
) -> None:
    session.execute(
        "CREATE TABLE items (id int PRIMARY KEY, b text); INSERT INTO items SELECT n FROM generate_series(1, 5000) n"
    )
    append = task("r1", of("public.items", cursor={"field": "id", "ordered": True}), of("public.copy", write="append"))
    assert (planned(append)["above"], planned(append)["exists"]) == (None, False)
    assert launchers.run(append)["status"] == "completed"
    session.execute("INSERT INTO items SELECT n FROM generate_series(5001, 5700) n; ANALYZE items")
    found = planned(append)
    assert (found["above"], found["exists"]) == ("5000", True)
    assert 500 < found["estimated_rows"] < 900


@pytest.mark.parametrize("write", ["append", "replace", "merge", "scd2"])
def test_the_statements_of_a_plan_are_those_that_the_run_executes(
    session: psycopg.Connection[Any], task: Callable[..., dict[str, Any]], launchers: Launchers, write: str
) -> None:
    name = sql.Identifier(STRANGE)
    session.execute(
        sql.SQL('CREATE TABLE {0} ({0} int PRIMARY KEY, "order" text, "table" numeric(9,2) NOT NULL)').format(name)
    )
    keyed: dict[str, Any] = {"key": [STRANGE], "version": "table"} if write in {"merge", "scd2"} else {}
    cursor: dict[str, Any] = {} if write == "replace" else {"cursor": {"field": STRANGE, "ordered": True}}
    one = task("r1", of(f"public.{STRANGE}", **cursor), of(f"{STRANGE}.{STRANGE}", write=write, **keyed), schema=GROWS)
    shown = planned(one)["statements"]
    schema, table = shown
    assert schema == f'CREATE SCHEMA "{STRANGE.replace(chr(34), chr(34) * 2)}"'
    assert '"order" text' in table
    assert '"table" numeric(9,2) NOT NULL' in table
    for statement in shown:
        session.execute(statement.encode())
    made = _columns(session)
    session.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(name))
    ran = launchers.run(one)
    assert ran["status"] == "completed", ran["error"]
    assert _columns(session) == made
    session.execute(sql.SQL('ALTER TABLE {} ADD "Column" date').format(name))
    more = planned(one)
    assert more["add"] == ["Column date"]
    (added,) = more["statements"]
    assert 'ADD COLUMN IF NOT EXISTS "Column" date' in added
    session.execute(added.encode())
    assert planned(one)["statements"] == []


def _columns(session: psycopg.Connection[Any]) -> list[Any]:
    query = """SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_constraintdef(k.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
        LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
        WHERE n.nspname = %(it)s AND c.relname = %(it)s AND a.attnum > 0 ORDER BY a.attnum"""
    return session.execute(query, {"it": STRANGE}).fetchall()


def granted(session: psycopg.Connection[Any], one: dict[str, Any], limit: int = 12) -> list[str]:
    """Plan until nothing is refused, and execute each time what the hint says; return that."""
    done: list[str] = []
    while (refused := _refusal(one)) is not None:
        assert len(done) < limit, done
        assert "user The Loader may not" in refused, refused
        assert "\n" not in refused
        found = re.findall(r"GRANT [^;]+ TO \"The Loader\"", refused)
        assert found, refused
        for statement in found:
            session.execute(statement.encode())
        done += found
    return done


def _refusal(one: dict[str, Any]) -> str | None:
    try:
        planned(one)
    except (AccessDenied, Refused, SchemaMismatch) as error:
        return str(error)
    return None


@pytest.mark.parametrize("write", ["append", "replace", "merge", "scd2", "delete"])
@pytest.mark.parametrize("there", [False, True])
def test_the_grants_that_a_plan_names_are_enough_for_the_run(
    session: psycopg.Connection[Any],
    task: Callable[..., dict[str, Any]],
    launchers: Launchers,
    write: str,
    there: bool,
) -> None:
    session.execute(
        "REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE SCHEMA shop; CREATE SCHEMA stock;"
        "CREATE TABLE shop.items (id int PRIMARY KEY, b text, v int NOT NULL, gone bool);"
        "INSERT INTO shop.items SELECT n, 'x', n, n % 7 = 0 FROM generate_series(1, 300) n"
    )
    session.execute("REVOKE TEMPORARY ON DATABASE %s FROM PUBLIC" % session.info.dbname)  # noqa: UP031 - a name
    mode = "merge" if write == "delete" else write
    sink: dict[str, Any] = {"write": mode}
    sink |= {"key": ["id"], "version": "v"} if mode in {"merge", "scd2"} else {}
    sink |= {"delete": "gone"} if write == "delete" else {}
    cursor: dict[str, Any] = {} if mode == "replace" else {"cursor": {"field": "id", "ordered": True}}
    one = task("r1", of("shop.items", "role", **cursor), of("stock.items", "role", **sink))
    if there:
        owner = one | {"run": "r0", "result": one["result"] + "0", "uid": "other"}
        owner = task("r0", of("shop.items", **cursor), of("stock.items", **sink)) | {"uid": "other"}
        assert launchers.run(owner)["status"] == "completed"
        if mode == "append":
            session.execute("TRUNCATE stock.items")
    done = granted(session, one)
    assert any(grant.startswith('GRANT USAGE ON SCHEMA "stock"') for grant in done), done
    assert any(grant.startswith('GRANT SELECT ON "shop"."items"') for grant in done), done
    ran = launchers.run(one)
    assert ran["status"] == "completed", ran["error"]
    assert ran["counters"]["rows_in"] == 300


def test_one_column_that_may_not_be_read_is_named_and_may_be_left_out(
    session: psycopg.Connection[Any], task: Callable[..., dict[str, Any]], launchers: Launchers
) -> None:
    session.execute(
        "CREATE TABLE people (id int PRIMARY KEY, name text, salary int);"
        "INSERT INTO people VALUES (1, 'a', 5), (2, 'b', 6);"
        'GRANT USAGE ON SCHEMA public TO "The Loader"; GRANT SELECT (id, name) ON people TO "The Loader"'
    )
    whole = task("r1", of("public.people", "role"), of("public.copy", write="replace"))
    with pytest.raises(PenstockError) as refused:
        planned(whole)
    assert str(refused.value) == (
        "items: connection role: user The Loader may not read column `salary` of public.people; "
        'GRANT SELECT ("salary") ON "public"."people" TO "The Loader", or map the other columns only'
    )
    fields = [{"target": name, "from": name} for name in ("id", "name")]
    part = task("r2", of("public.people", "role"), of("public.copy", write="replace"), mapping={"fields": fields})
    assert planned(part)["exists"] is False
    ran = launchers.run(part)
    assert ran["status"] == "completed", ran["error"]
    assert ran["counters"]["rows_in"] == 2
    by = task("r3", of("public.people", "role", cursor={"field": "salary"}), of("public.c2", write="append"))
    with pytest.raises(PenstockError, match=r"GRANT SELECT \(\"salary\"\)"):
        planned(by)


def test_adding_a_column_to_the_table_of_another_user_is_refused(
    session: psycopg.Connection[Any], task: Callable[..., dict[str, Any]]
) -> None:
    session.execute(
        "CREATE TABLE a (id int PRIMARY KEY, more text); CREATE TABLE b (id int PRIMARY KEY);"
        'GRANT ALL ON SCHEMA public TO "The Loader"; GRANT ALL ON b TO "The Loader"'
    )
    one = task(
        "r1",
        of("public.a", cursor={"field": "id", "ordered": True}),
        of("public.b", "role", write="append"),
        schema=GROWS,
    )
    with pytest.raises(AccessDenied, match=r"may not add columns to public\.b, since .+ owns it; GRANT"):
        planned(one)


def test_the_statements_that_a_refusal_names_run_as_they_are(
    session: psycopg.Connection[Any], task: Callable[..., dict[str, Any]]
) -> None:
    session.execute(
        "CREATE EXTENSION citext;"
        'CREATE TABLE "From" ("Id" text PRIMARY KEY, "group" int); '
        'CREATE TABLE "Into it" ("Id" citext NOT NULL, "group" int)'
    )
    one = task("r1", of("public.From"), of("public.Into it", write="merge", key=["Id"]))
    seen = []
    while (found := re.search(r"ALTER TABLE [^;]+", _refusal(one) or "")) is not None:
        session.execute(found[0].encode())
        seen.append(found[0])
    assert seen == [
        'ALTER TABLE "public"."Into it" ALTER "Id" TYPE text COLLATE "C"',
        'ALTER TABLE "public"."Into it" ADD PRIMARY KEY ("Id")',
    ]
    assert planned(one)["exists"]
