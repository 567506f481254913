"""A task of kind `check`: compare both sides, keep the keys that differ in the catalog, and report the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from catalog.differences import Differences
from dataflows.connectors.files.reader import MODIFIED
from dataflows.data.movement import SLOW
from dataflows.pipeline import FirstError
from dataflows.runs.comparison import Comparison, compare
from dataflows.runs.job import Job
from dataflows.runs.progress import Progress, telling
from dataflows.runs.survey import opened
from penstock.records.commands import MAX_POSITION, CheckRecord

__all__ = ["checked", "keep", "recorded"]


def checked(job: Job, task: Mapping[str, Any], progress: Progress, first: FirstError) -> dict[str, Any]:
    """Compare both sides of a task's pipeline; return what goes on the log.

    Raises:
        Refused: nothing was loaded yet, or one of the sides cannot be read back.
        Stopped: the task was cancelled.
    """
    progress.phase = "check"
    with progress.movement.wait("neither source nor sink answered", SLOW), opened(job) as ends:
        found = compare(job, ends, telling(progress, first), since=task.get("since"))
    if task.get("letters"):
        keep(str(task["letters"]), job.uid, found)
    if job.cursor == MODIFIED:
        found = replace(found, position=None)  # it lists files
    return recorded(found, job.uid).to_dict()


def recorded(found: Comparison, uid: str) -> CheckRecord:
    """Return what goes on the log: numbers and the cursor's position, no other values.

    A position that is too long, such as a text, stays out.
    """
    names = CheckRecord.model_fields.keys() & asdict(found).keys() - {"position"}
    values = {one: getattr(found, one) for one in names}
    short = found.position is not None and len(found.position) <= MAX_POSITION
    position = found.position if short else None
    return CheckRecord(name=found.pipeline, uid=uid, agree=found.agree, position=position, **values)


def keep(catalog: str, uid: str, found: Comparison) -> None:
    """Keep the keys that differ in the catalog's database, in place of earlier ones. Raises Unavailable."""
    with closing(Differences(catalog)) as kept:
        kept.put(uid, asdict(found) | {"agree": found.agree})
