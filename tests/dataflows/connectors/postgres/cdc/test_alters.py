"""A load of multi-row statements while the table is altered again and again, and the process is killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")

APPLY = {"additive": "apply"}
ALTERS = (
    "ADD {c} int",
    "ADD {c} text DEFAULT 'of old rows'",
    "ADD {c} numeric(10,2) NOT NULL DEFAULT 1.50",
    "ADD {c} timestamptz DEFAULT now()",
    "ALTER note TYPE varchar({n})",
    "ALTER name SET STATISTICS {n}",
    "ADD {c} jsonb DEFAULT '{{}}', ADD {c}_b boolean",
    "SET (fillfactor = {n})",
    "ALTER price SET DEFAULT {n}",
    "ADD CONSTRAINT {c} CHECK (id > -1000)",
)
"""All are followed; of those that are refused, `REFUSED` comes last."""
REFUSED = "ALTER note TYPE int USING length(note)"
COLUMNS = "id int PRIMARY KEY, name text, price numeric(12,2), note varchar(60)"
ROWS = 500
WRITES = (
    (
        "INSERT INTO {s} (id, name, price, note) SELECT g, 'n' || g, g, repeat('x', g % 50) "
        "FROM generate_series({n}, {m}) g"
    ),
    "UPDATE {s} SET price = price + 1, name = name || '.' WHERE id BETWEEN {n} - 700 AND {n} - 201",
    "DELETE FROM {s} WHERE id BETWEEN {n} - 9000 AND {n} - 8501",
)


@contextmanager
def batches(made: Changes, rate: int) -> Iterator[dict[str, int]]:
    """Insert, update and delete `ROWS` rows by a statement each, `rate` changes a second, until the context ends."""
    ended, made_so_far = threading.Event(), {"changes": 0}

    def write() -> None:
        begun, number = time.monotonic(), 10_000
        with psycopg.connect(made.dsn, autocommit=True) as session:
            while not ended.is_set():
                if made_so_far["changes"] > rate * (time.monotonic() - begun):
                    time.sleep(0.002)
                    continue
                for text in WRITES:
                    statement = text.format(s=made.source, n=number, m=number + ROWS - 1)
                    made_so_far["changes"] += session.execute(statement.encode()).rowcount
                number += ROWS

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield made_so_far
    finally:
        ended.set()
        thread.join()


class Keeper:
    """Starts the stream again whenever it ends by a passing error, as a worker does, and kills it now and then."""

    def __init__(self, made: Changes, **changes: Any) -> None:
        self.made, self.changes, self.attempt, self.errors = made, changes, 0, list[dict[str, Any]]()
        self.task: dict[str, Any] = {}
        self.pid = 0
        self.start()

    def start(self) -> None:
        self.attempt += 1
        self.task = self.made.task("r1", self.attempt, schema=APPLY, **self.changes)
        self.pid = self.made.launchers.start(self.task)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.made.launchers.wait(self.pid)
        self.start()

    def look(self, seconds: float = 0.05) -> None:
        """Start it again if it has ended."""
        if "code" in self.made.launchers.wait(self.pid, seconds):
            self.errors.append(dict(self.task_result()["error"]))
            assert self.errors[-1]["transient"], self.errors[-1]
            self.start()

    def task_result(self) -> dict[str, Any]:
        from tests.dataflows.conftest import result

        return result(self.task)

    def until_same(self, seconds: float) -> float:
        """Return the seconds until both tables have the same rows."""
        begun = time.monotonic()
        while self.made.differences() != 0:
            self.look()
            assert time.monotonic() < begun + seconds, f"{self.made.differences()} rows differ"
        return time.monotonic() - begun


@pytest.mark.parametrize(
    ("alters", "rate", "seconds"), [(10, 2000, 3), pytest.param(20, 20_000, 40, marks=pytest.mark.chaos)]
)
def test_rows_are_equal_after_alters_and_kills_under_load(
    changes: Callable[..., Changes], alters: int, rate: int, seconds: float
) -> None:
    made, chance = changes(COLUMNS, rows=0), random.Random(5)
    made.do("INSERT INTO {s} SELECT g, 'n' || g, g, 'old' FROM generate_series(1, 5000) g")
    keeper = Keeper(made)
    made.until_same()
    begun = time.monotonic()
    with batches(made, rate) as done:
        for number in range(alters):
            while time.monotonic() < begun + seconds * (number + 1) / alters:
                keeper.look()
            text = ALTERS[number % len(ALTERS)].format(c=f"c{number}", n=70 + number)
            made.do(f"SET lock_timeout = '5s'; ALTER TABLE {{s}} {text}")
            if "note TYPE" in text:  # a type that allows more is for the target's owner
                made.do("ALTER TABLE {t} ALTER note TYPE varchar")
            if number % 3 == 1:
                time.sleep(chance.random() * 0.5)
                keeper.kill()
    lag = keeper.until_same(60)
    sys.stderr.write(f"{done['changes']:,} changes in {seconds} s and more, equal {lag:.1f} s after the last\n")
    assert done["changes"] > rate * seconds / 4
    made.do(f"ALTER TABLE {{s}} {REFUSED}", "INSERT INTO {s} (id) VALUES (-1)")
    while "code" not in made.launchers.wait(keeper.pid, 30):
        continue
    error = keeper.task_result()["error"]
    assert (error["transient"], "column `note`" in error["what"]) == (False, True), error
    assert "--from earliest --reset" in error["hint"]
