"""Sessions that a process keeps between its runs: reset for the next one, and closed soon."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from dataflows.connectors.contract import Method
from dataflows.connectors.idle_sessions import IDLE_SESSIONS, MAX_SESSIONS
from dataflows.connectors.postgres.session import Session, connect, one_row, release
from dataflows.connectors.postgres.swap import drop_leftovers, make_shadow, mark_key, move_in
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.state import RunRow
from dataflows.data.counters import Counters
from tests.dataflows.flows.installation import until

SETTINGS = ("application_name", "search_path", "TimeZone", "lock_timeout", "client_connection_check_interval")


@pytest.fixture(autouse=True)
def keeping() -> Iterator[None]:
    IDLE_SESSIONS.begin()
    yield
    IDLE_SESSIONS.close()
    IDLE_SESSIONS.wanted = False


def opened(dsn: str, name: str = "penstock:a:1", lock: float = 10.0) -> Session:
    return connect(dsn, where="here", name=name, lock=lock)


def pid(session: Session) -> int:
    return session.info.backend_pid


def settings(session: Session) -> list[str]:
    return [str(one_row(session, "SELECT current_setting(%s)", (name,))[0]) for name in SETTINGS]


def test_a_kept_session_is_as_new_for_the_next_run(database: str) -> None:
    first = opened(database)
    wanted = settings(first)
    first.execute("SET search_path = pg_catalog; SET TimeZone = 'Europe/Berlin'; SELECT pg_advisory_lock(7)")
    first.execute("CREATE TEMPORARY TABLE stage (id bigint); BEGIN; CREATE TABLE public.kept (id bigint)")
    release(first)
    second = opened(database, "penstock:b:2")
    assert pid(second) == pid(first)
    assert settings(second) == ["penstock:b:2", *wanted[1:]]
    held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
    assert one_row(second, held) == (0,)
    assert one_row(second, "SELECT to_regclass('stage'), to_regclass('public.kept')") == (None, None)
    release(second)


def test_an_idle_session_carries_the_name_of_no_run(database: str) -> None:
    release(opened(database))
    with psycopg.connect(database) as other:
        names = other.execute("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
        assert "penstock" in {name for (name,) in names}
        assert not any(name.startswith("penstock:") for (name,) in names)


def test_a_session_is_kept_for_what_it_was_opened_with_only(database: str) -> None:
    first = opened(database)
    release(first)
    patient = opened(database, lock=20.0)
    assert pid(patient) != pid(first)
    assert settings(patient)[3] == "20s"
    release(patient)


def test_a_session_that_the_server_has_ended_is_replaced(database: str) -> None:
    first = opened(database)
    release(first)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid(first)])
    second = opened(database)
    assert pid(second) != pid(first)
    assert settings(second)[0] == "penstock:a:1"
    release(second)


def test_a_session_with_a_failed_transaction_is_not_kept(database: str) -> None:
    first = opened(database)
    with pytest.raises(psycopg.errors.UndefinedTable):
        first.execute("BEGIN; SELECT FROM nothing")
    release(first)
    assert first.closed


def test_few_are_kept_and_for_seconds_only(database: str) -> None:
    sessions = [opened(database) for _ in range(MAX_SESSIONS + 1)]
    for session in sessions:
        release(session)
    assert [session.closed for session in sessions] == [True, *[False] * MAX_SESSIONS]
    IDLE_SESSIONS.close_after(0.01)
    until(lambda: all(session.closed for session in sessions), "them to be closed", 5)


def test_a_process_that_serves_no_more_runs_keeps_no_session(database: str) -> None:
    IDLE_SESSIONS.wanted = False
    session = opened(database)
    release(session)
    assert session.closed


def test_a_stream_keeps_no_session(database: str) -> None:
    earlier = opened(database)
    release(earlier)
    IDLE_SESSIONS.begin(keep=False)
    own = opened(database)
    release(own)
    assert (earlier.closed, own.closed) == (True, True)


def test_a_replace_keeps_the_statements_that_its_session_has_planned(database: str) -> None:
    session, run = opened(database), RunRow("r", "replace", None, None, None, Counters())
    table, shadow = TableName("public", "orders"), TableName("public", "_penstock_shadow")
    session.execute("CREATE TABLE orders (id bigint PRIMARY KEY)")
    mark_key(session, table)
    planned = set[str]()
    for _ in range(2):
        make_shadow(session, table, shadow, "here")
        with session.transaction():
            move_in(session, table, shadow, ("id",), Method("rename"), run)
        session.execute("CREATE TABLE _penstock_old (id bigint)")
        drop_leftovers(session, "_penstock_", table, None, "here")
        assert planned <= (planned := {name for (name,) in session.execute("SELECT name FROM pg_prepared_statements")})
    assert planned
    release(session)
