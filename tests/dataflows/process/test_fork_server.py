"""Processes forked by a server: watched and ended like any other, also if the server dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataflows.process import fork_server
from dataflows.process.fork_server import LOST, ForkServer, Offspring

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, socket, sys, time
from dataflows.process.fork_server import serve_forks

def run(lifeline):
    os.fstat(lifeline)
    order = os.read(0, 100)
    if order == b"fail":
        raise RuntimeError("it failed")
    if order == b"wait":
        time.sleep(60)
    os.write(1, b"%d %d %d" % (os.getppid(), os.getsid(0) == os.getpid(), len(os.listdir("/proc/self/fd")) - 1))
    return 7

serve_forks(socket.socket(fileno=int(sys.argv[1])), run)
"""
PATIENCE = 30.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    """Start a server whose processes do what they read."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = ForkServer([sys.executable, "-c", PROGRAM], ROOT)
    yield made
    made.close()


def forked(server: ForkServer, order: bytes, folder: Path) -> tuple[Offspring, int]:
    """Fork a process and give it an order; return it, and the end of its output that is read."""
    (stdin, orders), (answers, stdout), (lifeline, kept) = os.pipe(), os.pipe(), os.pipe()
    with (folder / "log").open("ab") as log:
        one = server.fork(stdin, stdout, log.fileno(), lifeline)
    os.write(orders, order)
    for end in (stdin, orders, stdout, lifeline, kept):
        os.close(end)
    return one, answers


def said(answers: int) -> list[int]:
    """Return what a process has written until it closed its output."""
    with os.fdopen(answers, "rb") as stream:
        return [int(one) for one in stream.read().split()]


def test_what_it_forks_has_its_own_session_and_no_other_files(server: ForkServer, tmp_path: Path) -> None:
    ones = [forked(server, b"run", tmp_path) for _ in range(3)]
    assert [said(answers) for _, answers in ones] == [[server.process.pid, 1, 4]] * 3
    assert [one.wait(PATIENCE) for one, _ in ones] == [7, 7, 7]
    assert [one.poll() for one, _ in ones] == [7, 7, 7]
    ones[0][0].kill()  # of a process that has ended, it does nothing


def test_it_reports_how_each_has_ended(server: ForkServer, tmp_path: Path) -> None:
    (failed, _), (stopped, _), (killed, _) = (forked(server, order, tmp_path) for order in (b"fail", b"wait", b"wait"))
    assert failed.wait(PATIENCE) == 1
    assert "it failed" in (tmp_path / "log").read_text()
    assert stopped.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        stopped.wait(0.01)
    stopped.terminate()
    killed.kill()
    assert (stopped.wait(PATIENCE), killed.wait(PATIENCE)) == (-signal.SIGTERM, -signal.SIGKILL)


def test_its_death_ends_none_of_them_and_is_seen(server: ForkServer, tmp_path: Path) -> None:
    one, answers = forked(server, b"wait", tmp_path)
    server.process.kill()
    end = time.monotonic() + PATIENCE
    while server.alive and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(OSError, match=r"ended|closed|descriptor|pipe|reset"):
        forked(server, b"run", tmp_path)
    assert one.poll() is None
    os.kill(one.pid, 0)
    one.kill()
    assert (one.wait(PATIENCE), said(answers)) == (LOST, [])


def test_one_that_does_not_answer_is_ended_and_its_late_answer_is_no_other_ones(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = forked(server, b"wait", tmp_path)
    os.kill(server.process.pid, signal.SIGSTOP)
    monkeypatch.setattr(fork_server, "START_SECONDS", 0.05)
    with pytest.raises(OSError, match="has ended"):
        forked(server, b"run", tmp_path)
    assert not server.alive
    assert server.process.wait(PATIENCE) == -signal.SIGKILL
    with pytest.raises(OSError, match=r"ended|closed|descriptor|pipe|reset"):
        forked(server, b"run", tmp_path)
    one.kill()
    assert one.wait(PATIENCE) == LOST
