"""Run one flow in several processes: child i of n takes the slots that are i mod n."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from dataflows.data.counters import Counters
from dataflows.data.movement import SLOW, Movement
from dataflows.pipeline import FirstError
from dataflows.process.lifeline import watch_lifeline
from dataflows.process.memory import ABORTED, failed_allocation
from dataflows.process.signals import hold_signals, stop_on_signal
from dataflows.runs.job import Job
from dataflows.runs.memory import named, too_much
from dataflows.runs.prepare import Prepared, joined
from dataflows.runs.progress import Progress, error_of, write_line
from dataflows.runs.slots import Reports, run_slots
from dataflows.runs.survey import opened
from dataflows.runs.watchdog import GRACE_SECONDS, watched
from penstock.errors import PenstockError, Unavailable, error_from_report

__all__ = ["main", "run_children"]

STOP_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 0.2
MOVED_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[str]
    stdin: IO[str]
    stdout: IO[str]


def run_children(job: Job, prepared: Prepared, task: Mapping[str, Any], first: FirstError, progress: Progress) -> None:
    """Run the flow in ``job.workers`` processes; the first error of one of them stops all.

    Raises:
        PenstockError: that error.
    """
    lines: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    children = [_start(task, number, prepared) for number in range(job.workers)]
    try:
        for number, child in enumerate(children):
            threading.Thread(target=_listen, args=(number, child, lines), daemon=True, name=f"child{number}").start()
        with progress.movement.wait("the processes of the run reported nothing", SLOW, 2 * GRACE_SECONDS):
            _follow(job, lines, children, first, progress)
    finally:
        for child in children:
            _end(child)
    first.check()


def _start(task: Mapping[str, Any], number: int, prepared: Prepared) -> _Child:
    process = subprocess.Popen(
        [sys.executable, "-m", "dataflows.runs.parallel"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if process.stdin is None or process.stdout is None:
        message = "Popen returned no pipes"
        raise AssertionError(message)
    order = {
        "task": dict(task),
        "number": number,
        "generation": prepared.generation,
        "held": prepared.held,
        "token": prepared.token,
        "split_key": prepared.survey.split_key,
    }
    with contextlib.suppress(BrokenPipeError):  # a child that died at once is detected by the end of its output
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    return _Child(process, process.stdin, process.stdout)


def _listen(number: int, child: _Child, lines: queue.Queue[tuple[int, dict[str, Any] | None]]) -> None:
    with contextlib.suppress(ValueError, OSError):  # cut off in the middle of a line
        for line in child.stdout:
            lines.put((number, json.loads(line)))
    lines.put((number, None))


def _follow(
    job: Job,
    lines: queue.Queue[tuple[int, dict[str, Any] | None]],
    children: Sequence[_Child],
    first: FirstError,
    progress: Progress,
) -> None:
    running = set(range(len(children)))
    finished: set[int] = set()
    while running and first.error is None:
        try:
            number, line = lines.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            running.discard(number)
            if number not in finished:
                first.put(_death(job, number, children[number]))
        elif "committed" in line:
            progress.committed(Counters(**line["committed"]))
        elif "moved" in line:
            progress.movement.moved()
        elif "released" in line:
            progress.release()
        elif "error" in line:
            first.put(error_from_report(line["error"]))
        else:
            finished.add(number)


def _death(job: Job, number: int, child: _Child) -> PenstockError:
    """Return the error of a process that died without reporting one."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if child.process.wait(STOP_SECONDS) in ABORTED and failed_allocation(sys.stderr.fileno()):
            return too_much(job)
    return Unavailable(f"worker {number} of the run died", hint="the run goes on from its last commit")


def _end(child: _Child) -> None:
    """Close the pipe that keeps the child alive, and wait for it."""
    with contextlib.suppress(OSError):
        child.stdin.close()
    try:
        child.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()
    child.stdout.close()


def main() -> None:
    """Run a child: read one line of orders, report each commit and movement as a line; end when stdin closes."""
    hold_signals()
    order = json.loads(sys.stdin.readline())
    watch_lifeline(sys.stdin.fileno())
    try:
        _run(order)
        write_line({"done": True})
    except BaseException as error:  # noqa: BLE001 - the parent reports it
        write_line({"error": error_of(error)})
    os._exit(0)


def _run(order: Mapping[str, Any]) -> None:
    first = FirstError()
    stop_on_signal(first.put)
    task = order["task"]
    job = Job.from_task(task, secrets=Path(task["secrets"]) if task.get("secrets") else None)
    movement = Movement()
    threading.Thread(target=_report_movement, args=(movement,), daemon=True, name="movement").start()
    with named(job), watched(job, movement, first, _give_up), opened(job, order["generation"]) as ends:
        with movement.wait("the preparation of a process of the run did not end", SLOW):
            prepared = joined(job, ends, order)
        reports = Reports(_report, partial(write_line, {"released": True}), movement)
        run_slots(job, prepared, ends, [order["number"]], first, reports)


def _give_up(error: BaseException) -> None:
    write_line({"error": error_of(error)})
    os._exit(0)


def _report_movement(movement: Movement) -> None:
    """Write a line whenever something has moved, at most one in `MOVED_SECONDS`."""
    last = movement.number
    while True:
        time.sleep(MOVED_SECONDS)
        if movement.number != last:
            last = movement.number
            write_line({"moved": True})


def _report(counted: Counters) -> None:
    write_line({"committed": counted.as_dict()})


if __name__ == "__main__":
    main()
