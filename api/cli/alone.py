"""Work on an installation while nothing else does."""

from __future__ import annotations

from collections.abc import Sequence

from api.client import UP
from catalog.entries import WorkerEntry
from dataflows.process.site import ACTIVE_CONTROL
from dataflows.projector import LOCK as PROJECTOR
from dataflows.scheduler import LOCK as SCHEDULER
from dataflows.scheduler import worker_lock
from penstock.errors import Refused
from penstock.topics.log import TopicLog

__all__ = ["take_locks"]


def take_locks(log: TopicLog, where: str, then: str, workers: Sequence[WorkerEntry] = ()) -> None:
    """Take the locks of every process that appends to the log or writes the catalog, so that none starts.

    Raises:
        Refused: something runs, or one of `workers`; its hint is to stop it, `then` to go on.
    """
    for name in (UP, ACTIVE_CONTROL, PROJECTOR, SCHEDULER):
        if not log.lock(name, wait=False):
            raise _busy(name, where, then)
    for worker in workers:
        if worker.status == "joined" and log.holder(worker_lock(worker.worker)):
            raise _busy(worker_lock(worker.worker), where, then)


def _busy(lock: str, where: str, then: str) -> Refused:
    hint = f"stop `penstock up` and what else runs, then {then}"
    return Refused(f"a process works on this installation (it holds the lock {lock!r})", where=where, hint=hint)
