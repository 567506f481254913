"""Run one flow in several processes: child i of n takes the slots that are i mod n, or that share of a stream."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from dataflows.data.counters import Counters
from dataflows.data.movement import SLOW, Movement
from dataflows.data.nulls import Nulls
from dataflows.pipeline import FirstError
from dataflows.process.lifeline import watch_lifeline
from dataflows.process.reports import error_of, keep_stdout_for_lines, write_line
from dataflows.process.signals import hold_signals, stop_on_signal
from dataflows.runs.children import follow
from dataflows.runs.job import Job
from dataflows.runs.memory import named
from dataflows.runs.prepare import Prepared, joined
from dataflows.runs.progress import Progress
from dataflows.runs.shares import run_share
from dataflows.runs.slots import Reports, run_slots
from dataflows.runs.survey import Ends, opened
from dataflows.runs.watchdog import watched
from penstock import telemetry
from penstock.telemetry import current_traceparent

__all__ = ["main", "run_children"]

MOVED_SECONDS: Final = 0.5


def run_children(job: Job, prepared: Prepared, task: Mapping[str, Any], first: FirstError, progress: Progress) -> None:
    """Run the flow in ``job.workers`` processes; the first error of one of them stops all.

    Raises:
        PenstockError: that error.
    """
    order = {
        "task": {**task, "traceparent": current_traceparent()},
        "generation": prepared.generation,
        "held": prepared.held,
        "token": prepared.token,
        "split_key": prepared.survey.split_key,
    }

    def hear(_: int, line: Mapping[str, Any]) -> None:
        if "committed" in line:
            progress.committed(Counters(**line["committed"]))
            if line["nulls"] is not None:
                progress.nulls.add(**line["nulls"])
        elif "released" in line:
            progress.release()

    follow(job, [order | {"number": number} for number in range(job.workers)], hear, first, progress.movement)


def main() -> None:
    """Run a child: read one line of orders, report each commit and movement as a line; end when stdin closes."""
    hold_signals()
    keep_stdout_for_lines()
    order = json.loads(sys.stdin.readline())
    watch_lifeline(sys.stdin.fileno())
    try:
        telemetry.set_up("penstock-run")
        with telemetry.span("process", order["task"].get("traceparent"), everywhere=True, number=order["number"]):
            _run(order)
        write_line({"done": True})
    except BaseException as error:  # noqa: BLE001 - the parent reports it
        write_line({"error": error_of(error)})
    telemetry.shut_down()
    with contextlib.suppress(OSError, ValueError):  # a step has closed it
        sys.stdout.flush()
    os._exit(0)


def _run(order: Mapping[str, Any]) -> None:
    first = FirstError()
    stop_on_signal(first.put)
    task = order["task"]
    job = Job.from_task(task, secrets=Path(task["secrets"]) if task.get("secrets") else None).patient()
    movement = Movement()
    threading.Thread(target=_report_movement, args=(movement,), daemon=True, name="movement").start()
    with named(job), watched(job, movement, first, _give_up), opened(job, order["generation"]) as ends:
        (run_share if job.streams else _run_slot)(job, ends, order, first, movement)


def _run_slot(job: Job, ends: Ends, order: Mapping[str, Any], first: FirstError, movement: Movement) -> None:
    with movement.wait("the preparation of a process of the run did not end", SLOW):
        prepared = joined(job, ends, order)
    nulls = Nulls()
    reports = Reports(partial(_report, nulls), partial(write_line, {"released": True}), movement, nulls)
    run_slots(job, prepared, ends, [order["number"]], first, reports)


def _give_up(error: BaseException) -> None:
    write_line({"error": error_of(error)})
    os._exit(0)


def _report_movement(movement: Movement) -> None:
    """Write a line when something has moved or answered, one in `MOVED_SECONDS`, with what the process waits for."""
    last: tuple[float, set[str]] = (movement.at, set())
    number = movement.number
    while True:
        time.sleep(MOVED_SECONDS)
        if (seen := (movement.at, movement.waiting())) != last:
            before, number, last = number, movement.number, seen
            write_line({"moved": number != before, "waits": sorted(seen[1])})


def _report(nulls: Nulls, counted: Counters) -> None:
    write_line({"committed": counted.as_dict(), "nulls": nulls.take()})


if __name__ == "__main__":
    main()
