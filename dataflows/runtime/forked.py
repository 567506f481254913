"""A child process that begins as a copy of this one, so that nothing is imported twice."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

__all__ = ["Forked", "can_fork"]


def can_fork() -> bool:
    """True where a copy of this process is sound: on Linux, while it has one thread (a copy has no other)."""
    tasks = Path("/proc/self/task")
    return sys.platform == "linux" and len(list(tasks.iterdir())) == 1


class Forked:
    """A child that calls `run` and ends with its result; the part of `subprocess.Popen` that a supervisor needs.

    The child is the leader of a session of its own, its output goes to the end of `log`, and of the files that are open
    here it keeps `keep` alone: locks and sessions of this process stay this process's.
    """

    def __init__(self, run: Callable[[], int], log: Path, keep: int) -> None:
        gc.freeze()  # the child's collector leaves these pages alone, so both go on sharing them
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(run, log, keep)
        self._exit = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit code (negative: the signal that killed it), None while it lives."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self._exit)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            select.select([self._exit], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _become(run: Callable[[], int], log: Path, keep: int) -> None:
    """Be the child, to its end."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for standard, source in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
            os.dup2(source, standard)
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the end
        code = run()
    except BaseException:  # noqa: BLE001 - nothing of the parent's stack may run in the child
        traceback.print_exc()
    finally:
        os._exit(code)
