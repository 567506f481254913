"""One look of a task of kind `watch`: list the files that trigger a pipeline, and notice those that have arrived."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from catalog.arrivals import Noticed, noticed, put_noticed
from dataflows.connectors.contract import Place
from dataflows.connectors.listing import Arrived, FileWatch, Watched
from dataflows.connectors.registry import connector
from dataflows.pipeline import FirstError
from dataflows.process.reports import error_of, write_result
from dataflows.process.signals import stop_on_signal
from penstock.errors import PenstockError, Refused
from penstock.failpoints import failpoint
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Pipeline
from penstock.models.triggers import MAX_NAMES, dataset_of
from penstock.postgres import connect

__all__ = ["run_task"]

STEP_SECONDS: Final = 0.1
"""Seconds between two checks for a signal, while a file has to stay as it is."""
SHOWN: Final = 300
"""Characters of a file's name in a record."""


def run_task(task: Mapping[str, Any]) -> int:
    """Look once in this process; return 0 if that was possible."""
    first = FirstError()
    stop_on_signal(first.put)
    result: dict[str, Any] = {"status": "completed", "error": None}
    try:
        result |= _looked(task, first.check)
    except PenstockError as error:
        result = {"status": "failed", "error": error_of(error)}
    except Exception as error:  # noqa: BLE001 - a defect is reported like any failure, by its name only
        traceback.print_exc()
        result = {"status": "failed", "error": error_of(error)}
    write_result(Path(task["result"]), result)
    return 0 if result["status"] == "completed" else 1


def _looked(task: Mapping[str, Any], check: Callable[[], None]) -> dict[str, Any]:
    """Return the listing, as a text that is the same as long as it is, and a report of what has arrived, if any.

    What was noticed, and not reported on the log, is reported again.
    """
    pipeline = Pipeline.parse(task["pipeline"])
    assert pipeline.spec.triggers is not None  # noqa: S101 - such a task has it
    trigger = pipeline.spec.triggers.files
    assert trigger is not None  # noqa: S101 - as above
    name = trigger.connection or pipeline.spec.source.connection
    object_ = trigger.object or pipeline.spec.source.object
    watch = _watch(pipeline.name, name, object_, task)
    listing = watch.look()
    if listing == task.get("listing"):
        return {"listing": listing}
    files = dataset_of(name, object_)
    with closing(connect(str(task["letters"]), "penstock:watch")) as session:
        before = noticed(session, task["uid"], files)
        if before.round > task["round"]:
            return {"report": {"round": before.round, **before.report}}
        found = watch.arrived(before.seen, lambda: _pause(trigger.settled.total_seconds(), check))
        if found is None:
            return {"listing": listing}
        report = _report(found)
        after = Noticed(max(before.round, task["round"]) + 1, found.seen, report)
        failpoint("watch.noticing")
        kept = put_noticed(session, task["uid"], files, after)
        failpoint("watch.noticed")
    return {"listing": listing, "report": {"round": after.round, **report}} if kept else {}


def _report(found: Arrived) -> dict[str, Any]:
    return {"count": len(found.files), "files": [one[:SHOWN] for one in found.files[:MAX_NAMES]]}


def _watch(pipeline: str, name: str, object_: str, task: Mapping[str, Any]) -> FileWatch:
    settings = parse_connection(name, task["connections"][name])
    secrets = Path(task["secrets"]) if task.get("secrets") else None
    place = Place(pipeline, name, settings, object_, secrets)
    kind: object = connector(settings.type, place.where)
    if not isinstance(kind, Watched):
        what = f"a connection of type {settings.type} has no files that arrive"
        hint = "name a connection of type files or s3; other systems start runs by `datasets`, `webhook` or `schedule`"
        raise Refused(what, where=f"{pipeline}: spec.triggers.files", hint=hint)
    return kind.watch(place)


def _pause(seconds: float, check: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, STEP_SECONDS))
    check()
