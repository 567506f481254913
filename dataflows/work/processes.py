"""The processes of a worker's tasks: begun, watched and ended; one that dies with its worker leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dataflows.process.signals import STOPPING
from penstock.settings import Settings

__all__ = ["Ended", "Processes"]

STOP_SECONDS: Final = 10.0
"""How long a process may take to stop between two chunks before it is killed; the sink's fence makes both safe."""
LAST_WORDS_SECONDS: Final = 1.0
READY_SECONDS: Final = 1.0
"""How long nothing has run when a process is started for the next task, which then waits for no interpreter."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended: its exit code (negative: the signal that killed it) and what it left, if anything."""

    task: str
    attempt: int
    code: int
    result: dict[str, Any] | None
    line: dict[str, Any] | None = None
    """Its last line of progress, if nobody has seen it yet."""


@dataclass(frozen=True, slots=True)
class _Started:
    """A process that waits for its order, and dies when `lifeline` is closed."""

    process: subprocess.Popen[bytes]
    lifeline: int

    def let_go(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.lifeline)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.let_go()


@dataclass(slots=True)
class _Running:
    started: _Started
    attempt: int
    result: Path
    line: dict[str, Any] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    conversation: threading.Thread | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.started.process


class Processes:
    """One process for each task in progress; `catalog` is the database that keeps their dead letters.

    While none is in progress, one more is kept ready for the next task.
    """

    def __init__(self, settings: Settings, catalog: str | None = None) -> None:
        self._settings, self._catalog = settings, catalog
        self._running: dict[str, _Running] = {}
        self._ending: list[tuple[str, _Running]] = []
        self._spare: _Started | None = None
        self._idle_since = time.monotonic()

    def __len__(self) -> int:
        return len(self._running) + len(self._ending)

    def begin(self, task: Mapping[str, Any], traceparent: str | None) -> int:
        """Start the process of an assigned task, and end an older attempt that still runs; its process id."""
        self.end(task["task"])
        folder = self._settings.home / "runs" / (task.get("run") or task["task"])
        folder.mkdir(parents=True, exist_ok=True)
        result = folder / f"{task['attempt']}.json"
        result.unlink(missing_ok=True)
        order = {
            "run": task.get("run"),
            "attempt": task["attempt"],
            "uid": task["uid"],
            "kind": task["kind"],
            "pipeline": task["spec"],
            "connections": task["connections"],
            "drop_table": task.get("drop_table", False),
            "reload": task.get("reload"),
            "secrets": str(self._settings.secrets),
            "result": str(result),
            "traceparent": traceparent,
            "letters": self._catalog,
            "modules": self._settings.modules,
            "log": str(folder / "log"),
        }
        running = _Running(self._take_spare() or self._start(), task["attempt"], result)
        self._running[task["task"]] = running
        running.conversation = threading.Thread(target=_converse, args=(running, order), name="task", daemon=True)
        running.conversation.start()
        return running.process.pid

    @property
    def settled(self) -> bool:
        """Whether nothing runs, and a process is ready for the next task."""
        return not self and self._spare is not None

    def make_ready(self) -> None:
        """Start a process for the next task, if none has run for a while; what runs is not to wait for it."""
        if not self and self._spare is None and time.monotonic() - self._idle_since >= READY_SECONDS:
            with contextlib.suppress(OSError):  # the next task starts its own, or tells why not
                self._spare = self._start("--ready")
            self._idle_since = time.monotonic()

    def _start(self, *options: str) -> _Started:
        reading, lifeline = os.pipe()
        # The process begins with them held: one that is told to stop while it starts still tells what was committed.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "dataflows.runs", "--lifeline", str(reading), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(reading,),
                cwd=self._settings.project,
            )
        except OSError:
            os.close(lifeline)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            os.close(reading)
        return _Started(process, lifeline)

    def _take_spare(self) -> _Started | None:
        spare, self._spare = self._spare, None
        if spare is None or spare.process.poll() is None:
            return spare
        spare.kill()
        return None

    def end(self, task: str) -> None:
        """Ask the task's process to stop; its end is told by `halted`."""
        running = self._running.pop(task, None)
        if running is not None:
            running.process.terminate()
            deadline = threading.Timer(STOP_SECONDS, running.process.kill)
            deadline.daemon = True
            deadline.start()
            self._ending.append((task, running))

    def end_all(self) -> None:
        """Kill every process and wait for each; what they had not committed is done again elsewhere."""
        for running in [*self._running.values(), *(one for _, one in self._ending)]:
            running.process.kill()
            running.process.wait()
            running.started.let_go()
        if (spare := self._take_spare()) is not None:
            spare.kill()
        self._running.clear()
        self._ending.clear()

    def ended(self) -> Iterator[Ended]:
        """The tasks whose process has ended since the last call."""
        for task, running in list(self._running.items()):
            code = running.process.poll()
            if code is not None:
                del self._running[task]
                self._let_go(running)
                if running.conversation is not None:
                    running.conversation.join(LAST_WORDS_SECONDS)
                yield Ended(task, running.attempt, code, _left(running.result), running.line)

    def halted(self) -> Iterator[Ended]:
        """The tasks that were told to end, and whose process has since the last call."""
        for task, running in [one for one in self._ending if one[1].process.poll() is not None]:
            self._ending.remove((task, running))
            self._let_go(running)
            yield Ended(task, running.attempt, running.process.returncode, _left(running.result))

    def _let_go(self, running: _Running) -> None:
        running.started.let_go()
        self._idle_since = time.monotonic()

    def progress(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The last line of each process that wrote one since the last call."""
        for task, running in self._running.items():
            with running.lock:
                line, running.line = running.line, None
            if line is not None:
                yield task, line


def _converse(running: _Running, order: Mapping[str, Any]) -> None:
    """Hand the order over, then keep the last line of progress; a process that dies is seen by its exit code."""
    stdin, stdout = running.process.stdin, running.process.stdout
    if stdin is None or stdout is None:
        return
    with contextlib.suppress(OSError), stdin:
        stdin.write(json.dumps(order).encode())
    with contextlib.suppress(OSError, ValueError), stdout:
        for text in stdout:
            line = json.loads(text)
            with running.lock:
                running.line = line


def _left(result: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(result.read_text())
    except (OSError, ValueError):
        return None
    return found
