"""Sessions through PgBouncer, failed connections, and rows hidden by a policy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo

from dataflows.connectors.contract import Place
from dataflows.connectors.postgres.connector import PostgresConnector
from dataflows.connectors.postgres.errors import translate
from dataflows.connectors.postgres.session import connect, one_row, release
from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import AccessDenied, NotFound, PenstockError, Refused, Unreachable
from penstock.models.connection import parse_connection
from tests.dataflows.conftest import Launchers, task_of
from tests.dataflows.connectors.postgres.conftest import PORT


@pytest.fixture
def pooled(database: str, pooler: Callable[..., Path]) -> Callable[..., str]:
    """Start a pooler in front of the test's database; return its DSN."""
    parts = conninfo.conninfo_to_dict(database)

    def start(*settings: str) -> str:
        folder = pooler(database, *settings)
        return conninfo.make_conninfo(host=str(folder), port=PORT, user=parts["user"], dbname=parts["dbname"])

    return start


@pytest.mark.parametrize("more", [(), ("ignore_startup_parameters = options",)])
def test_a_pooler_in_transaction_mode_is_refused_by_name(pooled: Callable[..., str], more: tuple[str, ...]) -> None:
    dsn = pooled("pool_mode = transaction", *more)
    with pytest.raises(Refused, match="a pooler in transaction mode keeps neither settings nor locks"):
        connect(dsn, where="here", name="penstock:test")


@pytest.mark.parametrize("more", [(), ("ignore_startup_parameters = options",)])
def test_a_pooler_in_session_mode_works_with_all_pinned_settings(
    pooled: Callable[..., str], database: str, more: tuple[str, ...]
) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(f"ALTER DATABASE {session.info.dbname} SET TimeZone = 'Asia/Tokyo'")
        session.execute(f"ALTER DATABASE {session.info.dbname} SET DateStyle = 'SQL, DMY'")
    dsn = pooled("pool_mode = session", *more)
    for _ in range(2):
        session = connect(dsn, where="here", name="penstock:test", lock=7)
        assert one_row(session, "SELECT current_setting('TimeZone'), current_setting('DateStyle')") == (
            "UTC",
            "ISO, YMD",
        )
        assert one_row(session, "SELECT current_setting('lock_timeout')") == ("7s",)
        release(session)


def test_settings_of_the_database_change_no_values_and_leave_out_no_rows(
    database: str, tmp_path: Path, launchers: Launchers
) -> None:
    harmful = {
        "array_nulls": "off", "quote_all_identifiers": "on", "gin_fuzzy_search_limit": "1", "enable_seqscan": "off",
    }  # fmt: skip
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("CREATE TABLE words (id int PRIMARY KEY, all_of text[], kind regclass, at timestamptz)")
        session.execute(
            "INSERT INTO words SELECT n, ARRAY['a', NULL, n::text], 'words', to_timestamp(n) "
            "FROM generate_series(1, 5000) n"
        )
        session.execute("CREATE INDEX ON words USING gin (all_of)")
        session.execute("CREATE VIEW some_words AS SELECT * FROM words WHERE all_of @> ARRAY['a']")
        session.execute("CREATE TABLE copied (id int PRIMARY KEY, all_of text[], kind text, at timestamptz)")
        session.execute("VACUUM ANALYZE words")
        for name, value in harmful.items():
            session.execute(f"ALTER DATABASE {session.info.dbname} SET {name} = '{value}'")
    spec = {
        "source": {"connection": "shop", "object": "public.some_words"},
        "sink": {"connection": "shop", "object": "public.copied", "write": "replace"},
        "mapping": {"fields": [{"target": n, "from": n} for n in ("all_of", "kind", "at")]
                    + [{"target": "id", "sql": "id + 0"}]},
    }  # fmt: skip
    connections = {"shop": {"type": "postgres", "dsn": database}}
    task = task_of("r1", "00000000-0000-4000-8000-00000000a11e", connections, spec, tmp_path)
    found = launchers.run(task)
    assert found["status"] == "completed", found["error"]
    with psycopg.connect(database) as session:
        query = "SELECT count(*), count(*) FILTER (WHERE c.all_of[2] IS NULL AND c.at = w.at), min(c.kind) "
        rows = session.execute(f"{query} FROM copied c JOIN words w USING (id)").fetchone()
    assert rows == (5000, 5000, "words")


def test_settings_of_the_database_neither_end_nor_change_a_transaction(database: str) -> None:
    harmful = {
        "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
        "idle_in_transaction_session_timeout": "1s", "idle_session_timeout": "1s", "xmloption": "document",
    }  # fmt: skip
    with psycopg.connect(database, autocommit=True) as session:
        for name, value in harmful.items():
            session.execute(f"ALTER DATABASE {session.info.dbname} SET {name} = '{value}'")
    with closing(connect(database, where="here", name="penstock:test")) as ours:
        found = [one_row(ours, "SELECT current_setting(%s)", (name,))[0] for name in harmful]
    assert found == ["read committed", "off", "0", "0", "content"]


def test_a_database_that_only_allows_reads_is_named_as_a_sink(
    database: str, tmp_path: Path, launchers: Launchers
) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("CREATE TABLE here (id int PRIMARY KEY)")
        session.execute(f"ALTER DATABASE {session.info.dbname} SET default_transaction_read_only = on")
    spec = {
        "source": {"connection": "shop", "object": "public.here"},
        "sink": {"connection": "shop", "object": "public.there", "write": "replace"},
    }
    task = task_of("r1", "u", {"shop": {"type": "postgres", "dsn": database}}, spec, tmp_path)
    error = launchers.run(task)["error"]
    assert "takes no writes from this user" in error["what"]
    assert "default_transaction_read_only" in error["hint"]
    with opened(job := Job.from_task(task)) as ends, pytest.raises(PenstockError, match="takes no writes"):
        plan(job, ends)


def test_an_error_of_the_server_without_values_is_quoted_with_its_column(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("CREATE TABLE searches (id int, words tsquery)")
        with (
            pytest.raises(psycopg.Error) as caught,
            session.cursor().copy("COPY searches FROM STDIN (FORMAT binary)") as copy,
        ):
            copy.write(
                b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\2" + b"\0\0\0\4" * 2 + b"\0\0\0\4" + bytes(4) + b"\xff\xff"
            )
    assert (
        "malformed tsquery: operand not found) (column `words`) [SQLSTATE XX000]"
        in translate(caught.value, "here").what
    )


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"dbname": "nowhere"}, NotFound, 'database "nowhere" does not exist'),
        ({"user": "nobody_here"}, AccessDenied, 'role "nobody_here" does not exist'),
        ({"host": "no-such-host.invalid"}, PenstockError, "no-such-host.invalid"),
        ({"host": "127.0.0.1", "port": "1", "password": "s3cret"}, Unreachable, "Connection refused"),
    ],
)
def test_a_failed_connection_is_explained_and_retried_only_if_that_helps(
    database: str, change: dict[str, str], kind: type[PenstockError], reason: str
) -> None:
    dsn = conninfo.make_conninfo(database, **change)
    with pytest.raises(kind) as caught:
        connect(dsn, where="here", name="penstock:test")
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.transient == (kind is Unreachable or caught.type is Unreachable)


@pytest.mark.parametrize("object_", ["public.acct", "public.seen"])
def test_a_source_whose_rows_a_policy_hides_is_refused(database: str, object_: str) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("DROP ROLE IF EXISTS reader_of_some")
        session.execute("CREATE ROLE reader_of_some LOGIN")
        session.execute("CREATE TABLE acct (id int PRIMARY KEY, tenant text)")
        session.execute("ALTER TABLE acct ENABLE ROW LEVEL SECURITY")
        session.execute("CREATE POLICY p ON acct FOR SELECT TO reader_of_some USING (tenant = 'a')")
        session.execute("CREATE VIEW seen WITH (security_invoker) AS SELECT * FROM acct")
        session.execute("GRANT SELECT ON acct, seen TO reader_of_some")
    try:
        settings = parse_connection(
            "shop", {"type": "postgres", "dsn": conninfo.make_conninfo(database, user="reader_of_some")}
        )
        with (
            closing(PostgresConnector.source(Place("p", "shop", settings, object_))) as source,
            pytest.raises(AccessDenied, match="row-level security would hide rows"),
        ):
            source.describe()
    finally:
        with psycopg.connect(database, autocommit=True) as session:
            session.execute("DROP OWNED BY reader_of_some")
            session.execute("DROP ROLE reader_of_some")


@pytest.mark.parametrize(
    ("said", "transient"),
    [
        ('FATAL:  database "x" is not currently accepting connections', True),
        ('FATAL:  too many connections for role "x"', True),
        ('FATAL:  database "x" does not exist', False),
        ('FATAL:  role "x" does not exist', False),
        ('FATAL:  role "x" is not permitted to log in', False),
    ],
)
def test_temporary_errors_are_retried(said: str, *, transient: bool) -> None:
    text = f'connection to server at "127.0.0.1", port 5432 failed: {said}\n'
    assert translate(psycopg.OperationalError(text), "orders").transient is transient
