"""Windows over a PostgreSQL server with open transactions, other time zones, and numbers committed late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dataflows.connectors.contract import Place
from dataflows.connectors.postgres.bounds import key_range
from dataflows.connectors.postgres.connector import PostgresConnector
from dataflows.connectors.postgres.cursors import key_sql
from dataflows.connectors.postgres.source import PostgresSource
from dataflows.connectors.windows import ahead_of
from dataflows.data.cursors import CursorRule, Window
from penstock.clock import now
from penstock.errors import BadData, Refused, Unavailable
from penstock.models.connection import parse_connection

ONCE, AGAIN, LAG = CursorRule(), CursorRule(idempotent=True), CursorRule(timedelta(minutes=5))
Session = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def dsn(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def session(dsn: str) -> Iterator[Session]:
    """A session with an empty schema."""
    with psycopg.connect(dsn, autocommit=True) as made:
        made.execute("DROP SCHEMA public CASCADE")
        made.execute("CREATE SCHEMA public")
        yield made


def opened(dsn: str, name: str = "t") -> PostgresSource:
    settings = parse_connection("shop", {"type": "postgres", "dsn": dsn})
    made = PostgresConnector.source(Place("items", "shop", settings, f"public.{name}"))
    assert isinstance(made, PostgresSource)
    return made


def window(dsn: str, cursor: str, rule: CursorRule, last: str | None = None, name: str = "t") -> Window:
    with closing(opened(dsn, name)) as source:
        table = source.describe()
        column = table.column(cursor)
        assert column
        return source.window(table, column, last, rule)


def rows(dsn: str, cursor: str, found: Window, name: str = "t") -> list[int]:
    """Return the ids in a window now."""
    if found.upper is None:
        return []
    with closing(opened(dsn, name)) as source, psycopg.connect(dsn, autocommit=True) as session:
        column = source.describe().column(cursor)
        assert column
        where = key_range(key_sql(column), column.type, found.lower, found.upper)
        return [row[0] for row in session.execute(f"SELECT id FROM {name} WHERE {where} ORDER BY id").fetchall()]


def test_the_window_ends_before_the_start_of_an_open_transaction(dsn: str, session: Session) -> None:
    session.execute("CREATE TABLE t (id serial, at timestamptz NOT NULL DEFAULT now())")
    session.execute("INSERT INTO t DEFAULT VALUES")
    with psycopg.connect(dsn) as late:
        late.execute("SELECT now()")
        session.execute("INSERT INTO t DEFAULT VALUES")
        first = window(dsn, "at", ONCE)
        assert rows(dsn, "at", first) == [1]
        assert rows(dsn, "at", window(dsn, "at", AGAIN)) == [1, 2]

        late.execute("INSERT INTO t DEFAULT VALUES")
        late.commit()
    assert rows(dsn, "at", window(dsn, "at", ONCE, first.position)) == [2, 3]


def test_a_user_who_cannot_see_when_a_transaction_began_waits_for_its_end(
    dsn: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.execute("DROP ROLE IF EXISTS reading")
    session.execute("CREATE ROLE reading LOGIN")
    session.execute("CREATE TABLE t (id serial, at timestamptz NOT NULL DEFAULT now())")
    session.execute("GRANT USAGE ON SCHEMA public TO reading; GRANT SELECT ON t TO reading")
    session.execute("INSERT INTO t DEFAULT VALUES")
    monkeypatch.setattr("dataflows.connectors.postgres.source.LOCK_SECONDS", 0.2)
    reading = psycopg.conninfo.make_conninfo(dsn, user="reading")
    assert rows(dsn, "at", window(reading, "at", ONCE)) == [1]
    with psycopg.connect(dsn) as late:
        late.execute("SELECT now()")
        with pytest.raises(Unavailable, match="this user cannot see when") as found:
            window(reading, "at", ONCE)
        assert "pg_read_all_stats" in str(found.value.hint)
        assert window(reading, "at", CursorRule(timedelta(hours=1))).upper is None
    monkeypatch.setattr("dataflows.connectors.postgres.source.LOCK_SECONDS", 20.0)
    with psycopg.connect(dsn) as late, ThreadPoolExecutor(1) as pool:
        late.execute("SELECT now()")
        found_later = pool.submit(window, reading, "at", ONCE)
        time.sleep(0.5)
        assert not found_later.done()
        late.execute("INSERT INTO t DEFAULT VALUES")
        late.commit()
        assert rows(dsn, "at", found_later.result(20)) == [1, 2]


@pytest.mark.parametrize(("kind", "default"), [("date", "current_date"), ("timestamp(0)", "now()")])
def test_an_unfinished_unit_is_read_later_or_again(dsn: str, session: Session, kind: str, default: str) -> None:
    session.execute(f"CREATE TABLE t (id serial, at {kind} NOT NULL DEFAULT {default})")
    session.execute("INSERT INTO t (at) VALUES (now() - interval '2 days')")
    session.execute("INSERT INTO t (at) VALUES (now() + interval '0.6 s')")
    with pytest.raises(Refused, match="has a resolution of"):
        window(dsn, "at", ONCE)
    lagging = window(dsn, "at", LAG)
    assert rows(dsn, "at", lagging) == [1]
    first = window(dsn, "at", AGAIN)
    session.execute("INSERT INTO t (at) SELECT max(at) FROM t")
    second = window(dsn, "at", AGAIN, first.position)
    if kind == "date":
        assert rows(dsn, "at", second) == [2, 3]


def test_times_without_a_zone_are_compared_by_the_databases_zone(dsn: str, session: Session) -> None:
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    session.execute("CREATE TABLE t (id serial, at timestamp NOT NULL DEFAULT now())")
    for zone in ("America/New_York", "Asia/Kolkata"):
        session.execute(f"ALTER DATABASE {name} SET timezone = '{zone}'")
        with psycopg.connect(dsn, autocommit=True) as writer:
            writer.execute("TRUNCATE t")
            writer.execute("INSERT INTO t (at) VALUES (now() - interval '10 min'), (now())")
            first = writer.execute("SELECT min(id) FROM t").fetchone()
        assert first
        assert rows(dsn, "at", window(dsn, "at", LAG)) == [first[0]], zone
        with closing(opened(dsn)) as source:
            table = source.describe()
            assert any(zone in one for one in source.risks(table, table.columns[1], LAG))
            ahead = source.min_ahead(table, table.columns[1], LAG)
        assert abs(ahead - ahead_of(zone, now())) <= timedelta(hours=1), zone
    session.execute(f"ALTER DATABASE {name} RESET timezone")
    assert window(dsn, "at", CursorRule(timedelta(minutes=5), "America/New_York")).upper is None


def test_a_role_with_another_zone_shortens_the_window(dsn: str, session: Session) -> None:
    session.execute("DROP ROLE IF EXISTS western")
    session.execute("CREATE ROLE western")
    session.execute("ALTER ROLE western SET timezone = 'America/New_York'")
    session.execute("CREATE TABLE t (id serial, at timestamp NOT NULL)")
    session.execute("INSERT INTO t (at) VALUES (now() - interval '10 min'), (now() - interval '10 h')")
    assert rows(dsn, "at", window(dsn, "at", LAG)) == [2]
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    session.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'")
    for hours, notes in ((5, 0), (6, 1)):  # Kolkata is five and a half hours ahead of UTC
        session.execute("INSERT INTO t (at) VALUES (now() AT TIME ZONE 'UTC' + make_interval(hours => %s))", (hours,))
        assert len(window(dsn, "at", LAG).notes) == notes
    session.execute(f"ALTER DATABASE {name} RESET timezone")
    session.execute("DROP ROLE western")


def test_numbers_that_begin_again_are_refused_once_they_are_below_the_position(dsn: str, session: Session) -> None:
    session.execute("CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int)")
    session.execute("CREATE TABLE u (id bigserial PRIMARY KEY, v int); CREATE VIEW w AS SELECT * FROM u")
    for table, name in (("t", "t"), ("u", "u"), ("u", "w")):
        session.execute(f"TRUNCATE {table} RESTART IDENTITY; INSERT INTO {table} (v) SELECT generate_series(1, 5)")
        assert window(dsn, "id", ONCE, name=name).upper == "5"
        session.execute(f"DELETE FROM {table} WHERE id > 2")
        assert window(dsn, "id", ONCE, "5", name) == Window("5", None), "rows that are gone begin no number again"
        session.execute(f"TRUNCATE {table} RESTART IDENTITY")
        with pytest.raises(Refused, match="numbers of `id` begin again: the next is 1, and rows were read up to 5"):
            window(dsn, "id", ONCE, "5", name)
        session.execute(f"INSERT INTO {table} (v) VALUES (6), (7)")
        with pytest.raises(Refused, match="the next is 3"):
            window(dsn, "id", ONCE, "5", name)
    session.execute("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (9, 9)")
    assert window(dsn, "id", ONCE, "9") == Window("9", None), "numbers that others have made say nothing"
    session.execute("CREATE SEQUENCE round MAXVALUE 9 CYCLE; CREATE TABLE c (id int DEFAULT nextval('round'))")
    with pytest.raises(Refused, match="begins again after its last number"):
        window(dsn, "id", ONCE, name="c")


def test_numbers_that_a_sequence_does_not_make_do_not_begin_again(dsn: str, session: Session) -> None:
    """A copy with the numbers of its origin, an expression of a sequence, and a CYCLE whose end is out of reach."""
    session.execute("CREATE TABLE u (id bigserial PRIMARY KEY); INSERT INTO u VALUES (100), (101)")
    assert window(dsn, "id", ONCE, name="u").upper == "101"
    session.execute("DELETE FROM u WHERE id = 101")
    assert window(dsn, "id", ONCE, "101", "u") == Window("101", None)
    session.execute("CREATE SEQUENCE s CYCLE; CREATE TABLE many (id bigint DEFAULT nextval('s') * 1000 + 7, v int)")
    session.execute("INSERT INTO many (v) VALUES (1), (2)")
    assert window(dsn, "id", ONCE, name="many").upper == "2007"
    session.execute("DELETE FROM many")
    assert window(dsn, "id", ONCE, "2007", "many") == Window("2007", None)


def test_numbers_that_do_not_arrive_in_order_are_refused(dsn: str, session: Session) -> None:
    session.execute("CREATE SEQUENCE s CACHE 50")
    session.execute(
        "CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('s'), u uuid NOT NULL DEFAULT gen_random_uuid())"
    )
    session.execute("CREATE TABLE i (id bigint GENERATED ALWAYS AS IDENTITY (CACHE 20), v uuid NOT NULL)")
    session.execute("CREATE VIEW v AS SELECT * FROM t")
    session.execute("INSERT INTO i (v) SELECT gen_random_uuid() FROM generate_series(1, 9)")
    for cursor, name, said in (
        ("id", "t", "CACHE 50"),
        ("id", "v", "CACHE 50"),
        ("id", "i", "CACHE 20"),
        ("u", "t", "random UUIDs"),
        ("v", "i", "random UUIDs"),
    ):
        with pytest.raises(Refused, match=said):
            window(dsn, cursor, ONCE, name=name)


def test_values_that_programs_make_are_appended_only_where_the_pipeline_vouches_for_them(
    dsn: str, session: Session
) -> None:
    session.execute("CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL)")
    session.execute("CREATE TABLE i (id int PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, code text)")
    session.execute("INSERT INTO t VALUES (5, 'e'); INSERT INTO i (code) VALUES ('a')")
    session.execute("ALTER TABLE t ADD zero int NOT NULL DEFAULT 0, ADD text text NOT NULL DEFAULT 'now()'")
    for cursor in ("zero", "text"):
        with pytest.raises(Refused, match=r"has DEFAULT .*: programs make its values"):
            window(dsn, cursor, ONCE)
    for cursor in ("id", "code"):
        with pytest.raises(Refused, match="programs make its values") as found:
            window(dsn, cursor, ONCE)
        assert "ordered: true" in str(found.value.hint)
        with closing(opened(dsn)) as source:
            column = source.describe().column(cursor)
            assert column
            with pytest.raises(Refused, match="programs make its values"):
                source.risks(source.describe(), column, ONCE)
        for rule in (AGAIN, CursorRule(ordered=True)):
            assert rows(dsn, cursor, window(dsn, cursor, rule)) == [5]
    assert rows(dsn, "id", window(dsn, "id", ONCE, name="i"), "i") == [1]


def test_values_above_all_others_never_become_the_position(dsn: str, session: Session) -> None:
    session.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric NOT NULL, at timestamptz NOT NULL, d date NOT NULL)")
    session.execute(
        "INSERT INTO t VALUES (1, 1, '2024-01-01', '2024-01-01'), (2147483647, 'NaN', 'infinity', '9999-12-31')"
    )
    session.execute(
        "INSERT INTO t VALUES (2, 2, '9999-12-31', 'infinity'), (3, 'infinity', '2024-01-02', '2024-01-02')"
    )
    for cursor, upper, beyond in (("id", "3", "1 row has"), ("n", "2", "2 rows have"), ("d", "2024-01-02", "2 rows")):
        found = window(dsn, cursor, AGAIN)
        assert (found.upper, found.notes[0].startswith(beyond)) == (upper, True)
    found = window(dsn, "at", ONCE)
    assert found.upper == "2024-01-02 00:00:00+00"
    assert found.notes == ("2 rows have a cursor in the future (`at`), to be read when that time has come",)


def test_tables_that_inherit_may_repeat_a_key(dsn: str, session: Session) -> None:
    session.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE child () INHERITS (t)")
    session.execute("INSERT INTO t VALUES (1, 'a'); INSERT INTO child VALUES (1, 'b')")
    with closing(opened(dsn)) as source:
        table = source.describe()
        assert table.keys == ()
        key = source.split_key(table)
        assert key
        assert key.name == "id"
    settings = parse_connection("shop", {"type": "postgres", "dsn": dsn})
    keys = {
        one.name: one.key
        for one in PostgresConnector.objects_of(Place("items", "shop", settings, ""), (), lambda: None)
    }
    assert keys["public.t"] == ()


def test_rows_without_a_cursor_are_refused(dsn: str, session: Session) -> None:
    session.execute("CREATE TABLE t (id int, at timestamptz)")
    session.execute("INSERT INTO t VALUES (1, now()), (NULL, NULL)")
    for cursor in ("id", "at"):
        with pytest.raises(BadData, match="IS NULL"):
            window(dsn, cursor, CursorRule(ordered=True))


def test_by_xmin_a_table_without_a_good_column_is_read_up_to_the_oldest_transaction(dsn: str, session: Session) -> None:
    session.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    session.execute("INSERT INTO t SELECT g FROM generate_series(1, 3) g")
    first = window(dsn, "xmin", AGAIN)
    assert rows(dsn, "xmin", first) == [1, 2, 3]
    with psycopg.connect(dsn) as late:
        late.execute("INSERT INTO t VALUES (4)")
        session.execute("UPDATE t SET v = 'new' WHERE id = 2")
        second = window(dsn, "xmin", AGAIN, first.position)
        assert rows(dsn, "xmin", second) == []
        late.commit()
    assert rows(dsn, "xmin", window(dsn, "xmin", AGAIN, second.position or first.position)) == [2, 4]
    with pytest.raises(Refused, match="merge"):
        window(dsn, "xmin", ONCE)
    with pytest.raises(Refused, match="has assigned fewer transactions than before"):
        window(dsn, "xmin", AGAIN, str(1 << 60))


STEPS = st.lists(
    st.sampled_from(["begin0", "begin1", "insert0", "insert1", "commit0", "commit1", "alone", "run"]), max_size=14
)


@settings(
    max_examples=25, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(steps=STEPS, cursor=st.sampled_from(["at", "local", "coarse", "xmin"]), again=st.booleans())
def test_property_what_runs_read_is_what_was_committed(
    dsn: str, session: Session, steps: list[str], cursor: str, *, again: bool
) -> None:
    """For any interleaving of sessions: once all have ended, every row is read; by an append exactly once."""
    rule = CursorRule(idempotent=again or cursor in {"coarse", "xmin"})
    session.execute("DROP TABLE IF EXISTS t")
    session.execute(
        "CREATE TABLE t (id serial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), "
        "local timestamp NOT NULL DEFAULT now(), coarse date NOT NULL DEFAULT current_date)"
    )
    read: list[int] = []
    last: str | None = None
    with psycopg.connect(dsn, autocommit=True) as first, psycopg.connect(dsn, autocommit=True) as second:
        writers, begun = (first, second), {0: False, 1: False}
        for step in [*steps, "commit0", "commit1", "run"]:
            who = int(step[-1]) if step[-1] in "01" else 0
            if step.startswith("begin") and not begun[who]:
                writers[who].execute("BEGIN")
                begun[who] = True
            elif step.startswith("insert"):
                writers[who].execute("INSERT INTO t DEFAULT VALUES")
            elif step.startswith("commit") and begun[who]:
                writers[who].execute("COMMIT")
                begun[who] = False
            elif step == "alone":
                session.execute("INSERT INTO t DEFAULT VALUES")
            elif step == "run":
                found = window(dsn, cursor, rule, last)
                read += rows(dsn, cursor, found)
                last = found.position if found.upper is not None else last
        there = [row[0] for row in session.execute("SELECT id FROM t ORDER BY id").fetchall()]
    assert sorted(set(read)) == there
    if not rule.idempotent:
        assert sorted(read) == there
