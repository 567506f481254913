"""Changes as a log: each change as a row of any sink; and a history and a log against a model of the table."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.postgres.cdc.positions import PENDING
from dataflows.runs.comparison import compare
from dataflows.runs.job import Job
from dataflows.runs.survey import opened
from penstock.errors import Refused
from tests.dataflows.connectors.postgres.cdc.conftest import Changes
from tests.dataflows.connectors.postgres.cdc.test_histories import AUDIT, POINTS, sink
from tests.dataflows.connectors.postgres.cdc.test_loads import drained
from tests.dataflows.connectors.postgres.cdc.test_refusals import refusal

pytestmark = pytest.mark.xdist_group("cdc")


def events(made: Changes, columns: str = "_op, id, name") -> list[tuple[Any, ...]]:
    return made.session.execute(f"SELECT {columns} FROM {made.target} ORDER BY _lsn, _seq, id".encode()).fetchall()


def test_a_log_has_each_change_in_the_order_of_commits(changes: Callable[..., Changes]) -> None:
    made = changes(rows=3)
    log = sink(made, "append")
    assert drained(made, **log)["status"] == "completed"
    made.do(
        "BEGIN; UPDATE {s} SET name = 'b' WHERE id = 1; UPDATE {s} SET name = 'c' WHERE id = 1; COMMIT",
        "UPDATE {s} SET id = 20 WHERE id = 2",
        "DELETE FROM {s} WHERE id = 3",
        "TRUNCATE {s}",
        "INSERT INTO {s} (id, name) VALUES (5, 'five')",
    )
    assert drained(made, run="r2", **log)["status"] == "completed"
    found = events(made, "_op, id, name, _seq")
    name = found[1][2]
    assert [one[0] for one in found[:3]] == ["snapshot"] * 3
    assert found[3:] == [
        ("update", 1, "b", 1), ("update", 1, "c", 2), ("delete", 2, None, 1), ("insert", 20, name, 2),
        ("delete", 3, None, 1), ("truncate", None, None, 1), ("insert", 5, "five", 1),
    ]  # fmt: skip
    assert made.value("SELECT bool_and(_committed_at BETWEEN now() - interval '5 min' AND now()) FROM {t}")
    assert made.value("SELECT count(DISTINCT _lsn) FROM {t}") == 6


def test_killed_between_changes_a_log_loses_and_doubles_nothing(changes: Callable[..., Changes]) -> None:
    made = changes(rows=30)
    made.do(AUDIT)
    log = sink(made, "append")
    for attempt, point in enumerate(("read.block:1", "commit.before_fence:1"), start=1):
        assert made.launchers.run(made.task("r0", attempt=attempt, **log), f"{point}=kill") == {"killed": 9}, point
    drained(made, **log)
    for attempt, point in enumerate(POINTS, start=2):
        made.do(f"UPDATE {{s}} SET name = '{point}' WHERE id % 3 = 0", f"DELETE FROM {{s}} WHERE id % 11 = {attempt}")
        made.do("UPDATE {s} SET id = -id WHERE id % 7 = 0", f"INSERT INTO {{s}} (id) VALUES (1000 + {attempt})")
        assert made.launchers.run(made.task(attempt=attempt, **log), f"{point}=kill") == {"killed": 9}, point
    drained(made, run="r2", **log)
    happened = made.session.execute(f"SELECT gone, id, name FROM {made.source}_audit ORDER BY n".encode()).fetchall()
    rows = [(op == "delete", id_, name) for op, id_, name in events(made) if op != "snapshot"]
    assert sorted(rows, key=str) == sorted(((gone, id_, name) for gone, id_, name in happened), key=str)
    assert made.value("SELECT count(*) FROM {t} WHERE _op = 'snapshot'") == 30


def test_a_log_says_which_values_were_not_sent(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    for step in ({"select": ["_op", "id", "body"]}, {"set": {"body": "upper(body)"}}):
        task = made.task(**sink(made, "append"), transforms=[{"name": "one"} | step])
        assert "REPLICA IDENTITY FULL" in refusal(task)
    assert "several rows with the same key" in refusal(made.task(**sink(made, "append", key=["id"])))
    drained(made, **sink(made, "append"))
    made.do("INSERT INTO {s} (id, name, body) VALUES (1, 'a', repeat('x', 5000))", "UPDATE {s} SET name = 'b'")
    drained(made, run="r2", **sink(made, "append"))
    assert events(made, "_op, name, length(body), _unchanged") == [
        ("insert", "a", 5000, None), ("update", "b", None, '["body"]')
    ]  # fmt: skip


def test_a_log_of_a_key_that_is_stored_out_of_line(changes: Callable[..., Changes]) -> None:
    made = changes("id text PRIMARY KEY, name text", rows=0)
    made.do("ALTER TABLE {s} ALTER id SET STORAGE EXTERNAL")
    drained(made, **sink(made, "append"))
    made.do(
        "INSERT INTO {s} VALUES (repeat('a', 2500), 'a')",
        "UPDATE {s} SET name = 'b'",
        "UPDATE {s} SET id = repeat('c', 2500)",
    )
    drained(made, run="r2", **sink(made, "append"))
    assert events(made, "_op, left(id, 1), length(id), name") == [
        ("insert", "a", 2500, "a"), ("update", "a", 2500, "b"), ("delete", "a", 2500, None), ("insert", "c", 2500, "b")
    ]  # fmt: skip


def test_a_log_of_whole_rows(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", "ALTER TABLE {s} REPLICA IDENTITY FULL")
    drained(made, **sink(made, "append"))
    made.do("INSERT INTO {s} (id, name, body) VALUES (1, 'a', repeat('x', 5000))", "UPDATE {s} SET name = 'b'",
            "UPDATE {s} SET id = 2", "DELETE FROM {s}")  # fmt: skip
    drained(made, run="r2", **sink(made, "append"))
    assert events(made, "_op, id, name, length(body)") == [
        ("insert", 1, "a", 5000), ("update", 1, "b", 5000), ("delete", 1, "b", 5000), ("insert", 2, "b", 5000),
        ("delete", 2, "b", 5000),
    ]  # fmt: skip


@pytest.mark.parametrize("into", ["files", "sqlite"])
def test_steps_decide_on_events_and_other_sinks_take_them(
    changes: Callable[..., Changes], tmp_path: Path, into: str
) -> None:
    made, lines = changes(rows=3), tmp_path / "lines"
    form = {"format": {"type": "jsonl"}} if into == "files" else {}
    steps = [
        {"name": "events", "filter": "_op <> 'snapshot'"},
        {"name": "narrow", "select": ["_op", "id", "_seq"]},
    ]
    task = made.task(sink={"connection": "lake", "object": "log", "write": "append"} | form, transforms=steps)
    place = {"root": str(lines)} if into == "files" else {"path": str(tmp_path / "log.db")}
    lines.mkdir()
    task["connections"]["lake"] = {"type": into} | place
    task |= {"drain": str(made.folder / "drain")}
    (made.folder / "drain").touch()
    assert made.launchers.run(task)["status"] == "completed"
    made.do("UPDATE {s} SET name = 'x'", "DELETE FROM {s} WHERE id = 2")
    assert made.launchers.run(task | {"run": "r2"})["status"] == "completed"
    if into == "files":
        read = [json.loads(line) for one in lines.rglob("*.jsonl") for line in one.read_text().splitlines()]
        found = [(one["_op"], one["id"], one["_seq"]) for one in read]
    else:
        with closing(sqlite3.connect(tmp_path / "log.db")) as session:
            found = session.execute("SELECT _op, id, _seq FROM log").fetchall()
    assert sorted(found) == [("delete", 2, 1), ("update", 1, 1), ("update", 2, 2), ("update", 3, 3)]


Rows = dict[int, tuple[str, int]]
"""Name and length of the body by id."""


def random_transactions(made: Changes, chance: random.Random, rows: Rows, count: int) -> list[Rows]:
    """Change the table by random transactions; return its rows after each, but for those that leave it as it was."""
    after = []
    for number in range(count):
        before, statements = dict(rows), []
        for step in range(chance.choice((1, 1, 2, 4))):
            id_, name = chance.randrange(8), f"{number}.{step}"
            there, kind = rows.get(id_), chance.randrange(12)
            if kind == 0:
                statements.append(f"TRUNCATE {made.source}")
                rows.clear()
            elif there is None:
                rows[id_] = name, chance.choice((0, 5000))
                body = f"repeat('x', {rows[id_][1]})"
                statements.append(f"INSERT INTO {made.source} (id, name, body) VALUES ({id_}, '{name}', {body})")
            elif kind < 4:
                statements.append(f"DELETE FROM {made.source} WHERE id = {id_}")
                del rows[id_]
            elif kind < 6 and (free := set(range(8)) - set(rows)):
                statements.append(f"UPDATE {made.source} SET id = {min(free)} WHERE id = {id_}")
                rows[min(free)] = rows.pop(id_)
            else:
                statements.append(f"UPDATE {made.source} SET name = '{name}' WHERE id = {id_}")
                rows[id_] = name, there[1]
        made.do(f"BEGIN; {'; '.join(statements)}; COMMIT")
        after += [dict(rows)] if rows != before else []
    return after


def logged(made: Changes) -> list[Rows]:
    """Return the rows after each transaction that a log has, but for those that leave them as they were."""
    found: list[Rows] = []
    rows, last, gone = Rows(), None, ("", 0)
    columns = "_lsn, _op, id, name, length(body), _unchanged"
    for lsn, op, id_, name, size, unsent in [*events(made, columns), (None, "", 0, "", 0, None)]:
        if lsn != last and last is not None and rows != (found[-1] if found else {}):
            found.append(dict(rows))
        last = lsn
        if op == "truncate":
            rows.clear()
        elif op == "delete":
            gone = rows.pop(id_)
        else:
            rows[id_] = name, (rows.get(id_) or gone)[1] if unsent else size
    return found


def kept(made: Changes) -> list[Rows]:
    """Return the rows after each time at which a history has changes."""
    rows = made.session.execute(f"SELECT id, name, length(body), valid_from, valid_to FROM {made.target}".encode())
    states = rows.fetchall()
    times = sorted({one[3] for one in states} | {one[4] for one in states} - {None})
    return [
        {id_: (name, size) for id_, name, size, begin, end in states if begin <= at and (end is None or at < end)}
        for at in times
    ]


@pytest.mark.parametrize(("write", "read"), [("scd2", kept), ("append", logged)])
def test_a_history_and_a_log_have_the_table_as_it_was_after_each_transaction(
    changes: Callable[..., Changes], write: str, read: Callable[[Changes], list[Rows]]
) -> None:
    made, chance, rows = changes(rows=0), random.Random(5), Rows()
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    drained(made, **sink(made, write))
    after: list[Rows] = []
    for run in range(2, 5):
        after += random_transactions(made, chance, rows, 30)
        done = drained(made, run=f"r{run}", **sink(made, write), limits={"linger": "20ms", "batch_rows": 30})
        assert done["status"] == "completed", done["error"]
    assert read(made) == after


def test_a_log_that_begins_again_has_all_rows_once_more(changes: Callable[..., Changes]) -> None:
    made = changes(rows=3)
    log = sink(made, "append")
    drained(made, **log)
    task = made.task("r2", **log) | {"begin": {"from": "earliest", "reset": False}}
    refused = made.launchers.run(task | {"drain": str(made.folder / "drain")})["error"]
    assert "all rows are appended once more" in refused["what"]
    task["begin"]["reset"] = True
    assert made.launchers.run(task | {"run": "r3", "drain": str(made.folder / "drain")})["status"] == "completed"
    assert made.value("SELECT count(*) FROM {t} WHERE _op = 'snapshot'") == 6


def test_both_sides_of_a_log_are_not_comparable(changes: Callable[..., Changes]) -> None:
    made = changes(rows=1)
    job = Job.from_task(made.task(**sink(made, "append")))
    with opened(job) as ends, pytest.raises(Refused, match="a log of changes is not comparable"):
        compare(job, ends)


def test_the_documented_place_of_all_members_waits_for_each_snapshot(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    _, _, text = (Path(__file__).parents[5] / "docs/cdc.md").read_text().partition("-- in the schema of the targets")
    query = text.partition("\n")[2].partition("```")[0]
    made.do("CREATE TEMP TABLE _penstock_offsets (position text)")
    made.do("""INSERT INTO _penstock_offsets VALUES ('{"lsn": "0/20"}'), ('{"lsn": "0/10"}')""")
    assert made.value(query) == 16
    made.do(f"INSERT INTO _penstock_offsets VALUES ('{PENDING}')")
    assert made.value(query) is None
    made.do("DROP TABLE _penstock_offsets")
