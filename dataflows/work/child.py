"""Child process that takes runs one after another, and dies with its worker; see `dataflows.runs.serving`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final

from dataflows.process.fork_server import ForkServer, Offspring
from dataflows.process.forked import Forked, can_fork
from dataflows.process.memory import resident_memory
from dataflows.process.signals import STOPPING

__all__ = ["Child", "fork_in_advance", "fork_server", "forked_in_advance"]

EXIT_SECONDS: Final = 1.0
"""Longest wait for the exit of a child that has closed its output."""


@dataclass(slots=True)
class Child:
    """Process that waits for tasks; it dies when `lifeline` is closed."""

    process: subprocess.Popen[bytes] | Forked | Offspring
    stdin: BinaryIO
    stdout: BinaryIO
    lifeline: int
    forked: bool = False
    """True if it began with all that this process had imported."""
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
        return cls._started(partial(_spawn, project, options))

    @classmethod
    def fork(cls, project: Path) -> Child:
        """Fork a process, which `can_fork` must allow, in the folder `project`; it loads what most tasks need.

        Raises:
            OSError: it cannot be started.
        """
        child = cls._started(partial(_fork, project))
        child.forked = True
        return child

    @classmethod
    def of(cls, server: ForkServer) -> Child:
        """Let `server` fork a process.

        Raises:
            OSError: it cannot.
        """
        return cls._started(lambda stdin, stdout, lifeline: server.fork(stdin, stdout, sys.stderr.fileno(), lifeline))

    @classmethod
    def _started(cls, start: Callable[[int, int, int], subprocess.Popen[bytes] | Forked | Offspring]) -> Child:
        """`start` takes the child's ends of three pipes: its input, its output, and the lifeline."""
        stdin, tasks = os.pipe()
        answers, stdout = os.pipe()
        reading, lifeline = os.pipe()
        # The process starts with these signals blocked: stopped during its start, it still reports what was committed.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            process = start(stdin, stdout, reading)
        except OSError:
            for end in (tasks, answers, lifeline):
                os.close(end)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for end in (stdin, stdout, reading):
                os.close(end)
        return cls(process, os.fdopen(tasks, "wb"), os.fdopen(answers, "rb"), lifeline)

    @property
    def alive(self) -> bool:
        """True until it has ended."""
        return self.process.poll() is None

    @property
    def memory(self) -> int:
        """Resident memory in bytes; 0 if unknown."""
        return resident_memory(self.process.pid)

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
        with contextlib.suppress(OSError, ValueError):  # a dead process is detected by its exit code
            self.stdin.write(json.dumps(task).encode() + b"\n")
            self.stdin.flush()
            for text in self.stdout:
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
        with contextlib.suppress(OSError):
            self.stdin.close()

    def kill(self) -> None:
        """Kill it, and wait for its exit."""
        self.process.kill()
        self.process.wait()
        self.release()

    def release(self) -> None:
        """Release the pipes of a process that has ended."""
        self.dismiss()
        if not (self.conversation and self.conversation.is_alive()):
            self.stdout.close()
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1


def fork_in_advance(project: Path) -> None:
    """Fork a process for the first task while this process has one thread, where that is possible."""
    if can_fork():
        with contextlib.suppress(OSError):  # the first task starts its own, or reports the error
            _in_advance.append(Child.fork(project))


def fork_server(project: Path) -> ForkServer:
    """Start the process that forks those of streams.

    Raises:
        OSError: it cannot be started.
    """
    return ForkServer([sys.executable, "-m", "dataflows.work.forks"], project)


def forked_in_advance() -> list[Child]:
    """Return what `fork_in_advance` has made, once."""
    found = _in_advance[:]
    _in_advance.clear()
    return found


_in_advance: Final[list[Child]] = []


def _spawn(project: Path, options: Sequence[str], stdin: int, stdout: int, lifeline: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dataflows.runs", "--lifeline", str(lifeline), *options]
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, pass_fds=(lifeline,), cwd=project)


def _fork(project: Path, stdin: int, stdout: int, lifeline: int) -> Forked:
    def serve() -> int:
        os.chdir(project)
        sys.path.insert(0, str(project))  # as `python -m` does
        logging.getLogger().handlers.clear()
        import_module("dataflows.runs.serving").main(["--lifeline", str(lifeline), "--ready"])
        return 0

    return Forked(serve, (stdin, stdout, sys.stderr.fileno()), lifeline)


_LINES: Final = {"phase", "found", "ended"}
"""Keys of which each line has one: progress, objects that a discovery has found, the end."""


def _line(text: bytes) -> dict[str, Any] | None:
    """Parse a line of the protocol; None for anything else that a step may print."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and not found.keys().isdisjoint(_LINES) else None
