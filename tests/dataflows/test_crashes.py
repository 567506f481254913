"""A run that is killed at any point, and run again, ends with the same rows as an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from penstock.failpoints import POINTS

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers

SPLITS = 3


def cuts() -> Iterator[str]:
    """Yield every failpoint; those inside splits once for each split."""
    for point in POINTS:
        if point.startswith(("read.", "commit.")):
            yield from (f"{point}:{split}" for split in range(SPLITS))
        else:
            yield point


CUTS = tuple(cuts())


def test_there_are_enough_cuts() -> None:
    assert len(POINTS) >= 17
    assert len(CUTS) >= 40
    assert sorted(cut for *_, cuts in QUICK for cut in cuts) == sorted(CUTS), "each of them once"


def survives(copy: Callable[..., Copy], launchers: Launchers, write: str, cut: str, *, arrow: bool, same: bool) -> None:
    """Kill a run at `cut`, run it again (or a new one), and compare the target with the source."""
    made = copy(write, arrow=arrow)
    killed = launchers.run(made.task("r1"), f"{cut}=kill")
    assert killed == {"killed": signal.SIGKILL} or (write, cut) == ("append", "prepare.shadow_made"), cut
    if not same:
        made.add(3)
    again = launchers.run(made.task("r1" if same else "r2", attempt=2))
    assert again["status"] == "completed", (cut, again)
    assert made.differences() == {"lost": 0, "doubled": 0}, cut
    assert made.leftovers() == 0, cut
    counters = again["counters"]
    assert counters["rows_in"] == counters["rows_out"] + counters["filtered"] + counters["dead"]
    if same:
        assert counters["rows_in"] == made.value(f"SELECT count(*) FROM {made.target}"), cut


QUICK = [
    ("append", True, True, CUTS[::4]), ("replace", False, True, CUTS[1::4]), ("append", False, False, CUTS[2::4]),
    ("replace", True, False, CUTS[3::4]),
]  # fmt: skip
LONG = [
    (write, arrow, same, CUTS) for write in ("append", "replace") for arrow in (False, True) for same in (False, True)
]


@pytest.mark.parametrize(
    ("write", "arrow", "same", "cuts"),
    [*QUICK, *(pytest.param(*one, marks=pytest.mark.chaos) for one in LONG)],
)
def test_killed_at_failpoints_and_run_again(
    copy: Callable[..., Copy],
    launchers: Launchers,
    write: str,
    arrow: bool,
    same: bool,
    cuts: tuple[str, ...],
) -> None:
    for cut in cuts:
        survives(copy, launchers, write, cut, arrow=arrow, same=same)


@pytest.mark.chaos
@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("arrow", [False, True], ids=["raw", "arrow"])
def test_killed_at_random_many_times(copy: Callable[..., Copy], launchers: Launchers, write: str, arrow: bool) -> None:
    chance = random.Random(7)
    for _ in range(15):
        made = copy(write, arrow=arrow, split_rows=30)
        for attempt in range(1, 6):
            pid = launchers.start(made.task("r1", attempt=attempt))
            launchers.wait(pid, chance.uniform(0.02, 0.4))
            if pid in launchers.alive:
                os.kill(pid, signal.SIGKILL)
                launchers.wait(pid)
        assert launchers.run(made.task("r1", attempt=9))["status"] == "completed"
        assert made.differences() == {"lost": 0, "doubled": 0}
        assert made.leftovers() == 0


def test_a_finished_run_is_not_run_again(copy: Callable[..., Copy], launchers: Launchers) -> None:
    for write in ("append", "replace"):
        made = copy(write)
        first = launchers.run(made.task("r1"))
        made.add(2)
        again = launchers.run(made.task("r1", attempt=2))
        first["counters"].pop("seconds"), again["counters"].pop("seconds")
        assert again == first
        assert made.differences() == {"lost": 2, "doubled": 0}


def test_append_moves_only_new_rows(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    launchers.run(made.task("r1"))
    assert launchers.run(made.task("r2"))["counters"]["rows_in"] == 0
    made.add(5)
    assert launchers.run(made.task("r3"))["counters"]["rows_in"] == 5
    assert made.differences() == {"lost": 0, "doubled": 0}


def test_an_older_run_that_comes_back_is_fenced(copy: Callable[..., Copy], launchers: Launchers) -> None:
    for write in ("append", "replace"):
        made = copy(write)
        assert "killed" in launchers.run(made.task("r1"), "commit.done:1=kill")
        assert launchers.run(made.task("r2"))["status"] == "completed"
        late = launchers.run(made.task("r1", attempt=2))
        assert (late["status"], late["error"]["code"]) == ("fenced", "fenced")
        assert made.differences() == {"lost": 0, "doubled": 0}


def test_two_processes_killed_and_run_again_by_one(copy: Callable[..., Copy], launchers: Launchers) -> None:
    for write, cut in (("append", "commit.before_fence:1"), ("replace", "commit.sent:2")):
        made = copy(write, arrow=True, workers=2, split_rows=100)
        broken = launchers.run(made.task("r1"), f"{cut}=kill")
        assert broken.get("status") in {None, "failed"}
        made.workers = 1
        assert launchers.run(made.task("r1", attempt=2))["status"] == "completed"
        assert made.differences() == {"lost": 0, "doubled": 0}
