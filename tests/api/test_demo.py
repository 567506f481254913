"""The demo proves what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from api.cli.console import Output
from api.cli.demo import _proven
from api.cli.main import State
from tests.api.house import PENSTOCK, ROOT, until


def _start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT, "TMPDIR": str(folder), "PENSTOCK_DATABASE_URL": "host=nowhere"}
    return subprocess.Popen(
        [*PENSTOCK, "demo"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment,
    )  # fmt: skip


def _left(folder: Path) -> list[str]:
    """What still runs below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd()]
        except psutil.Error:
            continue
        found += [" ".join(words)] if any(str(folder) in word for word in words) else []
    return found


def test_the_demo_proves_what_it_says(folder: Path) -> None:
    process = _start(folder)
    out, _ = process.communicate(timeout=170)
    assert process.returncode == 0, out
    assert "line-items: its process is killed with SIGKILL after" in out
    assert re.search(r"ok +a killed run finishes exactly +killed after [\d,]+ rows; 600,572 rows in 2 attempts", out)
    assert len(re.findall(r"^ok ", out, re.MULTILINE)) == 8
    assert "WRONG" not in out
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines()) <= 110
    assert out.splitlines()[-1].startswith("next: penstock init ")
    assert (_left(folder), list(folder.iterdir())) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_cut_off_leaves_nothing_running(folder: Path, number: signal.Signals) -> None:
    process = _start(folder)
    assert process.stdout
    until(lambda: "applied" in process.stdout.readline(), "the pipelines to be applied")  # type: ignore[union-attr]
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == (130 if number == signal.SIGINT else -9), said
    until(lambda: _left(folder) == [], "everything to end")
    if number == signal.SIGINT:
        assert list(folder.iterdir()) == []


def test_a_proof_that_fails_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    state = State(None, Output())
    assert _proven(state, [("a", "1", True), ("b", "2", True)], 1.0, None) == 0
    assert _proven(state, [("a", "1", True), ("b", "2", False)], 1.0, None) == 1
    assert "WRONG" in capsys.readouterr().out
