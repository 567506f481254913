"""Pipelines that run after others, as commands see them: the order to apply files in, and what a status shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from api.cli.console import ago, counted
from penstock.errors import InvalidDocument, Issue, NotFound
from penstock.models.documents import Documents
from penstock.models.sets import set_of

if TYPE_CHECKING:
    from datetime import datetime

    from catalog.entries import PipelineEntry, RunEntry
    from catalog.store import MetadataStore

__all__ = ["dependency_lines", "files_words", "fired_words", "in_order", "trigger_lines"]


def in_order(documents: Documents) -> Documents:
    """Return the documents with each pipeline behind those that it runs after.

    Raises:
        InvalidDocument: some run after each other in a circle.
    """
    by_name = {one.name: one for one in documents.pipelines}
    waits = {
        name: [set_of(other) or other for other in one.spec.after.pipelines] if one.spec.after else []
        for name, one in by_name.items()
    }
    if not any(waits.values()):
        return documents
    try:
        order = list(TopologicalSorter(waits).static_order())
    except CycleError as error:
        circle = error.args[1][::-1]
        where = f"{documents.origins.get(('Pipeline', circle[0]), circle[0])}: spec.after"
        raise InvalidDocument([Issue(where, f"is a circle: {' after '.join(circle)}")]) from None
    return replace(documents, pipelines=tuple(by_name[name] for name in order if name in by_name))


def dependency_lines(store: MetadataStore, pipeline: PipelineEntry, runs: Sequence[RunEntry]) -> Iterator[str]:
    """Yield a line for each pipeline that this one runs after: when it last ended as asked, and if that is waited for.

    `runs` are the pipeline's own, the last one first.
    """
    after: Mapping[str, Any] = pipeline.pipeline["spec"].get("after") or {}
    how = "ended" if after.get("on") == "end" else "completed"
    fresh = f", at most {after['fresh']} ago" if "fresh" in after else ""
    for name in after.get("pipelines", ()):
        yield f"runs after {name}{fresh}: {_last(store, name, how, runs[0].requested_at if runs else None, fresh)}"


def trigger_lines(store: MetadataStore, pipeline: PipelineEntry) -> Iterator[str]:
    """Yield a line for each trigger of a pipeline."""
    spec = pipeline.pipeline["spec"]
    triggers: Mapping[str, Any] = spec.get("triggers") or {}
    if (files := triggers.get("files")) is not None:
        source = spec["source"]
        where = f"{files.get('connection', source['connection'])}:{files.get('object', source['object'])}"
        yield f"runs when files arrive: {where}, looks every {files.get('every', '30s')}"
    datasets = triggers.get("datasets", ())
    sinks = {one.name: one.pipeline["spec"]["sink"] for one in store.overview()} if datasets else {}
    for dataset in datasets:
        writers = [name for name, sink in sinks.items() if f"{sink['connection']}:{sink['object']}" == dataset]
        yield f"runs when {dataset} is updated, which {', '.join(writers) or 'no pipeline'} writes"
    if triggers.get("webhook"):
        yield f"runs when POST /hooks/{pipeline.name} is called"


def fired_words(fired: Mapping[str, Any]) -> str:
    """Return in words what has triggered a pipeline."""
    if fired["by"] == "files":
        return files_words(fired)
    return (
        f"{fired['pipeline']} has updated {fired['dataset']}" if fired["by"] == "dataset" else "its webhook was called"
    )


def files_words(found: Mapping[str, Any]) -> str:
    """Return in words which files have arrived."""
    names, more = ", ".join(found["files"]), found["count"] - len(found["files"])
    have = "has" if found["count"] == 1 else "have"
    return f"{counted(found['count'], 'file')} {have} arrived: {names}" + (f" and {more} more" if more else "")


def _last(store: MetadataStore, name: str, how: str, since: datetime | None, fresh: str) -> str:
    """Return when a pipeline last ended as asked, and whether its next run is waited for."""
    try:
        found = store.runs_of(name, limit=20).items
    except NotFound:
        return "it does not exist yet"
    if any(one.pipeline != name for one in found):
        return f"once all runs of one start of this set have {how}"
    ends = [one.finished_at for one in found if one.finished_at and how in {"ended", one.status}]
    last = f"last {how} {ago(ends[0])}" if ends else f"has not {how} yet"
    is_new = bool(ends) and (since is None or ends[0] > since)
    return last if fresh or is_new else f"{last}; waits for its next run"
