"""A task of kind `diagnose`: look for the cause of a failure, without changing anything, and within a time limit."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg

from catalog.dataset_folds import dataset_id
from dataflows.connectors.idle_sessions import IDLE_SESSIONS
from dataflows.process.reports import write_result
from dataflows.process.signals import stop_on_signal
from dataflows.work.diagnosis.cause import diagnosed
from dataflows.work.diagnosis.looks import disks, ends, history, known_columns, locks, servers
from dataflows.work.diagnosis.side import Side, sides
from penstock.errors import PenstockError
from penstock.models.failures import Check, Failure
from penstock.postgres import connect
from penstock.telemetry import span

__all__ = ["run_task"]

LIMIT_SECONDS: Final = 20.0
"""Longest time for a diagnosis; what was seen until then is reported."""


def run_task(task: Mapping[str, Any]) -> int:
    """Diagnose one failure in this process; return 0, even if some checks could not be made."""
    stopped = threading.Event()
    stop_on_signal(lambda _: stopped.set())
    IDLE_SESSIONS.begin(keep=False)  # a session of an earlier run would show that a login worked, not that it works
    failure = Failure.parse(task["failure"])
    checks: list[Check] = []
    done = threading.Event()
    begin = time.monotonic()
    with span("diagnosis", task.get("traceparent"), pipeline=failure.pipeline, run=failure.run):
        threading.Thread(target=_look, args=(task, failure, checks, done), name="diagnosis", daemon=True).start()
        while not (done.wait(0.1) or stopped.is_set() or time.monotonic() - begin > LIMIT_SECONDS):
            pass
    found = diagnosed(failure, tuple(checks), round(time.monotonic() - begin, 3))
    write_result(Path(task["result"]), {"status": "completed", "diagnosis": found.to_dict(), "error": None})
    return 0


def _look(task: Mapping[str, Any], failure: Failure, checks: list[Check], done: threading.Event) -> None:
    try:
        for look in _looks(task, failure):
            try:
                checks.extend(look())
            except (PenstockError, psycopg.Error, OSError):
                continue  # it cannot be seen now
            except Exception:  # noqa: BLE001 - a defect of one look must not hide what others have seen
                traceback.print_exc()
    finally:
        done.set()


Look = Callable[[], Iterator[Check]]


def _looks(task: Mapping[str, Any], failure: Failure) -> Iterator[Look]:
    """Yield what is looked at: the side that has failed first, then the other one, then this machine and the past."""
    with ExitStack() as stack:
        catalog = None
        if task.get("letters"):
            with suppress(PenstockError, psycopg.Error):  # what is looked at outside of it needs no catalog
                catalog = stack.enter_context(closing(connect(str(task["letters"]), "penstock:diagnosis")))
        both = sides(task)
        for side in both:
            yield partial(servers, side)
            yield partial(ends, side, *_known(catalog, side))
            yield partial(locks, side)
        paths = {side.label: path for side in both if (path := side.path()) is not None}
        home = Path(task["result"]).parent
        yield lambda: disks({**paths, "this worker": home})
        if catalog is not None:
            yield lambda: history(catalog, failure.pipeline, failure.classified.fingerprint)


def _known(catalog: psycopg.Connection[Any] | None, side: Side) -> tuple[list[dict[str, Any]] | None, int | None]:
    if catalog is not None:
        with suppress(PenstockError, psycopg.Error):
            return known_columns(catalog, dataset_id(side.place.connection, side.dataset))
    return None, None
