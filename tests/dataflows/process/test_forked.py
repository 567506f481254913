"""Forked children: they share nothing with the parent, and are watched and ended like any other child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, subprocess, sys, time
from pathlib import Path
from dataflows.process.forked import Forked, can_fork

folder = Path(sys.argv[1])
reading, writing = os.pipe()
kept, other = os.pipe()
if not can_fork():
    sys.exit("this process has one thread, and is on Linux")

def run():
    os.write(2, b"said")
    for number in (reading, writing, other):
        try:
            os.fstat(number)
        except OSError:
            os.write(2, b" closed")
    os.fstat(kept)
    os.write(2, b" " + str(os.getsid(0) == os.getpid()).encode())
    return 3

def forked(run, name):
    with open(os.devnull, "rb") as nothing, (folder / name).open("ab") as log:
        return Forked(run, (nothing.fileno(), log.fileno(), log.fileno()), kept)

print(forked(run, "log").wait(30), (folder / "log").read_text())
print(forked(lambda: 1 // 0, "failed").wait(30), "ZeroDivisionError" in (folder / "failed").read_text())
slow = forked(lambda: time.sleep(60), "slow")
print(slow.poll())
try:
    slow.wait(0.05)
except subprocess.TimeoutExpired:
    print("still there")
slow.terminate()
print(slow.wait(30), slow.poll())
slow.kill()
"""


def test_a_forked_child_is_watched_and_ended_like_any_child(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "3 said closed closed closed True",
        "1 True",
        "None",
        "still there",
        f"-{signal.SIGTERM:d} -{signal.SIGTERM:d}",
    ], done.stderr
