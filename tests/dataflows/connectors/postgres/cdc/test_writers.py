"""Row-for-row equality while others write, and the process is killed again and again."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from dataflows.connectors.postgres.cdc import reader
from dataflows.pipeline import FirstError
from dataflows.runs.launcher import launch
from dataflows.runs.progress import Progress
from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")

STATEMENTS = (
    "INSERT INTO {s} (id, name, body) SELECT (random() * 500)::int, 'new', repeat('b', 9000) ON CONFLICT DO NOTHING",
    "INSERT INTO {s} (id) SELECT g FROM generate_series(600, 700) g ON CONFLICT (id) DO UPDATE SET body = 'm'",
    "UPDATE {s} SET price = random() * 100 WHERE id BETWEEN {n} AND {n} + 20",
    "UPDATE {s} SET id = id + 1000 WHERE id = {n} AND NOT EXISTS (SELECT FROM {s} WHERE id = {n} + 1000)",
    "UPDATE {s} SET id = id - 1000 WHERE id = {n} + 1000 AND NOT EXISTS (SELECT FROM {s} WHERE id = {n})",
    "UPDATE {s} SET body = repeat(md5(random()::text), 300) WHERE id = {n}",
    "DELETE FROM {s} WHERE id BETWEEN {n} AND {n} + 3",
    "BEGIN; INSERT INTO {s} (id) VALUES (-1); DELETE FROM {s} WHERE id = -1; ROLLBACK",
    "BEGIN; DELETE FROM {s} WHERE id = {n}; INSERT INTO {s} (id, body) VALUES ({n}, repeat('c', 5000)); COMMIT",
)
RARE = "TRUNCATE {s}"
APPLY = {"additive": "apply"}


@contextmanager
def writing(made: Changes, seconds: float = 0.0) -> Iterator[None]:
    """Write to the source's table in two sessions, in random order, until the end of the context."""
    ended = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with psycopg.connect(made.dsn, autocommit=True) as session:
            while not ended.wait(chance.random() * 0.01 + seconds):
                text = RARE if chance.random() < 0.005 else chance.choice(STATEMENTS)
                try:
                    session.execute(text.replace("{s}", made.source).replace("{n}", str(chance.randrange(500))))
                except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
                    session.execute("ROLLBACK")

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.chaos)])
def test_rows_are_equal_after_kills_while_others_write(changes: Callable[..., Changes], kills: int) -> None:
    made, chance = changes(rows=500), random.Random(7)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    with writing(made):
        for attempt in range(kills):
            pid = made.launchers.start(made.task(attempt=attempt + 1, schema=APPLY))
            time.sleep(chance.random())
            if attempt % 3 == 1:
                made.do(f"ALTER TABLE {{s}} ADD more_{attempt} text, ALTER name SET STATISTICS {attempt}")
            os.kill(pid, signal.SIGKILL)
            assert made.launchers.wait(pid)["code"] in {1, -signal.SIGKILL}  # a new column ends it, too
    task = made.task(attempt=kills + 1, schema=APPLY)
    pid = made.launchers.start(task)
    made.until_same()
    place = made.value("SELECT pg_current_wal_lsn()")
    made.until(
        f"SELECT confirmed_flush_lsn >= '{place}' FROM pg_replication_slots WHERE slot_name = '{made.slots()[-1]}'"
    )
    result = made.stop(pid, task)
    assert result["counters"]["dead"] == 0
    assert len(made.slots()) == 1


def test_a_lost_connection_is_tried_again(changes: Callable[..., Changes]) -> None:
    made = changes()
    task = made.task()
    pid = made.launchers.start(task)
    made.until_same()
    slot = made.slots()[0]
    made.until(f"SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'")
    made.do(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'")
    assert made.launchers.ended(pid, task)["error"]["transient"]
    made.do("DELETE FROM {s} WHERE id < 10")
    made.followed(attempt=2)


def test_a_transaction_that_is_too_large_is_refused(
    changes: Callable[..., Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = changes()
    made.followed()
    made.do("UPDATE {s} SET name = 'before'", "UPDATE {s} SET body = repeat('x', 1000)")
    monkeypatch.setattr(reader, "TRANSACTION_BYTES", 50_000)
    result = launch(made.task("r2"), FirstError(), Progress())
    assert "a transaction has more than" in result["error"]["what"]
    assert "`penstock run NAME --from earliest --reset`" in result["error"]["hint"]
    monkeypatch.undo()
    made.followed("r3")
