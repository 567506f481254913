"""What a dead letter of a change knows: its row by any key, and which of its values were not sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from catalog.redrives import Sent
from dataflows.connectors.isolation import RowRefused
from dataflows.data.changes import CHANGE
from dataflows.pipeline import FirstError
from dataflows.runs.launcher import launch
from dataflows.runs.letter_changes import Fates
from dataflows.runs.letter_source import Restored
from dataflows.runs.progress import Progress
from tests.dataflows.connectors.conftest import System
from tests.dataflows.connectors.postgres.cdc.conftest import WAIT, Changes
from tests.dataflows.connectors.postgres.cdc.test_loads import drained
from tests.dataflows.connectors.postgres.cdc.test_mirrors import LETTERS, Mirror
from tests.dataflows.connectors.postgres.cdc.test_redrives import FIX, kept, order, redriven

pytestmark = pytest.mark.xdist_group("cdc")


def by(made: Changes, *key: str) -> dict[str, Any]:
    """Return the parts of a pipeline that mirrors rows by this key."""
    return {"errors": LETTERS, "sink": {"connection": "lake", "object": made.target, "write": "merge", "key": [*key]}}


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_another_letter_that_is_overtaken_instead_is_noticed() -> None:
    batch = pa.RecordBatch.from_pydict({"id": [1, 2], CHANGE: pa.array([None, None], pa.string())})
    found = [Sent("target", "23514", "why", {}, {"op": "write", "key": f'["{n}"]'}, n) for n in (7, None)]
    fates, now = Fates("d1", history=False, where="here"), [True, False]
    fates(0, restored := Restored(batch), found)
    assert restored.dropped == {0}
    redrives: Any = SimpleNamespace(overtaken=lambda *_: now)
    fates.check(0, redrives)
    now.reverse()
    with pytest.raises(RowRefused, match="a later change of a key came"):
        fates.check(0, redrives)


def test_a_fix_computes_nothing_from_a_value_that_was_left_out(changes: Callable[..., Changes]) -> None:
    made = changes(rows=2)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", "UPDATE {s} SET body = repeat('b', 9000)")
    drained(made, errors=LETTERS)
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)", "UPDATE {s} SET price = 5000 WHERE id = 1")
    drained(made, run="r2", errors=LETTERS)
    for fix in ({"set": FIX["set"] | {"body": "left(body, 100)"}}, FIX | {"where": "body IS NULL"}):
        assert redriven(made, "d1" if "where" in fix else "d2", fix=fix)["refused"] == 1
        assert kept(made) == [("update", '["1"]', "not_kept", False)]
    assert redriven(made, "d3", fix={"set": FIX["set"] | {"body": "'short'"}})["written"] == 1
    assert made.value("SELECT body || price FROM {t} WHERE id = 1") == "short999.00"


def test_a_row_is_found_at_its_key_before_of_any_type(changes: Callable[..., Changes]) -> None:
    made = changes("id int, open bool, at time, price int, body text, PRIMARY KEY (open, id, at)", 0)
    made.do(
        "ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL",
        "INSERT INTO {s} SELECT 1, true, '10:00', 1, repeat('a', 9000)",
    )
    drained(made, **by(made, "open", "id", "at"))
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)", "UPDATE {s} SET price = 5000, body = repeat('b', 9000)")
    drained(made, run="r2", **by(made, "open", "id", "at"))
    made.do("UPDATE {s} SET open = false, price = 3")
    drained(made, run="r3", **by(made, "open", "id", "at"))
    assert kept(made) == [
        ("write", '["10:00:00", "1", "True"]', "23514", True),
        ("write", '["10:00:00", "1", "False"]', "not_kept", False),
    ]
    redriven(made, "d1", {"sink": by(made, "open", "id", "at")["sink"]})
    assert made.differences() == 0


def test_keys_that_are_equal_are_one_key(changes: Callable[..., Changes]) -> None:
    made = changes("id numeric, at float8, name text, PRIMARY KEY (id, at)", 0)
    made.do("INSERT INTO {s} VALUES (1.0, '-0', 'old')")
    drained(made, **by(made, "id", "at"))
    made.do(
        "CREATE FUNCTION {t}_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'kept' USING ERRCODE = 'check_violation'; END $$",
        "CREATE TRIGGER kept BEFORE DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION {t}_kept()",
        "DELETE FROM {s}",
    )
    drained(made, run="r2", **by(made, "id", "at"))
    made.do("DROP TRIGGER kept ON {t}", "INSERT INTO {s} VALUES (1, 0, 'new')")
    drained(made, run="r3", **by(made, "id", "at"))
    assert redriven(made, "d1", {"sink": by(made, "id", "at")["sink"]})["overtaken"] == 1
    assert made.value("SELECT name FROM {t}") == "new"


def test_letters_of_another_key_stay_and_those_of_the_same_one_may_name_it_in_another_order(
    changes: Callable[..., Changes],
) -> None:
    made = changes("id int PRIMARY KEY, part int NOT NULL, price int, UNIQUE (id, part)", 0)
    made.do(
        "ALTER TABLE {s} REPLICA IDENTITY FULL",
        "INSERT INTO {s} VALUES (1, 10, 1), (2, 20, 2)",
        "CREATE TABLE {t} (LIKE {s} INCLUDING ALL)",
    )
    drained(made, **by(made, "id", "part"))
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)", "UPDATE {s} SET price = 5000")
    drained(made, run="r2", **by(made, "id", "part"))
    made.do("UPDATE {s} SET price = 7 WHERE id = 1")
    drained(made, run="r3", **by(made, "part", "id"))
    assert kept(made) == [("write", '["1", "10"]', "23514", True), ("write", '["2", "20"]', "23514", False)]
    made.do("UPDATE {s} SET price = 8 WHERE id = 2")
    drained(made, run="r4", **by(made, "id"))
    found = redriven(made, "d1", {"sink": by(made, "id")["sink"]}, fix=FIX)
    assert (found["written"], found["overtaken"], found["refused"], made.differences()) == (0, 1, 1, 0)
    assert kept(made) == [("write", None, "not_known", False)]


def test_what_was_overtaken_stays_so_when_another_sink_was_given_up(changes: Callable[..., Changes]) -> None:
    made = changes(rows=3)
    drained(made, errors=LETTERS)
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)", "UPDATE {s} SET price = 5000 WHERE id = 1")
    drained(made, run="r2", errors=LETTERS)
    made.do("UPDATE {s} SET price = 7 WHERE id = 1")
    drained(made, run="r3", errors=LETTERS)
    other = made.task()["pipeline"]["spec"]["sink"] | {"object": f"{made.target}_other"}
    given_up = made.task("r4", errors=LETTERS, sink=other)
    assert made.launchers.run(given_up, "prepare.planned=kill") == {"killed": 9}
    error = launch(order(made.task("d1", errors=LETTERS, sink=other), "d1"), FirstError(), Progress())["error"]
    assert "the stream has written nothing to this sink yet" in error["what"], error
    drained(made, run="r5", errors=LETTERS)
    assert (redriven(made, "d2", fix=FIX)["overtaken"], made.differences()) == (1, 0)


def test_a_run_that_slept_takes_no_letters_from_its_successor(
    changes: Callable[..., Changes], new_system: Callable[[str], System]
) -> None:
    one = Mirror(changes("id int PRIMARY KEY, price int", 0), new_system("sqlite"))
    one.rows("CREATE TABLE copied (id int NOT NULL PRIMARY KEY, price int CHECK (price < 1000))")
    one.run("r1", errors=LETTERS)
    late = one.task("r2", errors=LETTERS)
    stopped = one.made.launchers.stopped(late, "prepare.sessions_ended")
    task = {name: value for name, value in one.task("r3", errors=LETTERS).items() if name != "drain"}
    pid = one.made.launchers.start(task)
    one.made.do("INSERT INTO {s} VALUES (1, 1)")
    until(lambda: one.rows("SELECT id FROM copied") == [(1,)])
    assert one.made.launchers.woken(stopped, late)["status"] != "completed"
    one.made.do("INSERT INTO {s} VALUES (2, 5000), (3, 3)")
    until(lambda: one.rows("SELECT id FROM copied ORDER BY 1") == [(1,), (3,)])
    assert [letter[1] for letter in kept(one.made)] == ['["2"]']
    one.made.stop(pid, task)
