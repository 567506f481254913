"""`penstock plan`: a dry run that shows what runs would do, or why they would be refused. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

import click

from agents.writers import check_target
from api.cli.candidates import Candidates, candidates
from api.cli.completion import names_or_files, tables_option
from api.cli.console import escape
from api.cli.main import State, command
from api.cli.set_plan import plan_set, tell_set
from api.client import Client, connected
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import PenstockError


@command(name="plan")
@click.argument("what", nargs=-1, metavar="[NAME|FILE]...", shell_complete=names_or_files)
@tables_option("Of sets: look only at members whose table matches, however long it takes.")
def plan_(state: State, what: tuple[str, ...], tables: tuple[str, ...]) -> int:
    """Show what runs would do: tables to create, rows, splits, or why they would be refused.

    Takes the pipelines in FILE, or the pipeline NAME: from the project's files, else as it was applied. Default: all of
    the project. Of a set: its members for 20 seconds, those that change or are new first.
    """
    with connected(state.settings, runs=False) as client:
        chosen = candidates(state, client, what)
        found = [_planned(state, client, chosen, name, tables) for name in chosen.pipelines]
    for name in chosen.unapplied:
        state.output.say(f"connection {escape(name)}: as in the files; it is not applied like that yet")
    for one in found:
        _tell(state, one)
    state.output.data(found)
    refused = any(one.get("refused") or one.get("refused_objects") for one in found)
    run = f"penstock run {quote(next(iter(chosen.pipelines), '--all'))} --watch"
    forward = run if chosen.in_force else "penstock apply"
    state.output.hint("correct what is refused, then penstock plan" if refused else forward)
    return 1 if refused else 0


def _planned(state: State, client: Client, chosen: Candidates, name: str, tables: tuple[str, ...]) -> dict[str, Any]:
    try:
        if chosen.pipelines[name]["spec"]["source"].get("objects"):
            return plan_set(state, client, chosen, name, tables)
        check_target(chosen.as_state(without=name), name, chosen.pipelines[name])
        job = chosen.job(state, name)
        with opened(job) as ends:
            return plan(job, ends)
    except PenstockError as error:
        return {"pipeline": name, "refused": str(error)}


def _tell(state: State, one: Mapping[str, Any]) -> None:
    if "members" in one:
        tell_set(state, dict(one))
        return
    name = f"[bold]{escape(one['pipeline'])}[/bold]"
    if "refused" in one:
        why = one["refused"].removeprefix(one["pipeline"] + ": ")
        state.output.say(f"{name}: [red]refused:[/red] {escape(why)}")
        return
    state.output.say(f"{name}: {one['write']} into {escape(one['target'])}, {_rows(one)}")
    for note in (*one["risks"], *one["notes"]):
        state.output.say(f"  [yellow]note:[/yellow] {escape(note)}")
    for statement in one["statements"]:
        state.output.say(f"  {escape(statement)}")
    if one["make"] and not one["statements"]:
        state.output.say(f"  makes {escape(one['target'])}: {escape(one['make'])}")
    if one["replace_by"]:
        because = f", since: {', '.join(one['because'])}" if one["because"] else ""
        state.output.say(f"  the table is replaced by {one['replace_by']}{escape(because)}")
    state.output.say(
        "  rows pass undecoded" if one["undecoded"] else f"  values are read: {escape(one['decoded_because'])}"
    )


def _rows(one: Mapping[str, Any]) -> str:
    """Return how many rows the run would read, and why not all of them."""
    new = f" above position {escape(one['above'])}" if one["above"] is not None else ""
    if one["mode"] == "stream":
        return "changes as they come" if one["changes"] else "rows as they come"
    if one["estimated_rows"] is None:
        return f"rows{new} not known before they are read"
    return f"about {one['estimated_rows']:,} rows{new} in {one['splits']} split{'s' if one['splits'] > 1 else ''}"
