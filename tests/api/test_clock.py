"""`penstock up` on a machine whose wall clock is set: forward, back, by years."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.client import Client, connected
from penstock.clock import now
from penstock.errors import NotFound
from penstock.settings import load
from tests.api.project import FORKING, Project, until

SHIM = Path(__file__).with_name("step_clock.c")
DAYS, YEARS = 2 * 86400, 5 * 365 * 86400
ANSWERED = 5.0
"""Seconds within which a command is answered, whatever the clock does; a step of it would cost half a minute."""


@pytest.fixture
def shim(folder: Path) -> Path:
    """Build the library that shifts the wall clock of the processes it is loaded into, the server's too."""
    built = folder / "step_clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, SHIM], check=True)
    return built


class Clock:
    """The wall clock of the processes under test."""

    def __init__(self, file: Path) -> None:
        self.file, self.seconds = file, 0
        self.set(0)

    def set(self, seconds: int) -> None:
        """Let the clock be `seconds` ahead of this machine's (behind it, if negative), at once."""
        self.seconds = seconds
        new = self.file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.file)

    def now(self) -> datetime:
        return now() + timedelta(seconds=self.seconds)


@contextmanager
def installation(project: Project, shim: Path) -> Iterator[tuple[Clock, Client]]:
    """Apply the sample, with a schedule of every minute, and run `up` under a clock of its own."""
    clock = Clock(project.folder / "clock")
    orders = project.folder / "pipelines" / "orders.yaml"
    orders.write_text(orders.read_text().replace("spec:\n", "spec:\n  schedule: {cron: '* * * * *'}\n", 1))
    environment = {"LD_PRELOAD": str(shim), "CLOCK_STEP": str(clock.file)}
    process = project.start("up", "--port", "0", "--json", program=FORKING, environment=environment)
    assert process.stdout
    assert json.loads(process.stdout.readline())["health"]
    project.done("apply")
    with connected(load(project.folder), runs=False) as client:
        yield clock, client


def answered(client: Client) -> float:
    """Return the seconds until the refusal of a command."""
    begin = time.monotonic()
    with pytest.raises(NotFound):
        client.ask("pipeline.pause", "absent", {"name": "absent"})
    return time.monotonic() - begin


def runs(project: Project) -> list[dict[str, Any]]:
    return [one for one in project.done("runs", "orders") if one["scheduled_for"]]


def next_run(project: Project) -> datetime:
    found = next(one for one in project.done("list") if one["name"] == "orders")["next_run"]
    return datetime.fromisoformat(found)


def assert_completes(project: Project, at: str) -> None:
    """Run the pipeline, once the run of its schedule has ended if there is one: the worker works too."""

    def completed() -> bool:
        said = project.do("run", "orders", "--watch")
        assert said.code == 0 or "has a run already" in said.err, f"{at}: {said}"
        return said.code == 0

    until(completed, f"a run, {at}")


@pytest.mark.parametrize(
    "steps",
    [(DAYS, 0, YEARS, 0), pytest.param((30, 0, -30, -DAYS, 0, YEARS, -DAYS, 30, 0) * 3, marks=pytest.mark.chaos)],
)
def test_commands_runs_and_schedules_go_on_when_the_clock_is_set(
    project: Project, shim: Path, steps: tuple[int, ...]
) -> None:
    with installation(project, shim) as (clock, client):
        for step in steps:
            before = len(runs(project))
            clock.set(step)
            assert answered(client) < ANSWERED, f"at {step:+} s"
            until(lambda: next_run(project) - clock.now() < timedelta(minutes=2), f"a tick soon after {step:+} s", 5)
            assert len(runs(project)) - before < 3, f"at {step:+} s, a tick of every minute was made up for"
            assert_completes(project, f"at {step:+} s")
