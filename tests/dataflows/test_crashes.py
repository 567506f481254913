"""A run that is killed at any point, and run again, ends with the same rows as one that was not."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from penstock.failpoints import POINTS

SPLITS = 3


def cuts() -> Iterator[str]:
    """Every point, those inside of splits for each split."""
    for point in POINTS:
        if point.startswith(("read.", "commit.")):
            yield from (f"{point}:{split}" for split in range(SPLITS))
        else:
            yield point


CUTS = tuple(cuts())


def test_there_are_enough_cuts() -> None:
    assert len(POINTS) >= 17
    assert len(CUTS) >= 40


@pytest.mark.parametrize("arrow", [False, True], ids=["raw", "arrow"])
@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("resume", ["same run", "new run"])
def test_killed_at_every_cut_and_run_again(copy: Callable, launchers, write: str, arrow: bool, resume: str) -> None:
    for cut in CUTS if resume == "same run" else CUTS[::4]:
        made = copy(write, arrow=arrow)
        if write == "replace" and cut in {"prepare.shadow_made"}:
            made.session.execute(f"INSERT INTO {made.target} VALUES (-1, 'old', 0, now())")
        assert launchers.run(made.task("r1"), f"{cut}=kill") == {"killed": signal.SIGKILL} or never_met(cut, write), cut
        if resume == "new run":
            made.add(3)
        again = launchers.run(made.task("r1" if resume == "same run" else "r2", attempt=2))
        assert again["status"] == "completed", (cut, again)
        assert made.differences() == {"lost": 0, "doubled": 0}, cut
        assert made.leftovers() == 0, cut
        counters = again["counters"]
        assert counters["rows_in"] == counters["rows_out"] + counters["filtered"] + counters["dead"]
        if resume == "same run":
            assert counters["rows_in"] == made.value(f"SELECT count(*) FROM {made.target}"), cut
        assert made.value(f"SELECT sum(rows_in) FROM w._penstock_positions WHERE pipeline = '{made.uid}'") >= counters["rows_in"]


def never_met(cut: str, write: str) -> bool:
    return write == "append" and cut == "prepare.shadow_made"


def test_a_finished_run_is_not_run_again(copy: Callable, launchers) -> None:
    for write in ("append", "replace"):
        made = copy(write)
        first = launchers.run(made.task("r1"))
        made.add(2)
        again = launchers.run(made.task("r1", attempt=2))
        first["counters"].pop("seconds"), again["counters"].pop("seconds")
        assert again == first
        assert made.differences() == {"lost": 2, "doubled": 0}


def test_append_moves_only_what_is_new(copy: Callable, launchers) -> None:
    made = copy("append")
    launchers.run(made.task("r1"))
    assert launchers.run(made.task("r2"))["counters"]["rows_in"] == 0
    made.add(5)
    assert launchers.run(made.task("r3"))["counters"]["rows_in"] == 5
    assert made.differences() == {"lost": 0, "doubled": 0}


def test_an_older_run_that_comes_back_is_fenced(copy: Callable, launchers) -> None:
    for write in ("append", "replace"):
        made = copy(write)
        assert "killed" in launchers.run(made.task("r1"), "commit.done:1=kill")
        assert launchers.run(made.task("r2"))["status"] == "completed"
        late = launchers.run(made.task("r1", attempt=2))
        assert (late["status"], late["error"]["code"]) == ("fenced", "fenced")
        assert made.differences() == {"lost": 0, "doubled": 0}


def test_two_processes_killed_and_run_again_by_one(copy: Callable, launchers) -> None:
    for write, cut in (("append", "commit.before_fence:1"), ("replace", "commit.sent:2")):
        made = copy(write, arrow=True, workers=2, split_rows=100)
        broken = launchers.run(made.task("r1"), f"{cut}=kill")
        assert broken.get("status") in {None, "failed"}
        made.workers = 1
        assert launchers.run(made.task("r1", attempt=2))["status"] == "completed"
        assert made.differences() == {"lost": 0, "doubled": 0}
