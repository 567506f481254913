"""Leftovers of earlier runs that a start drops or keeps."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from dataflows.runtime.retention import KEPT, LARGEST, drop_leftovers
from dataflows.runtime.supervisor import Supervisor
from penstock.clock import now
from penstock.settings import Settings
from tests.api.project import until

DAY = timedelta(days=1)


def run_of(home: Path, name: str, age: timedelta, *, log_age: timedelta | None = None) -> Path:
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    ages = {folder / "1.json": age, folder / "log": age if log_age is None else log_age, folder: age}
    for name_ in ("1.json", "log"):
        (folder / name_).write_text("{}")
    for path, old in ages.items():
        at = (now() - old).timestamp()
        os.utime(path, (at, at))
    return folder


def test_old_runs_go_and_the_others_stay(tmp_path: Path) -> None:
    old, young = run_of(tmp_path, "old", KEPT + DAY), run_of(tmp_path, "young", KEPT - DAY)
    long = run_of(tmp_path, "long", KEPT + DAY, log_age=DAY)
    (tmp_path / "runs" / "note.txt").write_text("no run")
    keys = [young / "keys-a", young / "keys-b"]
    for at, one in enumerate(keys):
        one.mkdir()
        os.utime(one, ((now() - at * 2 * DAY).timestamp(),) * 2)
    drop_leftovers(tmp_path, now())
    assert [one.exists() for one in keys] == [True, False]
    assert [one.exists() for one in (old, young, long)] == [False, True, True]
    assert (tmp_path / "runs" / "note.txt").exists()
    assert (young / "1.json").read_text() == "{}"


@pytest.mark.parametrize(("size", "left"), [(LARGEST + 1, 0), (LARGEST, LARGEST)])
def test_a_log_that_is_too_large_is_emptied_even_while_open(tmp_path: Path, size: int, left: int) -> None:
    (tmp_path / "logs").mkdir()
    path, other = tmp_path / "logs" / "worker.log", tmp_path / "logs" / "kept.txt"
    for one in (path, other):
        with one.open("wb") as file:
            file.truncate(size)
    with path.open("ab", buffering=0) as writer:
        drop_leftovers(tmp_path, now())
        assert path.stat().st_size == left
        writer.write(b"more")
        assert path.stat().st_size == left + 4
    assert other.stat().st_size == size


def test_a_home_without_leftovers_is_no_error(tmp_path: Path) -> None:
    drop_leftovers(tmp_path / "nowhere", now())
    assert list(tmp_path.iterdir()) == []


def test_starting_flows_drops_leftovers(tmp_path: Path) -> None:
    old = run_of(tmp_path / ".penstock", "old", KEPT + DAY)
    Supervisor(Settings(project=tmp_path, home=tmp_path / ".penstock"), ()).start()
    assert not old.exists()


def test_a_child_that_ends_again_and_again_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked_flows: object
) -> None:
    monkeypatch.setattr("dataflows.runtime.supervisor._spawned", forked_flows)
    monkeypatch.setattr("dataflows.runtime.supervisor.can_fork", lambda: False)
    supervisor = Supervisor(Settings(project=tmp_path, home=tmp_path / ".penstock"), (("nothing",),))
    supervisor.start()
    try:
        (said,) = until(supervisor.check, "the child to end")
    finally:
        supervisor.stop()
    assert said.startswith("nothing ended with 2: ")
    assert "invalid choice: 'nothing'" in said
    assert said.endswith("; restart in 0.2 s")
