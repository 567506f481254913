"""`penstock runs`, and the table of runs that other commands show too."""

from __future__ import annotations

from collections.abc import Sequence

import click

from api.cli.completion import pipeline_names
from api.cli.console import ago, escape, seconds
from api.cli.listing import follows
from api.cli.main import State, command
from api.client import connected
from catalog.entries import RunEntry
from penstock.errors import NotFound

__all__ = ["explain", "run_table"]


@command(name="runs")
@click.argument("name", required=False, shell_complete=pipeline_names)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
def runs_(state: State, name: str | None, limit: int) -> None:
    """Show runs, the latest first; with NAME those of one pipeline, or of a set's members."""
    with connected(state.settings, runs=False) as client:
        try:
            found = (client.store.runs(limit=limit) if name is None else client.store.runs_of(name, limit=limit)).items
        except NotFound:
            found = client.store.runs(pipeline=name, limit=limit).items  # of a pipeline that is deleted
            if not found:
                raise
    state.output.table(*run_table(found), empty="There are no runs yet.")
    explain(state, found)
    state.output.data(found)
    state.output.hint("penstock why RUN" if found else "penstock run NAME --watch")


def explain(state: State, runs: Sequence[RunEntry]) -> None:
    """Explain `resumed`, if the table of runs shows it, and show the notes of the last run."""
    if any(run.resumed for run in runs):
        state.output.say("resumed: the rows were read at several points in time, after an interruption or a time limit")
    for run in runs[:1]:
        for note in run.notes or ():
            state.output.say(f"[yellow]note:[/yellow] {escape(note)}")


def _status(run: RunEntry) -> str:
    return f"{run.status}, resumed" if run.resumed else str(run.status)


def run_table(runs: Sequence[RunEntry]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Return columns and rows of a table of runs; rows that went to the dead letters have a column if there are any."""
    dead = any(r.counters.get("dead") for r in runs)
    rows: list[tuple[object, ...]] = [
        (
            r.id,
            r.pipeline,
            r.version,
            _status(r),
            _reads(r),
            r.counters.get("rows_out", 0),
            *((r.counters.get("dead", 0),) if dead else ()),
            seconds(r.started_at, r.finished_at),
            ago(r.requested_at),
            (r.error or {}).get("what") or follows(r.status, r.after),
        )
        for r in runs
    ]
    counts = ("#rows", "#dead") if dead else ("#rows",)
    return ("run", "pipeline", "#version", "status", "reads", *counts, "#took", "asked", "error"), rows


def _reads(run: RunEntry) -> str:
    """Return what a run reads again, in a word or two."""
    reload = run.reload or {}
    return f"{reload['from']} to {reload['to']}" if "from" in reload else str(reload.get("rows", ""))
