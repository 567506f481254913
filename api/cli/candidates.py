"""Pipelines that a dry run takes: as the project's files have them, else as they were applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.cli.choice import known
from api.cli.main import State
from api.cli.project import documents_of
from api.client import Client
from catalog.overview import Overview
from dataflows.runs.job import Job
from penstock.errors import NotFound, Refused
from penstock.ids import new_id
from penstock.models.documents import CONNECTIONS, Documents

__all__ = ["Candidates", "candidates", "entry", "not_in_force"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pipelines by name, and every connection by name."""

    pipelines: Mapping[str, dict[str, Any]]
    connections: Mapping[str, Any]
    uids: Mapping[str, str]
    """The ids of the pipelines that are applied."""
    applied: Mapping[str, Overview]
    """The pipelines that are applied, members of sets too."""
    unapplied: Sequence[str]
    """The connections that only the files have, or have otherwise, and that these pipelines use."""
    in_force: bool
    """True if these pipelines and their connections are applied as they are here."""
    catalog: str = field(repr=False)
    """The catalog's database."""

    def is_in_force(self, name: str) -> bool:
        """True if the pipeline `name` and its connections are applied as they are here."""
        one = self.pipelines[name]
        used = {one["spec"][end]["connection"] for end in ("source", "sink")}
        return name in self.applied and self.applied[name].pipeline == one and not used & {*self.unapplied}

    def as_state(self, without: str | None = None) -> dict[str, Any]:
        """Return what agents would know once these pipelines are applied, but for the one that is left out."""
        pipelines = {name: entry(one.status, one.pipeline) for name, one in self.applied.items()}
        status = {name: one["status"] for name, one in pipelines.items()}
        written = {name: entry(status.get(name, "active"), one) for name, one in self.pipelines.items()}
        pipelines |= {name: one for name, one in written.items() if name != without}
        connections = {name: {"connection": one} for name, one in self.connections.items()}
        return {"connections": connections, "pipelines": pipelines}

    def job(self, state: State, name: str) -> Job:
        """Return the job of a run of the pipeline `name`."""
        return self.job_of(state, self.pipelines[name])

    def job_in_force(self, state: State, name: str) -> Job:
        """Return the job of a run of the pipeline `name` as it is applied, whatever its file says."""
        return self.job_of(state, self.applied[name].pipeline if name in self.applied else self.pipelines[name])

    def job_of(self, state: State, pipeline: Mapping[str, Any]) -> Job:
        """Return the job of a run of a pipeline, which may be a member of a set that is not applied yet."""
        task = {
            "run": new_id(),
            "uid": self.uids.get(pipeline["metadata"]["name"]) or new_id(),
            "pipeline": pipeline,
            "connections": self.connections,
            "modules": state.settings.modules,
            "mask_key": state.settings.mask_key,
            "letters": self.catalog,
        }
        return Job.from_task(task, secrets=Path(state.settings.secrets))


def entry(status: str, pipeline: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pipeline as agents know it."""
    return {"status": status, "versions": [pipeline]}


def not_in_force(state: State, client: Client, names: Sequence[str]) -> dict[str, Refused]:
    """Return the error of each pipeline that is not applied as the files have it: a worker takes what is applied.

    A pipeline may be further than its file: agents, answers and rollbacks make versions of what was applied.
    """
    chosen, hint = candidates(state, client, names), "penstock apply, then penstock run"
    return {
        name: Refused("is not applied as the files have it", where=f"pipeline {name}", hint=hint)
        for name in names
        if not chosen.is_in_force(name) and not _was_applied(client, chosen, name)
    }


def _was_applied(client: Client, chosen: Candidates, name: str) -> bool:
    """True if the pipeline's current version came after one that is as the files have it."""
    if name not in chosen.applied or chosen.unapplied:
        return False
    return any(one.pipeline == chosen.pipelines[name] for one in client.store.pipeline_versions(name))


def candidates(state: State, client: Client, words: Sequence[str]) -> Candidates:
    """Return the pipelines in the files and of the names that `words` are; without words, all of the project.

    Connections of the files count before those that are applied.

    Raises:
        NotFound: a file, or a pipeline of that name, does not exist.
    """
    applied = {one.name: one for one in client.overview()}
    files = tuple(Path(word) for word in words if word not in applied and _is_file(word))
    names = [word for word in words if Path(word) not in files]
    documents = documents_of(state, files) if files or not names else _of_project(state)
    in_force = {one.name: dict(one.connection) for one in client.store.connections()}
    written: dict[str, dict[str, Any]] = {}
    connections = dict(in_force)
    common = state.settings.project / CONNECTIONS
    if files and common.exists():
        connections |= _connections(documents_of(state, (common,)))
    connections |= _connections(documents)
    if documents is not None:
        written = {one.name: one.to_dict() for one in documents.pipelines}
    every = {name: dict(one.pipeline) for name, one in applied.items()} | written
    chosen = (written if files or not names else {}) | {name: every[known(name, every)] for name in names}
    used = {one["spec"][end]["connection"] for one in chosen.values() for end in ("source", "sink")}
    unapplied = sorted(name for name in used & connections.keys() if connections[name] != in_force.get(name))
    same = all(name in applied and applied[name].pipeline == one for name, one in chosen.items())
    uids = {name: one.uid for name, one in applied.items()}
    return Candidates(chosen, connections, uids, applied, unapplied, same and not unapplied, client.site.catalog_dsn)


def _connections(documents: Documents | None) -> dict[str, dict[str, Any]]:
    return {name: one.to_dict() for name, one in documents.connections.items()} if documents else {}


def _is_file(word: str) -> bool:
    """True if `word` means a file: the name of a pipeline contains neither a dot nor a slash."""
    return Path(word).exists() or Path(word).suffix != "" or "/" in word


def _of_project(state: State) -> Documents | None:
    """Return the project's documents, if there is a project."""
    try:
        return documents_of(state, ())
    except NotFound:
        return None
