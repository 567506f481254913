"""Processes of a worker's tasks: reused, watched and ended; they die with their worker.

A process that has completed a run takes the next one. It is replaced after `RUNS` runs, after one that failed or was
stopped, when it uses more than `MEMORY` bytes, or when a run left a thread behind. A run that calls functions of
users' modules gets a fresh process of its own, which ends with it: the modules are loaded in their current version, and
leave no state behind.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dataflows.process.fork_server import ForkServer
from dataflows.process.memory import ABORTED, failed_allocation
from dataflows.work.child import Child, fork_server, forked_in_advance
from penstock.disk import make_private
from penstock.errors import OutOfMemory
from penstock.settings import Settings

__all__ = ["Ended", "Processes", "calls_modules"]

STOP_SECONDS: Final = 10.0
"""Longest wait for a process to stop between two chunks before it is killed; the sink's fence makes both safe."""
LAST_LINES_SECONDS: Final = 1.0
READY_SECONDS: Final = 1.0
"""Idle time after which a process is started in advance for the next task."""
IDLE_SECONDS: Final = 30.0
"""Longest time a process waits for its next run, unless it is the only idle one."""
RUNS: Final = 1000
MEMORY: Final = 400 << 20
PAGES: Final = 4
PAGE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Ended:
    """Run of a task that has ended: its exit code (negative: the signal that killed its process) and result, if any."""

    task: str
    attempt: int
    code: int
    result: dict[str, Any] | None
    line: dict[str, Any] | None = None
    """Its last line of progress, if not reported yet."""
    counted: dict[str, Any] | None = None
    """Its last line of progress, whether reported or not."""


@dataclass(slots=True)
class _Running:
    child: Child
    attempt: int
    result: Path
    alone: bool
    """True if no other run may share its process."""
    changed: Callable[[], None]
    log: Path
    spec: Mapping[str, Any]
    line: dict[str, Any] | None = None
    counted: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    """The line that ended the run, if its process is still alive."""
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    pages: queue.Queue[list[dict[str, Any]]] = field(default_factory=lambda: queue.Queue(PAGES))
    """Objects that a discovery has found and the worker has not yet reported; while it is full, the process waits."""

    def on_line(self, line: dict[str, Any]) -> None:
        if "ended" in line:
            self.last = line
        elif "found" in line:
            self._take(line["found"])
        elif line:
            with self.lock:
                self.line = self.counted = line
            return
        self.changed()

    def _take(self, page: list[dict[str, Any]]) -> None:
        taken = False
        while not taken and not self.stopped:
            with contextlib.suppress(queue.Full):
                self.pages.put(page, timeout=PAGE_SECONDS)
                taken = True

    @property
    def code(self) -> int | None:
        """Exit code of the run; None while it runs."""
        return int(self.last["ended"]) if self.last is not None else self.child.process.poll()

    def outcome(self, code: int) -> dict[str, Any] | None:
        """Return the result that the run has written, or the one of a process that aborted without memory."""
        found = _result(self.result)
        if found is None and self.spec and code in ABORTED and failed_allocation(self.log):
            found = {"status": "failed", "error": _out_of_memory(self.spec)}
        return found

    @property
    def reusable(self) -> bool:
        """True if the process may take another run."""
        fit = self.last is not None and self.last["ended"] == 0 and self.last["reusable"]
        return fit and not self.alone and not self.stopped and self.child.runs < RUNS and self.child.memory < MEMORY


class Processes:
    """One process for each task in progress; `catalog` is the database that keeps their dead letters.

    While none is in progress, one is kept ready for the next task. `changed` is called from another thread when a run
    has ended.
    """

    def __init__(
        self, settings: Settings, catalog: str | None = None, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._settings, self._catalog, self._changed = settings, catalog, changed
        self._running: dict[str, _Running] = {}
        self._ending: list[tuple[str, _Running]] = []
        self._idle = forked_in_advance()
        self._leaving: list[tuple[Child, float]] = []
        self._idle_since = time.monotonic()
        self._server: ForkServer | None = None

    def __len__(self) -> int:
        return len(self._running) + len(self._ending)

    def begin(self, task: Mapping[str, Any], traceparent: str | None) -> int:
        """Run an assigned task in a process, end an older attempt that still runs, and return the process id."""
        self.end(task["task"])
        make_private(self._settings.home)
        folder = self._settings.home / "runs" / (task.get("run") or task["task"])
        folder.mkdir(parents=True, exist_ok=True)
        result, spec = folder / f"{task['attempt']}.json", task.get("spec") or {}
        result.unlink(missing_ok=True)
        _drain_of(result).unlink(missing_ok=True)
        if task.get("drain"):
            _drain_of(result).touch()
        order = {
            "run": task.get("run") or task["task"],
            "attempt": task["attempt"],
            "uid": task.get("uid"),
            "version": task.get("version"),
            "set_id": task.get("set_id"),
            "shared": str(self._settings.home / "shared"),
            "kind": task["kind"],
            "discovery": task.get("discovery"),
            "pipeline": spec,
            "connections": task["connections"],
            "drop_table": task.get("drop_table", False),
            "reload": task.get("reload"),
            "begin": task.get("begin"),
            "limit": task.get("limit"),
            "since": task.get("since"),
            "redrive": task.get("letters"),
            "failure": task.get("failure"),
            "notice": task.get("notice"),
            "round": task.get("round", 0),
            "listing": task.get("listing"),
            "secrets": str(self._settings.secrets),
            "result": str(result),
            "traceparent": traceparent,
            "letters": self._catalog,
            "drain": str(_drain_of(result)),
            "modules": self._settings.modules,
            "mask_key": self._settings.mask_key,
            "log": str(folder / "log"),
        }
        alone = calls_modules(spec)
        child = self._forked() if _streams(spec) and not alone else None
        running = _Running(
            child or self._child(fresh=alone),
            task["attempt"],
            result,
            alone,
            self._changed,
            folder / "log",
            spec,
        )
        self._running[task["task"]] = running
        running.child.run(order, running.on_line)
        return running.child.process.pid

    def _forked(self) -> Child | None:
        """Return a process that shares the memory of the other streams'; None if it cannot be had."""
        with contextlib.suppress(OSError):
            if self._server is None or not self._server.alive:
                self._server = fork_server(self._settings.project)
            return Child.of(self._server)
        return None

    def _child(self, *, fresh: bool) -> Child:
        """Return the idle process that was used last, or a new one; with `fresh` one that has run nothing."""
        for child in reversed(self._idle):
            if not fresh or not (child.runs or child.forked):
                self._idle.remove(child)
                if child.alive:
                    return child
                child.release()
        return Child.start(self._settings.project)

    def maintain(self) -> None:
        """Start a process for the next task if none has run for a while, and dismiss surplus ones."""
        at = time.monotonic()
        for child in [one for one in self._idle if not one.alive]:
            self._idle.remove(child)
            child.release()
        if not self and not self._idle and at - self._idle_since >= READY_SECONDS:
            with contextlib.suppress(OSError):  # the next task starts its own, or reports the error
                self._idle.append(Child.start(self._settings.project, "--ready"))
            self._idle_since = at
        while len(self._idle) > 1 and at - self._idle[0].idle_since >= IDLE_SECONDS:
            self._dismiss(self._idle.pop(0))
        for child, deadline in list(self._leaving):
            if child.alive and at > deadline:
                child.process.kill()
            elif not child.alive:
                self._leaving.remove((child, deadline))
                child.release()

    def drain(self, task: str) -> None:
        """Ask the task's run to end after what its source has now; a batch run does so anyway."""
        if task in self._running:
            _drain_of(self._running[task].result).touch()

    def end(self, task: str) -> None:
        """Ask the task's run to stop; `halted` reports its end."""
        running = self._running.pop(task, None)
        if running is not None:
            running.stopped = True
            running.child.process.terminate()
            deadline = threading.Timer(STOP_SECONDS, running.child.process.kill)
            deadline.daemon = True
            deadline.start()
            self._ending.append((task, running))

    def end_all(self) -> None:
        """Kill every process and wait for each; uncommitted work is repeated by another worker."""
        runs = [*self._running.values(), *(one for _, one in self._ending)]
        for child in [*(one.child for one in runs), *self._idle, *(one for one, _ in self._leaving)]:
            child.kill()
        for running in runs:
            _remove_keys(running.result)
        for held in (self._running, self._ending, self._idle, self._leaving):
            held.clear()
        if self._server is not None:
            self._server.close()
            self._server = None

    def ended(self) -> Iterator[Ended]:
        """Yield the tasks whose run has ended since the last call."""
        for task, running in list(self._running.items()):
            if (code := running.code) is not None and running.pages.empty():
                del self._running[task]
                running.stopped |= running.last is None  # pages that a dead process left in its pipe are not read
                self._keep_or_dismiss(running)
                yield Ended(task, running.attempt, code, running.outcome(code), running.line, running.counted)

    def halted(self) -> Iterator[Ended]:
        """Yield the stopped tasks whose run has ended since the last call."""
        for task, running in list(self._ending):
            if (code := running.code) is not None:
                self._ending.remove((task, running))
                self._keep_or_dismiss(running)
                yield Ended(task, running.attempt, code, running.outcome(code))

    def _keep_or_dismiss(self, running: _Running) -> None:
        """Keep the process of a run that has ended, or dismiss it; remove what it has left."""
        _remove_keys(running.result)
        child, self._idle_since = running.child, time.monotonic()
        child.wait_for_answer(LAST_LINES_SECONDS)
        child.idle_since = self._idle_since
        if not child.alive:
            child.release()
        elif running.reusable:
            self._idle.append(child)
        else:
            self._dismiss(child)

    def _dismiss(self, child: Child) -> None:
        child.dismiss()
        self._leaving.append((child, time.monotonic() + STOP_SECONDS))

    def found(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield what discoveries have found since the last call, in order; `ended` comes after the last of it.

        A few pages of each at most: a discovery that finds them as fast as they are taken must not hold up the rest.
        """
        for task, running in self._running.items():
            with contextlib.suppress(queue.Empty):
                for _ in range(PAGES):
                    yield task, running.pages.get_nowait()

    def progress(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the last line of each run that wrote one since the last call."""
        for task, running in self._running.items():
            with running.lock:
                line, running.line = running.line, None
            if line is not None:
                yield task, line


def _remove_keys(result: Path) -> None:
    """Remove the lists of keys that a comparison which was killed has left."""
    for left in result.parent.glob("keys-*"):
        shutil.rmtree(left, ignore_errors=True)


def _drain_of(result: Path) -> Path:
    """Return the file whose presence asks a run to drain."""
    return result.with_suffix(".drain")


def _streams(pipeline: Mapping[str, Any]) -> bool:
    """True if the pipeline's runs never end by themselves: there may be many, most of them quiet."""
    return (pipeline.get("spec") or {}).get("mode") == "stream"


def calls_modules(pipeline: Mapping[str, Any]) -> bool:
    """True if a step of the pipeline calls a function of a user's module."""
    steps = (pipeline.get("spec") or {}).get("transforms") or ()
    return any(step.get("python") for step in steps)


def _out_of_memory(pipeline: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error of a run whose process got no more memory."""
    from penstock.models.pipeline import Pipeline

    parsed = Pipeline.parse(pipeline)
    error = OutOfMemory.beyond(parsed.spec.limits.memory, parsed.name)
    return {"code": error.code, "what": error.what, "where": error.where, "hint": error.hint, "transient": False}


def _result(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found
