"""Child process that takes runs one after another, and dies with its worker; see `dataflows.runs.serving`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from dataflows.process.signals import STOPPING

__all__ = ["Child"]

EXIT_SECONDS: Final = 1.0
"""Longest wait for the exit of a child that has closed its output."""


@dataclass(slots=True)
class Child:
    """Process that waits for tasks; it dies when `lifeline` is closed."""

    process: subprocess.Popen[bytes]
    lifeline: int
    runs: int = 0
    """Number of tasks it was given."""
    idle_since: float = field(default_factory=time.monotonic)
    conversation: threading.Thread | None = None
    """Thread that sends the last task and reads the answers."""

    @classmethod
    def start(cls, project: Path, *options: str) -> Child:
        """Start a process in the folder `project`.

        Raises:
            OSError: it cannot be started.
        """
        reading, lifeline = os.pipe()
        # The process starts with these signals blocked: stopped during its start, it still reports what was committed.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "dataflows.runs", "--lifeline", str(reading), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(reading,),
                cwd=project,
            )
        except OSError:
            os.close(lifeline)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(reading)
        return cls(process, lifeline)

    @property
    def alive(self) -> bool:
        """True until it has ended."""
        return self.process.poll() is None

    @property
    def memory(self) -> int:
        """Resident memory in bytes; 0 if unknown."""
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def run(self, task: Mapping[str, Any], on_line: Callable[[dict[str, Any]], None]) -> None:
        """Give it a task; `on_line` is called from another thread with each line of its answer.

        The last line has ``ended``, or is empty if the process closed its output instead.
        """
        self.runs += 1
        self.conversation = threading.Thread(target=self._converse, args=(task, on_line), name="task", daemon=True)
        self.conversation.start()

    def wait_for_answer(self, seconds: float) -> None:
        """Wait at most `seconds` for the rest of its answer: another process may keep its output open."""
        if self.conversation is not None:
            self.conversation.join(seconds)

    def _converse(self, task: Mapping[str, Any], on_line: Callable[[dict[str, Any]], None]) -> None:
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            return
        with contextlib.suppress(OSError, ValueError):  # a dead process is detected by its exit code
            stdin.write(json.dumps(task).encode() + b"\n")
            stdin.flush()
            for text in stdout:
                line = _line(text)
                if line is not None:
                    on_line(line)
                    if "ended" in line:
                        return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_SECONDS)
        on_line({})

    def dismiss(self) -> None:
        """Close its input, so that it ends by itself."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def kill(self) -> None:
        """Kill it, and wait for its exit."""
        self.process.kill()
        self.process.wait()
        self.release()

    def release(self) -> None:
        """Release the pipes of a process that has ended."""
        self.dismiss()
        if self.process.stdout is not None and not (self.conversation and self.conversation.is_alive()):
            self.process.stdout.close()
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1


def _line(text: bytes) -> dict[str, Any] | None:
    """Parse a line of the protocol; None for anything else that a step may print."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and ("phase" in found or "ended" in found) else None
