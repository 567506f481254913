"""One run from its task to its result: prepare, flow, publish.

Progress goes to stdout as JSON lines, and at the end a result file is written atomically. SIGTERM stops the flow
between two chunks. With several workers the flow runs in child processes, which die when this process does: they read
from a pipe that only this process holds.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dataflows.connectors.abilities import SingleProcess
from dataflows.data.counters import Counters
from dataflows.data.cursors import TIMES
from dataflows.data.movement import SLOW
from dataflows.data.types import parse_type
from dataflows.pipeline import FirstError
from dataflows.process.reports import error_of, write_result
from dataflows.process.signals import stop_on_signal
from dataflows.runs.evolving import as_ruled
from dataflows.runs.gauges import measuring
from dataflows.runs.job import Job
from dataflows.runs.listing import found_objects
from dataflows.runs.memory import measured
from dataflows.runs.prepare import Finished, Prepared, prepare
from dataflows.runs.progress import DONE, Progress, reported
from dataflows.runs.publish import committed, drop_state, publish, schemas, superseded, too_many_error
from dataflows.runs.slot_limits import check_slot_limit, given_up, stream_slot
from dataflows.runs.slots import Reports, run_slots
from dataflows.runs.streaming import begin_stream, gauges_of, run_stream, told_of
from dataflows.runs.survey import Ends, opened
from dataflows.runs.watchdog import watched
from penstock.clock import now
from penstock.errors import Fenced, PenstockError, Unavailable
from penstock.failpoints import failpoint
from penstock.telemetry import span

__all__ = ["launch", "run_task"]

_PREPARING: Final = "the preparation of the run did not end"
EMPTY: Final = Counters().as_dict()
_NOT_COUNTED: Final = {"keys", "schemas", "resumed", "refused_too_many", "notes"}


def launch(task: Mapping[str, Any], first: FirstError, progress: Progress) -> dict[str, Any]:
    """Run the task to its end and return its result, also when it fails.

    The counters include all attempts of the run: the published ones, or else those committed so far. A fenced attempt
    reports only its own, since the newer owner reports the total.
    """
    attempt = _Attempt(seconds=progress.seconds)
    with ExitStack() as watch:
        try:
            if task.get("kind") == "list":
                with progress.movement.wait("the source did not list its objects", SLOW):
                    return attempt.result("completed", EMPTY) | found_objects(task, first.check)
            secrets = Path(task["secrets"]) if task.get("secrets") else None
            job = Job.from_task(task, secrets=secrets).patient()
            give_up = _giving_up(attempt, task, progress)
            watch.enter_context(watched(job, progress.movement, first, give_up))
            with measured(job, progress.movement, first, give_up):
                return _result(attempt, job, _Order(task, first, progress))
        except PenstockError as error:
            status = "fenced" if isinstance(error, Fenced) else "failed"
            found = error if attempt.job is None else as_ruled(attempt.job, error)
            return attempt.result(status, attempt.counted(progress, fenced=status == "fenced"), found)
        except Exception as error:  # noqa: BLE001 - a defect is reported like any failure, by its name only
            traceback.print_exc()
            return attempt.result("failed", attempt.counted(progress), error)


def _result(attempt: _Attempt, job: Job, order: _Order) -> dict[str, Any]:
    if order.task.get("kind") == "cleanup":
        with order.progress.movement.wait("the deletion of what the pipeline left at its sink did not end", SLOW):
            drop_state(job, table=bool(order.task.get("drop_table")))
        if job.letters:
            from catalog.differences import Differences

            with closing(Differences(job.letters)) as kept:
                kept.drop(job.uid)
            from dataflows.runs.redrive import forget_letters

            forget_letters(job)
        return attempt.result("completed", EMPTY)
    if order.task.get("kind") == "check":
        from dataflows.runs.checking import checked

        return attempt.result("completed", EMPTY) | {"checked": checked(job, order.task, order.progress, order.first)}
    if order.task.get("kind") == "deletes":
        from dataflows.runs.deletes import deleted

        return attempt.result("completed", EMPTY) | {"deletes": deleted(job, order.task, order.progress, order.first)}
    if order.task.get("kind") == "letters":
        from dataflows.runs.redrive import settled

        found = settled(job, order.task, lambda redrive: _run(attempt, redrive, order))
        return attempt.result("completed", EMPTY) | {"letters": found}
    attempt.job = job
    outcome = _run(attempt, job, order)
    if outcome.get("refused_too_many"):
        return attempt.result("failed", outcome, too_many_error(job, outcome, attempt.prepared))
    return attempt.result("completed", outcome)


def _giving_up(attempt: _Attempt, task: Mapping[str, Any], progress: Progress) -> Callable[[BaseException], None]:
    """Return what ends this process with a result, while threads of the attempt hang."""

    def give_up(error: BaseException) -> None:
        status = "fenced" if isinstance(error, Fenced) else "failed"
        write_result(Path(task["result"]), attempt.result(status, progress.counters.as_dict(), error))
        os._exit(1)

    return give_up


@dataclass(slots=True)
class _Attempt:
    """State of an attempt, from which its result is made."""

    job: Job | None = None
    prepared: Prepared | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def counted(self, progress: Progress, *, fenced: bool = False) -> dict[str, Any]:
        """Return the counters committed but not published: from the sink, or else as this process counted them."""
        found = committed(self.job, self.prepared) if self.job is not None and not fenced else None
        return (found or progress.counters).as_dict()

    def result(self, status: str, outcome: Mapping[str, Any], error: BaseException | None = None) -> dict[str, Any]:
        """Return the content of the result file; `outcome` has the counters and, once ended, the rest of the record."""
        counters = {name: value for name, value in outcome.items() if name not in _NOT_COUNTED}
        resumed = self.prepared.resumed if self.prepared is not None else False
        return {
            "status": status,
            "counters": counters | {"seconds": self.seconds},
            "schemas": outcome.get("schemas"),
            "resumed": outcome.get("resumed", resumed),
            "notes": outcome.get("notes", []),
            "error": None if error is None else error_of(error),
        }


def _run(attempt: _Attempt, job: Job, order: _Order) -> dict[str, Any]:
    try:
        with ExitStack() as stack:
            with order.progress.movement.wait("neither source nor sink answered", SLOW):
                check_slot_limit(job)
                ends = stack.enter_context(opened(job))
            return _phases(attempt, job, ends, order)
    except Unavailable as error:
        if attempt.prepared and superseded(job, attempt.prepared.generation):  # its sessions were ended by a newer run
            hint = "nothing to do: the newer run carries on"
            raise Fenced("a newer run took over", where=job.at_sink, hint=hint) from error
        raise


@dataclass(frozen=True, slots=True)
class _Order:
    """Arguments of the launcher other than the job."""

    task: Mapping[str, Any]
    first: FirstError
    progress: Progress


def _phases(attempt: _Attempt, job: Job, ends: Ends, order: _Order) -> dict[str, Any]:
    """Prepare, flow, publish."""
    seconds, progress = attempt.seconds, order.progress
    if job.streams:
        return _stream(attempt, job, ends, order)
    with _timed(seconds, "prepare"), progress.movement.wait(_PREPARING, SLOW):
        prepared = prepare(job, ends, order.first.check)
    if isinstance(prepared, Finished):
        return prepared.result
    attempt.prepared = prepared
    order.first.check()
    _show_plan(progress, prepared)
    with _timed(seconds, "flow"):
        failpoint("flow.begin")
        _flow(job, prepared, ends, order)
        failpoint("flow.end")
    prepared = attempt.prepared = replace(prepared, released=progress.released)
    order.first.check()
    progress.phase = "publish"
    with _timed(seconds, "publish"), progress.movement.wait("the sink did not publish the rows", SLOW):
        clean = job.workers == 1 and len(prepared.pending) == prepared.planned and not progress.counters.dead
        return publish(job, prepared, ends.target, clean=clean)


def _stream(attempt: _Attempt, job: Job, ends: Ends, order: _Order) -> dict[str, Any]:
    """Read on until the run is drained, or else stopped by an error, `Stopped` at best."""
    seconds, progress = attempt.seconds, order.progress
    with _timed(seconds, "prepare"), progress.movement.wait(_PREPARING, SLOW):
        begun = begin_stream(job, ends, order.first.check)
    if isinstance(begun, Finished):
        return begun.result
    attempt.prepared, positions = begun
    order.first.check()
    progress.phase = "flow"
    if job.changes:
        progress.schemas = schemas(attempt.prepared)
    with _timed(seconds, "flow"):
        reports = Reports(progress.committed, progress.release, progress.movement, progress.nulls)
        slots = stream_slot(job, ends.source, order.first)
        gauges = progress.gauges = gauges_of(ends, positions, progress.movement, slots.look if slots else None)
        told = told_of(job, gauges, reports)
        with given_up(slots), measuring(gauges):
            if len(attempt.prepared.slots) == 1:
                run_stream(job, attempt.prepared, positions, ends, order.first, told)
            else:
                from dataflows.runs.shares import run_shares

                run_shares(job, attempt.prepared, positions, order.task, order.first, told, gauges)
    return attempt.counted(progress)


def _show_plan(progress: Progress, prepared: Prepared) -> None:
    progress.splits_planned = prepared.planned
    progress.splits_done = prepared.planned - len(prepared.pending)
    progress.rows_estimated = prepared.survey.source.estimated_rows
    progress.lag = lag(prepared)
    progress.phase = "flow"


def _flow(job: Job, prepared: Prepared, ends: Ends, order: _Order) -> None:
    alone = isinstance(ends.target, SingleProcess) and ends.target.one_process
    if job.workers == 1 or len(prepared.pending) <= 1 or alone:
        numbers, progress = list(range(len(prepared.slots))), order.progress
        reports = Reports(progress.committed, progress.release, progress.movement, progress.nulls)
        run_slots(job, prepared, ends, numbers, order.first, reports)
    else:
        from dataflows.runs.parallel import run_children

        run_children(job, prepared, order.task, order.first, order.progress)


def lag(prepared: Prepared) -> float | None:
    """Return the age in seconds of the newest row that the run reads, if the cursor is a time; else None."""
    key, upper = prepared.survey.key, prepared.upper
    if key is None or upper is None or parse_type(key.type).name not in TIMES:
        return None
    try:
        newest = datetime.fromisoformat(upper)
    except ValueError:  # a year outside of what Python can represent
        return None
    return round((now() - (newest if newest.tzinfo else newest.replace(tzinfo=UTC))).total_seconds(), 3)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begin = time.perf_counter()
    try:
        with span(phase):
            yield
    finally:
        seconds[phase] = round(time.perf_counter() - begin, 4)


def _about(task: Mapping[str, Any]) -> dict[str, str | int | None]:
    named = ((task.get("pipeline") or {}).get("metadata") or {}).get("name")
    return {"kind": task.get("kind"), "pipeline": named, "run": task.get("run"), "attempt": task.get("attempt")}


def _counted(result: Mapping[str, Any]) -> dict[str, int]:
    return {name: result["counters"].get(name, 0) for name in ("rows_in", "rows_out", "dead")}


def run_task(task: Mapping[str, Any]) -> int:
    """Run one task in this process; return 0 if it completed."""
    first, progress = FirstError(), Progress()
    stop_on_signal(first.put)
    with (
        reported(progress),
        span("run", task.get("traceparent"), everywhere=True, **_about(task)) as current,
    ):
        result = launch(task, first, progress)
        progress.phase = DONE if result["status"] == "completed" else result["status"]
        current.note(status=result["status"], code=(result["error"] or {}).get("code"), **_counted(result))
    write_result(Path(task["result"]), result)
    return 0 if result["status"] == "completed" else 1
