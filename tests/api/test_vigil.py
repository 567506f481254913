"""A run that is watched and cannot go on: said, or an error, never silence for ever."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from api import vigil
from api.cli.run import finish, start
from api.client import connected
from api.starter import PIPELINE, WAREHOUSE
from api.vigil import Waiting
from dataflows.process.site import ACTIVE_CONTROL
from penstock import postgres
from penstock.errors import Refused, Unavailable
from penstock.records.execution import RunProgress, TaskFailed
from penstock.settings import load
from tests.api.house import House, until

_numbers = count(1)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vigil, "GRACE", 1.5)
    monkeypatch.setattr(vigil, "LOOK", 0.1)


def _nothing(_: RunProgress) -> None:
    """Nobody looks at the progress."""


def test_without_a_worker_it_is_said_once_and_without_control_it_ends(idle: House) -> None:
    idle.done("apply")
    flows = idle.start("flow", "control", "projector", "scheduler")
    said: list[TaskFailed | Waiting] = []

    def tell(told: TaskFailed | Waiting) -> None:
        said.append(told)
        time.sleep(0.5)
        flows.kill()

    with connected(load(idle.folder), runs=False) as client:
        until(lambda: client.log.holder(ACTIVE_CONTROL), "the flows to begin")
        run = start(client, "orders")
        with pytest.raises(Unavailable, match="no control process is active") as caught:
            finish(client, run, _nothing, tell)
    assert "penstock up" in (caught.value.hint or "")
    (told,) = said
    assert isinstance(told, Waiting)
    assert "no worker is there" in told.what


@pytest.fixture
def own(busy: House, tmp_path: Path) -> str:
    """A pipeline with a table of its own; its name."""
    name = f"watched_{next(_numbers)}"
    text = PIPELINE.replace("name: orders", f"name: {name}").replace("public.orders, write", f"public.{name}, write")
    (tmp_path / "own.yaml").write_text(text)
    busy.sql(WAREHOUSE, f"CREATE TABLE {name} (LIKE orders)")
    busy.done("apply", tmp_path / "own.yaml")
    return name


def test_a_run_whose_pipeline_is_paused_elsewhere_ends_the_watching(busy: House, own: str) -> None:
    with (
        connected(load(busy.folder), runs=False) as client,
        postgres.connect(busy.server.dsn(WAREHOUSE), "tests", autocommit=False) as session,
    ):
        session.execute(f"LOCK TABLE {own} IN SHARE MODE".encode())
        run = start(client, own)
        until(lambda: client.store.run(run).status == "running", "the run to begin")
        busy.done("pause", own)
        with pytest.raises(Refused, match=f"was paused; run {run} keeps its place") as caught:
            finish(client, run, _nothing)
        assert caught.value.hint == f"penstock resume {own}, then penstock run {own} --watch"
        session.rollback()
        busy.done("resume", own)
        assert finish(client, run, _nothing).status == "completed"


def test_a_run_whose_pipeline_is_stopped_elsewhere_ends_as_stopped(busy: House, own: str) -> None:
    with (
        connected(load(busy.folder), runs=False) as client,
        postgres.connect(busy.server.dsn(WAREHOUSE), "tests", autocommit=False) as session,
    ):
        session.execute(f"LOCK TABLE {own} IN SHARE MODE".encode())
        run = start(client, own)
        until(lambda: client.store.run(run).status == "running", "the run to begin")
        busy.done("stop", own)
        with pytest.raises(Refused, match="stopped"):
            finish(client, run, _nothing)
        session.rollback()
    busy.done("resume", own)
    assert busy.done("run", own, "--watch")["status"] == "completed"


def test_a_run_that_waits_for_its_turn_says_so(busy: House, own: str) -> None:
    said: list[TaskFailed | Waiting] = []
    with connected(load(busy.folder), runs=False) as client:
        watcher = vigil.Vigil(client)
        entry = client.store.run(start(client, own))
        queued = replace(entry, status="queued")
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            said += watcher.look(queued)
            time.sleep(0.05)
    assert [one.what[:24] for one in said if isinstance(one, Waiting)] == ["it waits for its turn: `"]
