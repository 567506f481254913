"""Folders that are watched as streams: each file once and whole, through kills, late files and changes."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.clock import now
from tests.dataflows.conftest import Launchers
from tests.dataflows.connectors.conftest import in_bucket
from tests.dataflows.connectors.streams import StreamIn

OLD = 1_700_000_000


@dataclass(kw_only=True)
class Watched(StreamIn):
    """Stream of the JSON lines in a folder."""

    @property
    def connection(self) -> dict[str, Any]:
        return {"type": "files", "root": str(self.folder)}

    @property
    def object(self) -> str:
        return "inbox/*.jsonl"

    def put(self, name: str, *numbers: int, at: float | None = OLD) -> Path:
        """Put a file into the folder at once, as one should: written under another name, then renamed."""
        path = self.folder / "inbox" / name
        path.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"id": one, "name": f"event {one}"}) for one in numbers]
        hidden = path.with_name(f".{name}")
        hidden.write_text("".join(f"{line}\n" for line in lines))
        if at is not None:
            os.utime(hidden, (at, at))
        return hidden.rename(path)


@pytest.fixture(scope="module")
def letters(new_catalog: Callable[[], str]) -> str:
    return new_catalog()


@pytest.fixture(scope="module")
def dsn(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def watched(launchers: Launchers, dsn: str, letters: str, tmp_path: Path) -> Iterator[Watched]:
    with psycopg.connect(dsn, autocommit=True) as session:
        yield Watched(session, dsn, launchers, letters, tmp_path)


def test_new_files_are_read_as_they_come_the_older_ones_first(watched: Watched) -> None:
    watched.put("b.jsonl", 1, 2, at=OLD)
    watched.put("a.jsonl", 3, 4, at=OLD + 1)
    task = watched.task()
    pid = watched.launchers.start(task)
    watched.until(4)
    watched.put("c.jsonl", 5)
    watched.until(5)
    watched.put("late.jsonl", 6, at=OLD - 1000)
    watched.until(6)
    assert watched.stop(pid, task)["error"]["what"] == "the run was asked to stop"
    watched.put("d.jsonl", 7)
    assert watched.drained("r2")["counters"]["rows_out"] == 1
    assert watched.ids() == [1, 2, 3, 4, 5, 6, 7]
    assert len(watched.positions()["files"]["files"]) == 5


@pytest.mark.parametrize("point", ["read.block", "commit.mid_copy", "commit.before_fence", "commit.sent"])
def test_a_killed_stream_of_files_loses_and_doubles_nothing(watched: Watched, point: str) -> None:
    watched.put("a.jsonl", *range(20))
    watched.put("b.jsonl", *range(20, 40), at=OLD + 1)
    limits: dict[str, Any] = {"limits": {"batch_rows": 10}}
    assert watched.drained("r1", f"{point}=kill", **limits) == {"killed": 9}
    watched.put("c.jsonl", *range(40, 50), at=OLD + 2)
    assert watched.drained("r1", attempt=2, **limits)["status"] == "completed"
    assert watched.ids() == list(range(50))


def test_a_file_that_is_being_written_is_left_until_it_stays_as_it_is(watched: Watched) -> None:
    path = watched.put("a.jsonl", 0, at=None)
    task = watched.task(source={"connection": "bus", "object": watched.object, "format": {"type": "jsonl"}})
    pid = watched.launchers.start(task)
    for number in range(1, 6):
        time.sleep(0.3)
        with path.open("a") as file:
            file.write(json.dumps({"id": number, "name": "more"}) + "\n")
    assert watched.ids() == []
    watched.until(6)
    path.write_text('{"id": 6, "name": "changed"}\n')
    error = watched.launchers.ended(pid, task)["error"]
    assert (error["code"], error["transient"]) == ("refused", False)
    assert "a.jsonl has changed since its rows were read" in error["what"]
    assert watched.ids() == list(range(6))


def test_a_file_of_the_future_is_read(watched: Watched) -> None:
    watched.put("a.jsonl", 1, at=now().timestamp() + 86400)
    assert watched.drained()["status"] == "completed"
    assert watched.ids() == [1]


def test_a_folder_that_is_empty_at_first_is_watched_if_its_columns_are_declared(watched: Watched) -> None:
    (watched.folder / "inbox").mkdir()
    assert watched.drained("r1")["error"]["code"] == "schema.missing_table"
    form = {"type": "jsonl", "columns": {"id": "bigint", "name": "text"}}
    task = watched.task("r2", source={"connection": "bus", "object": watched.object, "format": form})
    pid = watched.launchers.start(task)
    watched.put("a.jsonl", 1, 2)
    watched.until(2)
    watched.stop(pid, task)


def test_lines_that_are_no_rows_are_dead_letters_and_cost_no_other(watched: Watched) -> None:
    path = watched.put("a.jsonl", *range(200))
    path.write_text(path.read_text().replace('{"id": 7,', '{"id: 7,'))
    counted = watched.drained()["counters"]
    assert (counted["rows_in"], counted["rows_out"], counted["dead"]) == (200, 199, 1)
    assert watched.ids() == [one for one in range(200) if one != 7]
    assert watched.dead() == 1


@pytest.mark.parametrize(("begin", "ids"), [("latest", []), ("2024-01-01T00:00:00Z", [2]), ("earliest", [1, 2])])
def test_a_stream_of_files_begins_where_it_is_asked_to(watched: Watched, begin: str, ids: list[int]) -> None:
    watched.put("a.jsonl", 1, at=OLD)
    watched.put("b.jsonl", 2, at=now().timestamp() - 60)
    source = {"connection": "bus", "object": watched.object, "from": begin}
    assert watched.drained(source=source)["status"] == "completed"
    assert watched.ids() == ids


def test_a_stream_of_files_begins_anew_only_with_a_reset(watched: Watched) -> None:
    watched.put("a.jsonl", 1, 2)
    watched.put("b.jsonl", 3, at=OLD + 1)
    assert watched.drained()["status"] == "completed"
    watched.put("b.jsonl", 4, at=OLD + 2)  # changed: so it is no repetition
    watched.put("c.jsonl", 5, at=OLD + 3)

    def begun(run: str, begin: Any, *, reset: bool = False) -> dict[str, Any]:
        task = watched.task(run) | {"begin": {"from": begin, "reset": reset}}
        Path(task["drain"]).touch()
        return watched.launchers.run(task) | {"log": Path(task["result"] + ".log").read_text()}

    for begin, what in (
        ("earliest", "the stream was read before: it repeats 1 files"),
        ("latest", "the stream was read before: it skips 2 files"),
        ({"0": "3"}, "files have no offsets"),
    ):
        assert what in begun("r2", begin)["error"]["what"]
    done = begun("r2", "earliest", reset=True)
    assert (done["status"], "it repeats 1 files" in done["log"]) == ("completed", True)
    assert watched.ids() == [1, 2, 3, 1, 2, 4, 5]
    watched.put("d.jsonl", 6, at=OLD + 4)
    assert begun("r3", "latest", reset=True)["status"] == "completed"
    assert watched.ids()[7:] == []


@pytest.mark.parametrize(("additive", "price"), [("apply", [None, 5]), ("ignore", [])])
def test_a_new_column_of_later_files_follows_the_policy(watched: Watched, additive: str, price: list[Any]) -> None:
    watched.put("a.jsonl", 1)
    task = watched.task(schema={"additive": additive})
    pid = watched.launchers.start(task)
    watched.until(1)
    (watched.folder / "inbox/b.jsonl").write_text('{"id": 2, "name": "x", "price": 5}\n')
    error = watched.launchers.ended(pid, task)["error"]
    assert error["what"] == "inbox/b.jsonl has columns that no file had before: price"
    assert error["transient"]
    assert watched.drained("r1", attempt=2, schema={"additive": additive})["status"] == "completed"
    assert watched.ids() == [1, 2]
    names = "SELECT 1 FROM information_schema.columns WHERE column_name = 'price' AND table_name = 't{}'"
    assert bool(watched.rows(names.format(watched.number))) == bool(price)
    if price:
        assert [one for (one,) in watched.rows(f"SELECT price FROM {watched.target} ORDER BY id")] == price


def test_objects_of_a_bucket_are_read_as_they_come(watched: Watched, request: pytest.FixtureRequest) -> None:
    system = in_bucket(request, watched.folder)
    inbox = request.getfixturevalue("s3").home / "data/lake/inbox"
    inbox.mkdir()
    (inbox / "a.jsonl").write_text('{"id": 1, "name": "first"}\n')
    task = watched.task(sink={"connection": "lake", "object": watched.target, "write": "merge", "key": ["id"]})
    task["connections"]["bus"] = system.connection
    pid = watched.launchers.start(task)
    watched.until(1)
    (inbox / "b.jsonl").write_text('{"id": 2, "name": "second"}\n{"id": 1, "name": "newer"}\n')
    watched.until(2)
    watched.stop(pid, task)
    assert watched.rows(f"SELECT id, name FROM {watched.target} ORDER BY id") == [(1, "newer"), (2, "second")]


def test_a_large_file_is_written_whole_without_the_rows_that_the_target_refuses(watched: Watched) -> None:
    """The refusal comes long before the steps, whose state has moved on, have made the rest of the split."""
    watched.put("a.jsonl", *range(300))
    path = watched.folder / "lake.sqlite"
    with closing(sqlite3.connect(path)) as session:
        session.execute("CREATE TABLE t (id bigint CHECK (id <> 3), name text, at timestamptz)")
    fields = [{"target": "id", "from": "id"}, {"target": "name", "from": "name"}, {"target": "at", "from": "_modified"}]
    task = watched.task(
        mapping={"fields": fields},
        transforms=[{"name": "once", "deduplicate": {"by": ["id"], "within": "1h", "time": "at"}}],
        sink={"connection": "lake", "object": "t", "write": "append"},
        limits={"batch_rows": 10},
    )
    task["connections"]["lake"] = {"type": "sqlite", "path": str(path)}
    Path(task["drain"]).touch()
    assert watched.launchers.run(task)["counters"]["dead"] == 1
    with closing(sqlite3.connect(path)) as session:
        assert [row[0] for row in session.execute("SELECT id FROM t ORDER BY id")] == [0, 1, 2, *range(4, 300)]


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_lost_before_it_is_read_stops_no_stream(watched: Watched, gone: bool) -> None:
    path = watched.put("a.jsonl", 1, 2)
    watched.put("b.jsonl", 3, at=OLD + 1)
    task = watched.task()
    Path(task["drain"]).touch()
    pid = watched.launchers.stopped(task, "read.begin:1")
    path.unlink()
    if not gone:
        watched.put("a.jsonl", 4, at=OLD + 2)
    error = watched.launchers.woken(pid, task)["error"]
    assert (error["transient"], "since it was listed" in error["what"]) == (True, True)
    assert watched.drained(attempt=2)["status"] == "completed"
    assert watched.ids() == ([3] if gone else [3, 4])


def test_a_stream_that_would_read_what_it_writes_is_refused(watched: Watched) -> None:
    watched.put("a.jsonl", 1)
    task = watched.task(sink={"connection": "bus", "object": "inbox", "write": "append", "format": {"type": "jsonl"}})
    assert "would read its own rows again" in watched.launchers.run(task)["error"]["what"]


def test_a_replace_is_refused_at_its_end_if_a_stream_began_meanwhile(watched: Watched) -> None:
    watched.session.execute("CREATE TABLE others AS SELECT 9::bigint AS id, 'o' AS name")
    watched.put("a.jsonl", 1, 2)
    replaces = watched.task(
        "b1",
        mode="batch",
        limits={},
        source={"connection": "lake", "object": "public.others"},
        sink={"connection": "lake", "object": watched.target, "write": "replace"},
    )
    replaces |= {"uid": "00000000-0000-4000-b000-000000000004"}
    late = watched.launchers.stopped(replaces, "publish.begin")
    done = watched.drained("r1")
    assert done["status"] == "completed", done["error"]
    assert "never come back" in watched.launchers.woken(late, replaces)["error"]["what"]
    assert watched.ids() == [1, 2]


def test_a_folder_is_watched_by_one_process(watched: Watched) -> None:
    watched.put("a.jsonl", 1)
    error = watched.drained("r1", limits={"workers": 2})["error"]
    assert "a stream of a files connection is read by one process" in error["what"]
    assert error["where"] == "items: spec.limits.workers"
