"""A sink of files, killed or taken for dead at any point: each row is in the folder once, and only whole runs are."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.files.connector import FilesConnector
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.counters import Counters
from dataflows.data.splits import Split
from penstock.failpoints import POINTS
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink
from tests.dataflows.connectors.files.conftest import read

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers
    from tests.dataflows.connectors.files.conftest import Export

    Make = Callable[..., Export]

SPLITS = 3
CUTS = tuple(
    cut
    for point in POINTS
    for cut in ([f"{point}:{at}" for at in range(SPLITS)] if point.startswith(("read.", "commit.")) else [point])
)
QUICK = [
    ("files", "append", True, ("prepare.planned", "commit.sent:0", "publish.locked", "result.before")),
    ("files", "replace", False, ("commit.done:0", "publish.begin", "publish.moved", "result.written")),
    ("files", "append", False, ("prepare.state_made", "commit.begin:1", "flow.end", "publish.done")),
    ("s3", "append", False, ("prepare.claiming", "commit.sent:1", "publish.locked", "publish.done", "result.before")),
    ("s3", "replace", True, ("read.begin:0", "commit.copied:0", "publish.begin", "publish.moved", "result.written")),
]  # fmt: skip


def survives(made: Export, launchers: Launchers, cut: str, *, same: bool) -> None:
    before = sorted(made.wanted(), key=repr) if made.write == "replace" else []
    if before:  # old rows, readable until the new ones are published
        assert launchers.run(made.task("r0"))["status"] == "completed"
    made.add(2)
    assert launchers.run(made.task("r1"), f"{cut}=kill") == {"killed": signal.SIGKILL}, cut
    if before and cut not in {"publish.done", "result.before", "result.written", "publish.moved"}:
        assert sorted(made.rows(), key=repr) == before, cut
    if not same:
        made.add(3)
    again = launchers.run(made.task("r1" if same else "r2", attempt=2))
    assert again["status"] == "completed", (cut, again)
    assert made.differences() == {}, cut
    counters = again["counters"]
    assert counters["rows_in"] == counters["rows_out"] + counters["filtered"] + counters["dead"]
    if same:
        assert counters["rows_in"] == len(made.wanted()), cut
    assert launchers.run(made.task("r3"))["status"] == "completed"
    assert made.differences() == {}, cut
    assert made.files.staged(made.target) == [], cut


def test_all_rows_are_read_again_and_then_only_new_ones(export: Make, launchers: Launchers) -> None:
    made = export("files", "append")
    assert launchers.run(made.task("r1"))["status"] == "completed"
    rows = len(made.wanted())
    found = launchers.run(made.task("r2", reload={"rows": "all"}))
    assert (found["status"], found["counters"]["rows_out"]) == ("completed", rows), found
    made.add(4)
    assert launchers.run(made.task("r3"))["counters"]["rows_in"] == 4
    assert (made.differences(), made.files.staged(made.target)) == ({}, [])


def test_each_point_after_the_last_split_is_a_cut_of_each_kind() -> None:
    late = [cut for cut in CUTS if cut.startswith(("publish.", "result."))]
    for kind in ("files", "s3"):
        cuts = [cut for name, *_, some in QUICK if name == kind for cut in some]
        assert [cut for cut in late if cut not in cuts] == []
        assert len(cuts) >= 10


@pytest.mark.parametrize(("kind", "write", "same", "cuts"), QUICK)
def test_killed_at_failpoints_and_run_again(
    export: Make, launchers: Launchers, kind: str, write: str, same: bool, cuts: tuple[str, ...]
) -> None:
    for cut in cuts:
        survives(export(kind, write), launchers, cut, same=same)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["files", "s3"])
@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("same", [True, False])
def test_killed_or_stopped_at_every_point_of_every_kind(
    export: Make, launchers: Launchers, kind: str, write: str, same: bool
) -> None:
    for cut in CUTS:
        survives(export(kind, write), launchers, cut, same=same)
    for point in STOPS:
        sleeps_through(export(kind, write), launchers, point, same=same)


STOPS = (
    "prepare.claiming", "prepare.generation_raised", "prepare.planned", "read.block:1", "commit.begin:0",
    "commit.mid_copy:1", "commit.before_fence:1", "commit.sent:1", "flow.end", "publish.begin", "publish.locked",
    "publish.moved", "publish.done",
)  # fmt: skip
LATE = {"publish.done", "prepare.claiming"}
"""Points after a run's end or before its claim: a woken run may be finished, or have work to do."""


@pytest.mark.parametrize(
    ("kind", "write", "same", "stops"),
    [("files", "append", True, STOPS[::4]), ("files", "replace", False, STOPS[1::4]),
     ("s3", "append", False, STOPS[6::4])],
)  # fmt: skip
def test_a_zombie_woken_after_its_successor_finished(
    export: Make, launchers: Launchers, kind: str, write: str, same: bool, stops: tuple[str, ...]
) -> None:
    for point in stops:
        sleeps_through(export(kind, write), launchers, point, same=same)


def sleeps_through(made: Export, launchers: Launchers, point: str, *, same: bool) -> None:
    """Stop a run at a point, let its successor finish, and wake it."""
    task = made.task("r1")
    zombie = launchers.stopped(task, point)
    successor = launchers.run(made.task("r1" if same else "r2", attempt=2))
    assert successor["status"] == "completed", (point, successor)
    assert made.differences() == {}, point
    late = launchers.woken(zombie, task)
    assert late["status"] in {"fenced", "failed"} or point in LATE, (point, late)
    assert made.differences() == {}, point
    assert launchers.run(made.task("r3"))["status"] == "completed"
    assert made.differences() == {}, point
    assert made.files.staged(made.target) == [], point


@pytest.mark.parametrize("kind", ["files", "s3"])
def test_a_zombie_woken_while_its_successor_writes(export: Make, launchers: Launchers, kind: str) -> None:
    """It neither deletes files that the successor has staged, nor commits anything."""
    for point, meets in (
        ("prepare.sessions_ended", "commit.before_fence:2"),
        ("prepare.planned", "flow.end"),
        ("commit.before_fence:0", "commit.before_fence:2"),
        ("publish.locked", "flow.end"),
        ("publish.locked", "commit.before_fence:2"),
    ):
        made = export(kind, "append")
        task, second = made.task("r1"), made.task("r2", attempt=2)
        zombie = launchers.stopped(task, point)
        pid = launchers.start(second, f"{meets}=stop")
        running = "stopped" in launchers.wait(pid)  # False if nothing was left to do
        late = launchers.woken(zombie, task)
        assert late["status"] == "fenced", (point, late)
        if running:
            assert launchers.woken(pid, second)["status"] == "completed", (point, meets)
        assert made.differences() == {}, (point, meets)


@pytest.mark.parametrize(("kind", "pattern"), [("files", "out"), ("files", "out/**/*.parquet"), ("s3", "out/t*/*")])
def test_a_wider_pattern_sees_whole_runs(export: Make, launchers: Launchers, kind: str, pattern: str) -> None:
    """Even while a run is being published, when its files exist next to those that they replace."""
    made = export(kind, "replace")
    assert launchers.run(made.task("r1"))["status"] == "completed"
    made.files.write("out/by_hand/more.parquet", made.files.visible(made.target)[0].read_bytes())
    before = len(read(made.files.source(pattern)))
    task = made.task("r2")
    pid = launchers.stopped(task, "publish.moved")
    assert len(made.rows(made.files.visible(made.target))) > before
    assert len(read(made.files.source(pattern))) == before
    assert launchers.woken(pid, task)["status"] == "completed"
    assert len(read(made.files.source(pattern))) == before


def test_two_launchers_at_once(export: Make, launchers: Launchers) -> None:
    for kind in ("files", "s3"):
        made = export(kind, "replace")
        tasks = [made.task("r1"), made.task("r2")]
        pids = [launchers.start(task) for task in tasks]
        assert all(launchers.wait(pid)["code"] in {0, 1} for pid in pids)
        ends = [json.loads(Path(task["result"]).read_text()) for task in tasks]
        assert all(one["status"] in {"completed", "fenced"} or one["error"]["transient"] for one in ends), ends
        assert "completed" in {one["status"] for one in ends}, ends
        assert made.differences() == {}, ends


def test_two_processes_write_one_folder(export: Make, launchers: Launchers, completed: Callable[..., Any]) -> None:
    made = export("files", "replace")
    made.split_rows = 50
    task = made.task("r1")
    task["pipeline"]["spec"]["limits"] = {"workers": 2}
    assert completed(task)["rows_out"] == len(made.wanted())
    assert made.differences() == {}


def test_an_abandoned_append_leaves_no_row(export: Make, launchers: Launchers, completed: Callable[..., Any]) -> None:
    made = export("files", "append")
    assert launchers.run(made.task("r1"), "commit.done:1=kill") == {"killed": signal.SIGKILL}
    assert made.files.visible(made.target) == []
    assert made.rows() == []
    made.write = "replace"
    completed(made.task("r2"))
    assert made.differences() == {}


def test_a_forgotten_plan_is_gone(tmp_path: Path) -> None:
    spec = Sink.parse({"connection": "to", "object": "t", "write": "append"})
    place = Place("items", "to", parse_connection("to", {"type": "files", "root": str(tmp_path)}), "t", tmp_path)
    with closing(FilesConnector.target(place, Owner("u1", "items", spec))) as target:
        state = target.state
        state.make()
        claim = state.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        with state.owned(claim.generation):
            state.write_plan(RunRow("r1", "append", None, None, None, Counters()), (Split(0),))
        assert (state.run("r1") is None, state.pending("r1")) == (False, ((Split(0),), 1))
        with state.owned(claim.generation):
            state.forget("r1")
        assert (state.run("r1"), state.unfinished("r2"), state.pending("r1")) == (None, None, ((), 0))


def test_append_moves_only_new_rows(export: Make, completed: Callable[..., Any]) -> None:
    made = export("s3", "append")
    completed(made.task("r1"))
    assert completed(made.task("r2"))["rows_in"] == 0
    made.add(5)
    assert completed(made.task("r3"))["rows_in"] == 5
    assert made.differences() == {}


def test_a_deleted_pipeline_keeps_or_drops_its_table(export: Make, completed: Callable[..., Any]) -> None:
    for kind, table in (("files", False), ("s3", True)):
        made = export(kind, "replace")
        completed(made.task("r1"))
        completed(made.task("r1", kind="cleanup", drop_table=table))
        assert (made.files.visible(made.target) == []) == table
        late = made.task("r2")
        assert _status(made, late) == "fenced"


def _status(made: Export, task: dict[str, Any]) -> str:
    from dataflows.pipeline import FirstError
    from dataflows.runs.launcher import launch
    from dataflows.runs.progress import Progress

    return str(launch(task, FirstError(), Progress())["status"])


SOURCE_CUTS = (
    ("files", "append", 1, ("prepare.planned", "read.block:2", "commit.before_fence:2")),
    ("s3", "replace", 1, ("read.begin:1", "read.end:0", "publish.moved")),
    ("files", "replace", 2, ("read.block:2",)),
)


@pytest.mark.parametrize(("kind", "write", "workers", "cuts"), SOURCE_CUTS)
def test_files_into_a_table_killed_and_run_again(
    export: Make, launchers: Launchers, kind: str, write: str, workers: int, cuts: tuple[str, ...]
) -> None:
    """Row groups are splits: each is written once, wherever the run was killed."""
    for cut in cuts:
        made = export(kind, write)
        table = f"w.from_files{made.number}"
        made.session.execute(f"CREATE TABLE {table} (id bigint)")
        made.files.write("in/a.parquet", row_groups(0, 500))
        made.files.write("in/b.parquet", row_groups(500, 620))
        orders = [from_files(made, table, run, workers) for run in ("r1", "r1")]
        broken = launchers.run(orders[0], f"{cut}=kill")
        assert broken.get("status") in {None, "failed"}, cut
        again = launchers.run(orders[1])
        assert again["status"] == "completed", (cut, again)
        assert again["counters"]["rows_in"] == 620, cut
        found = made.session.execute(f"SELECT count(*), count(DISTINCT id), sum(id) FROM {table}").fetchone()
        assert found == (620, 620, sum(range(620))), cut


def row_groups(first: int, last: int) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(first, last))}), target, row_group_size=100)
    return target.getvalue()


def from_files(made: Export, table: str, run: str, workers: int) -> dict[str, Any]:
    order = made.task(run)
    spec = order["pipeline"]["spec"]
    spec["source"] = {"connection": "lake", "object": "in/*.parquet"}
    if made.write == "append":
        spec["source"]["cursor"] = {"field": "_modified"}
    spec["sink"] = {"connection": "shop", "object": table, "write": made.write}
    spec["limits"] = {"workers": workers}
    return order
