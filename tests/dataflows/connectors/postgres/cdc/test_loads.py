"""A snapshot for a target without rows goes there as it is read; for any other target it is staged first."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from dataflows.connectors import reading
from dataflows.connectors.postgres import reader
from dataflows.pipeline import FirstError
from dataflows.runs.launcher import launch
from dataflows.runs.progress import Progress
from tests.dataflows.connectors.postgres.cdc.conftest import COLUMNS, Changes
from tests.dataflows.connectors.postgres.cdc.test_unique import LETTERS, letters

pytestmark = pytest.mark.xdist_group("cdc")

LOCKED = "SELECT count(*) FROM pg_locks WHERE relation = '{t}'::regclass AND mode = 'RowExclusiveLock'"
RANDOM = "INSERT INTO {s} (id) SELECT g FROM generate_series(1000, 3000) g ORDER BY random()"
PASS = "CREATE OR REPLACE FUNCTION w.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
TRIGGER = "CREATE TRIGGER pass BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION w.pass()"


def drained(made: Changes, **changes: Any) -> dict[str, Any]:
    """Run in this process until all that is there was committed; return the result."""
    (made.folder / "drain").touch()
    return launch(made.task(**changes) | {"drain": str(made.folder / "drain")}, FirstError(), Progress())


@pytest.mark.parametrize(
    ("before", "loads"),
    [
        ((), True),
        (("ANALYZE {s}",), True),
        ((RANDOM, "ANALYZE {s}"), False),
        (("INSERT INTO {t} (id) VALUES (-7)",), False),
        ((PASS, TRIGGER), False),
    ],
)
def test_only_sorted_rows_are_loaded_into_a_target_without_rows_and_triggers(
    changes: Callable[..., Changes], before: tuple[str, ...], *, loads: bool
) -> None:
    made = changes()
    made.do("CREATE TABLE {t} (LIKE {s} INCLUDING ALL)", *before)
    task = made.task()
    pid = made.launchers.stopped(task, "commit.mid_copy:1")
    assert made.value(LOCKED) == loads
    made.do("DELETE FROM {s} WHERE id < 50")
    os.kill(pid, signal.SIGCONT)
    made.until_same()
    result = made.stop(pid, task)
    assert result["counters"]["rows_out"] >= 101  # all rows, and the one that begins them


@pytest.mark.parametrize("columns", [COLUMNS, "id int PRIMARY KEY, n interval"])
def test_a_snapshot_of_an_empty_table(changes: Callable[..., Changes], columns: str) -> None:
    made = changes(columns, rows=0)
    assert drained(made)["status"] == "completed"
    assert made.value("SELECT count(*) FROM {t}") == 0
    assert made.position()["slot"] == made.slots()[0]


def test_a_row_is_refused_while_the_snapshot_is_read(
    changes: Callable[..., Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, blocks = changes(rows=3000), []

    def slow(name: str, index: int | None = None) -> None:
        if name == "read.block":
            blocks.append(index)
            time.sleep(1.0 if len(blocks) == 4 else 0.0)

    monkeypatch.setattr(reader, "ARROW_BYTES", 1 << 12)
    monkeypatch.setattr(reading, "failpoint", slow)
    made.do("CREATE TABLE {t} (LIKE {s} INCLUDING ALL)", "ALTER TABLE {t} ADD CHECK (id <> 3)")
    result = drained(made, errors=LETTERS)
    assert result["status"] == "completed", result
    assert letters(made) == ["23514"]
    assert made.differences() == 1
    assert len(blocks) > 20  # two passes over the table


def test_a_snapshot_whose_rows_were_refused_keeps_the_table_locked(
    changes: Callable[..., Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, seen = changes(), []

    def look(name: str, index: int | None = None) -> None:
        if name == "read.begin" and index == 1:
            seen.append(made.value("SELECT count(*) FROM pg_locks WHERE relation = '{s}'::regclass "
                                   "AND mode = 'AccessShareLock' AND pid <> pg_backend_pid()"))  # fmt: skip

    monkeypatch.setattr(reading, "failpoint", look)
    made.do("CREATE TABLE {t} (LIKE {s} INCLUDING ALL)", "ALTER TABLE {t} ADD CHECK (id <> 3)")
    assert drained(made, errors=LETTERS)["status"] == "completed"
    assert len(seen) == 2
    assert min(seen) > 0
    assert made.differences() == 1
