"""A test process that is killed leaves no server and no flow alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.topics.server_paths import ELSEWHERE, OWNER

ROOT = Path(__file__).parents[2]
STORY = """
import subprocess, sys, time
from pathlib import Path

def test_hangs(pg, tmp_path):
    penstock = [sys.executable, "-c", "from api.cli.main import main; main()"]
    (project := tmp_path / "project").mkdir()
    (project / "penstock.toml").touch()
    up = subprocess.Popen([*penstock, "up", "--project", str(project)], stdout=subprocess.PIPE, text=True,
                          env={**__import__("os").environ, "PENSTOCK_PORT": "0"})
    assert "is up" in up.stdout.readline()
    Path("{mark}").touch()
    time.sleep(600)
"""


def _started_by(base: Path) -> list[str]:
    """Return the processes that work below the folder, and servers whose data are elsewhere."""
    lines = subprocess.check_output(["ps", "-ww", "-eo", "pid,args"], text=True).splitlines()
    owners = ELSEWHERE.glob(f"*/{OWNER}")
    folders = [f"{base}/", *(str(one.parent) for one in owners if one.read_text().startswith(str(base)))]
    return [line for line in lines if any(folder in line for folder in folders)]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.chaos), signal.SIGKILL])
def test_what_a_killed_test_process_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    mark, base = tmp_path / "mark", tmp_path / "base"
    story = tmp_path / "test_story.py"
    story.write_text(STORY.replace("{mark}", str(mark)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", f"--basetemp={base}", str(story)]
    command += [f"--rootdir={tmp_path}", "-p", "no:cacheprovider"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 150
        while not mark.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(_started_by(base)) > 2
    finally:
        process.send_signal(number)
        process.wait()
    deadline = time.monotonic() + 20
    while left := _started_by(base):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
