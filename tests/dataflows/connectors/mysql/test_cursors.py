"""Windows over a MariaDB server with open transactions, and in another time zone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dataflows.connectors.contract import Place
from dataflows.connectors.mysql.connector import MysqlConnector
from dataflows.data.cursors import CursorRule, Window
from penstock.errors import BadData, Refused, SchemaMismatch
from penstock.models.connection import parse_connection
from tests.mariadb import SECRET

if TYPE_CHECKING:
    from tests.mariadb import MysqlServer

ONCE, AGAIN, LAG = CursorRule(), CursorRule(idempotent=True), CursorRule(timedelta(minutes=5))


class Shop:
    """A database with a table `t`, and windows over it."""

    def __init__(self, server: MysqlServer, database: str) -> None:
        self.server, self.database, self.user = server, database, "penstock"

    def make(self, columns: str) -> None:
        self.query(f"CREATE OR REPLACE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, {columns})")

    def query(self, text: str) -> list[tuple[Any, ...]]:
        return self.server.query(text, self.database)

    @contextmanager
    def writer(self) -> Iterator[Any]:
        """Open a session of another client, in the server's time zone."""
        with closing(self.server.session(self.database)) as session, session.cursor() as cursor:
            yield cursor

    def window(self, cursor: str, rule: CursorRule, last: str | None = None) -> Window:
        settings = parse_connection("shop", self.server.connection(self.database, user=self.user))
        place = Place("items", "shop", settings, "t", self.server.home)
        with closing(MysqlConnector.source(place)) as source:
            table = source.describe()
            column = table.column(cursor)
            assert column
            return source.window(table, column, last, rule)

    def risks(self, cursor: str, rule: CursorRule) -> str:
        settings = parse_connection("shop", self.server.connection(self.database, user=self.user))
        with closing(MysqlConnector.source(Place("items", "shop", settings, "t", self.server.home))) as source:
            table = source.describe()
            column = table.column(cursor)
            assert column
            return "; ".join(source.risks(table, column, rule)) + ";"

    def min_ahead(self, cursor: str, rule: CursorRule) -> timedelta:
        settings = parse_connection("shop", self.server.connection(self.database, user=self.user))
        with closing(MysqlConnector.source(Place("items", "shop", settings, "t", self.server.home))) as source:
            table = source.describe()
            column = table.column(cursor)
            assert column
            return source.min_ahead(table, column, rule)

    def rows(self, cursor: str, found: Window) -> list[int]:
        """Return the ids in a window now."""
        if found.upper is None:
            return []
        low = f"{cursor} > '{found.lower}' AND " if found.lower else ""
        return [row[0] for row in self.query(f"SELECT id FROM t WHERE {low}{cursor} <= '{found.upper}' ORDER BY id")]


@pytest.fixture
def shop(mariadb: MysqlServer, new_schema: Callable[[], str]) -> Shop:
    return Shop(mariadb, new_schema())


def test_an_unfinished_second_is_read_later_or_again(shop: Shop) -> None:
    shop.make("at datetime NOT NULL DEFAULT current_timestamp, day date NOT NULL DEFAULT current_date")
    shop.query("INSERT INTO t (at, day) VALUES (now() - INTERVAL 2 DAY, now() - INTERVAL 2 DAY), (now(), now())")
    for cursor, unit in (("at", "second"), ("day", "day")):
        with pytest.raises(Refused, match=unit):
            shop.window(cursor, ONCE)
        assert shop.rows(cursor, shop.window(cursor, LAG)) == [1]
    first = shop.window("day", AGAIN)
    shop.query("INSERT INTO t VALUES ()")
    assert shop.rows("day", shop.window("day", AGAIN, first.position)) == [2, 3]


@pytest.mark.parametrize("kind", ["enum('z', 'a')", "set('z', 'a')"])
def test_labels_are_no_cursor_since_they_have_two_orders(shop: Shop, kind: str) -> None:
    shop.make(f"v {kind} NOT NULL")
    for ask in (shop.window, shop.risks):
        with pytest.raises(SchemaMismatch, match="cannot be a cursor"):
            ask("v", CursorRule(ordered=True))


def test_a_window_ends_before_the_start_of_an_open_transaction(shop: Shop) -> None:
    shop.make("at datetime(6) NOT NULL DEFAULT current_timestamp(6)")
    shop.query("INSERT INTO t (at) VALUES (now(6) - INTERVAL 1 HOUR)")
    with shop.writer() as late:
        late.execute("BEGIN")
        late.execute("SELECT * FROM t")
        late.execute("INSERT INTO t VALUES ()")
        shop.query("INSERT INTO t VALUES ()")
        first = shop.window("at", ONCE)
        assert shop.rows("at", first) == [1]
        late.execute("COMMIT")
    assert shop.rows("at", shop.window("at", ONCE, first.position)) == [2, 3]


def test_a_list_of_transactions_that_was_read_before_is_not_trusted(shop: Shop) -> None:
    """The server shows the same list to all who read it within 0.1 s of each other."""
    shop.make("at datetime(6) NOT NULL DEFAULT current_timestamp(6)")
    shop.query("INSERT INTO t (at) VALUES (now(6) - INTERVAL 1 HOUR)")
    with shop.writer() as late, shop.writer() as monitor:
        for _ in range(5):
            monitor.execute("SELECT count(*) FROM information_schema.innodb_trx")
            late.execute("BEGIN")
            late.execute("INSERT INTO t VALUES ()")
            shop.query("INSERT INTO t (at) VALUES (now(6))")
            monitor.execute("SELECT count(*) FROM information_schema.innodb_trx")
            assert shop.rows("at", shop.window("at", ONCE)) == [1]
            late.execute("ROLLBACK")
            shop.query("DELETE FROM t WHERE id > 1")


def test_a_user_who_may_not_see_transactions_waits_for_their_end(shop: Shop) -> None:
    shop.make("at datetime(6) NOT NULL DEFAULT current_timestamp(6)")
    shop.query(f"CREATE OR REPLACE USER plain@'%' IDENTIFIED BY '{SECRET}'")
    shop.query(f"GRANT SELECT, LOCK TABLES ON {shop.database}.* TO plain@'%'")
    shop.user = "plain"
    with shop.writer() as late:
        late.execute("BEGIN")
        late.execute("INSERT INTO t VALUES ()")
        shop.query("INSERT INTO t (at) VALUES (now(6))")
        commit = threading.Timer(1.0, late.execute, ["COMMIT"])
        commit.start()
        found = shop.window("at", ONCE)
        ended = commit.finished.is_set()
        commit.join()
    assert (ended, shop.rows("at", found)) == (True, [1, 2])


def test_times_without_a_zone_are_compared_by_the_servers_zone(shop: Shop) -> None:
    shop.make("at datetime(6) NOT NULL")
    try:
        for zone in ("-05:00", "+05:30"):
            shop.query(f"SET GLOBAL time_zone = '{zone}'")
            with shop.writer() as writer:
                writer.execute("TRUNCATE t")
                writer.execute("INSERT INTO t (at) VALUES (now(6) - INTERVAL 10 MINUTE), (now(6))")
            assert shop.rows("at", shop.window("at", LAG)) == [1], zone
            assert f"compared by {zone};" in shop.risks("at", LAG)
            assert shop.min_ahead("at", LAG) == timedelta(hours=int(zone[:3]), minutes=int(zone[4:])), zone
    finally:
        shop.query("SET GLOBAL time_zone = 'SYSTEM'")
    assert "(the system's);" in shop.risks("at", LAG)
    rule = CursorRule(timedelta(minutes=5), "America/New_York")
    assert shop.window("at", rule).upper is None


def test_a_clock_that_will_be_set_back_soon_counts_as_if_it_were(shop: Shop) -> None:
    shop.make("at datetime(6) NOT NULL")
    shop.query("INSERT INTO t (at) VALUES ('2026-10-31 23:20:07.5'), ('2026-11-01 00:10')")
    settings = parse_connection("shop", shop.server.connection(shop.database))
    with closing(MysqlConnector.source(Place("items", "shop", settings, "t", shop.server.home))) as source:
        table = source.describe()
        source.session.change("SET timestamp = UNIX_TIMESTAMP('2026-11-01 04:30')")  # in UTC; New York's is set at six
        rule = CursorRule(timedelta(minutes=5), "America/New_York")
        found = source.window(table, table.columns[1], None, rule)
    assert (found.upper, found.notes) == ("2026-10-31 23:20:07.500000", ())


def test_a_server_that_others_write_to_needs_a_lag(shop: Shop) -> None:
    shop.make("at datetime(6) NOT NULL")
    for variable, said in (("read_only", "read-only"), ("auto_increment_increment", "2 servers")):
        value = shop.query(f"SELECT @@GLOBAL.{variable}")[0][0]
        try:
            shop.query(f"SET GLOBAL {variable} = {2 if variable == 'auto_increment_increment' else 1}")
            with pytest.raises(Refused, match=said):
                shop.window("id", ONCE)
            assert shop.window("at", LAG).upper is None
        finally:
            shop.query(f"SET GLOBAL {variable} = {value}")


def test_values_that_programs_make_are_appended_only_where_the_pipeline_vouches_for_them(shop: Shop) -> None:
    shop.make("n bigint NOT NULL, u char(36) NOT NULL DEFAULT uuid(), zero int NOT NULL DEFAULT 0")
    shop.query("INSERT INTO t (n) VALUES (1), (2)")
    with pytest.raises(Refused, match="has DEFAULT 0: programs make its values"):
        shop.window("zero", ONCE)
    assert shop.window("id", ONCE).upper == "2"
    with pytest.raises(Refused, match="has no default: programs make its values"):
        shop.window("n", ONCE)
    for rule in (AGAIN, CursorRule(ordered=True)):
        assert shop.window("n", rule).upper == "2"
    with pytest.raises(Refused, match="does not arrive in order"):
        shop.window("u", ONCE)


def test_values_above_all_others_never_become_the_position(shop: Shop) -> None:
    shop.make("at datetime(6) NOT NULL")
    shop.query("INSERT INTO t (at) VALUES ('2024-01-01'), ('9999-12-31')")
    found = shop.window("at", CursorRule(ordered=True))
    assert (found.upper, len(found.notes)) == ("2024-01-01 00:00:00.000000", 1)


def test_numbers_that_begin_again_are_refused_once_they_are_below_the_position(shop: Shop) -> None:
    shop.make("v int")
    shop.query("INSERT INTO t (v) VALUES (1), (2), (3)")
    assert shop.window("id", ONCE).upper == "3"
    shop.query("DELETE FROM t WHERE id > 1")
    assert shop.window("id", ONCE, "3").upper is None
    shop.query("TRUNCATE t")
    shop.query("INSERT INTO t (v) VALUES (4)")
    with pytest.raises(Refused, match="numbers of `id` begin again: the next is 2, and rows were read up to 3"):
        shop.window("id", ONCE, "3")


def test_the_greatest_number_of_each_type_is_never_the_position(shop: Shop) -> None:
    bits = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
    greatest = {f"{name} unsigned": 2**size - 1 for name, size in bits.items()}
    greatest |= {name: 2 ** (size - 1) - 1 for name, size in bits.items()}
    shop.make(", ".join(f"n{at} {kind} NOT NULL" for at, kind in enumerate(greatest)))
    names = ", ".join(f"n{at}" for at in range(len(greatest)))
    for less in (1, 0):
        shop.query(f"INSERT INTO t ({names}) VALUES ({', '.join(str(one - less) for one in greatest.values())})")
    for at, one in enumerate(greatest.values()):
        found = shop.window(f"n{at}", CursorRule(ordered=True))
        assert (found.upper, len(found.notes)) == (str(one - 1), 1)


def test_rows_without_a_cursor_are_refused(shop: Shop) -> None:
    shop.make("at datetime(6)")
    shop.query("INSERT INTO t (at) VALUES (NULL)")
    with pytest.raises(BadData, match="IS NULL"):
        shop.window("at", ONCE)


STEPS = st.lists(
    st.sampled_from(["begin0", "begin1", "insert0", "insert1", "commit0", "commit1", "alone", "run"]), max_size=12
)


@settings(
    max_examples=15, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(steps=STEPS, cursor=st.sampled_from(["at", "stamp", "day"]), again=st.booleans())
def test_property_what_runs_read_is_what_was_committed(
    shop: Shop, steps: list[str], cursor: str, *, again: bool
) -> None:
    """For any interleaving of sessions: once all have ended, every row is read; by an append exactly once."""
    rule = CursorRule(idempotent=again or cursor == "day")
    shop.make(
        "at datetime(6) NOT NULL DEFAULT current_timestamp(6), stamp timestamp(6) NOT NULL DEFAULT "
        "current_timestamp(6), day date NOT NULL DEFAULT current_date"
    )
    read: list[int] = []
    last: str | None = None
    with shop.writer() as first, shop.writer() as second:
        for step in [*steps, "commit0", "commit1", "run"]:
            session = second if step.endswith("1") else first
            if step.startswith("begin"):
                session.execute("BEGIN")
            elif step.startswith("insert"):
                session.execute("INSERT INTO t VALUES ()")
            elif step.startswith("commit"):
                session.execute("COMMIT")
            elif step == "alone":
                shop.query("INSERT INTO t VALUES ()")
            else:
                found = shop.window(cursor, rule, last)
                read += shop.rows(cursor, found)
                last = found.position if found.upper is not None else last
    there = [row[0] for row in shop.query("SELECT id FROM t ORDER BY id")]
    assert sorted(set(read)) == there
    if not rule.idempotent:
        assert sorted(read) == there
