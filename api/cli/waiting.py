"""Why a queued run does not begin: no worker takes its kind, or another pipeline writes its table now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from penstock.errors import NotFound
from penstock.models.targets import target_of

if TYPE_CHECKING:
    from catalog.entries import PipelineEntry, RunEntry
    from catalog.store import MetadataStore

__all__ = ["FIX", "kinds_taken", "waiting_lines"]

FIX: Final = "start a worker of this release: `penstock up`, or `penstock flow worker`"


def kinds_taken(store: MetadataStore) -> set[str] | None:
    """Return the kinds of tasks that the workers take; None without a worker: all tasks wait for one to start."""
    workers = [one for one in store.workers() if one.status == "joined"]
    return {kind for one in workers for kind in one.kinds or ()} if workers else None


def waiting_lines(store: MetadataStore, pipeline: PipelineEntry, runs: Sequence[RunEntry]) -> Iterator[str]:
    """Yield why the last run of a pipeline does not begin, if it is queued; `runs` are its own, the last one first."""
    if not runs or runs[0].status != "queued":
        return
    taken = kinds_taken(store)
    if taken is not None and "pipeline" not in taken:
        yield f"no worker takes tasks of kind pipeline: {FIX}"
    spec = pipeline.pipeline["spec"]
    if spec.get("mode") == "stream":
        return
    from agents.conflicts import WRITERS_IN_TURN
    from agents.ready import WRITING

    connections = {one.name: one.connection for one in store.connections()}
    target = target_of(spec, connections)
    for task in store.tasks(status="assigned").items:
        if task.pipeline in {None, pipeline.name} or task.kind not in WRITING:
            continue
        with suppress(NotFound):
            its = store.pipeline(str(task.pipeline)).pipeline["spec"]
            if its.get("mode") != "stream" and target_of(its, connections) == target:
                yield f"waits for task {task.id} of {task.pipeline}, which writes the same table, by {WRITERS_IN_TURN}"
