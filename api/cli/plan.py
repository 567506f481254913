"""`penstock plan`: a dry run that shows what runs would do, or why they would be refused. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from api.cli.candidates import Candidates, candidates
from api.cli.completion import names_or_files
from api.cli.console import escape
from api.cli.main import State, command
from api.client import connected
from dataflows.runs.dry_run import plan
from dataflows.runs.survey import opened
from penstock.errors import PenstockError


@command(name="plan")
@click.argument("what", nargs=-1, metavar="[NAME|FILE]...", shell_complete=names_or_files)
def plan_(state: State, what: tuple[str, ...]) -> int:
    """Show what runs would do: tables to create, rows, splits, or why they would be refused.

    Takes the pipelines in FILE, or the pipeline NAME: from the project's files, else as it was applied. Default: all of
    the project.
    """
    with connected(state.settings, runs=False) as client:
        chosen = candidates(state, client, what)
        found = [_planned(state, chosen, name) for name in chosen.pipelines]
    for name in chosen.unapplied:
        state.output.say(f"connection {escape(name)}: as in the files; it is not applied like that yet")
    for one in found:
        _tell(state, one)
    state.output.data(found)
    refused = any("refused" in one for one in found)
    state.output.hint("correct what is refused, then penstock plan" if refused else "penstock apply")
    return 1 if refused else 0


def _planned(state: State, chosen: Candidates, name: str) -> dict[str, Any]:
    try:
        job = chosen.job(state, name)
        with opened(job) as ends:
            return plan(job, ends)
    except PenstockError as error:
        return {"pipeline": name, "refused": str(error)}


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
