"""`penstock list`: every pipeline with its last run and its next one. Loads neither SQLAlchemy nor a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from shlex import quote
from typing import Any

import click

from api.cli.comparisons import difference
from api.cli.console import ago, ahead
from api.cli.main import State, command
from catalog.overview import Overview, overview
from dataflows.process.site import Site
from penstock.postgres import connect

__all__ = ["ended", "follows", "route"]


@command(name="list")
@click.option("--failed", is_flag=True, help="Only those whose last run failed or whose last check found a difference.")
@click.option("--members", is_flag=True, help="The members of sets, too.")
def list_(state: State, *, failed: bool, members: bool) -> None:
    """Show all pipelines, with the result of their last run and the time of the next one; a set as one line."""
    settings = state.settings
    settings.check_project()
    with Site(settings) as site, closing(connect(site.catalog_dsn, "penstock:list")) as session:
        every = overview(session)
    found = [one for one in every if (one.has_failed or one.differs if failed else members or one.member_of is None)]
    columns: tuple[str, ...] = ("name", "#version", "status", "moves", "owner", "last run", "when", "next run")
    alarms = _alarms(every)
    columns = (*columns, "alerts") if alarms else columns
    empty = (
        "No pipeline's last run failed, and no check found a difference." if every else "There are no pipelines yet."
    )
    rows = _rows(found, tallies(every), alarms, failed=failed)
    state.output.table((*columns, "error") if failed else columns, rows, empty=empty)
    state.output.data(found)
    state.output.hint("penstock alerts" if alarms and not failed else _next(every, found))


def tallies(every: Sequence[Overview]) -> dict[str, str]:
    """Return a summary of the members of each set, such as `2 failed of 40`."""
    members: dict[str, list[Overview]] = {}
    for one in every:
        if one.member_of is not None:
            members.setdefault(one.member_of, []).append(one)
    return {name: _tally(found) for name, found in members.items()}


def _tally(members: Sequence[Overview]) -> str:
    counts = Counter(str((one.last_run or {}).get("status", "not run yet")) for one in members)
    words = [f"{counts[status]} {status}" for status in ("failed", "running", "queued", "stopped") if counts[status]]
    return f"{', '.join(words)} of {len(members)}" if words else f"{counts['completed']} of {len(members)} completed"


def _alarms(every: Sequence[Overview]) -> dict[str, str]:
    """Return how many alerts are open about each pipeline, and the members of each set; empty if none is."""
    counts: Counter[str] = Counter()
    critical: Counter[str] = Counter()
    for one in every:
        for name in {one.name, one.member_of or one.name}:
            counts[name] += one.alerts
            critical[name] += one.critical
    return {name: f"{count}, critical" if critical[name] else str(count) for name, count in counts.items() if count}


def _rows(
    found: Sequence[Overview], sets: Mapping[str, str], alarms: Mapping[str, str], *, failed: bool
) -> list[tuple[object, ...]]:
    rows = []
    for one in found:
        run: Mapping[str, Any] = one.last_run or {}
        if one.is_set:
            run = {"status": sets.get(one.name, "no members")}
        last = (ended(run), ago(run.get("finished_at") or run.get("requested_at")), ahead(one.next_run) or _after(one))
        last = (*last, *((alarms.get(one.name, ""),) if alarms else ()))
        why = (run.get("error") or {}).get("what") if one.has_failed else difference(one.checked, one.deletes)
        error = (why,) if failed else ()
        rows.append((one.name, one.version, one.status, route(one.pipeline), one.owner, *last, *error))
    return rows


def _after(one: Overview) -> str:
    """Return what an active pipeline without a next tick runs after."""
    names = (one.pipeline["spec"].get("after") or {}).get("pipelines", ())
    if not names or one.status != "active":
        return ""
    return f"after {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def ended(run: Mapping[str, Any]) -> str | None:
    """Return the status of a run, and how many of its rows went to the dead letters."""
    dead = (run.get("counters") or {}).get("dead")
    return f"{run['status']}, {dead:,} dead" if dead else run.get("status")


def follows(status: str | None, after: Sequence[str] | None) -> str | None:
    """Return which first loads a run was queued after, while it is queued."""
    return f"after the first load of {', '.join(after)}" if status == "queued" and after else None


def _next(every: Sequence[Overview], found: Sequence[Overview]) -> str:
    """Return the next step: look at the first failure, else run something."""
    failed = next((one.name for one in found if one.has_failed or one.differs), None)
    if failed is not None:
        return f"penstock status {quote(failed)}"
    return "penstock run NAME --watch" if every else "penstock apply"


def route(pipeline: Mapping[str, Any]) -> str:
    """Return source and sink of a pipeline in a line."""
    source, sink = pipeline["spec"]["source"], pipeline["spec"]["sink"]
    return f"{source['connection']}:{source['object']} -> {sink['connection']}:{sink['object']}"
