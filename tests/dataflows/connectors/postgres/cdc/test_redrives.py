"""Changes that were set aside are redriven in order, and never over a newer state of their row."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from catalog.redrives import Sent
from dataflows.data.changes import CHANGE
from dataflows.pipeline import FirstError
from dataflows.runs.job import Job
from dataflows.runs.launcher import launch
from dataflows.runs.letter_changes import Fates
from dataflows.runs.letter_source import Restored
from dataflows.runs.letter_trial import tried
from dataflows.runs.progress import Progress
from penstock.models.letters import LetterChoice, LetterFix
from tests.dataflows.connectors.conftest import System
from tests.dataflows.connectors.postgres.cdc.conftest import Changes
from tests.dataflows.connectors.postgres.cdc.test_histories import sink, states
from tests.dataflows.connectors.postgres.cdc.test_loads import drained
from tests.dataflows.connectors.postgres.cdc.test_mirrors import FILES, LETTERS, Mirror

pytestmark = pytest.mark.xdist_group("cdc")

FIX: dict[str, Any] = {"set": {"price": "least(price, 999)"}}
CUTS = ("redrive.claimed", "commit.before_fence", "commit.done", "redrive.written")


def order(task: dict[str, Any], run: str, **more: Any) -> dict[str, Any]:
    """Return the task of a redrive instead of that of a run; its name is the only one of its kind."""
    return task | {"run": f"{run} of {task['uid']}", "kind": "letters", "redrive": {"action": "replay"} | more}


def redriven(made: Changes, run: str, changes: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Redrive in this process; return what became of the letters."""
    done = launch(order(made.task(run, errors=LETTERS, **(changes or {})), run, **more), FirstError(), Progress())
    assert done["status"] == "completed", done["error"]
    return dict(done["letters"])


def kept(made: Changes) -> list[tuple[Any, ...]]:
    """Return the letters in order: operation, key, code, and whether a later change has overtaken them."""
    assert made.letters
    with psycopg.connect(made.letters) as session:
        return session.execute(
            "SELECT change ->> 'op', change ->> 'key', code, overtaken IS NOT NULL FROM ops.dead_letters "
            "WHERE pipeline = %s ORDER BY split, change ->> 'at', row",
            (made.uid,),
        ).fetchall()


@pytest.mark.parametrize(
    ("change", "overtaken", "history", "stays"),
    [
        ({"op": "write", "key": '["1"]'}, None, False, None),
        ({"op": "write", "key": '["1"]'}, 7, True, "overtaken"),
        ({"op": "write", "key": None}, None, False, "not_known"),
        ({"op": "truncate", "key": None}, None, False, "truncate"),
        ({"op": "delete", "key": '["1"]'}, None, False, None),
    ],
)
def test_what_becomes_of_a_change(
    change: dict[str, Any], overtaken: int | None, history: bool, stays: str | None
) -> None:
    batch = pa.RecordBatch.from_pydict({"id": [1], CHANGE: pa.array([None], pa.string())})
    found = Restored(batch, {0: ("letter", "not_kept", "no value of a new column")} if stays is None else {})
    Fates("d1", history, "here")(0, found, [Sent("target", "23514", "why", {}, change, overtaken)])
    code = "not_kept" if change["op"] == "write" and stays is None else stays
    assert (found.stays[0][1] if found.stays else None, found.dropped) == (code, set())


def set_aside(made: Changes) -> None:
    """Make a stream set aside changes of each kind, and write later ones of some of their keys."""
    drained(made, errors=LETTERS)
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)")
    made.do(
        "CREATE FUNCTION {t}_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.name = 'kept' THEN "
        "RAISE EXCEPTION 'kept' USING ERRCODE = 'check_violation'; END IF; RETURN OLD; END $$",
        "UPDATE {t} SET name = 'kept' WHERE id IN (7, 8)",
        "CREATE TRIGGER kept BEFORE DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION {t}_kept()",
        "UPDATE {s} SET price = 5000 WHERE id < 4",
        "INSERT INTO {s} (id, price) VALUES (200, 5000)",
        "UPDATE {s} SET id = 400, price = 5000 WHERE id = 4",
        "DELETE FROM {s} WHERE id IN (7, 8)",
    )
    assert drained(made, run="r2", errors=LETTERS)["counters"]["dead"] == 7
    made.do("DROP TRIGGER kept ON {t}", "UPDATE {s} SET price = 7 WHERE id = 2", "DELETE FROM {s} WHERE id = 3")
    made.do("DELETE FROM {s} WHERE id = 200", "INSERT INTO {s} (id, name) VALUES (7, 'again')")
    assert drained(made, run="r3", errors=LETTERS)["counters"]["dead"] == 0


def test_changes_are_redriven_unless_a_later_one_of_their_key_is_written(changes: Callable[..., Changes]) -> None:
    made = changes(rows=10)
    set_aside(made)
    assert kept(made) == [
        ("write", '["1"]', "23514", False), ("write", '["2"]', "23514", True), ("write", '["3"]', "23514", True),
        ("write", '["200"]', "23514", True), ("write", '["400"]', "23514", False),
        ("delete", '["7"]', "23514", True), ("delete", '["8"]', "23514", False),
    ]  # fmt: skip
    task = made.task(errors=LETTERS)
    trial = tried(Job.from_task(task), LetterChoice(), LetterFix.parse(FIX))
    assert (trial.passed, trial.overtaken, trial.refused) == (3, 4, 0)
    error = launch(order(task, "d0", fix={"set": {"id": "7"}}), FirstError(), Progress())["error"]
    assert "a column of the key says which row a change is of" in error["what"], error
    for cut in CUTS:
        assert made.launchers.run(order(task, "d1", fix=FIX), f"{cut}=kill") == {"killed": 9}, cut
    found = redriven(made, "d1", fix=FIX)
    assert [found[name] for name in ("chosen", "written", "overtaken", "refused", "filtered")] == [7, 3, 4, 0, 0]
    assert kept(made) == []
    made.do("UPDATE {s} SET price = 999 WHERE id IN (1, 400)")
    assert made.differences() == 0
    assert drained(made, run="r4", errors=LETTERS)["status"] == "completed"


def test_an_update_without_a_value_that_was_set_aside_is_set_aside_too(changes: Callable[..., Changes]) -> None:
    made = changes(rows=5)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", "UPDATE {s} SET body = repeat('c', 9000) WHERE id = 3")
    drained(made, errors=LETTERS)
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)")
    steps = (
        ("UPDATE {s} SET price = 5000, body = repeat('b', 9000) WHERE id < 3",),
        ("UPDATE {s} SET price = 3 WHERE id <> 3", "UPDATE {s} SET id = 30, price = 5000 WHERE id = 3"),
        ("UPDATE {s} SET id = 20, name = 'moved' WHERE id = 2", "INSERT INTO {s} (id, body) VALUES (3, 'other')"),
    )
    for at, some in enumerate(steps, start=2):
        made.do(*some)
        assert drained(made, run=f"r{at}", errors=LETTERS)["status"] == "completed"
    assert kept(made) == [
        ("write", '["1"]', "23514", False), ("write", '["2"]', "23514", True),
        ("write", '["1"]', "not_kept", False), ("write", '["2"]', "not_kept", True),
        ("update", '["30"]', "23514", False), ("write", '["20"]', "not_kept", False),
    ]  # fmt: skip
    found = redriven(made, "d1")
    assert (found["written"], found["overtaken"], found["refused"]) == (2, 2, 2)
    assert kept(made) == [("write", '["1"]', "23514", True), ("update", '["30"]', "not_kept", False)]
    assert made.differences() == 1  # the values of row 30 were in a row that is gone
    found = redriven(made, "d2", fix=FIX | {"where": "id = 30"})
    assert (found["written"], found["overtaken"], found["refused"]) == (0, 0, 2)
    found = redriven(made, "d3", fix={"set": FIX["set"] | {"body": "'d'"}, "where": "id = 30"})
    assert (found["written"], found["overtaken"], found["refused"]) == (1, 0, 1)
    assert made.value("SELECT body FROM {t} WHERE id = 30") == "d"


def test_no_row_gets_a_large_value_of_another_one_that_had_its_key(changes: Callable[..., Changes]) -> None:
    made = changes(rows=2)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", "UPDATE {s} SET body = repeat(id::text, 9000)")
    drained(made, errors=LETTERS)
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)")
    made.do("BEGIN; DELETE FROM {s} WHERE id = 1; UPDATE {s} SET id = 1, price = 5000 WHERE id = 2; COMMIT")
    drained(made, run="r2", errors=LETTERS)
    made.do("UPDATE {s} SET price = 7 WHERE id = 1")
    drained(made, run="r3", errors=LETTERS)
    assert kept(made) == [("update", '["1"]', "23514", False), ("update", '["1"]', "not_kept", False)]
    assert redriven(made, "d1", fix=FIX)["refused"] == 2
    assert made.value("SELECT price < 2 AND body = repeat('1', 9000) FROM {t}")
    found = redriven(made, "d2", fix={"set": FIX["set"] | {"body": "lpad('', 9000, '2')"}})
    assert (found["written"], made.differences()) == (2, 0)


@pytest.mark.parametrize("point", ["commit.copied", pytest.param("redrive.claimed", marks=pytest.mark.chaos)])
def test_a_stream_overtakes_a_redrive_that_waits(changes: Callable[..., Changes], point: str) -> None:
    made = changes(rows=5)
    drained(made, errors=LETTERS)
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)", "UPDATE {s} SET price = 5000 WHERE id < 3")
    task = made.task("r2", errors=LETTERS)
    pid = made.launchers.start(task)
    made.do("UPDATE {s} SET name = 'on' WHERE id = 5")
    made.until("SELECT name = 'on' FROM {t} WHERE id = 5")
    late = order(made.task("d1", errors=LETTERS), "d1", fix=FIX)
    stopped = made.launchers.stopped(late, point)
    made.do("UPDATE {s} SET price = 7, name = 'newer' WHERE id = 1")
    made.until("SELECT price = 7 FROM {t} WHERE id = 1")
    done = made.launchers.woken(stopped, late)
    assert (done["letters"]["written"], done["letters"]["overtaken"]) == (1, 1), done["error"]
    made.do("UPDATE {s} SET price = 999 WHERE id = 2")
    made.until_same()
    made.stop(pid, task)


def test_what_a_split_has_overtaken_is_void_until_it_is_committed(changes: Callable[..., Changes]) -> None:
    made = changes(rows=2)
    drained(made, errors=LETTERS)
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)", "UPDATE {s} SET price = 5000 WHERE id = 1")
    drained(made, run="r2", errors=LETTERS)
    made.do("UPDATE {s} SET price = 7, name = 'later' WHERE id = 1")
    task = made.task("r3", errors=LETTERS) | {"drain": str(made.folder / "drain")}
    assert made.launchers.run(task, "commit.before_fence=kill") == {"killed": 9}
    assert [one[3] for one in kept(made)] == [True]
    made.do("ALTER TABLE {t} ADD CHECK (name <> 'later')")
    drained(made, run="r4", errors=LETTERS)
    assert [one[3] for one in kept(made)] == [False, False]
    assert made.letters
    with psycopg.connect(made.letters) as session:
        session.execute("UPDATE ops.dead_letters SET change = NULL WHERE pipeline = %s", (made.uid,))
    error = launch(order(made.task(errors=LETTERS), "d1"), FirstError(), Progress())["error"]
    assert "an earlier version has kept these changes" in error["what"], error


def change(chance: random.Random) -> str:
    """Return a random change; those of the key change no other value."""
    (one, other), price = chance.sample(range(8), 2), chance.randrange(100)
    put, on = "INSERT INTO {s}", "ON CONFLICT (id) DO UPDATE SET price = excluded.price"
    often = (
        f"{put} VALUES ({one}, 'n', {price}, now(), repeat('{one}', 9000)) {on}",
        f"UPDATE {{s}} SET price = {price} WHERE id = {one}",
        f"UPDATE {{s}} SET price = {price}, body = repeat('{chance.randrange(10)}', 9000) WHERE id = {one}",
        f"UPDATE {{s}} SET name = '{chance.randrange(10)}' WHERE id = {one}",
    )
    seldom = (
        f"BEGIN; DELETE FROM {{s}} WHERE id = {other}; UPDATE {{s}} SET id = {other} WHERE id = {one}; COMMIT",
        f"DELETE FROM {{s}} WHERE id = {one}",
        "TRUNCATE {s}" if price < 10 else f"DELETE FROM {{s}} WHERE id = {other}",
    )
    return chance.choice((*often, *often, *often, *seldom))


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(4, 14))])
def test_after_a_redrive_each_row_is_that_of_the_source_or_a_letter(changes: Callable[..., Changes], seed: int) -> None:
    made, chance = changes(rows=0), random.Random(seed)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", "CREATE TABLE {t} (LIKE {s} INCLUDING ALL)")
    made.do("ALTER TABLE {t} ADD CHECK (price < 50)")
    made.do("INSERT INTO {s} SELECT g, 'n', 1, now(), repeat(g::text, 9000) FROM generate_series(0, 7) g")
    for number in range(8):
        made.do(*(change(chance) for _ in range(chance.randrange(1, 9))))
        done = drained(made, run=f"r{number}", errors=LETTERS)
        assert done["status"] == "completed", done["error"]
        if number % 4 == 3:
            redriven(made, f"d{number}", choice={"step": "target"})
    made.do("ALTER TABLE {t} DROP CONSTRAINT {p}_price_check".replace("{p}", f"t{made.number}"))
    redriven(made, "last")
    left = {json.loads(key)[0] for _, key, code, passed in kept(made) if not passed and code == "not_kept"}
    assert {code for _, _, code, _ in kept(made)} <= {"not_kept"}
    rows = made.session.execute(
        f"SELECT coalesce(s.id, t.id)::text FROM {made.source} s FULL JOIN {made.target} t "
        "ON s = t WHERE s.id IS NULL OR t.id IS NULL".encode()
    ).fetchall()
    assert {key for (key,) in rows} <= left


def test_a_history_takes_the_newest_state_of_a_key_and_no_older_one(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    made.do("INSERT INTO {s} (id, name) VALUES (1, 'a'), (2, 'a')")
    history = sink(made, "scd2") | {"errors": LETTERS}
    drained(made, **history)
    made.do("ALTER TABLE {t} ADD CONSTRAINT c CHECK (name <> 'bad')")
    made.do(
        "UPDATE {s} SET name = 'bad'",
        "BEGIN; UPDATE {s} SET name = 'bad', price = 1 WHERE id = 1; COMMIT",
        "UPDATE {s} SET name = 'b' WHERE id = 2",
    )
    drained(made, run="r2", **history)
    assert [one[1] for one in kept(made) if one[3]] == ['["2"]']
    made.do("ALTER TABLE {t} DROP CONSTRAINT c")
    found = redriven(made, "d1", {"sink": history["sink"]})
    assert (found["written"], found["refused"], found["overtaken"]) == (2, 1, 0)
    assert states(made) == [(1, "a", False), (1, "bad", False), (1, "bad", True), (2, "a", False), (2, "b", True)]
    assert [one[2] for one in kept(made)] == ["overtaken"]


def test_events_of_a_log_are_redriven_once_while_it_goes_on(changes: Callable[..., Changes]) -> None:
    made = changes(rows=3)
    log = sink(made, "append") | {"errors": LETTERS}
    drained(made, **log)
    made.do("ALTER TABLE {t} ADD CONSTRAINT c CHECK (name <> 'bad')", "UPDATE {s} SET name = 'bad' WHERE id = 2")
    drained(made, run="r2", **log)
    made.do("ALTER TABLE {t} DROP CONSTRAINT c")
    task = made.task("r3", **log)
    pid = made.launchers.start(task)
    again = order(made.task("d1", **log), "d1")
    assert made.launchers.run(again, "commit.done=kill") == {"killed": 9}
    made.do("DELETE FROM {s} WHERE id = 2")
    made.until("SELECT EXISTS (SELECT FROM {t} WHERE _op = 'delete')")
    done = made.launchers.run(again)
    assert done["letters"]["written"] == 1, done["error"]
    made.stop(pid, task)
    query = "SELECT array_agg(_op || name ORDER BY _lsn, _seq) FILTER (WHERE _op <> 'snapshot') FROM {t}"
    assert made.value(query.replace("name", "coalesce(name, '')")) == ["updatebad", "delete"]


def test_a_new_snapshot_overtakes_all_that_was_set_aside(changes: Callable[..., Changes]) -> None:
    made = changes(rows=3)
    drained(made, errors=LETTERS)
    made.do("ALTER TABLE {t} ADD CONSTRAINT c CHECK (price < 1000)", "UPDATE {s} SET price = 5000 WHERE id = 1")
    drained(made, run="r2", errors=LETTERS)
    made.do("ALTER TABLE {t} DROP CONSTRAINT c", "UPDATE {s} SET price = 6000 WHERE id = 1")
    (made.folder / "drain").touch()
    task = made.task("r3", errors=LETTERS) | {"drain": str(made.folder / "drain")}
    done = launch(task | {"begin": {"from": "earliest", "reset": True}}, FirstError(), Progress())
    assert done["status"] == "completed", done["error"]
    assert redriven(made, "d1")["overtaken"] == 1
    assert made.differences() == 0
    made.do("ALTER TABLE {t} ADD CHECK (name <> 'x')", "UPDATE {s} SET name = 'x' WHERE id = 1")
    drained(made, run="r4", errors=LETTERS)
    other = made.task()["pipeline"]["spec"]["sink"] | {"object": f"{made.target}_other"}
    drained(made, run="r5", errors=LETTERS, sink=other)  # where splits are numbered from 1 on
    assert [one[3] for one in kept(made)] == [True]


@pytest.mark.parametrize("name", ["mysql", *(pytest.param(name, marks=pytest.mark.chaos) for name in FILES)])
def test_changes_are_redriven_into_other_databases(
    changes: Callable[..., Changes], new_system: Callable[[str], System], name: str
) -> None:
    one = Mirror(changes("id int PRIMARY KEY, name text, price int, body text", 0), new_system(name))
    one.made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    one.rows("CREATE TABLE copied (id int NOT NULL PRIMARY KEY, name text, price int CHECK (price < 1000), body text)")
    one.made.do("INSERT INTO {s} SELECT g, 'n', g, repeat('x', 9000) FROM generate_series(1, 9) g")
    one.run("r1", errors=LETTERS)
    one.made.do(
        "UPDATE {s} SET price = 5000, body = repeat('y', 9000) WHERE id < 4", "INSERT INTO {s} VALUES (20, 'n', 5000)"
    )
    one.run("r2", errors=LETTERS)
    one.made.do("UPDATE {s} SET price = 7 WHERE id = 1", "UPDATE {s} SET body = 'z', price = 7 WHERE id = 2")
    one.made.do("DELETE FROM {s} WHERE id = 20")
    one.run("r3", errors=LETTERS)
    done: list[tuple[int, int, int]] = []
    for run, more in (("d1", {}), ("d2", {"fix": FIX})):
        task = order(one.task(run, errors=LETTERS), run, **more)
        for cut in CUTS[1:3] if more else ():
            assert one.made.launchers.run(task, f"{cut}=kill") == {"killed": 9}, cut
        result = one.made.launchers.run(task)
        assert result["status"] == "completed", result["error"]
        done.append(tuple(result["letters"][name] for name in ("written", "overtaken", "refused")))
    assert done == [(1, 2, 2), (1, 1, 0)]
    one.made.do("UPDATE {s} SET price = 999 WHERE id = 3")
    one.same("id", "name", "price", "body")
    one.run("r4", errors=LETTERS)


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["mysql", "sqlite"])
def test_a_stream_into_another_database_overtakes_a_redrive_that_waits(
    changes: Callable[..., Changes], new_system: Callable[[str], System], name: str
) -> None:
    one = Mirror(changes("id int PRIMARY KEY, price int", 0), new_system(name))
    one.rows("CREATE TABLE copied (id int NOT NULL PRIMARY KEY, price int CHECK (price < 1000))")
    one.made.do("INSERT INTO {s} SELECT g, g FROM generate_series(1, 9) g")
    one.run("r1", errors=LETTERS)
    one.made.do("UPDATE {s} SET price = 5000 WHERE id < 3")
    one.run("r2", errors=LETTERS)
    late = order(one.task("d1", errors=LETTERS), "d1", fix=FIX)
    stopped = one.made.launchers.stopped(late, "commit.copied")
    one.made.do("UPDATE {s} SET price = 7 WHERE id = 1")
    one.run("r3", errors=LETTERS)
    done = one.made.launchers.woken(stopped, late)
    assert (done["letters"]["written"], done["letters"]["overtaken"]) == (1, 1), done["error"]
    one.made.do("UPDATE {s} SET price = 999 WHERE id = 2")
    one.same("id", "price")
