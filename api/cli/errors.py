"""`penstock errors`: what failed, why, what was done about it; and incidents, which need a person."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import click

from api.cli.alert_lines import alert_lines
from api.cli.completion import pipeline_names
from api.cli.console import ago, clipped, counted, error_line, escape, plain
from api.cli.main import State, command
from api.client import Client, connected
from catalog.alerts import INCIDENT, alerts
from catalog.entries import PipelineEntry, RunEntry
from catalog.faults import Breaker, Fault, FaultError, Incident, breakers, errors_of, faults, incidents
from penstock.postgres import connect

__all__ = ["error_lines", "last_errors", "seen_causes", "why_failed"]

MARKS: Final = {"ok": "[green]ok[/green]", "wrong": "[red]wrong[/red]", "unknown": "[yellow]unknown[/yellow]"}
DIAGNOSIS_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05
SEEN: Final = 0.9
"""Confidence of a diagnosis that has seen the cause: others repeat what the error says."""
WIDTH: Final = 100
"""Characters of an error in the table of all."""


@command(name="errors")
@click.argument("name", metavar="[NAME|ID]", required=False, shell_complete=pipeline_names)
@click.option("--incidents", "only", is_flag=True, help="Only incidents, which need a person; with NAME those of it.")
@click.option("--all", "every", is_flag=True, help="With --incidents: closed ones, too.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, the latest.")
def errors_(state: State, name: str | None, limit: int, *, only: bool, every: bool) -> None:
    """Show errors, those that are the same together; with NAME those of a pipeline, connection or component.

    ID is a fingerprint, a run or an incident: it shows the diagnosis, what was checked, and what was decided.
    """
    with connected(state.settings, runs=False) as client, closing(_session(client)) as session:
        open_ones = incidents(session, name, open_only=not every, limit=limit)
        if only:
            _incidents(state, open_ones)
            return
        one = next((one for one in open_ones if name and one.id.startswith(name)), None)
        key = one.fingerprint if one is not None else name
        found = faults(session, key, limit)
        fault = found[0] if key is not None and len(found) == 1 and found[0].fingerprint.startswith(key) else None
        errors = errors_of(session, fault.fingerprint if fault else key, limit) if key else []
        if name is not None and not (found or errors or open_ones):
            client.store.pipeline(name)  # says so if there is none
    if fault is not None or (errors and not found):
        _show(state, fault, errors, open_ones)
        return
    _list(state, found, open_ones)


def _session(client: Client) -> Any:
    return connect(client.site.catalog_dsn, "penstock:errors")


def _list(state: State, found: Sequence[Fault], open_ones: Sequence[Incident]) -> None:
    columns = ("fingerprint", "kind", "#count", "last", "pipelines", "incident", "error")
    rows = [
        (
            one.fingerprint,
            one.kind or "",
            one.count,
            ago(one.last_at),
            _some(one.pipelines),
            "open" if one.incidents else "",
            clipped(str(one.error.get("what")), WIDTH),
        )
        for one in found
    ]
    state.output.table(columns, rows, empty="" if open_ones else "Nothing has failed.")
    state.output.data([plain(one) for one in found])
    for line in incident_lines(open_ones):
        state.output.say(line)
    said = open_ones[0].incident.get("hint") if open_ones else None
    state.output.hint(f"penstock errors {found[0].fingerprint}" if found else str(said or "penstock runs"))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(reversed(names[-2:]))
    return f"{shown} and {len(names) - 2} more" if len(names) > 2 else shown  # noqa: PLR2004 - as above


def _incidents(state: State, found: Sequence[Incident]) -> None:
    columns = ("incident", "status", "opened", "about", "kind", "#repeats", "error")
    rows = [
        (one.id[:8], one.status, ago(one.opened_at), _subject(one), one.kind, one.repeats, clipped(one.what, WIDTH))
        for one in found
    ]
    state.output.table(columns, rows, empty="No incident is open.")
    state.output.data([plain(one) for one in found])
    state.output.hint(f"penstock errors {found[0].id[:8]}" if found else "penstock errors")


def _show(state: State, fault: Fault | None, errors: Sequence[FaultError], open_ones: Sequence[Incident]) -> None:
    if fault is not None:
        times = f"{counted(fault.count, 'time')}, first {ago(fault.first_at)}, last {ago(fault.last_at)}"
        state.output.say(f"[bold]{fault.fingerprint}[/bold] {escape(fault.kind or fault.code)} error, {times}")
        state.output.say(f"pipelines: {escape(', '.join(fault.pipelines) or 'none')}")
        for action, counts in (fault.outcomes or {}).items():
            helped, failed = counts.get("resolved", 0), counts.get("failed", 0)
            state.output.say(f"{action}: helped {helped} of {helped + failed} times")
    for one in errors[:1]:
        state.output.say(f"[red]{escape(error_line(one.error))}[/red]")
        for line in _classified(one.classified):
            state.output.say(line)
        for line in diagnosis_lines(one.diagnosis):
            state.output.say(line)
        if one.strategy:
            state.output.say(f"decided: {one.strategy['action']}: {escape(one.strategy['reason'])}")
    rows = [(ago(e.at), e.pipeline, e.run, e.attempt, (e.strategy or {}).get("action", "")) for e in errors]
    state.output.table(("when", "pipeline", "run", "#attempt", "decided"), rows, empty="")
    about = [one for one in open_ones if fault is None or one.fingerprint == fault.fingerprint]
    for line in incident_lines(about):
        state.output.say(line)
    state.output.data({"fault": plain(fault), "errors": plain(list(errors)), "incidents": plain(about)})
    hint = errors[0].error.get("hint") if errors else None
    state.output.hint(str(hint) if hint else f"penstock why {errors[0].run}" if errors else "penstock errors")


def _classified(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found:
        signs = f", by {', '.join(found['signs'])}" if found.get("signs") else ""
        like = f"; reads like {found['like']['fingerprint']}" if found.get("like") else ""
        yield escape(f"{found['kind']} ({found['confidence']:.0%} sure{signs}), from its {found['origin']}{like}")


def diagnosis_lines(found: Mapping[str, Any] | None, *, brief: bool = False) -> Iterator[str]:
    """Yield the lines on a diagnosis: the cause, what to do, and what was checked; if `brief`, the cause only."""
    if not found:
        return
    yield f"[bold]cause:[/bold] {escape(found['cause'])}"
    if brief:
        return
    if found.get("hint"):
        yield f"[bold]what to do:[/bold] {escape(found['hint'])}"
    for check in found.get("checks") or ():
        yield f"  {MARKS[check['found']]} {escape(check['what'])}: {escape(check['evidence'])}"


def _subject(one: Incident) -> str:
    """Return what an incident is about: a pipeline, connection or component, a check of one; "" for an agent."""
    return " ".join(filter(None, (one.incident.get("component"), one.pipeline or one.connection)))


def incident_lines(found: Sequence[Incident]) -> Iterator[str]:
    """Yield a line for each incident, and one for each strategy that it proposes."""
    for one in found:
        about = _subject(one) or "Penstock"
        about = f"connection {about}" if about == one.connection else about
        repeats = f", {one.repeats} more since" if one.repeats else ""
        state = "open" if one.status == "open" else f"closed, as {one.reason}"
        lead = f"[red]incident {one.id[:8]}[/red] {state}, {ago(one.opened_at)}{repeats}"
        yield f"{lead}: {escape(f'{about}: {one.what}')}"
        for proposal in one.incident.get("proposals") or ():
            yield escape(f"  proposed: {proposal['action']} ({proposal['confidence']:.2f}): {proposal['what']}")


def breaker_lines(found: Sequence[Breaker]) -> Iterator[str]:
    """Yield a line for each connection that is held back."""
    for one in found:
        until = f" until {one.until:%H:%M:%S} UTC" if one.until and one.status == "open" else ""
        how = "is held back" if one.status == "open" else "is tried by one run"
        yield f"[yellow]connection {escape(one.connection)} {how}{until}:[/yellow] {escape(one.reason)}"


def last_errors(client: Client, runs: Sequence[RunEntry], pipeline: PipelineEntry) -> dict[str, Any]:
    """Return the last error of the last run unless that completed, open incidents, other alerts, what is held back."""
    spec = pipeline.pipeline["spec"]
    names = sorted({spec["source"]["connection"], spec["sink"]["connection"]})
    with closing(_session(client)) as session:
        run = runs[0] if runs and runs[0].status != "completed" else None
        errors = errors_of(session, run.id, 1) if run else []
        found = incidents(session, pipeline.name)
        found += [one for name in names for one in incidents(session, name) if not one.pipeline]
        about = {"error": errors[0] if errors else None, "incidents": found, "held": breakers(session, names)}
        others = [one for one in alerts(session, pipeline.name) if one.kind != INCIDENT]
        return about | {"alerts": others}


def error_lines(found: Mapping[str, Any], *, brief: bool = True) -> Iterator[str]:
    """Yield the lines on what `last_errors` has found."""
    yield from breaker_lines(found["held"])
    if (error := found["error"]) is not None:
        yield from diagnosis_lines(error.diagnosis, brief=brief)
        if error.strategy:
            yield f"decided: {error.strategy['action']}: {escape(error.strategy['reason'])}"
    yield from incident_lines(found["incidents"])
    yield from alert_lines(found.get("alerts", ()))


def why_failed(client: Client, run: str) -> Iterator[str]:
    """Yield the lines on the last error of a run, with its diagnosis; none if it had no error."""
    with closing(_session(client)) as session:
        errors = errors_of(session, run, 1)
    yield from error_lines({"held": [], "error": errors[0] if errors else None, "incidents": []}, brief=False)


def seen_causes(client: Client, runs: Collection[str]) -> Iterator[str]:
    """Wait a moment for the diagnoses of runs that have failed, and yield the causes that were seen."""
    end, left = time.monotonic() + DIAGNOSIS_SECONDS, set(runs)
    with closing(_session(client)) as session:
        while left and time.monotonic() < end:
            for run in sorted(left):
                found = errors_of(session, run, 10)
                diagnosis = next((one.diagnosis for one in found if one.diagnosis), None)
                if diagnosis or not any(one.classified for one in found):
                    left.discard(run)
                if diagnosis and diagnosis["confidence"] >= SEEN:
                    yield from diagnosis_lines(diagnosis, brief=True)
            if left:
                client.look_after()
                time.sleep(POLL_SECONDS)
