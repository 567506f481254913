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
from penstock.errors import AccessDenied, NotFound, PenstockError, Refused, Unreachable
from penstock.models.connection import parse_connection
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
