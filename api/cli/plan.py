"""`penstock plan`: a dry run that shows what runs would do, or why they would be refused. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from api.cli.choice import known
from api.cli.completion import names_or_files
from api.cli.console import escape
from api.cli.main import State, command
from api.cli.project import documents_of
from api.cli.trials import job_of
from api.client import connected
from catalog.overview import Overview
from dataflows.runs.dry_run import plan
from dataflows.runs.survey import opened
from penstock.errors import NotFound, PenstockError
from penstock.ids import new_id
from penstock.models.documents import Documents


@command(name="plan")
@click.argument("what", nargs=-1, metavar="[NAME|FILE]...", shell_complete=names_or_files)
def plan_(state: State, what: tuple[str, ...]) -> int:
    """Show what runs would do: tables to create, rows, splits, or why they would be refused.

    Takes the pipelines in FILE, or the pipeline NAME: from the project's files, else as it was applied. Default: all of
    the project.
    """
    files = tuple(Path(word) for word in what if _is_file(word))
    names = [word for word in what if not _is_file(word)]
    documents = documents_of(state, files) if files or not names else _of_project(state)
    with connected(state.settings, runs=False) as client:
        connections = {one.name: dict(one.connection) for one in client.store.connections()}
        applied = {one.name: one for one in client.store.overview()}
        if documents is not None:
            connections |= {name: one.to_dict() for name, one in documents.connections.items()}
        found = [
            _planned(state, one, connections, applied[name].uid if name in applied else new_id())
            for name, one in _wanted(names, documents, applied, every=bool(files) or not names).items()
        ]
    for one in found:
        _tell(state, one)
    state.output.data(found)
    refused = any("refused" in one for one in found)
    state.output.hint("correct what is refused, then penstock plan" if refused else "penstock apply")
    return 1 if refused else 0


def _is_file(word: str) -> bool:
    """True if `word` means a file: the name of a pipeline contains neither a dot nor a slash."""
    return Path(word).exists() or Path(word).suffix != "" or "/" in word


def _of_project(state: State) -> Documents | None:
    """Return the project's documents, if there is a project."""
    try:
        return documents_of(state, ())
    except NotFound:
        return None


def _wanted(
    names: list[str], documents: Documents | None, applied: Mapping[str, Overview], *, every: bool
) -> dict[str, dict[str, Any]]:
    """Return the pipelines of `names`, with `every` those of `documents` too. Raises NotFound."""
    written = {one.name: one.to_dict() for one in documents.pipelines} if documents is not None else {}
    every_one = {name: dict(one.pipeline) for name, one in applied.items()} | written
    return (written if every else {}) | {name: every_one[known(name, every_one)] for name in names}


def _planned(state: State, pipeline: dict[str, Any], connections: Mapping[str, Any], uid: str) -> dict[str, Any]:
    try:
        job = job_of(state, pipeline, connections, uid)
        with opened(job) as ends:
            return plan(job, ends)
    except PenstockError as error:
        return {"pipeline": pipeline["metadata"]["name"], "refused": str(error)}


def _tell(state: State, one: Mapping[str, Any]) -> None:
    name = f"[bold]{escape(one['pipeline'])}[/bold]"
    if "refused" in one:
        why = one["refused"].removeprefix(one["pipeline"] + ": ")
        state.output.say(f"{name}: [red]refused:[/red] {escape(why)}")
        return
    state.output.say(
        f"{name}: {one['write']} into {escape(one['target'])}, about {one['estimated_rows']:,} rows in "
        f"{one['splits']} split{'s' if one['splits'] > 1 else ''}"
    )
    for note in (*one["risks"], *one["notes"]):
        state.output.say(f"  [yellow]note:[/yellow] {escape(note)}")
    for column in one["add"]:
        state.output.say(f"  ALTER TABLE {escape(one['target'])} ADD COLUMN {escape(column)}")
    if one["make"]:
        state.output.say(f"  {escape(one['make'])}")
    if one["replace_by"]:
        because = f", since: {', '.join(one['because'])}" if one["because"] else ""
        state.output.say(f"  the table is replaced by {one['replace_by']}{escape(because)}")
    state.output.say(
        "  rows pass undecoded" if one["undecoded"] else f"  values are read: {escape(one['decoded_because'])}"
    )
