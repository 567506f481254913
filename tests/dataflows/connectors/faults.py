"""Faults of PostgreSQL: what each is, how it is made, and words that its diagnosis has to contain."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from dataflows.connectors.postgres.errors import translate
from dataflows.process.reports import error_of
from tests.dataflows.connectors.bench import CURSOR, NOWHERE, Bench, Outcome, fault, pg, role

# --- servers and logins


@fault("DNS wrong", "config", "no-such-host.invalid", "cannot be resolved", slow=True)
def _(bench: Bench) -> Outcome:
    return bench.fails(source=pg(dsn="postgresql://me@no-such-host.invalid/shop"))


@fault("no server listens", "transient", "127.0.0.1:1", "no server listens")
def _(bench: Bench) -> Outcome:
    return bench.fails(source=pg(dsn=NOWHERE))


@fault("unknown role", "permission", "nobody-here", slow=True)
def _(bench: Bench) -> Outcome:
    return bench.fails(source=pg(dsn=bench.as_user("nobody-here")))


@fault("unknown database", "config", "no such database")
def _(bench: Bench) -> Outcome:
    return bench.fails(source=pg(dsn=conninfo.make_conninfo(bench.dsn, dbname="nowhere")))


@fault("privilege revoked", "permission", "items", "login to source shop")
def _(bench: Bench) -> Outcome:
    with role(bench, "guest_r"):
        bench.session.execute("REVOKE SELECT ON items FROM guest_r")
        error, task = bench.fails(source=pg(dsn=bench.as_user("guest_r")))
        seen = bench.diagnosis(task, error)
    return error, task | {"seen": seen}


@fault("login forbidden", "permission", "not permitted to log in", slow=True)
def _(bench: Bench) -> Outcome:
    with role(bench, "guest_l", "NOLOGIN"):
        error, task = bench.fails(source=pg(dsn=bench.as_user("guest_l")))
        seen = bench.diagnosis(task, error)
    return error, task | {"seen": seen}


@fault("too many connections", "resource", "too many connections", slow=True)
def _(bench: Bench) -> Outcome:
    with role(bench, "guest_c", "LOGIN CONNECTION LIMIT 0"):
        error, task = bench.fails(source=pg(dsn=bench.as_user("guest_c")))
        seen = bench.diagnosis(task, error)
    return error, task | {"seen": seen}


@fault("secret missing", "config", "PENSTOCK_SECRET_NOT_THERE")
def _(bench: Bench) -> Outcome:
    return bench.fails(source=pg(dsn=bench.dsn, password="${env:PENSTOCK_SECRET_NOT_THERE}"))


@fault("password changed", "permission", "login to source shop", "password")
def _(bench: Bench) -> Outcome:
    with role(bench, "guest_p", "LOGIN PASSWORD 'right'"):
        row = bench.session.execute("SHOW hba_file").fetchone()
        assert row
        hba = Path(row[0])
        before = hba.read_text()
        try:
            hba.write_text("local all guest_p scram-sha-256\n" + before)
            bench.session.execute("SELECT pg_reload_conf()")
            bench.session.execute("ALTER ROLE guest_p PASSWORD 'new'")
            (bench.folder / "secret").write_text("right")
            secret = f"${{file:{bench.folder}/secret}}"
            task = bench.task(source=pg(dsn=bench.as_user("guest_p"), password=secret)) | {"secrets": str(bench.folder)}
            error, task = bench.failed(task)
            seen = bench.diagnosis(task, error)
        finally:
            hba.write_text(before)
            bench.session.execute("SELECT pg_reload_conf()")
    return error, task | {"seen": seen}


# --- tables and columns


@fault("table dropped", "schema", "public.items", "object")
def _(bench: Bench) -> Outcome:
    return bench.fails("DROP TABLE items")


@fault("column dropped", "schema", "price")
def _(bench: Bench) -> Outcome:
    fields = [{"target": "id", "from": "id"}, {"target": "price", "from": "price"}]
    return bench.fails("ALTER TABLE items DROP COLUMN price", mapping={"fields": fields})


@fault("type changed", "schema", "name", "does not fit", slow=True)
def _(bench: Bench) -> Outcome:
    return bench.fails("CREATE TABLE w.items (id int, name int, price numeric, born text)")


@fault("unknown function", "schema", "frobnicate", slow=True)
def _(bench: Bench) -> Outcome:
    return bench.fails(mapping={"fields": [{"target": "id", "sql": "frobnicate(id)"}]})


# --- rows


@fault("row too long", "data", "name", "longer than 5")
def _(bench: Bench) -> Outcome:
    return bench.target("id int, name varchar(5), price numeric, born text")


@fault("bad date", "data", "born")
def _(bench: Bench) -> Outcome:
    return bench.fails(transforms=[{"name": "dates", "cast": {"born": "date"}}])


@fault("number too large", "data", "price", slow=True)
def _(bench: Bench) -> Outcome:
    return bench.fails(transforms=[{"name": "prices", "cast": {"price": "numeric(4,1)"}}])


@fault("NULL where a value is needed", "data", "name", "23502", slow=True)
def _(bench: Bench) -> Outcome:
    bench.session.execute("INSERT INTO items (id) VALUES (3)")
    return bench.target("id int, name text NOT NULL, price numeric, born text")


@fault("duplicate key", "data", "23505")
def _(bench: Bench) -> Outcome:
    bench.session.execute("CREATE TABLE w.items (id int PRIMARY KEY, name text, price numeric, born text)")
    bench.session.execute("INSERT INTO w.items (id) VALUES (2)")
    return bench.fails(source=CURSOR, sink={"write": "append"})


@fault("check constraint", "data", "cheap", "23514", slow=True)
def _(bench: Bench) -> Outcome:
    return bench.target("id int, name text, price numeric CONSTRAINT cheap CHECK (price < 100), born text")


@fault("foreign key", "data", "23503", slow=True)
def _(bench: Bench) -> Outcome:
    bench.session.execute("CREATE TABLE w.names (name text PRIMARY KEY)")
    return bench.target("id int, name text REFERENCES w.names, price numeric, born text")


@fault("a trigger refuses", "data", "P0001", slow=True)
def _(bench: Bench) -> Outcome:
    bench.session.execute(
        "CREATE FUNCTION w.no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$;"
        "CREATE TABLE w.items (id int, name text, price numeric, born text);"
        "CREATE TRIGGER no BEFORE INSERT ON w.items FOR EACH ROW EXECUTE FUNCTION w.no()"
    )
    return bench.fails(source=CURSOR, sink={"write": "append"})


# --- what passes


@fault("deadlock", "transient", "deadlock")
def _(bench: Bench) -> Outcome:
    errors: list[psycopg.Error] = []
    with psycopg.connect(bench.dsn) as one, psycopg.connect(bench.dsn) as other:
        one.execute("SET deadlock_timeout = '20ms'; UPDATE items SET name = 'x' WHERE id = 1")
        other.execute("SET deadlock_timeout = '20ms'; UPDATE items SET name = 'y' WHERE id = 2")

        def update(session: psycopg.Connection[Any], id_: int) -> None:
            try:
                session.execute("UPDATE items SET name = 'z' WHERE id = %s", (id_,))
            except psycopg.Error as error:
                errors.append(error)
            session.rollback()

        threads = [threading.Thread(target=update, args=one_) for one_ in ((one, 2), (other, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return error_of(translate(errors[0], "items: connection lake")), bench.task()


@fault("statement time-out", "transient", "took too long")
def _(bench: Bench) -> Outcome:
    with psycopg.connect(bench.dsn) as session, pytest.raises(psycopg.Error) as caught:
        session.execute("SET statement_timeout = '10ms'; SELECT pg_sleep(1)")
    assert isinstance(caught.value, psycopg.Error)
    return error_of(translate(caught.value, "items: connection lake")), bench.task()


@fault("session ended", "transient", "connection lake", "57P01", slow=True)
def _(bench: Bench) -> Outcome:
    with psycopg.connect(bench.dsn) as session:
        bench.session.execute("SELECT pg_terminate_backend(%s, 5000)", (session.info.backend_pid,))
        with pytest.raises(psycopg.Error) as caught:
            session.execute("SELECT 1")
    assert isinstance(caught.value, psycopg.Error)
    return error_of(translate(caught.value, "items: connection lake")), bench.task()


@fault("table locked", "transient", "locks on w.items", "AccessExclusiveLock", slow=True)
def _(bench: Bench) -> Outcome:
    bench.session.execute("CREATE TABLE w.items (id int, name text, price numeric, born text)")
    with psycopg.connect(bench.dsn, application_name="clumsy") as session:
        session.execute("LOCK TABLE w.items")
        error, task = bench.fails(source=CURSOR, sink={"write": "append"}, limits={"stalled": "1s"})
        seen = bench.diagnosis(task, error)
    return error, task | {"seen": seen}
