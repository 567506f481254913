"""Reloads: all rows, or a window of the cursor, are read again; the position and all other rows stay exact."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from tests.dataflows.conftest import Copy, Launchers, result
from tests.pairs import soon

EXACT = {"lost": 0, "doubled": 0}
FULL = {"rows": "all"}
CUTS = [
    "prepare.planned", "prepare.shadow_made", "commit.mid_copy:0", "commit.before_fence:1", "commit.sent:1",
    "commit.done:1", "publish.locked", "publish.moved", "publish.done",
]  # fmt: skip


def window(first: object, end: object) -> dict[str, str]:
    return {"rows": "window", "from": str(first), "to": str(end)}


def completed(launchers: Launchers, task: dict[str, Any]) -> dict[str, Any]:
    done = launchers.run(task)
    assert done["status"] == "completed", done
    return dict(done["counters"])


def refused(launchers: Launchers, task: dict[str, Any]) -> str:
    found = launchers.run(task)
    assert (found["status"], found["error"]["code"]) == ("failed", "refused"), found
    return f"{found['error']['where']}: {found['error']['what']}; {found['error']['hint']}"


@pytest.fixture
def spoilt(copy: Callable[..., Copy], launchers: Launchers) -> Callable[..., Copy]:
    """Run an `append`, then damage, delete or add rows with ids 101 to 300 by hand."""

    def make(*, arrow: bool = False, workers: int = 1) -> Copy:
        made = copy("append", arrow=arrow, workers=workers)
        completed(launchers, made.task("r1"))
        run = made.session.execute
        run(f"UPDATE {made.target} SET name = 'damaged' WHERE id BETWEEN 101 AND 150")
        run(f"DELETE FROM {made.target} WHERE id BETWEEN 201 AND 250")
        run(
            f"INSERT INTO {made.target} SELECT id, 'foreign', price, at FROM {made.target} WHERE id BETWEEN 251 AND 300"
        )
        assert made.differences() == {"lost": 100, "doubled": 100}
        return made

    return make


@pytest.mark.parametrize(("arrow", "workers"), soon(product([False, True], [1, 2]), (False, 2), (True, 1)))
def test_all_rows_are_read_again_and_then_only_new_ones(
    spoilt: Callable[..., Copy], launchers: Launchers, *, arrow: bool, workers: int
) -> None:
    made = spoilt(arrow=arrow, workers=workers)
    rows = made.value("SELECT count(*) FROM items")
    assert completed(launchers, made.task("r2", reload=FULL))["rows_out"] == rows
    assert made.differences() == EXACT
    made.add(7)
    assert completed(launchers, made.task("r3"))["rows_in"] == 7
    assert (made.differences(), made.leftovers()) == (EXACT, 0)


@pytest.mark.parametrize("arrow", [False, True])
def test_a_window_is_read_again_and_then_only_new_rows(
    spoilt: Callable[..., Copy], launchers: Launchers, *, arrow: bool
) -> None:
    made = spoilt(arrow=arrow)
    assert completed(launchers, made.task("r2", reload=window(101, 201)))["rows_out"] == 100
    assert made.differences() == {"lost": 50, "doubled": 50}
    made.add(5)
    assert completed(launchers, made.task("r3"))["rows_in"] == 5
    assert completed(launchers, made.task("r4", reload=window(201, 301)))["rows_out"] == 100
    assert made.differences() == EXACT
    assert completed(launchers, made.task("r5"))["rows_in"] == 0
    assert made.leftovers() == 0


def test_a_window_ends_at_the_position_of_earlier_runs(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    words = refused(launchers, made.task("r0", reload=window(1, 10)))
    assert "nothing was read yet" in words
    completed(launchers, made.task("r1"))
    last = made.value("SELECT max(id) FROM items")
    made.add(20)
    assert completed(launchers, made.task("r2", reload=window(last - 9, last + 1000)))["rows_out"] == 10
    error = refused(launchers, made.task("r3", reload=window(last + 1, last + 9)))
    assert f"earlier runs have read up to {last} only" in error
    assert completed(launchers, made.task("r4"))["rows_in"] == 20
    assert made.differences() == EXACT


def test_windows_of_times(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append", split_rows=100)
    made.session.execute("DELETE FROM items WHERE at > '2025-01-01'")

    def task(run: str, **more: Any) -> dict[str, Any]:
        found = made.task(run, **more)
        found["pipeline"]["spec"]["source"]["cursor"] = {"field": "at"}
        return found

    completed(launchers, task("r1"))
    made.session.execute(f"UPDATE {made.target} SET name = 'damaged' WHERE at < '2024-01-01 00:05:00+00'")
    assert made.differences()["lost"] == 299
    assert completed(launchers, task("r2", reload=window("2024-01-01", "2024-01-01T00:05:00Z")))["rows_out"] == 299
    assert made.differences() == EXACT
    words = refused(launchers, task("r3", reload=window("yesterday", "2024-02-01")))
    assert "not a value of the cursor's type" in words
    assert "the window is empty" in refused(launchers, task("r4", reload=window("2024-02-01", "2024-01-01")))


@pytest.mark.parametrize(
    ("reload", "same", "cuts"),
    [
        (FULL, True, CUTS[::2]),
        (window(101, 301), False, CUTS[1::2]),
        *(
            pytest.param(reload, same, CUTS, marks=pytest.mark.chaos)
            for reload in (FULL, window(101, 301))
            for same in (True, False)
        ),
    ],
)
def test_killed_at_failpoints_and_run_again(
    spoilt: Callable[..., Copy], launchers: Launchers, reload: dict[str, str], *, same: bool, cuts: list[str]
) -> None:
    for cut in cuts:
        made = spoilt()
        made.split_rows = 60
        assert "killed" in launchers.run(made.task("r2", reload=reload), f"{cut}=kill"), cut
        before = made.differences()
        assert before in (EXACT, {"lost": 100, "doubled": 100}), cut
        completed(launchers, made.task("r2" if same else "r3", attempt=2, reload=reload))
        assert (made.differences(), made.leftovers()) == (EXACT, 0), cut
        made.add(3)
        assert completed(launchers, made.task("r4"))["rows_in"] == 3, cut
        assert made.differences() == EXACT, cut


@pytest.mark.parametrize("reload", [FULL, window(101, 301)], ids=["full", "window"])
def test_a_run_after_an_abandoned_one_reads_the_new_rows(
    spoilt: Callable[..., Copy], launchers: Launchers, reload: dict[str, str]
) -> None:
    made = spoilt()
    assert "killed" in launchers.run(made.task("r2", reload=reload), "commit.done:0=kill")
    made.add(4)
    assert completed(launchers, made.task("r3"))["rows_in"] == 4
    assert (made.differences(), made.leftovers()) == ({"lost": 100, "doubled": 100}, 0)


@pytest.mark.parametrize(
    ("reload", "point"),
    soon(
        product(("full", "window"), ("commit.before_fence:1", "publish.begin")),
        ("full", "commit.before_fence:1"),
        ("window", "publish.begin"),
    ),
)
def test_a_zombie_changes_nothing_once_it_has_a_successor(
    spoilt: Callable[..., Copy], launchers: Launchers, reload: str, point: str
) -> None:
    made = spoilt()
    made.split_rows = 60
    task = made.task("r2", reload=FULL if reload == "full" else window(101, 301))
    pid = launchers.stopped(task, point)
    made.add(2)
    assert completed(launchers, made.task("r3"))["rows_in"] == 2
    os.kill(pid, signal.SIGCONT)
    assert launchers.wait(pid) == {"code": 1}
    assert result(task)["status"] == "fenced"
    assert made.differences() == {"lost": 100, "doubled": 100}


def test_an_unfinished_run_is_ended_before_a_window_is_read_again(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    made = copy("append")
    completed(launchers, made.task("r1"))
    made.add(500)
    assert "killed" in launchers.run(made.task("r2"), "commit.done:0=kill")
    assert "has not ended" in refused(launchers, made.task("r3", reload=window(1, 100)))
    completed(launchers, made.task("r4"))
    assert made.differences() == EXACT
    assert completed(launchers, made.task("r5", reload=window(1, 101)))["rows_out"] == 100
    assert made.differences() == EXACT


def test_a_full_reload_after_an_interrupted_append(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    assert "killed" in launchers.run(made.task("r1"), "commit.done:1=kill")
    assert "killed" in launchers.run(made.task("r2", reload=FULL), "commit.done:0=kill")
    assert "--full" in refused(launchers, made.task("r3"))
    completed(launchers, made.task("r4", reload=FULL))
    made.add(6)
    assert completed(launchers, made.task("r5"))["rows_in"] == 6
    assert (made.differences(), made.leftovers()) == (EXACT, 0)


def merging(made: Copy, run: str, **more: Any) -> dict[str, Any]:
    task = made.task(run, **more)
    spec = task["pipeline"]["spec"]
    spec["source"]["cursor"] = {"field": "id", "ordered": True}
    spec["sink"] |= {"write": "merge", "key": ["id"]}
    return task


def test_a_merge_reloads_in_place_or_in_full(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    made.session.execute(f"ALTER TABLE {made.target} ADD PRIMARY KEY (id)")
    completed(launchers, merging(made, "r1"))
    damage = f"UPDATE {made.target} SET name = 'damaged' WHERE id BETWEEN 101 AND 200"
    made.session.execute(damage)
    assert completed(launchers, merging(made, "r2", reload=window(101, 201)))["rows_in"] == 100
    assert made.differences() == EXACT
    made.session.execute(damage)
    made.session.execute(f"INSERT INTO {made.target} VALUES (-1, 'foreign')")
    completed(launchers, merging(made, "r3", reload=FULL))
    assert made.differences() == EXACT
    made.add(3)
    assert completed(launchers, merging(made, "r4"))["rows_in"] == 3
    assert (made.differences(), made.leftovers()) == (EXACT, 0)


def test_a_window_needs_its_cursor_in_the_target(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    task = made.task("r1")
    fields = [{"target": "name", "from": "name"}, {"target": "id", "sql": "id + 0"}]
    task["pipeline"]["spec"]["mapping"] = {"fields": fields}
    completed(launchers, task)
    words = refused(launchers, task | {"run": "r2", "reload": window(1, 100)})
    assert "does not hold cursor `id` unchanged" in words
    assert completed(launchers, task | {"run": "r3", "reload": FULL})["rows_out"] > 0
