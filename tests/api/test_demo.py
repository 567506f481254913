"""The demo's proofs are true, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.cli.console import Output
from api.cli.demo import Figures, _proven
from api.cli.main import State
from api.demo.crash import Crash, process_of
from api.demo.data import SCALE
from api.demo.memory import Memory, family, pss
from api.starter import SHOP
from dataflows.process.site import Site
from penstock.clock import now
from penstock.records import BRAIN_LOCK, Record, encode
from penstock.settings import load
from penstock.topics.log import TopicLog
from penstock.topics.table import CONTROL
from tests.agents.control_plane import pipeline
from tests.api.project import ROOT, Project, until

SMALL = 0.04
"""Scale of the shop in short tests; that of the demo is 0.1."""


def _start(folder: Path, scale: float = SMALL) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT, "TMPDIR": str(folder), "PENSTOCK_DATABASE_URL": "host=nowhere"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.api.programs.tour", str(scale)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def _left(folder: Path) -> list[str]:
    """Return the processes that still run below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd()]
        except psutil.Error:
            continue
        found += [" ".join(words)] if any(str(folder) in word for word in words) else []
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("scale", "rows"), [(SMALL, "240,292"), pytest.param(SCALE, "600,572", marks=pytest.mark.chaos)]
)
def test_the_demo_proves_what_it_says(folder: Path, scale: float, rows: str) -> None:
    process = _start(folder, scale)
    out, _ = process.communicate(timeout=800)
    assert process.returncode == 0, out
    assert "line-items: its process is killed with SIGKILL after" in out
    assert re.search(rf"ok +a killed run finishes exactly +killed after [\d,]+ rows; {rows} rows in 2 attempts", out)
    assert re.search(r"ok +a killed stream reads on +killed after [\d,]+ of 16,000 events; 2 attempts", out)
    assert re.search(r"ok +events of 2,000 orders, in order +16,000 rows, 0 doubled, 0 lost, 0 out of order", out)
    assert "agent lifecycle: follow rename: columns of public.sales seem to be renamed" in out
    assert "agent error_resolution: skip record" in out
    assert re.search(r"ok +bad rows are kept, and redriven +100 of 101 corrected and written once", out)
    assert len(re.findall(r"^ok ", out, re.MULTILINE)) == 13
    assert "WRONG" not in out
    first = re.search(r"the first pipeline's rows arrived +([\d.]+) s after the start", out)
    peak = re.search(r"peak memory \(PSS\) +([\d,]+) MB", out)
    whole = re.search(r"; (\d+) seconds in all", out)
    assert first, out
    assert peak, out
    assert whole, out
    assert 1 < float(first[1]) < float(whole[1])
    assert 100 < float(peak[1].replace(",", "")) < 900
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines()) <= 110
    assert out.splitlines()[-1].startswith("next: penstock init ")
    assert (_left(folder), list(folder.iterdir())) == ([], [])


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.chaos) for one in (signal.SIGTERM, signal.SIGKILL))]
)
def test_an_interrupted_demo_leaves_nothing_running(folder: Path, number: signal.Signals) -> None:
    process = _start(folder)
    assert process.stdout
    until(lambda: "applied" in process.stdout.readline(), "the pipelines to be applied")  # type: ignore[union-attr]
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number], said
    until(lambda: _left(folder) == [], "everything to end")
    if number != signal.SIGKILL:
        assert list(folder.iterdir()) == []


def test_a_proof_that_fails_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    state, figures = State(None, Output()), Figures(1.0, 0.5, 100.0)
    assert _proven(state, [("a", "1", True), ("b", "2", True)], figures, None) == 0
    assert _proven(state, [("a", "1", True), ("b", "2", False)], figures, None) == 1
    assert "WRONG" in capsys.readouterr().out


def test_memory_counts_what_a_process_started_while_it_lives() -> None:
    program = "import time; block = bytearray(50_000_000); print(flush=True); time.sleep(60)"
    shell = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"]
    with subprocess.Popen(shell, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        parent.stdout.readline()
        with Memory(lambda: [parent.pid]) as memory:
            until(lambda: memory.peak > 50_000_000, "a sample")
        children = family([parent.pid])
        assert len(children) == 2
        for pid in children:
            os.kill(pid, signal.SIGKILL)
    assert memory.peak < 200_000_000
    assert pss(parent.pid) == 0


def test_a_crash_finds_the_process_of_the_last_attempt_and_skips_one_that_has_ended(project: Project) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    told: list[int] = []
    with (
        Site(load(project.folder)) as site,
        site.open_log() as log,
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as alive,
    ):
        _attempt(log, 1, gone.pid)
        with Crash(site, "r", project.server.dsn(SHOP), "SELECT count(*) FROM orders", told.append):
            until(lambda: process_of(log, "r") == gone.pid, "the first attempt")
            time.sleep(0.2)
            assert told == []
            _attempt(log, 2, alive.pid)
            until(lambda: told, "the kill")
        assert alive.wait(10) == -signal.SIGKILL
    assert told == [10_000]


def _attempt(log: TopicLog, attempt: int, pid: int) -> None:
    """Append what the orchestrator and a worker record about an attempt of run `r`."""
    task = {"task": "t", "run": "r", "attempt": attempt, "worker": "w"}
    assigned = task | {"kind": "pipeline", "pipeline": "p", "uid": "u", "version": 1, "connections": {}}
    log.lock(BRAIN_LOCK, wait=True)
    brain = {"agents": {"orchestrator": 1}, "release": "0"}
    ((_, offset),) = log.append(CONTROL, [encode(_record("brain.started", brain))])
    decided = {"actor": "agent:orchestrator", "brain": offset, "cause": (offset, 1)}
    records = [
        _record("task.assigned", assigned | {"spec": pipeline("p")}, **decided),
        _record("task.started", task | {"pid": pid}),
    ]
    log.append(CONTROL, [encode(record) for record in records])


def _record(type_: str, payload: dict[str, Any], **more: Any) -> Record:
    return Record(**{"type": type_, "key": "t", "at": now(), "actor": "tests", "payload": payload, **more})
