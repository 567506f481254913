# ruff: noqa: E501 - tables of statements, one a line; what is parametrized comes by position
"""All splits of a run are read in one snapshot, whatever happens to the table; if they are not, the run reports it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from dataflows.connectors.contract import Place, ReadOrder, SplitReader
from dataflows.connectors.postgres.connector import PostgresConnector
from dataflows.connectors.postgres.reader import PLACE
from dataflows.connectors.postgres.source import PostgresSource
from dataflows.data.cursors import Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from penstock.errors import BadData, Unavailable
from penstock.models.connection import PostgresConnection

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers

HOUR = timedelta(hours=1)
WHOLE = Split(0)
SCHEMA = pa.schema([("id", pa.int64()), ("balance", pa.int64())])


def source(made: Copy, *, keyed: bool, rows: int = 600) -> str:
    """Create a table of accounts, a target for it, and a copy of its present rows in ``…_before``."""
    name = f"public.s{made.number}"
    key = "PRIMARY KEY" if keyed else ""
    for statement in (
        f"CREATE TABLE {name} (id bigint {key}, balance bigint, pad text)",
        f"INSERT INTO {name} SELECT g, 100, repeat('x', 200) FROM generate_series(1, {rows}) g",
        f"ANALYZE {name}",
        f"CREATE TABLE {name}_before AS SELECT * FROM {name}",
        f"DROP TABLE {made.target}",
        f"CREATE TABLE {made.target} (id bigint, balance bigint, pad text)",
    ):
        made.session.execute(statement)
    return name


def task(made: Copy, run: str, **changes: Any) -> dict[str, Any]:
    limits = changes.pop("limits", {})
    found = made.task(run, **changes)
    spec = found["pipeline"]["spec"]
    spec["source"] = {"connection": "shop", "object": f"public.s{made.number}"}
    spec["limits"] |= limits
    if made.arrow:
        spec["mapping"] = {
            "fields": [
                {"target": "id", "from": "id"},
                {"target": "balance", "sql": "balance + 0"},
                {"target": "pad", "from": "pad"},
            ]
        }
    return found


def differences(made: Copy, other: str) -> tuple[int, int]:
    query = "SELECT count(*) FROM (SELECT * FROM {} EXCEPT ALL SELECT * FROM {}) x"
    return made.value(query.format(other, made.target)), made.value(query.format(made.target, other))


def family(pid: int) -> list[tuple[int, str]]:
    """Return the process and its children, with their states."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if pid in (int(path.parent.name), int(parent)):
            found.append((int(path.parent.name), state))
    return found


def stopped(launchers: Launchers, order: dict[str, Any], point: str = "read.begin:1") -> tuple[int, int]:
    """Start a run and wait until one of its processes has reached `point`; return the launcher and that process."""
    pid = launchers.start(order, f"{point}=stop")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if found := [one for one, state in family(pid) if state == "T"]:
            return pid, found[0]
        time.sleep(0.01)
    pytest.fail(f"nothing came to {point}")


def woken(launchers: Launchers, pids: tuple[int, int], order: dict[str, Any]) -> dict[str, Any]:
    os.kill(pids[1], signal.SIGCONT)
    assert "code" in launchers.wait(pids[0])
    return dict(json.loads(Path(order["result"]).read_text()))


def shuffle(made: Copy, name: str) -> None:
    """Change the table during the run: transfer between two splits, and move rows to the end of the table."""
    with psycopg.connect(made.dsn) as other:
        other.execute(f"UPDATE {name} SET balance = balance - 70 WHERE id = 3")
        other.execute(f"UPDATE {name} SET balance = balance + 70 WHERE id = 597")
        other.execute(f"UPDATE {name} SET pad = pad || 'y' WHERE id < 250")
        other.execute(f"DELETE FROM {name} WHERE id IN (300, 590)")
        other.execute(f"INSERT INTO {name} SELECT g, 5, 'new' FROM generate_series(1001, 1040) g")


@pytest.mark.parametrize(
    ("keyed", "arrow", "workers"),
    [(True, False, 1), (True, True, 1), (False, False, 1), (False, True, 1), (True, True, 2), (False, False, 2)],
)
def test_a_copy_is_what_the_table_was_at_one_point_in_time(
    copy: Callable[..., Copy], launchers: Launchers, keyed: bool, arrow: bool, workers: int
) -> None:
    made = copy("replace", arrow=arrow, workers=workers)
    name = source(made, keyed=keyed)
    order = task(made, "r1")
    pids = stopped(launchers, order)
    shuffle(made, name)
    done = woken(launchers, pids, order)
    assert (done["status"], done["resumed"]) == ("completed", False), done
    assert done["counters"]["splits"] == 3
    assert differences(made, f"{name}_before") == (0, 0)
    assert made.leftovers() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_table_without_a_key_is_split_and_a_crash_restarts_it(
    copy: Callable[..., Copy], launchers: Launchers, workers: int
) -> None:
    made = copy("replace", workers=workers, split_rows=100)
    name = source(made, keyed=False)
    pids = stopped(launchers, order := task(made, "r1"), "read.begin:5")
    deadline = time.monotonic() + 20
    while not made.value(f"SELECT count(*) FROM w._penstock_splits WHERE pipeline = '{made.uid}' AND done"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for pid in {*pids}:
        os.kill(pid, signal.SIGKILL)
    launchers.wait(pids[0])
    shuffle(made, name)
    again = launchers.run(order | {"attempt": 2})
    assert (again["status"], again["resumed"]) == ("completed", False), again
    assert differences(made, name) == (0, 0)
    assert again["counters"]["rows_in"] == made.value(f"SELECT count(*) FROM {made.target}")
    assert again["counters"]["splits"] >= 6
    assert made.leftovers() == 0


@pytest.mark.parametrize("cut", ["commit.done:2", "flow.end", "publish.begin"])
def test_a_fully_read_table_without_a_key_is_only_published(
    copy: Callable[..., Copy], launchers: Launchers, cut: str
) -> None:
    made = copy("replace")
    name = source(made, keyed=False)
    assert "killed" in launchers.run(task(made, "r1"), f"{cut}=kill")
    shuffle(made, name)
    assert launchers.run(task(made, "r1", attempt=2))["status"] == "completed"
    assert differences(made, f"{name}_before") == (0, 0)


def test_a_plan_by_another_key_is_replaced(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    name = source(made, keyed=False)
    for turn, statement in enumerate(
        ("ADD PRIMARY KEY (id)", f"DROP CONSTRAINT s{made.number}_pkey, ADD PRIMARY KEY (pad, id)")
    ):
        made.session.execute(f"UPDATE {name} SET pad = lpad(id::text, 200, 'x')")
        assert "killed" in launchers.run(task(made, f"r{turn}"), "commit.done:1=kill")
        made.session.execute(f"ALTER TABLE {name} {statement}")
        again = launchers.run(task(made, f"r{turn}", attempt=2))
        assert again["status"] == "completed", again
        assert differences(made, name) == (0, 0)


def test_a_rewrite_of_the_table_waits_for_the_run(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    name = source(made, keyed=True)
    pids = stopped(launchers, order := task(made, "r1"))
    with psycopg.connect(made.dsn, autocommit=True) as other:
        other.execute("SET lock_timeout = '100ms'")
        for statement in (f"TRUNCATE {name}", f"ALTER TABLE {name} ALTER balance TYPE numeric", f"DROP TABLE {name}"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(statement)
    done = woken(launchers, pids, order)
    assert done["status"] == "completed", done
    assert differences(made, f"{name}_before") == (0, 0)
    made.session.execute(f"TRUNCATE {name}")


@pytest.mark.parametrize("keyed", [True, False])
def test_a_reader_keeps_its_snapshot_when_the_exporting_session_is_lost(
    copy: Callable[..., Copy], launchers: Launchers, keyed: bool
) -> None:
    made = copy("replace")
    name = source(made, keyed=keyed)
    pids = stopped(launchers, order := task(made, "r1"))
    assert made.value(f"SELECT count(pg_terminate_backend(pid, 5000)) FROM ({HOLDERS}) h") >= 1
    shuffle(made, name)
    done = woken(launchers, pids, order)
    assert (done["status"], done["resumed"]) == ("completed", False), done
    assert differences(made, f"{name}_before") == (0, 0)


HOLDERS = """SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'penstock:source'
AND state = 'idle in transaction' AND query LIKE '%pg_export_snapshot%'"""


@pytest.mark.parametrize("workers", [1, 2])
def test_after_its_time_the_snapshot_is_released_and_the_run_reports_it(
    copy: Callable[..., Copy], launchers: Launchers, workers: int
) -> None:
    made = copy("replace", workers=workers)
    name = source(made, keyed=True)
    pids = stopped(launchers, order := task(made, "r1", limits={"snapshot": "1s"}), "read.begin:2")
    time.sleep(1.2)
    assert made.value(f"SELECT count(*) FROM ({HOLDERS}) h") == 0
    made.session.execute(f"UPDATE {name} SET balance = 7")
    done = woken(launchers, pids, order)
    assert (done["status"], done["resumed"]) == ("completed", True), done
    assert made.value(f"SELECT count(DISTINCT id) FROM {made.target}") == 600
    assert 0 < made.value(f"SELECT count(*) FROM {made.target} WHERE balance = 7") < 600
    assert "of their own" in Path(f"{order['result']}.log").read_text()


def test_a_table_without_a_key_that_takes_too_long_is_refused_by_name(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    made = copy("replace")
    source(made, keyed=False)
    pids = stopped(launchers, order := task(made, "r1", limits={"snapshot": "1s"}))
    time.sleep(1.2)
    error = woken(launchers, pids, order)["error"]
    assert (error["code"], error["transient"], "limits.snapshot" in error["hint"]) == ("refused", False, True), error
    assert made.value(f"SELECT count(*) FROM {made.target}") == 0


# -- the source by itself ---------------------------------------------------------------------------------------------


@dataclass
class Bank:
    """Sources over objects of a database, and readers of them."""

    dsn: str
    name: str = "accounts"
    released: int = 0
    closing: ExitStack = field(default_factory=ExitStack)

    def source(self, name: str = "accounts") -> tuple[PostgresSource, Table]:
        settings = PostgresConnection(type="postgres", dsn=self.dsn)
        made = PostgresConnector.source(Place("p", "shop", settings, name))
        assert isinstance(made, PostgresSource)
        self.closing.enter_context(closing(made))
        return made, made.describe()

    def reader(
        self, source: PostgresSource, table: Table, held: str | None, key: Column | None = None, *, arrow: bool = False
    ) -> SplitReader:
        schema = SCHEMA if arrow else None
        order = ReadOrder(table, ("id", "balance"), key, schema, 1000, lambda: None, held, released=self._release)
        return self.closing.enter_context(closing(source.reader(order)))

    def _release(self) -> None:
        self.released += 1

    def execute(self, statement: str) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as session:
            cursor = session.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def bank(database: str) -> Iterator[Bank]:
    made = Bank(database)
    made.execute("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL, pad text)")
    made.execute("INSERT INTO accounts SELECT g, 100, repeat('x', 200) FROM generate_series(1, 1000) g")
    with made.closing:
        yield made


def read(reader: SplitReader, split: Split = WHOLE) -> int:
    return next(chunk.rows for chunk in reader.read("00", split) if chunk.last)


def end(bank: Bank) -> None:
    """End the session that exported the snapshot."""
    assert bank.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({HOLDERS}) h") == [(True,)]


@pytest.mark.parametrize("arrow", [False, True])
def test_an_error_within_the_snapshot_is_reported_at_once(bank: Bank, arrow: bool) -> None:
    """After a failed COPY in a transaction the server refuses all later statements, also the one that ends the read."""
    bank.execute("CREATE VIEW odd AS SELECT id, 1000 / (id - 900) AS balance FROM accounts")
    source, table = bank.source("odd")
    reader = bank.reader(source, table, source.hold(table, HOUR), arrow=arrow)
    began = time.monotonic()
    with pytest.raises(BadData, match="22012"):
        read(reader)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["TABLE", "VIEW", "MATERIALIZED VIEW"])
def test_a_snapshot_covers_tables_and_views_and_what_they_read(bank: Bank, kind: str) -> None:
    bank.execute(f"CREATE {kind} other AS SELECT * FROM accounts")
    source, table = bank.source("other")
    held = source.hold(table, HOUR)
    bank.execute("DELETE FROM accounts")
    for change in {
        "TABLE": ["TRUNCATE other"],
        "VIEW": ["TRUNCATE accounts", "DROP VIEW other"],
        "MATERIALIZED VIEW": ["REFRESH MATERIALIZED VIEW other"],
    }[kind]:
        with pytest.raises(psycopg.errors.LockNotAvailable):
            bank.execute(f"SET lock_timeout = '100ms'; {change}")
    assert read(bank.reader(source, table, held)) == 1000
    assert read(bank.reader(source, table, None)) == (0 if kind == "VIEW" else 1000)


@pytest.mark.parametrize("kept", [True, False])
def test_a_table_that_is_being_rewritten_is_not_read_as_empty(bank: Bank, kept: bool) -> None:
    """Rows that an ALTER rewrites are invisible to a snapshot taken before its end."""
    source, table = bank.source()
    with psycopg.connect(bank.dsn) as other:
        other.execute("ALTER TABLE accounts ALTER balance TYPE bigint USING balance + 1")
        counts: list[int] = []
        reading = threading.Thread(
            target=lambda: counts.append(read(bank.reader(source, table, source.hold(table, HOUR) if kept else None)))
        )
        reading.start()
        while not bank.execute("SELECT 1 FROM pg_locks WHERE NOT granted"):
            time.sleep(0.01)
    reading.join()
    assert counts == [1000]


def test_a_user_who_may_read_some_columns_only_reads_them(bank: Bank) -> None:
    bank.execute("CREATE TABLE loose AS SELECT * FROM accounts; CREATE ROLE partial")
    bank.execute("GRANT SELECT (id, balance) ON accounts, loose TO partial")
    bank.dsn = psycopg.conninfo.make_conninfo(bank.dsn, options="-c role=partial")
    for name in ("accounts", "loose"):
        source, table = bank.source(name)
        assert source.row_place(table) is None
        assert read(bank.reader(source, table, source.hold(table, HOUR))) == 1000
    bank.closing.close()
    bank.dsn = psycopg.conninfo.make_conninfo(bank.dsn, options="")
    bank.execute("DROP OWNED BY partial; DROP ROLE partial")


def test_a_table_that_has_changed_since_it_was_described_is_refused_for_a_retry(bank: Bank) -> None:
    source, table = bank.source()
    bank.execute("ALTER TABLE accounts ALTER balance TYPE numeric")
    with pytest.raises(Unavailable, match="changed"):
        source.hold(table, HOUR)


def test_the_session_that_holds_the_lock_is_named(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("source", "reader"):
        monkeypatch.setattr(f"dataflows.connectors.postgres.{module}.LOCK_SECONDS", 0.2)
    bank.execute("CREATE VIEW seen AS SELECT * FROM accounts")
    source, table = bank.source("seen")
    held = source.hold(table, HOUR)
    dsn = psycopg.conninfo.make_conninfo(bank.dsn, application_name="migration")
    with psycopg.connect(dsn, autocommit=True) as other:
        pid = other.info.backend_pid
        waiting = threading.Thread(target=other.execute, args=("ALTER TABLE accounts ADD later int",))
        waiting.start()
        while not bank.execute("SELECT 1 FROM pg_locks WHERE NOT granted"):
            time.sleep(0.01)
        with pytest.raises(Unavailable) as found:
            read(bank.reader(source, table, held))
        source.close()
        waiting.join()
    assert f"accounts is locked by session {pid} (migration, user " in str(found.value)
    assert f"pg_terminate_backend({pid})" in str(found.value.hint)
    assert found.value.transient


def test_a_snapshot_that_is_lost_before_it_was_joined(bank: Bank) -> None:
    source, table = bank.source()
    held = source.hold(table, HOUR)
    end(bank)
    reader = bank.reader(source, table, held, table.column("id"))
    assert (read(reader, Split(0, None, "500")), read(reader, Split(1, "500", None)), bank.released) == (500, 500, 1)
    with pytest.raises(Unavailable, match="snapshot"):
        read(bank.reader(source, table, held, PLACE))


def test_ranges_of_places_are_read_without_the_rest_and_hold_each_row_once(bank: Bank) -> None:
    bank.execute("CREATE TABLE loose AS SELECT * FROM accounts; DELETE FROM loose WHERE id < 30; ANALYZE loose")
    source, table = bank.source("loose")
    assert (source.split_key(table), source.row_place(table)) == (None, PLACE)
    splits = source.plan(table, PLACE, Window(None, None), 100, 0)
    held = source.hold(table, HOUR)
    bank.execute("UPDATE loose SET pad = pad || 'y'; INSERT INTO loose VALUES (9999, 1, NULL)")
    reader = bank.reader(source, table, held, PLACE)
    counts = [read(reader, split) for split in splits]
    assert (len(splits), sum(counts)) == (10, 971)
    assert all(40 < count < 160 for count in counts)
    (shown,) = bank.execute(
        f"EXPLAIN (FORMAT json) SELECT * FROM loose WHERE ctid > '{splits[3].lower}' AND ctid <= '{splits[3].upper}'"
    )[0]
    assert shown[0]["Plan"]["Node Type"] == "Tid Range Scan"


@pytest.mark.parametrize("rows", [0, 1])
def test_a_nearly_empty_table_is_one_range(bank: Bank, rows: int) -> None:
    bank.execute(f"CREATE TABLE few AS SELECT * FROM accounts LIMIT {rows}")
    source, table = bank.source("few")
    (split,) = source.plan(table, PLACE, Window(None, None), 100, 0)
    assert read(bank.reader(source, table, source.hold(table, HOUR), PLACE), split) == rows


def test_only_plain_tables_are_split_by_place(bank: Bank) -> None:
    bank.execute("CREATE TABLE parted (id int, balance int) PARTITION BY RANGE (id); CREATE VIEW v AS TABLE accounts")
    bank.execute("CREATE TABLE part PARTITION OF parted DEFAULT; CREATE MATERIALIZED VIEW m AS TABLE accounts")
    bank.execute("CREATE TABLE mother (id int, balance int); CREATE TABLE child () INHERITS (mother)")
    found = {}
    for name in ("parted", "part", "v", "m", "mother", "child"):
        source, table = bank.source(name)
        found[name] = source.row_place(table)
    assert found == {"parted": None, "part": PLACE, "v": None, "m": None, "mother": None, "child": PLACE}


def test_a_role_that_limits_transactions_does_not_end_a_run(bank: Bank) -> None:
    options = "-c idle_in_transaction_session_timeout=300 -c transaction_timeout=300"
    bank.dsn = psycopg.conninfo.make_conninfo(bank.dsn, options=options)
    source, table = bank.source()
    held = source.hold(table, HOUR)
    reader = bank.reader(source, table, held, table.column("id"))
    assert read(reader, Split(0, None, "500")) == 500
    time.sleep(0.6)
    assert read(reader, Split(1, "500", None)) == 500
    assert read(bank.reader(source, table, held)) == 1000
    assert bank.released == 0
