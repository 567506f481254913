"""Stopwatch for processes: wall-clock and CPU seconds, and memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Failed", "Measured", "timed"]


POLL_SECONDS: Final = 0.05


class Failed(Exception):
    """A process failed; the message ends with its last output."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One move: wall-clock and CPU seconds of the client's processes, and their peak memory in MB."""

    seconds: float
    cpu: float
    peak_mb: float


def timed(
    commands: list[list[str]],
    given: bytes = b"",
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 1800,
    ready: float = 0.0,
) -> Measured:
    """Run the commands as a pipe and measure them together.

    With `ready` the first one gets that many seconds to start before its input; its start counts as CPU time, but not
    as wall-clock time.

    Raises:
        Failed: one of them did not exit with 0 within `seconds`.
    """
    began = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as said:
        for at, command in enumerate(commands):
            stdin = processes[-1].stdout if processes else subprocess.PIPE
            last = at == len(commands) - 1
            processes.append(
                subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=said if last else subprocess.PIPE,
                    stderr=said,
                    cwd=cwd,
                    env={**os.environ, **(environment or {})},
                )
            )
        memory = _Memory([process.pid for process in processes])
        stop = threading.Timer(seconds, _end, [processes])
        stop.start()
        first = processes[0].stdin
        if ready:
            time.sleep(ready)
            began = time.perf_counter()
        if first is not None:
            first.write(given)
            first.close()
        for process in processes[:-1]:
            if process.stdout is not None:
                process.stdout.close()
        usages = [os.wait4(process.pid, 0) for process in processes]
        taken = time.perf_counter() - began
        stop.cancel()
        for process, (_, status, _) in zip(processes, usages, strict=True):
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                words = said.read().decode(errors="replace")[-1500:]
                message = f"{process.args!r} ended with {process.returncode}: {words}"
                raise Failed(message)
    cpu = sum(usage.ru_utime + usage.ru_stime for _, _, usage in usages)
    return Measured(taken, cpu, memory.end())


class _Memory:
    """Peak memory of processes and their descendants in MB: the sum of the peaks of each.

    Sampled from the kernel while they run, since the result of `wait4` includes the process that started them.
    """

    def __init__(self, roots: list[int]) -> None:
        self._roots, self._over = roots, threading.Event()
        self._peaks: dict[int, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """Stop sampling; return the sum of the peaks."""
        self._over.set()
        self._thread.join()
        return sum(self._peaks.values()) / 1024

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            waiting = list(self._roots)
            while waiting:
                pid = waiting.pop()
                with suppress(OSError, ValueError, IndexError):
                    waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                    peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]
                    self._peaks[pid] = max(self._peaks.get(pid, 0), int(peak))


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
