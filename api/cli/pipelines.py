"""Commands about one pipeline: its status, lifecycle and versions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from shlex import quote
from typing import Any

import click

from api.cli.choice import Choice
from api.cli.comparisons import deletes_line, difference, receipt_line
from api.cli.completion import pipeline_names, tables_option
from api.cli.console import ago, error_line, escape, length
from api.cli.dependencies import dependency_lines, trigger_lines
from api.cli.errors import error_lines, last_errors
from api.cli.gauges import Reported, latest, shown, watched
from api.cli.listing import route
from api.cli.main import State, command
from api.cli.runs import explain, run_table
from api.cli.slots import slot_line, slot_of
from api.cli.waiting import waiting_lines
from api.client import Client, connected
from catalog.entries import PipelineEntry
from penstock.clock import now
from penstock.errors import NotFound, PenstockError, Refused, Unavailable
from penstock.models.connection import TYPES
from penstock.models.traits import traits
from penstock.records.commands import PipelineDelete, PipelineRollback, PipelineTransition

TABLES = tables_option("Members whose table matches.")
DELETE_SECONDS, POLL_SECONDS = 120.0, 0.1


def show_pipeline(state: State, client: Client, name: str, *, watch: bool) -> None:
    """Show a pipeline that is no set: its version and status, its last runs, and how far a stream is behind."""
    pipeline = client.store.pipeline(name)
    for line in watched(client, name) if watch else ():
        state.output.say(line)
    runs = client.store.runs(pipeline=name, limit=5).items
    tick = client.store.next_tick(name)
    comparisons = client.store.next_comparisons(name)
    told = latest(client, runs)
    idle, stream = _idle(told), told[1].stream if told is not None else None
    slot = slot_of(state, client, pipeline, stream)
    failed = last_errors(client, runs, pipeline)
    repeats = _repeats(client, pipeline)
    waits = [*waiting_lines(client.store, pipeline, runs)]
    waits += [*dependency_lines(client.store, pipeline, runs), *trigger_lines(client.store, pipeline)]
    state.output.say(
        f"[bold]{pipeline.name}[/bold] version {pipeline.version}, {pipeline.status}: {route(pipeline.pipeline)}"
    )
    state.output.table(*run_table(runs), empty="It has not run yet.")
    explain(state, runs)
    if told is not None and stream is not None:
        state.output.say(shown(stream, told[0]))
    if repeats is not None:
        state.output.say(repeats)
    if slot is not None:
        state.output.say(slot_line(slot, pipeline.pipeline))
    for line in (*error_lines(failed), *_comparison_lines(pipeline, comparisons)):
        state.output.say(line)
    if idle is not None:
        state.output.say(f"[yellow]run {runs[0].id}: nothing has moved for {length(idle)}[/yellow]")
    for line in waits:
        state.output.say(escape(line))
    if tick is not None:
        state.output.say(f"next run by its schedule: {tick:%Y-%m-%d %H:%M} UTC")
    state.output.data(
        {
            "pipeline": pipeline,
            "runs": runs,
            "next_run": tick,
            "next_comparisons": comparisons,
            "idle": idle,
            "stream": stream,
            "slot": slot,
            "at_least_once": repeats is not None,
            **failed,
        }
    )
    following = {"active": f"penstock run {quote(name)} --watch"}.get(pipeline.status, f"penstock resume {quote(name)}")
    state.output.hint(_failed(state, runs) or _after_comparisons(pipeline) or following)


def _comparison_lines(pipeline: PipelineEntry, following: Mapping[str, datetime]) -> list[str]:
    """Return the lines on comparisons of both sides: what the last ones have found, and when the next ones are due."""
    found = [_check_line(pipeline.checked)] if pipeline.checked else []
    if pipeline.deletes and _compares_keys(pipeline):
        found.append(deletes_line(pipeline.deletes, pipeline.pipeline))
    if pipeline.letters and pipeline.letters.get("found"):
        when = ago(datetime.fromisoformat(pipeline.letters["at"]))
        found.append(f"{receipt_line(pipeline.letters['found'])}, {when}")
    names = {"check": "check", "deletes": "comparison of keys"}
    return found + [f"next {names[kind]}: {due:%Y-%m-%d %H:%M} UTC" for kind, due in following.items()]


def _after_comparisons(pipeline: PipelineEntry) -> str | None:
    """Return the next step after a comparison that found a difference, or could not compare."""
    if difference(pipeline.checked):
        return f"penstock check {quote(pipeline.name)} --last"
    error: Mapping[str, Any] = (pipeline.deletes or {}).get("error") or {}
    return error.get("hint") if _compares_keys(pipeline) else None


def _compares_keys(pipeline: PipelineEntry) -> bool:
    """True if the pipeline's file asks for comparisons of keys: an earlier one counts for nothing without."""
    return bool(pipeline.pipeline["spec"].get("deletes"))


def _check_line(checked: Mapping[str, Any]) -> str:
    """Return the line on the last comparison of both sides."""
    when = f"checked {ago(datetime.fromisoformat(checked['at']))}"
    if checked.get("error"):
        return f"{when}: [red]{escape(difference(checked) or '')}[/red]"
    verdict = "both sides agree" if checked["agree"] else "[red]both sides differ[/red]"
    rows = f"{checked['source_rows']:,} rows of the source, {checked['target_rows']:,} of the target"
    upto = f", verified up to {escape(checked['position'])}" if checked["agree"] and checked.get("position") else ""
    since = f" since {escape(checked['since'])}" if checked.get("since") else ""
    return f"{when}: {verdict}{since} ({rows}){upto}"


def _repeats(client: Client, pipeline: PipelineEntry) -> str | None:
    """Return what to say of a sink that may have rows more than once; None of any other."""
    name = pipeline.pipeline["spec"]["sink"]["connection"]
    kind = next((one.type for one in client.store.connections() if one.name == name), None)
    return traits(TYPES.get(kind or "")).at_least_once


def _idle(told: Reported | None) -> float | None:
    """Return the seconds for which nothing has moved in the open run; None if something moves, or no run is open."""
    if told is None or told[1].idle is None:
        return None
    return float(told[1].idle) + (now() - told[0]).total_seconds()


def _failed(state: State, runs: Any) -> str | None:
    """Print the error of a last run that failed; return its hint."""
    error = runs[0].error if runs and runs[0].status == "failed" else None
    if error is None:
        return None
    state.output.say(f"[red]the last run failed:[/red] {escape(error_line(error))}")
    return str(error["hint"]) if error.get("hint") else None


def _transition(verb: str, text: str, following: str) -> click.Command:
    @command(name=verb, help=f"{text} Of a set: also its members.")
    @click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=pipeline_names)
    @click.option("--all", "every", is_flag=True, help="Every active pipeline.")
    @click.option(
        "--select", "selectors", multiple=True, metavar="LABEL=VALUE|PATTERN",
        help="Active pipelines with this label, or with a name like `sales-*`; may be given again.",
    )  # fmt: skip
    @TABLES
    @click.option("--expect", type=int, help="Only if it is at this version.")
    def one(
        state: State,
        names: tuple[str, ...],
        selectors: tuple[str, ...],
        tables: tuple[str, ...],
        expect: int | None,
        *,
        every: bool,
    ) -> int:
        choice = Choice(names, selectors, every, tables, verb)
        with connected(state.settings) as client:
            if choice.single is None:
                return _change_several(state, client, choice, expect)
            name = choice.single
            answer = client.ask(f"pipeline.{verb}", name, PipelineTransition(name=name, expect=expect).to_dict())
        result = answer.result or {}
        members = f", and {result['members']} members" if "members" in result else ""
        state.output.say(f"{escape(name)} is {result['status']}{members}")
        state.output.data({"name": name, **result})
        state.output.hint(following.format(name=quote(name)))
        return 0

    return one


def _change_several(state: State, client: Client, choice: Choice, expect: int | None) -> int:
    """Change the status of several pipelines; return 1 if any was refused."""
    names = choice.names_among(client.overview())
    payloads = {name: PipelineTransition(name=name, expect=expect).to_dict() for name in names}
    refused, done = [], []
    for name, answer in client.ask_each(f"pipeline.{choice.command}", payloads).items():
        if isinstance(answer, PenstockError):
            refused.append({"name": name, "error": {"code": answer.code, "what": answer.what}})
            state.output.say(f"[red]{escape(str(answer))}[/red]")
        else:
            done.append({"name": name, **(answer.result or {})})
    word = done[0]["status"] if done else "changed"
    state.output.say(f"{len(done)} of {len(names)} are {word}")
    state.output.data({"changed": done, "refused": refused})
    state.output.hint("penstock list")
    return 1 if refused else 0


pause_ = _transition(
    "pause", "Pause: no new runs; a running one stops at its last commit and keeps its place.", "penstock resume {name}"
)
resume_ = _transition(
    "resume", "Resume: active again; an interrupted run continues where it was.", "penstock status {name}"
)
drain_ = _transition(
    "drain",
    "Drain: no new runs; what is there is still processed, then it is paused. A stream ends after what its source has.",
    "penstock status {name}",
)
stop_ = _transition("stop", "Stop: no new runs; an open one is ended at its last commit.", "penstock resume {name}")


@command(name="delete")
@click.argument("name", shell_complete=pipeline_names)
@click.option("--expect", type=int, help="Only if it is at this version.")
@click.option("--drop-table", is_flag=True, help="Drop the target table too; a policy may forbid it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete_(state: State, name: str, expect: int | None, *, drop_table: bool, yes: bool) -> None:
    """Delete a pipeline, and its positions, plans and shadow tables at the sink. Target table and history stay."""
    if not yes and not state.output.as_json:
        confirm(f"Delete {name}{' and its target table' if drop_table else ''}?")
    with connected(state.settings, worker=True) as client:
        client.ask("pipeline.delete", name, PipelineDelete(name=name, expect=expect, drop_table=drop_table).to_dict())
        _wait_until_gone(client, name)
    state.output.say(f"{name} is deleted")
    state.output.data({"name": name, "status": "deleted"})
    state.output.hint("penstock list")


def confirm(question: str) -> None:
    """Ask on the terminal. Raises Refused unless the answer is yes."""
    try:
        sure = click.confirm(question)
    except click.Abort as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        sure = False  # no terminal to ask on
    if not sure:
        raise Refused("was not confirmed: nothing was deleted", hint="say yes, or add --yes")


def _wait_until_gone(client: Client, name: str) -> None:
    deadline = time.monotonic() + DELETE_SECONDS
    hint = f"fix it, then `penstock delete {quote(name)}` again: it stays `deleting` until then"
    with suppress(NotFound):
        while time.monotonic() < deadline:
            client.store.pipeline(name)
            ended = [
                task for task in client.store.tasks(limit=50).items if (task.kind, task.pipeline) == ("cleanup", name)
            ]
            if ended and ended[0].status == "failed":
                raise Unavailable(f"the clean-up failed: {(ended[0].error or {}).get('what')}", where=name, hint=hint)
            time.sleep(POLL_SECONDS)
        raise Unavailable(f"was not cleaned up within {DELETE_SECONDS:g} s", where=f"pipeline {name}", hint=hint)


@command(name="versions")
@click.argument("name", shell_complete=pipeline_names)
def versions_(state: State, name: str) -> None:
    """Show every version of a pipeline, the latest last."""
    with connected(state.settings, runs=False) as client:
        found = client.store.pipeline_versions(name)
    rows = [(v.version, ago(v.at), v.actor, f"rollback to {v.rollback_of}" if v.rollback_of else "") for v in found]
    state.output.table(("#version", "when", "by", "note"), rows, empty="")
    state.output.data(found)
    state.output.hint(f"penstock rollback {quote(name)} --to V")


@command(name="rollback")
@click.argument("name", shell_complete=pipeline_names)
@click.option("--to", "to", type=int, required=True, help="The version to go back to.")
@click.option("--expect", type=int, help="Only if it is at this version.")
def rollback_(state: State, name: str, to: int, expect: int | None) -> None:
    """Make a new version that equals version TO."""
    with connected(state.settings) as client:
        answer = client.ask("pipeline.rollback", name, PipelineRollback(name=name, to=to, expect=expect).to_dict())
    result = answer.result or {}
    state.output.say(f"{name} is at version {result['version']}, which equals version {to}")
    state.output.data({"name": name, **result})
    state.output.hint(f"penstock run {quote(name)} --watch")
