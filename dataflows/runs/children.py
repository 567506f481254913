"""Child processes of a run: started, listened to, and ended; each dies with this process, however that ends."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from dataflows.data.movement import SLOW, Movement
from dataflows.pipeline import FirstError
from dataflows.process.memory import ABORTED, failed_allocation
from dataflows.runs.job import Job
from dataflows.runs.memory import too_much
from dataflows.runs.watchdog import GRACE_SECONDS
from penstock.errors import PenstockError, Stalled, Unavailable, error_from_report

__all__ = ["follow"]

STOP_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 0.2
GENTLE_SECONDS: Final = 1.2
"""Longest wait for processes that were asked to stop to end between two chunks; a worker waits for 2 s in all."""

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[str]
    stdin: IO[str]
    stdout: IO[str]


def follow(
    job: Job,
    orders: Sequence[Line],
    hear: Callable[[int, Line], None],
    first: FirstError,
    movement: Movement,
    *,
    endless: bool = False,
) -> None:
    """Start a process for each order, and return when all are done; the first error of one of them stops all.

    `hear` gets the number of a process and each line of it that is no error. Processes that are `endless` are asked to
    stop before they are ended, and one that reports nothing is an error although others do.

    Raises:
        PenstockError: that error.
    """
    lines: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    children = [_start(order) for order in orders]
    try:
        for number, child in enumerate(children):
            threading.Thread(target=_listen, args=(number, child, lines), daemon=True, name=f"child{number}").start()
        with movement.wait("the processes of the run reported nothing", SLOW, 2 * GRACE_SECONDS):
            _Follower(job, children, hear, first, movement).run(lines, silence=_silence(job) if endless else None)
    finally:
        if endless and first.error is not None:
            _ask_to_stop(children)
        for child in children:
            _release(child)
        for child in children:
            _end(child, GENTLE_SECONDS if endless else STOP_SECONDS)
    first.check()


def _start(order: Line) -> _Child:
    process = subprocess.Popen(
        [sys.executable, "-m", "dataflows.runs.parallel"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if process.stdin is None or process.stdout is None:
        message = "Popen returned no pipes"
        raise AssertionError(message)
    with contextlib.suppress(BrokenPipeError):  # a child that died at once is detected by the end of its output
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    return _Child(process, process.stdin, process.stdout)


def _listen(number: int, child: _Child, lines: queue.Queue[tuple[int, dict[str, Any] | None]]) -> None:
    with contextlib.suppress(ValueError, OSError):  # cut off in the middle of a line
        for line in child.stdout:
            lines.put((number, json.loads(line)))
    lines.put((number, None))


def _silence(job: Job) -> float:
    """Return after how many seconds without a line a process is lost: its own watchdog would have spoken by then."""
    return job.spec.limits.stalled.total_seconds() * SLOW + 2 * GRACE_SECONDS


@dataclass(slots=True)
class _Follower:
    job: Job
    children: Sequence[_Child]
    hear: Callable[[int, Line], None]
    first: FirstError
    movement: Movement

    def run(self, lines: queue.Queue[tuple[int, dict[str, Any] | None]], silence: float | None) -> None:
        """Take lines until every process has ended, or one has failed."""
        heard = dict.fromkeys(range(len(self.children)), time.monotonic())
        finished: set[int] = set()
        while heard and self.first.error is None:
            if silence is not None:
                self._check(min(heard, key=heard.__getitem__), heard, silence)
            try:
                number, line = lines.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                del heard[number]
                if number not in finished:
                    self.first.put(self._death(number))
                continue
            heard[number] = time.monotonic()
            (self.movement.moved if line.get("moved", True) else self.movement.answered)()
            if "error" in line:
                self.first.put(error_from_report(line["error"]))
            elif "done" in line:
                finished.add(number)
            else:
                self._hear(number, line)

    def _hear(self, number: int, line: Line) -> None:
        try:
            self.hear(number, line)
        except PenstockError as error:
            self.first.put(error)

    def _check(self, number: int, heard: Mapping[int, float], silence: float) -> None:
        if (idle := time.monotonic() - heard[number]) > silence:
            what = f"process {number} of the run has reported nothing for {idle:.0f} s"
            self.first.put(Stalled(what, where=self.job.pipeline, hint="was it suspended? the run is tried again"))

    def _death(self, number: int) -> PenstockError:
        """Return the error of a process that died without reporting one."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.children[number].process.wait(STOP_SECONDS) in ABORTED and failed_allocation(sys.stderr.fileno()):
                return too_much(self.job)
        return Unavailable(f"process {number} of the run died", hint="the run goes on from its last commit")


def _ask_to_stop(children: Sequence[_Child]) -> None:
    """Ask all to stop between two chunks, and give them a moment."""
    for child in children:
        child.process.terminate()
    until = time.monotonic() + GENTLE_SECONDS
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, until - time.monotonic()))


def _release(child: _Child) -> None:
    """Close the pipe that keeps the child alive."""
    with contextlib.suppress(OSError):
        child.stdin.close()


def _end(child: _Child, seconds: float) -> None:
    """Wait for the end of a child that was released."""
    try:
        child.process.wait(seconds)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()
    child.stdout.close()
