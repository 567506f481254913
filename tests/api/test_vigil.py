"""Watched runs that cannot continue end with a reason; no command waits for ever."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from api import vigil
from api.cli import set_runs
from api.cli.board import Board
from api.cli.console import Output
from api.cli.following import finish
from api.cli.run import start
from api.client import connected
from api.starter import PIPELINE, WAREHOUSE
from api.vigil import Halted, Waiting
from dataflows.process.site import ACTIVE_CONTROL
from penstock import postgres
from penstock.errors import Refused, Unavailable
from penstock.records.execution import TaskFailed
from penstock.settings import load
from tests.api.project import Project, until

_numbers = count(1)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vigil, "GRACE", 1.5)
    monkeypatch.setattr(vigil, "POLL_SECONDS", 0.1)


class Notes(Board):
    """Collects the notes of a watch."""

    def __init__(self) -> None:
        super().__init__(Output(as_json=True), {})
        self.notes: list[TaskFailed | Waiting] = []

    def note(self, event: TaskFailed | Waiting) -> None:
        self.notes.append(event)


def test_a_missing_worker_is_noted_once_and_a_missing_control_process_is_an_error(project: Project) -> None:
    project.done("apply")
    flows = project.start("flow", "control", "projector", "scheduler")

    class KillsFlows(Notes):
        def note(self, event: TaskFailed | Waiting) -> None:
            super().note(event)
            time.sleep(0.5)
            flows.kill()

    board = KillsFlows()
    with connected(load(project.folder), runs=False) as client:
        until(lambda: client.log.holder(ACTIVE_CONTROL), "the flows to begin")
        watch, run = client.watch(), start(client, "orders")
        with pytest.raises(Unavailable, match="no control process is active") as caught:
            finish(watch, run, board)
    assert "penstock up" in (caught.value.hint or "")
    (note,) = board.notes
    assert isinstance(note, Waiting)
    assert "no worker has joined" in note.what


@pytest.fixture
def own(running: Project, tmp_path: Path) -> str:
    """Apply a pipeline with a table of its own; return its name."""
    name = f"watched_{next(_numbers)}"
    text = PIPELINE.replace("name: orders", f"name: {name}").replace("public.orders, write", f"public.{name}, write")
    (tmp_path / "own.yaml").write_text(text)
    running.sql(WAREHOUSE, f"CREATE TABLE {name} (LIKE orders)")
    running.done("apply", tmp_path / "own.yaml")
    return name


def test_a_run_whose_pipeline_is_paused_elsewhere_ends_the_watching(running: Project, own: str) -> None:
    with (
        connected(load(running.folder), runs=False) as client,
        postgres.connect(running.server.dsn(WAREHOUSE), "tests", autocommit=False) as session,
    ):
        session.execute(f"LOCK TABLE {own} IN SHARE MODE".encode())
        watch, run = client.watch(), start(client, own)
        until(lambda: client.store.run(run).status == "running", "the run to begin")
        running.done("pause", own)
        with pytest.raises(Refused, match=f"was paused; run {run} keeps its place") as caught:
            finish(watch, run, Notes())
        assert caught.value.hint == f"penstock resume {own}, then penstock run {own} --watch"
        session.rollback()
        running.done("resume", own)
        assert finish(watch, run, Notes()).status == "completed"


def test_a_run_whose_pipeline_is_stopped_elsewhere_ends_as_stopped(running: Project, own: str) -> None:
    with (
        connected(load(running.folder), runs=False) as client,
        postgres.connect(running.server.dsn(WAREHOUSE), "tests", autocommit=False) as session,
    ):
        session.execute(f"LOCK TABLE {own} IN SHARE MODE".encode())
        watch, run = client.watch(), start(client, own)
        until(lambda: client.store.run(run).status == "running", "the run to begin")
        running.done("stop", own)
        with pytest.raises(Refused, match="stopped"):
            finish(watch, run, Notes())
        session.rollback()
    running.done("resume", own)
    assert running.done("run", own, "--watch")["status"] == "completed"


def test_a_run_that_waits_for_its_turn_says_so(running: Project, own: str) -> None:
    noted: list[Waiting | Halted] = []
    with connected(load(running.folder), runs=False) as client:
        watcher = vigil.Vigil(client.log, client.store)
        queued = replace(client.store.run(start(client, own)), status="queued")
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            noted += watcher.look([queued])
            time.sleep(0.05)
    assert [one.what[:24] for one in noted if isinstance(one, Waiting)] == ["it waits for its turn: `"]


def test_a_run_that_waits_for_a_halted_orchestrator_says_so(running: Project, own: str) -> None:
    running.done("agents", "halt", "orchestrator")
    try:
        with connected(load(running.folder), runs=False) as client:
            watcher, run = vigil.Vigil(client.log, client.store), start(client, own)
            noted = until(lambda: [*watcher.look([client.store.run(run)])], "a word")
    finally:
        running.done("agents", "resume", "orchestrator")
    (one,) = noted
    assert isinstance(one, Waiting)
    assert "until `penstock agents resume orchestrator`" in one.what


def test_a_set_that_is_not_listed_as_the_orchestrator_is_halted_says_so(
    running: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_runs, "GRACE", 0.5)
    (tmp_path / "set.yaml").write_text("""
kind: Pipeline
metadata: {name: halted}
spec:
  source: {connection: shop, objects: ["none.*"]}
  sink: {connection: warehouse, object: "none.{table}", write: append}
""")
    running.done("agents", "halt")
    try:
        said = running.do("apply", tmp_path / "set.yaml")
    finally:
        running.done("agents", "resume")
    running.done("delete", "halted", "--yes")
    assert "while the orchestrator is halted; penstock agents resume" in " ".join(said.out.split())
