"""Limits of the WAL that a source keeps for a stream: a slot that is dropped by them, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from dataflows.connectors.postgres.cdc.slots import Slot, check_slot
from dataflows.runs.job import Job
from penstock.errors import Refused
from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")

LIMITS = {"linger": "20ms", "slot_drop": "20MB", "slot_alert": "1MB"}
WAL = "SELECT pg_logical_emit_message(false, 'other', repeat('x', 1000000)) FROM generate_series(1, 25)"
AGAIN = {"from": "earliest", "reset": True}


def test_a_slot_above_the_limit_is_dropped_while_the_sink_does_not_answer(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed(limits=LIMITS)
    made.do(WAL, "DELETE FROM {s} WHERE id = 1")
    task = made.task("r2", limits=LIMITS)
    task["connections"]["lake"] = {"type": "postgres", "dsn": "host=127.0.0.1 port=1"}
    error = made.launchers.run(task)["error"]
    assert "was dropped: it kept 2" in error["what"], error
    assert "limits.slot_drop is 20.0 MB; changes that the sink does not have are lost" in error["what"]
    assert "--from earliest --reset` rebuilds it" in error["hint"]
    assert (error["transient"], made.slots()) == (False, [])
    assert "is gone" in made.launchers.run(made.task("r3", limits=LIMITS))["error"]["what"]
    task = made.task("r4", limits=LIMITS) | {"begin": AGAIN}
    pid = made.launchers.start(task)
    made.until_same()
    made.stop(pid, task)


def test_a_slot_above_the_limit_is_dropped_while_the_sink_hangs(changes: Callable[..., Changes]) -> None:
    made = changes()
    task = made.task(limits=LIMITS)
    pid = made.launchers.start(task)
    made.until_same()
    with psycopg.connect(made.dsn) as other:
        other.execute(f"LOCK TABLE {made.target}".encode())
        made.do("DELETE FROM {s} WHERE id = 1", WAL)
        made.until(f"SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = '{made.slots()[0]}'")
    assert "limits.slot_drop is 20.0 MB" in made.launchers.ended(pid, task)["error"]["what"]


def test_only_a_stream_of_changes_has_a_slot_to_drop(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    task = made.task(mode="batch", limits=LIMITS)
    with pytest.raises(Refused, match="only a stream of changes has a slot"):
        Job.from_task(task)


@pytest.mark.parametrize(
    ("reason", "what", "hint"),
    [
        (None, "the server has deleted WAL that replication slot a needs", "max_slot_wal_keep_size"),
        ("wal_removed", "the server has deleted WAL that replication slot a needs", "max_slot_wal_keep_size"),
        ("idle_timeout", "slot a invalid (idle_timeout)", "idle_replication_slot_timeout"),
        ("rows_removed", "slot a invalid (rows_removed)", "a new snapshot, in one transaction"),
    ],
)
def test_a_lost_slot_says_why(reason: str | None, what: str, hint: str) -> None:
    lost = Slot("a", None, 5, "lost", 0, None, reason)
    with pytest.raises(Refused) as error:
        check_slot(lost, "a", 5, 100, "shop")
    assert what in error.value.what
    assert hint in (error.value.hint or "")
