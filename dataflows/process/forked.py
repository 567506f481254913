"""Child process forked from this one, so that it starts without importing anything again."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Forked", "can_fork"]

POLL_SECONDS: Final = 1.0
"""Longest wait, in seconds, for an end that another thread may see first."""


def can_fork() -> bool:
    """True if this process can be forked safely: on Linux, while it has one thread (a fork copies no other)."""
    tasks = Path("/proc/self/task")
    return sys.platform == "linux" and len(list(tasks.iterdir())) == 1


class Forked:
    """Child that calls `run` and exits with its result; offers the part of `subprocess.Popen` that its owner needs.

    The child leads a session of its own. Its standard streams are the three descriptors of `streams`; of this process's
    open files it keeps only those and `keep`, so that it shares no lock and no connection. Safe between threads.
    `descriptor` can be read once it has ended, and is closed when that was seen.
    """

    def __init__(self, run: Callable[[], int], streams: tuple[int, int, int], keep: int) -> None:
        gc.freeze()  # the child's collector leaves these pages alone, so both go on sharing them
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            _become(run, streams, keep)
        self.descriptor = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that killed it); None while it runs."""
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
                    os.close(self.descriptor)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = POLL_SECONDS if deadline is None else min(POLL_SECONDS, deadline - time.monotonic())
            if left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            with suppress(OSError, ValueError):  # another thread has seen its end, and closed the descriptor
                select.select([self.descriptor], [], [], left)
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


def _become(run: Callable[[], int], streams: tuple[int, int, int], keep: int) -> None:
    """Run as the child, and exit."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for standard, source in enumerate(streams):
            os.dup2(source, standard)
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - until the end
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the end
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the end
        code = run()
    except BaseException:  # noqa: BLE001 - the child must not unwind into the parent's stack
        traceback.print_exc()
    finally:
        os._exit(code)
