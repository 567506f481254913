"""A zombie, a run that is suspended at any point and resumed after its successor ran, changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dataflows.pipeline import FirstError
from dataflows.runs.job import Job
from dataflows.runs.prepare import Prepared, prepare
from dataflows.runs.publish import publish
from dataflows.runs.slots import Reports, run_slots
from dataflows.runs.survey import opened

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers

EXACT = {"lost": 0, "doubled": 0}
STOPS = (
    "prepare.state_made",
    "prepare.generation_raised", "prepare.planned", "read.block:1", "commit.begin:0", "commit.mid_copy:1",
    "commit.before_fence:1", "commit.sent:1", "commit.done:0", "flow.end", "publish.begin",
    "publish.done",
)  # fmt: skip
HOLDING_LOCKS = ("prepare.claiming", "publish.locked", "publish.moved")
LATE = {"publish.done", "prepare.state_made"}
"""Points after the run's end or before its claim: the zombie's run may be finished, or may still have to run."""


def outcome(task: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the result file."""
    return dict(json.loads(Path(task["result"]).read_text()))


def some(cases: Sequence[Any], write: str, same: bool, every: bool) -> list[Any]:
    """Return all cases, or a quarter: each for one of the four kinds of `write` and `same`."""
    return list(cases if every else cases[2 * (write == "replace") + same :: 4])


def points(write: str, same: bool, every: bool) -> list[str]:
    """Return where a run is stopped; in the later locks only if its successor is the same run."""
    if every:
        return [*STOPS, *(HOLDING_LOCKS if same else HOLDING_LOCKS[:1])]
    held = {("append", False): 0, ("append", True): 1, ("replace", True): 2}
    return some(STOPS, write, same, every) + [HOLDING_LOCKS[at] for kind, at in held.items() if kind == (write, same)]


MEETINGS = tuple(
    product(
        ("prepare.generation_raised", "commit.before_fence:2", "flow.end"),
        ("prepare.state_made", "prepare.planned", "commit.before_fence:1", "publish.begin"),
    )
)


def test_each_case_is_one_of_some() -> None:
    kinds = list(product(("append", "replace"), (True, False)))
    assert sorted(one for kind in kinds for one in points(*kind, every=False)) == sorted(STOPS + HOLDING_LOCKS)
    assert sorted(one for kind in kinds for one in some(MEETINGS, *kind, every=False)) == sorted(MEETINGS)


EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.chaos)], ids=["some", "every"])


@EVERY
@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("same", [True, False], ids=["same run", "new run"])
def test_a_zombie_woken_after_its_successor_finished(
    copy: Callable[..., Copy],
    launchers: Launchers,
    write: str,
    same: bool,
    every: bool,
) -> None:
    without = () if every and not same else ("patience",)
    for at, point in enumerate(points(write, same, every)):
        made = copy(write, arrow=at % 2 == 1)
        task = made.task("r1")
        zombie = launchers.stopped(task, point)
        successor = launchers.run(made.task("r1" if same else "r2", attempt=2), without=without)
        assert successor["status"] == "completed", (point, successor)
        assert made.differences() == EXACT, point
        late = launchers.woken(zombie, task)
        assert late["status"] in {"fenced", "failed"} or point in LATE, (point, late)
        assert made.differences() == EXACT, point
        assert made.leftovers() == 0, point
        assert launchers.run(made.task("r3"))["status"] == "completed"
        assert made.differences() == EXACT, point  # no cursor was moved back


@EVERY
@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("same", [True, False], ids=["same run", "new run"])
def test_a_zombie_woken_while_its_successor_runs(
    copy: Callable[..., Copy],
    launchers: Launchers,
    write: str,
    same: bool,
    every: bool,
) -> None:
    """A zombie that has not claimed yet may win; in any case the rows are exact."""
    for at, (meets, point) in enumerate(some(MEETINGS, write, same, every)):
        made = copy(write, arrow=at % 2 == 1)
        task, second = made.task("r1"), made.task("r1" if same else "r2", attempt=2)
        zombie = launchers.stopped(task, point)
        pid = launchers.start(second, f"{meets}=stop")
        running = "stopped" in launchers.wait(pid)  # unless the zombie has already done the split to stop in
        late = launchers.woken(zombie, task)
        end = launchers.woken(pid, second) if running else outcome(second)
        ends = (point, meets, late, end)
        assert {late["status"], end["status"]} <= {"completed", "fenced", "failed"}, ends
        assert "completed" in {late["status"], end["status"]}, ends
        assert launchers.run(made.task("r3"))["status"] == "completed", ends
        assert made.differences() == EXACT, ends
        assert made.leftovers() == 0, ends


@pytest.mark.parametrize("write", ["append", "replace"])
def test_a_zombie_whose_run_is_finished_does_not_fence_the_next_run(
    copy: Callable[..., Copy], launchers: Launchers, write: str
) -> None:
    made = copy(write)
    task, newer = made.task("r1"), made.task("r2")
    zombie = launchers.stopped(task, "prepare.state_made")
    first = launchers.run(made.task("r1", attempt=2))
    made.add(300)
    pid = launchers.stopped(newer, "commit.before_fence:0")
    late = launchers.woken(zombie, task)
    assert (late["status"], late["schemas"]) == ("completed", first["schemas"])
    assert launchers.woken(pid, newer)["status"] == "completed"
    assert made.differences() == EXACT
    assert made.value(f"SELECT max(generation) FROM w._penstock_positions WHERE pipeline = '{made.uid}'") == 2


def test_a_run_is_published_once(copy: Callable[..., Copy]) -> None:
    for write in ("append", "replace"):
        made = copy(write)
        job = Job.from_task(made.task("r1"))
        with opened(job) as ends:
            prepared = prepare(job, ends)
            assert isinstance(prepared, Prepared)
            run_slots(job, prepared, ends, list(range(len(prepared.slots))), FirstError(), Reports(lambda _: None))
            result = publish(job, prepared, ends.target)
            assert publish(job, prepared, ends.target) == result
        assert made.differences() == EXACT


def doubled_by_a_zombie(copy: Callable[..., Copy], launchers: Launchers, *without: str) -> tuple[int, str]:
    """Return rows duplicated by a zombie that resumes just before its fence, in `append`, with its session kept."""
    made = copy("append")
    task = made.task("r1")
    zombie = launchers.stopped(task, "commit.before_fence:0", without)
    assert launchers.run(made.task("r1", attempt=2), without=("ending",))["status"] == "completed"
    assert made.differences() == EXACT
    late = launchers.woken(zombie, task)
    assert made.differences()["lost"] == 0
    return made.differences()["doubled"], late["status"]


def test_the_fence_alone_keeps_a_zombie_from_duplicating_rows(copy: Callable[..., Copy], launchers: Launchers) -> None:
    assert doubled_by_a_zombie(copy, launchers) == (0, "fenced")


def test_without_the_fence_the_same_zombie_duplicates_its_split(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    doubled, _ = doubled_by_a_zombie(copy, launchers, "fence")
    assert doubled >= 200


def test_a_zombie_between_the_fence_and_the_commit(copy: Callable[..., Copy], launchers: Launchers) -> None:
    """It holds locks that its successor needs: the successor ends its session, and writes its split again."""
    for write in ("append", "replace"):
        made = copy(write)
        task = made.task("r1")
        zombie = launchers.stopped(task, "commit.sent", ("single_message",))
        assert launchers.run(made.task("r1", attempt=2), without=("patience",))["status"] == "completed"
        assert made.differences() == EXACT
        assert launchers.woken(zombie, task)["status"] in {"failed", "fenced"}
        assert made.differences() == EXACT


@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("same", [True, False], ids=["same run", "two runs"])
def test_two_launchers_at_once(copy: Callable[..., Copy], launchers: Launchers, write: str, same: bool) -> None:
    for _ in range(2):
        made = copy(write, split_rows=50)
        tasks = [made.task("r1"), made.task("r1" if same else "r2")]
        pids = [launchers.start(task) for task in tasks]
        for pid in pids:
            assert launchers.wait(pid)["code"] in {0, 1}
        ends = [outcome(task) for task in tasks]
        if not any(end["status"] == "completed" for end in ends):
            assert launchers.run(made.task("r3"))["status"] == "completed", ends
        assert made.differences() == EXACT, ends
        assert all(
            end["status"] == "completed" or end["status"] == "fenced" or end["error"]["transient"] for end in ends
        ), ends
