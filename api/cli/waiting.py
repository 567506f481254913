"""Why a queued run does not begin: a halt, a limit, no worker for its kind, or another writer of its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from api.cli.console import counted
from api.switches import is_halted, resume_hint
from penstock.errors import NotFound
from penstock.models.targets import target_of

if TYPE_CHECKING:
    from catalog.entries import PipelineEntry, RunEntry, TaskEntry
    from catalog.store import MetadataStore

__all__ = ["FIX", "kinds_taken", "waiting_lines"]

MOST: Final = 1000
"""Tasks that are looked at."""
FIX: Final = "start a worker of this release: `penstock up`, or `penstock flow worker`"


def kinds_taken(store: MetadataStore) -> set[str] | None:
    """Return the kinds of tasks that the workers take; None without a worker: all tasks wait for one to start."""
    workers = [one for one in store.workers() if one.status == "joined"]
    return {kind for one in workers for kind in one.kinds or ()} if workers else None


def waiting_lines(store: MetadataStore, pipeline: PipelineEntry, runs: Sequence[RunEntry]) -> Iterator[str]:
    """Yield why the last run of a pipeline does not begin, if it is queued; `runs` are its own, the last one first."""
    if not runs or runs[0].status != "queued":
        return
    if is_halted(store, "orchestrator"):
        hint = resume_hint(store, "orchestrator")
        yield f"the orchestrator is halted: no run is given to a worker until `{hint}`"
    taken = kinds_taken(store)
    if taken is not None and "pipeline" not in taken:
        yield f"no worker takes tasks of kind pipeline: {FIX}"
    spec = pipeline.pipeline["spec"]
    if spec.get("mode") == "stream":
        return
    yield from _limits(store, spec)
    from agents.conflicts import WRITERS_IN_TURN
    from agents.ready import WRITING

    connections = {one.name: one.connection for one in store.connections()}
    target = target_of(spec, connections)
    for task, its in _at_work(store):
        if task.pipeline != pipeline.name and task.kind in WRITING and target_of(its, connections) == target:
            yield f"waits for task {task.id} of {task.pipeline}, which writes the same table, by {WRITERS_IN_TURN}"


def _limits(store: MetadataStore, spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the limits that are reached: of the policy, and of the workers' slots."""
    from agents.policies import Policies
    from agents.queues import SHORT
    from agents.ready import connections_in
    from agents.triggers import WATCH
    from agents.workload import DISCOVER

    limits = Policies({one.name: dict(one.policy) for one in store.policies()}).for_labels({}).spec.orchestrator
    work = [(task.kind, connections_in(its)) for task, its in _at_work(store)]
    if (runs := sum(kind == "pipeline" for kind, _ in work)) >= limits.max_running:
        yield f"waits for the end of one of {counted(runs, 'run')}: `orchestrator.max_running` of the policy"
    used = Counter(name for kind, names in work if kind not in SHORT for name in names)
    for name in sorted(connections_in(dict(spec))):
        if used[name] >= limits.per_connection:
            yield f"waits for connection {name}, used by {counted(used[name], 'task')}: `orchestrator.per_connection`"
    slots = sum(one.slots or 0 for one in store.workers() if one.status == "joined" and "pipeline" in (one.kinds or ()))
    taken = sum(kind != WATCH for kind, _ in work) + sum(task.kind == DISCOVER for task in _assigned(store))
    if 0 < slots <= taken:
        yield f"waits for a slot: the workers have {slots}, and each is taken (`--slots`, or another worker)"


def _at_work(store: MetadataStore) -> Iterator[tuple[TaskEntry, dict[str, Any]]]:
    """Yield the tasks of batches that a worker has, each with the `spec` of its pipeline."""
    for task in _assigned(store):
        with suppress(NotFound):
            if task.pipeline and (its := store.pipeline(task.pipeline).pipeline["spec"]).get("mode") != "stream":
                yield task, dict(its)


def _assigned(store: MetadataStore) -> Sequence[TaskEntry]:
    return store.tasks(status="assigned", limit=MOST).items
