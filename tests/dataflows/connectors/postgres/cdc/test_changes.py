"""Changes of a table to a merged table: what each of them does, and that none is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dataflows.connectors.postgres.cdc.names import slot_prefix
from penstock.topics.embedded import EmbeddedServer
from tests.dataflows.connectors.postgres.cdc.conftest import Changes
from tests.pairs import soon

pytestmark = pytest.mark.xdist_group("cdc")


def test_a_snapshot_and_the_changes_after_it(changes: Callable[..., Changes]) -> None:
    made = changes()
    task = made.task()
    pid = made.launchers.start(task)
    made.until_same()
    made.do(
        "INSERT INTO {s} (id, name) VALUES (1000, 'new'), (1001, NULL), (1002, '')",
        "UPDATE {s} SET price = price + 1 WHERE id < 20",
        "DELETE FROM {s} WHERE id BETWEEN 20 AND 30",
        "UPDATE {s} SET id = id + 5000 WHERE id BETWEEN 40 AND 50",
    )
    made.until_same()
    result = made.stop(pid, task)
    assert result["error"]["what"] == "the run was asked to stop"
    made.do("DELETE FROM {s} WHERE id = 1", "INSERT INTO {s} (id) VALUES (1)")
    made.do("TRUNCATE {s}", "INSERT INTO {s} VALUES (3)")
    made.followed("r2")
    assert made.value("SELECT count(*) FROM {t}") == 1


BEGINNING = [
    "prepare.planned",
    "cdc.slot_made",
    "read.block:1",
    "commit.before_fence:1",
    "commit.sent:1",
    "commit.done:1",
]
LATER = ["cdc.gathered", "commit.mid_copy", "commit.copied", "commit.before_fence", "commit.sent", "commit.done"]


@pytest.mark.parametrize("points", [BEGINNING[:-1], BEGINNING[-1:]], ids=["before it is written", "after"])
def test_a_snapshot_that_was_killed_begins_again(changes: Callable[..., Changes], points: list[str]) -> None:
    made = changes()
    for attempt, point in enumerate(points, start=1):
        assert made.launchers.run(made.task(attempt=attempt), f"{point}=kill") == {"killed": 9}, point
        made.do(f"DELETE FROM {{s}} WHERE id < {attempt * 8}", f"UPDATE {{s}} SET name = '{point}' WHERE id > 90")
        made.do(f"INSERT INTO {{s}} VALUES ({200 + attempt})")
    made.followed(attempt=len(points) + 1)
    assert len(made.slots()) == 1


def test_killed_between_changes_it_loses_and_doubles_nothing(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed()
    for attempt, point in enumerate(LATER, start=2):
        made.do("UPDATE {s} SET id = -id WHERE id % 3 = 0", f"DELETE FROM {{s}} WHERE id % 50 = {attempt}")
        made.do("INSERT INTO {s} VALUES (0)")
        assert made.launchers.run(made.task(attempt=attempt), f"{point}=kill") == {"killed": 9}, point
        made.do("UPDATE {s} SET id = -id WHERE id < 0", "DELETE FROM {s} WHERE id = 0")
    made.followed(attempt=len(LATER) + 2)


@pytest.mark.parametrize(
    "point",
    soon(
        ["cdc.before_slot", "cdc.slot_made", "read.block:1", "commit.before_fence:1"],
        "cdc.before_slot",
        "commit.before_fence:1",
    ),
)
def test_a_zombie_of_a_snapshot_changes_nothing(changes: Callable[..., Changes], point: str) -> None:
    made = changes()
    task, successor = made.task(), made.task("r2")
    zombie = made.launchers.stopped(task, point)
    made.do("DELETE FROM {s} WHERE id < 50")
    pid = made.launchers.start(successor)
    made.until_same()
    late = made.launchers.woken(zombie, task)
    assert late["status"] in {"fenced", "failed"}, late
    made.do("DELETE FROM {s} WHERE id < 60", "INSERT INTO {s} VALUES (1000)")
    made.until_same()
    made.stop(pid, successor)
    made.do("DELETE FROM {s} WHERE id < 70")
    made.followed("r3")
    assert len(made.slots()) == 1


@pytest.mark.parametrize(
    "change",
    soon(
        ["TRUNCATE {s}", "ALTER TABLE {s} ALTER name TYPE varchar(40)", "VACUUM FULL {s}", "ALTER TABLE {s} ADD u int"],
        "TRUNCATE {s}",
        "ALTER TABLE {s} ADD u int",
    ),
)
def test_a_table_that_changes_before_its_snapshot_is_read_is_begun_again(
    changes: Callable[..., Changes], change: str
) -> None:
    made = changes()
    task = made.task()
    late = made.launchers.stopped(task, "cdc.slot_made")
    made.do(change)
    failed = made.launchers.woken(late, task)["error"]
    assert (failed["what"], failed["transient"]) == ("the table was changed while the stream began", True)
    made.do("INSERT INTO {s} (id) VALUES (1000)")
    made.followed(attempt=2)


def test_a_slot_that_waits_for_a_transaction_blocks_nobody(changes: Callable[..., Changes]) -> None:
    made = changes()
    task = made.task()
    with psycopg.connect(made.dsn) as other:
        other.execute("SELECT pg_current_xact_id()")
        pid = made.launchers.start(task)
        made.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION_SLOT%')")
        made.do("SET lock_timeout = '2s'", "BEGIN; LOCK TABLE {s}; COMMIT", "RESET lock_timeout")
    made.until_same()
    made.stop(pid, task)


@pytest.mark.parametrize(
    "point", soon(["cdc.gathered", "commit.before_fence", "commit.sent"], "cdc.gathered", "commit.sent")
)
def test_a_zombie_among_changes_writes_nothing(changes: Callable[..., Changes], point: str) -> None:
    made = changes()
    made.followed()
    made.do("UPDATE {s} SET name = 'one'")
    task, successor = made.task("r2"), made.task("r3")
    zombie = made.launchers.stopped(task, point)
    made.do("DELETE FROM {s} WHERE id < 50")
    pid = made.launchers.start(successor)
    made.until_same()
    made.do("INSERT INTO {s} VALUES (1), (2)", "UPDATE {s} SET name = 'two'")
    late = made.launchers.woken(zombie, task)
    assert late["status"] in {"fenced", "failed"}, late
    made.until_same()
    made.stop(pid, successor)
    assert made.differences() == 0


def test_values_that_were_not_sent_stay(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", "UPDATE {s} SET body = repeat(id::text, 3000)")
    made.followed()
    made.do(
        "UPDATE {s} SET price = 7 WHERE id < 10",
        "UPDATE {s} SET id = id + 1000 WHERE id BETWEEN 20 AND 25",
        "UPDATE {s} SET id = id + 1000, price = 1 WHERE id BETWEEN 1020 AND 1022",
        "INSERT INTO {s} (id, body) VALUES (500, repeat('y', 9000))",
        "UPDATE {s} SET name = 'still' WHERE id = 500",
        "UPDATE {s} SET body = NULL WHERE id = 30",
        "UPDATE {s} SET name = 'null' WHERE id = 30",
        "DELETE FROM {s} WHERE id = 31",
        "UPDATE {s} SET id = 31 WHERE id = 32",
        "BEGIN; UPDATE {s} SET id = -1 WHERE id = 40; UPDATE {s} SET id = 40 WHERE id = 41; "
        "UPDATE {s} SET id = 41 WHERE id = -1; COMMIT",
    )
    made.followed("r2")
    assert made.value("SELECT length(body) FROM {t} WHERE id = 2021") == 6000
    made.do("ALTER TABLE {s} REPLICA IDENTITY FULL", "UPDATE {s} SET price = 8", "DELETE FROM {s} WHERE id < 5")
    made.followed("r3")


def test_a_transaction_is_whole_at_the_sink(changes: Callable[..., Changes]) -> None:
    made = changes(rows=1000)
    made.do("UPDATE {s} SET price = 0")
    made.followed()
    task = made.task("r2", limits={"linger": "0s", "batch_rows": 10})
    pid = made.launchers.start(task)
    for number in range(1, 6):
        made.do(f"UPDATE {{s}} SET price = {number}")
    seen: set[int] = set()
    while seen != {5}:
        seen = {row[0] for row in made.session.execute(f"SELECT DISTINCT price FROM {made.target}").fetchall()}
        assert len(seen) == 1
    made.stop(pid, task)


@pytest.mark.parametrize("where", soon(["another table", "another database"], "another database"))
def test_a_quiet_table_keeps_no_wal(changes: Callable[..., Changes], logical: EmbeddedServer, where: str) -> None:
    made = changes()
    task = made.task()
    pid = made.launchers.start(task)
    made.until_same()
    with psycopg.connect(made.dsn if where == "another table" else logical.dsn("postgres")) as other:
        other.execute("CREATE TABLE other AS SELECT generate_series(1, 20000)")
        other.execute("DROP TABLE other")
    place = made.value("SELECT pg_current_wal_lsn()")
    made.until(
        f"SELECT confirmed_flush_lsn >= '{place}' FROM pg_replication_slots WHERE slot_name = '{made.slots()[0]}'"
    )
    made.stop(pid, task)


def test_a_drained_stream_ends_after_what_was_there(changes: Callable[..., Changes]) -> None:
    made = changes()
    task = made.task() | {"drain": str(made.folder / "drain")}
    pid = made.launchers.start(task)
    made.until_same()
    made.do("UPDATE {s} SET name = 'last'", "DELETE FROM {s} WHERE id = 1")
    Path(task["drain"]).touch()
    drained = made.launchers.ended(pid, task)
    assert drained["status"] == "completed", drained
    assert made.differences() == 0
    made.do("DELETE FROM {s} WHERE id = 2")
    (slot,) = made.slots()
    older = f"{slot_prefix(made.uid)}0"
    made.do(f"SELECT pg_create_logical_replication_slot('{older}', 'pgoutput')")
    assert made.launchers.run(made.task("r2") | {"drain": task["drain"]})["status"] == "completed"
    assert made.differences() == 0
    assert made.slots() == [slot], "an older one would keep WAL for good"
    confirmed = f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
    assert made.value(confirmed) == made.position()["lsn"]
