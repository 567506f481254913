"""Changes as a history: each state of a row that a commit left, since its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dataflows.connectors.postgres.cdc.fold import Layout
from dataflows.connectors.postgres.cdc.log import History, Log
from dataflows.connectors.postgres.cdc.pgoutput import Begin, Change
from dataflows.runs.comparison import compare
from dataflows.runs.job import Job
from dataflows.runs.survey import opened
from tests.dataflows.connectors.postgres.cdc.conftest import Changes
from tests.dataflows.connectors.postgres.cdc.test_loads import PASS, TRIGGER, drained
from tests.dataflows.connectors.postgres.cdc.test_refusals import planned, refusal
from tests.dataflows.connectors.postgres.cdc.test_unique import LETTERS, letters

pytestmark = pytest.mark.xdist_group("cdc")

POINTS = ["cdc.gathered", "commit.before_fence", "commit.sent", "commit.done"]
AUDIT = """
CREATE TABLE {s}_audit (id int, name text, at timestamptz, gone boolean, n bigserial);
CREATE FUNCTION {s}_keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND OLD.id <> NEW.id) THEN
    INSERT INTO {s}_audit VALUES (OLD.id, NULL, clock_timestamp(), true);
  END IF;
  IF TG_OP <> 'DELETE' THEN INSERT INTO {s}_audit VALUES (NEW.id, NEW.name, clock_timestamp(), false); END IF;
  RETURN NULL; END $$;
CREATE TRIGGER keep AFTER INSERT OR UPDATE OR DELETE ON {s} FOR EACH ROW EXECUTE FUNCTION {s}_keep()"""
"""Keeps each state of a row at the source, to compare; `at` is a moment before the commit."""


def sink(made: Changes, write: str, **more: Any) -> dict[str, Any]:
    key = {} if write == "append" else {"key": ["id"]}
    return {"sink": {"connection": "lake", "object": made.target, "write": write} | key | more}


def states(made: Changes) -> list[tuple[Any, ...]]:
    """Return the states of all rows by key, in order: (id, name, current)."""
    return made.session.execute(
        f"SELECT id, name, is_current FROM {made.target} ORDER BY id, valid_from".encode()
    ).fetchall()


def check_history(made: Changes) -> None:
    """Check that the periods of each key touch where a row follows on another, and that one at most is current."""
    wrong = (
        "SELECT count(*) FROM (SELECT *, lead(valid_from) OVER (PARTITION BY id ORDER BY valid_from) AS next "
        "FROM {t}) t WHERE is_current <> (valid_to IS NULL) OR valid_to <= valid_from OR valid_to > next "
        "OR (is_current AND next IS NOT NULL)"
    )
    assert made.value(wrong) == 0
    now = "SELECT id, name, price, at, body FROM"
    current = f"{now} {{t}} WHERE is_current"
    differing = f"({now} {{s}} EXCEPT {current}) UNION ALL ({current} EXCEPT {now} {{s}})"
    assert made.value(f"SELECT count(*) FROM ({differing}) x") == 0


def test_a_history_has_each_state_that_a_commit_left(changes: Callable[..., Changes]) -> None:
    made = changes(rows=4)
    history = sink(made, "scd2")
    assert drained(made, **history)["status"] == "completed"
    made.do(
        "UPDATE {s} SET name = 'b' WHERE id = 1",
        "UPDATE {s} SET name = 'c' WHERE id = 1",
        "BEGIN; UPDATE {s} SET name = 'unseen' WHERE id = 1; UPDATE {s} SET name = 'd' WHERE id = 1; COMMIT",
        "UPDATE {s} SET name = name WHERE id = 2",
        "DELETE FROM {s} WHERE id = 3",
        "INSERT INTO {s} (id, name) VALUES (3, 'again')",
        "BEGIN; INSERT INTO {s} (id, name) VALUES (9, 'never'); DELETE FROM {s} WHERE id = 9; COMMIT",
        "UPDATE {s} SET id = 40, name = 'moved' WHERE id = 4",
    )
    assert drained(made, run="r2", **history)["status"] == "completed"
    first = {id_: name for id_, name, _ in reversed(states(made))}
    assert states(made) == [
        (1, first[1], False), (1, "b", False), (1, "c", False), (1, "d", True),
        (2, first[2], True), (3, first[3], False), (3, "again", True), (4, first[4], False), (40, "moved", True),
    ]  # fmt: skip
    check_history(made)
    assert made.value("SELECT bool_and(valid_from BETWEEN now() - interval '5 min' AND now()) FROM {t}")
    gap = "SELECT min(valid_to) < max(valid_from) FROM {t} WHERE id = 3"
    assert made.value(gap)


def test_values_that_are_not_sent_stay_in_a_history(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    made.do("INSERT INTO {s} (id, name, body) SELECT g, 'a', repeat(g::text, 5000) FROM generate_series(1, 3) g")
    history = sink(made, "scd2")
    drained(made, **history)
    made.do(
        "UPDATE {s} SET name = 'b' WHERE id = 1",
        "UPDATE {s} SET name = 'c' WHERE id = 1",
        "UPDATE {s} SET id = 20 WHERE id = 2",
        "UPDATE {s} SET name = 'd' WHERE id = 20",
        "UPDATE {s} SET body = repeat('n', 4000) WHERE id = 3",
        "UPDATE {s} SET name = 'e' WHERE id = 3",
    )
    drained(made, run="r2", **history)
    assert made.value("SELECT count(*) FROM {t} WHERE body IS NULL") == 0
    assert [one[:2] for one in states(made)] == [
        (1, "a"), (1, "b"), (1, "c"), (2, "a"), (3, "a"), (3, "a"), (3, "e"), (20, "a"), (20, "d")
    ]  # fmt: skip
    check_history(made)


def test_a_truncation_and_a_new_snapshot_close_what_is_gone(changes: Callable[..., Changes]) -> None:
    made = changes(rows=3)
    history = sink(made, "scd2")
    drained(made, **history)
    made.do(PASS, TRIGGER)  # what is written is compared with what was sent
    made.do(
        "UPDATE {s} SET name = 'b' WHERE id = 2",
        "BEGIN; INSERT INTO {s} (id) VALUES (7); TRUNCATE {s}; INSERT INTO {s} (id, name) VALUES (1, 'new'); COMMIT",
        "INSERT INTO {s} (id, name) VALUES (5, 'five')",
    )
    drained(made, run="r2", **history)
    check_history(made)
    assert [one for one in states(made) if one[2]] == [(1, "new", True), (5, "five", True)]
    made.do(
        "DELETE FROM {s} WHERE id = 1", "UPDATE {s} SET name = 'six' WHERE id = 5", "INSERT INTO {s} (id) VALUES (8)"
    )
    before = states(made)
    task = made.task("r3", **history) | {"begin": {"from": "earliest", "reset": True}}
    assert made.launchers.run(task | {"drain": str(made.folder / "drain")})["status"] == "completed"
    check_history(made)
    assert [one for one in states(made) if one[2]] == [(5, "six", True), (8, None, True)]
    assert len(states(made)) == len(before) + 2  # the others stay
    made.do("UPDATE {t} SET valid_from = now() + interval '1 day' WHERE is_current", "UPDATE {s} SET name = 'seven'")
    assert "was the source's clock set back?" in drained(made, run="r4", **history)["error"]["what"]


def test_killed_between_changes_a_history_loses_and_doubles_nothing(changes: Callable[..., Changes]) -> None:
    made = changes(rows=30)
    made.do(AUDIT)
    history = sink(made, "scd2")
    drained(made, **history)
    for attempt, point in enumerate(POINTS, start=2):
        made.do(f"UPDATE {{s}} SET name = '{point}' WHERE id % 3 = 0", f"DELETE FROM {{s}} WHERE id % 11 = {attempt}")
        made.do("UPDATE {s} SET id = -id WHERE id % 7 = 0", f"INSERT INTO {{s}} (id) VALUES (1000 + {attempt})")
        assert made.launchers.run(made.task(attempt=attempt, **history), f"{point}=kill") == {"killed": 9}, point
        made.do(f"UPDATE {{s}} SET name = '{point} later' WHERE id % 3 = 0")
    drained(made, run="r2", **history)
    check_history(made)
    kept = "SELECT count(*) FROM {s}_audit WHERE NOT gone"
    assert made.value("SELECT count(*) FROM {t}") - 30 == made.value(kept)
    assert made.value("SELECT count(*) FROM {t} t WHERE valid_from > (SELECT min(at) FROM {s}_audit) AND NOT EXISTS ("
                      "SELECT FROM {s}_audit a WHERE a.id = t.id AND a.name IS NOT DISTINCT FROM t.name "
                      "AND a.at <= t.valid_from)") == 0  # fmt: skip


def test_a_row_that_a_history_cannot_take_is_a_dead_letter(changes: Callable[..., Changes]) -> None:
    made = changes(rows=3)
    history = sink(made, "scd2") | {"errors": LETTERS}
    drained(made, **history)
    made.do("ALTER TABLE {t} ADD CHECK (name <> 'bad')")
    made.do(
        "UPDATE {s} SET name = 'good' WHERE id = 1",
        "UPDATE {s} SET name = 'bad' WHERE id = 2",
        "UPDATE {s} SET name = 'better' WHERE id = 1",
        "DELETE FROM {s} WHERE id = 3",
        "BEGIN; UPDATE {s} SET name = 'unseen' WHERE id = 2; UPDATE {s} SET name = 'bad' WHERE id = 2; COMMIT",
        "BEGIN; UPDATE {s} SET name = 'bad' WHERE id = 1; UPDATE {s} SET name = 'best' WHERE id = 1; COMMIT",
    )
    result = drained(made, run="r2", **history)
    assert result["status"] == "completed", result["error"]
    assert letters(made) == ["23514", "23514"]
    assert [one[1] for one in states(made) if one[0] == 1][1:] == ["good", "better", "best"]
    assert [one[2] for one in states(made) if one[0] == 2] == [True]
    assert [one[2] for one in states(made) if one[0] == 3] == [False]


@pytest.mark.parametrize("write", ["scd2", "append"])
def test_a_history_and_a_log_are_not_written_where_each_key_has_one_row_only(
    changes: Callable[..., Changes], write: str
) -> None:
    made = changes(rows=2)
    drained(made)
    task = made.task(**sink(made, write), schema={"additive": "apply", "types": "apply"})
    if write == "scd2":
        made.do(
            "ALTER TABLE {t} ADD valid_from timestamptz NOT NULL DEFAULT now(), ADD valid_to timestamptz, "
            "ADD is_current boolean NOT NULL DEFAULT true"
        )
    assert f"{made.target} allows one row of each (id)" in refusal(task)
    made.do("ALTER TABLE {t} DROP CONSTRAINT {p}".replace("{p}", f"t{made.number}_pkey"))
    planned(task)


def test_a_log_is_written_where_a_key_has_the_place_of_the_change(changes: Callable[..., Changes]) -> None:
    made = changes(rows=1)
    log = sink(made, "append")
    drained(made, **log)
    made.do("ALTER TABLE {t} ADD n bigserial PRIMARY KEY", "CREATE UNIQUE INDEX ON {t} (_op, _lsn, _seq)")
    planned(made.task(**log))


def test_a_deletion_in_a_log_has_no_value_of_a_column_that_came_later() -> None:
    layout = Layout(("id", "tax"), (0, None), (0,), (None, b"7"))
    for whole, tax in ((False, b""), (True, b'"7"')):
        found = Log(layout.names, ("_op",))
        found.begin(Begin(1, 1, 1))
        found.add(Change(1, "delete", None, (b"1",), whole), layout)
        assert list(found.rows()) == [b'"1",' + tax + b',"delete"']


def test_a_state_without_its_parent_does_not_wait_for_it_in_a_history(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    made.do("INSERT INTO {s} (id, name) VALUES (1, 'a')")
    history = sink(made, "scd2") | {"errors": LETTERS}
    drained(made, **history)
    made.do("CREATE TABLE {t}_p (name text PRIMARY KEY)", "INSERT INTO {t}_p VALUES ('a'), ('b')",
            "ALTER TABLE {t} ADD FOREIGN KEY (name) REFERENCES {t}_p")  # fmt: skip
    made.do("UPDATE {s} SET name = 'missing'", "UPDATE {s} SET name = 'b'")
    result = drained(made, run="r2", **history)
    assert result["status"] == "completed", result["error"]
    assert (letters(made), states(made)) == (["23503"], [(1, "a", False), (1, "b", True)])


def test_values_that_are_equal_but_not_the_same_are_states_of_their_own(changes: Callable[..., Changes]) -> None:
    made = changes("id int PRIMARY KEY, i interval, n numeric, f float8, j json", rows=0)
    made.do("INSERT INTO {s} VALUES (1, '1 month', 1.0, 0, '{}')")
    drained(made, **sink(made, "scd2"))
    made.do("UPDATE {s} SET i = '30 days'", "UPDATE {s} SET n = 1.00", "UPDATE {s} SET f = '-0'",
            "UPDATE {s} SET j = '{ }'", "UPDATE {s} SET j = j")  # fmt: skip
    result = drained(made, run="r2", **sink(made, "scd2"))
    assert result["status"] == "completed", result["error"]
    assert made.value("SELECT count(*) FROM {t}") == 5
    assert made.value(
        "SELECT (t.i, t.n, t.f, t.j)::text = (s.i, s.n, s.f, s.j)::text FROM {t} t, {s} s WHERE is_current"
    )


def test_a_refused_row_takes_no_state_of_a_moved_row_with_it(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    made.do("INSERT INTO {s} (id, name, body) SELECT g, 'a', repeat(g::text, 5000) FROM generate_series(1, 2) g")
    history = sink(made, "scd2") | {"errors": LETTERS}
    drained(made, **history)
    made.do("ALTER TABLE {t} ADD CHECK (name <> 'bad')")
    made.do("UPDATE {s} SET id = 20 WHERE id = 2", "UPDATE {s} SET name = 'bad' WHERE id = 1",
            "UPDATE {s} SET name = 'b' WHERE id = 20")  # fmt: skip
    result = drained(made, run="r2", **history)
    assert (result["status"], letters(made)) == ("completed", ["23514"])
    assert states(made) == [(1, "a", True), (2, "a", False), (20, "a", False), (20, "b", True)]
    assert made.value("SELECT count(*) FROM {t} WHERE body = repeat('2', 5000)") == 3


def test_a_clock_that_was_set_back_keeps_the_order_of_commits() -> None:
    layout, found = Layout(("id", "name"), (0, 1), (0,)), History("here", time=5)
    for number, time in enumerate((10, 3, 3, 20)):
        found.begin(Begin(number, number, time))
        found.add(Change(1, "update", (b"1", str(number).encode())), layout)
    times = [line.split(b",")[2] for line in found.rows(["id", "name"], [0])]
    assert [one[-11:-4] for one in times] == [b".000010", b".000011", b".000012", b".000020"]


def test_only_the_last_state_of_a_transaction_counts_in_a_history() -> None:
    layout, found = Layout(("id", "body"), (0, 1), (0,)), History("here")
    found.begin(Begin(1, 1, 10))
    found.add(Change(1, "insert", (b"1", b"x" * 1000)), layout)
    size = found.size
    for letter in (b"y", b"z"):
        found.add(Change(1, "update", (b"1", letter * 1000)), layout)
    assert (len(found), found.size) == (1, size)
    assert b"zzz" in next(found.rows(["id", "body"], [0]))
    found.truncate()
    assert (len(found), found.size) == (1, size - 1001)


@pytest.mark.parametrize(("write", "older"), [("scd2", ["d", "d"]), ("append", [None, None])])
def test_a_new_column_follows_into_a_history_and_a_log(
    changes: Callable[..., Changes], write: str, older: list[str | None]
) -> None:
    made = changes(rows=2)
    drained(made, **sink(made, write))
    made.do(
        "ALTER TABLE {s} ADD extra text NOT NULL DEFAULT 'd'", "UPDATE {s} SET name = 'x', extra = 'e' WHERE id = 1"
    )
    follows = sink(made, write) | {"schema": {"additive": "apply"}}
    assert drained(made, run="r2", **follows)["status"] == "completed"
    found = made.session.execute(f"SELECT extra FROM {made.target} ORDER BY name = 'x' NULLS FIRST, id".encode())
    assert [one for (one,) in found.fetchall()] == [*older, "e"]


@pytest.mark.parametrize("write", ["merge", "scd2"])
def test_both_sides_of_changes_are_comparable(changes: Callable[..., Changes], write: str) -> None:
    made = changes(rows=5)
    drained(made, **sink(made, write))
    made.do("UPDATE {s} SET name = 'b' WHERE id = 2")
    drained(made, run="r2", **sink(made, write))
    job = Job.from_task(made.task("r2", **sink(made, write)))
    with opened(job) as ends:
        assert compare(job, ends).agree
    made.do("UPDATE {t} SET name = 'other' WHERE id = 2", "DELETE FROM {t} WHERE id = 3")
    with opened(job) as ends:
        found = compare(job, ends, wait=0.0)
    assert (found.source_rows, found.changed, found.missing, found.extra) == (5, 1, 1, 0)


def test_another_way_of_writing_is_refused_by_name(changes: Callable[..., Changes]) -> None:
    made = changes(rows=3)
    drained(made, **sink(made, "append"))
    made.do(
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        "ALTER TABLE {t} DROP _op, DROP _lsn, DROP _seq, DROP _committed_at, DROP _unchanged",
    )
    error = drained(made, run="r2")["error"]
    assert error["what"] == "the stream was begun as a log, and is a mirror now"


def test_the_plan_of_a_history_and_of_a_log(changes: Callable[..., Changes]) -> None:
    made = changes()
    history, log = planned(made.task(**sink(made, "scd2"))), planned(made.task(**sink(made, "append")))
    assert '"valid_from" timestamp with time zone NOT NULL' in str(history["statements"])
    assert "_penstock" not in str(history["statements"])
    assert '"_lsn" bigint NOT NULL' in str(log["statements"])
    assert "PRIMARY KEY" not in str(log["statements"])
    assert log["notes"] == []
    [note] = planned(made.task() | {"set_id": made.uid})["notes"]
    assert note.endswith("whole in each target, not in all at one moment")
