"""Commands about runs: start one and watch it, list them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import click
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from api.cli.completion import pipeline_names
from api.cli.console import escape
from api.cli.main import State, command
from api.cli.pipelines import explain, run_table
from api.client import UP, Client, connected
from api.vigil import Waiting
from catalog.entries import RunEntry
from penstock.errors import PenstockError, Refused, retold
from penstock.models.domain import Reload
from penstock.records.commands import RunStart
from penstock.records.execution import RunProgress, TaskFailed

__all__ = ["bar", "finish", "start"]

OPEN = {"queued", "running"}
"""The statuses of a run that has not ended."""


@command(name="run")
@click.argument("name", shell_complete=pipeline_names)
@click.option("--watch", is_flag=True, help="Show how far it is, until its end.")
@click.option("--full", is_flag=True, help="Read all rows again; they take the target's place at the end.")
def run_(state: State, name: str, *, watch: bool, full: bool) -> None:
    """One run. Where `penstock up` does not run, it is waited for."""
    _run(state, name, Reload(rows="all") if full else None, watch=watch)


@command(name="backfill")
@click.argument("name", shell_complete=pipeline_names)
@click.option("--from", "first", required=True, metavar="VALUE", help="The first value of the cursor, such as a day.")
@click.option("--to", "end", required=True, metavar="VALUE", help="The value of the cursor before which it ends.")
@click.option("--watch", is_flag=True, help="Show how far it is, until its end.")
def backfill_(state: State, name: str, first: str, end: str, *, watch: bool) -> None:
    """Read a window of the cursor again, as far as runs have come; its rows take the place of the target's.

    In `merge` they are merged. The position stays as it is: the next run goes on from there.
    """
    _run(state, name, Reload.parse({"rows": "window", "from": first, "to": end}), watch=watch)


def _run(state: State, name: str, reload: Reload | None, *, watch: bool) -> None:
    with connected(state.settings, worker=True) as client:
        run = _begin(state, client, name, reload)
        if not watch and client.log.holder(UP):
            state.output.say(f"run {run} is asked for")
            state.output.data({"run": run, "status": "queued"})
            state.output.hint(f"penstock status {name}")
            return
        with bar(state, name, shown=watch) as show, _left(state, name):
            entry = finish(client, run, show, partial(_tell, state))
    state.output.data(entry)
    taken = sum((entry.seconds or {}).values())
    rate = f", {entry.counters['rows_out'] / taken:,.0f} rows/s" if taken and entry.counters.get("rows_out") else ""
    state.output.say(f"{name}: {entry.counters.get('rows_out', 0):,} rows in {taken:.1f} s{rate}")
    state.output.hint(f"penstock why {run}")


def _begin(state: State, client: Client, name: str, reload: Reload | None) -> str:
    """Ask for a run, or find the one that is open: cut off, or another command's. Its id."""
    try:
        return start(client, name, reload)
    except Refused:
        runs = client.store.runs(pipeline=name, limit=1).items
        if not runs or runs[0].status not in OPEN or client.store.pipeline(name).status != "active":
            raise
        if runs[0].reload != (reload and reload.to_dict()):
            raise
        state.output.say(f"run {runs[0].id} of {name} is open: it goes on")
        return str(runs[0].id)


@contextmanager
def _left(state: State, name: str) -> Iterator[None]:
    """Say what becomes of a run that nobody watches any more."""
    try:
        yield
    except KeyboardInterrupt:
        state.output.errors.print(
            f"[dim]what is committed stays; `penstock run {name} --watch` goes on from there[/dim]"
        )
        raise


def start(client: Client, name: str, reload: Reload | None = None) -> str:
    """Ask for a run; its id."""
    answer = client.ask("run.start", name, RunStart(pipeline=name, reload=reload).to_dict())
    return str((answer.result or {})["run"])


def finish(
    client: Client,
    run: str,
    show: Callable[[RunProgress], None],
    tell: Callable[[TaskFailed | Waiting], None] = lambda _: None,
) -> RunEntry:
    """Follow the run to its end; `show` gets its progress, `tell` each attempt that failed and what it waits for.

    Raises:
        PenstockError: of the kind that the run failed with, or because it cannot go on.
    """
    for told in client.watch(run):
        if isinstance(told, RunProgress):
            show(told)
        elif isinstance(told, TaskFailed | Waiting):
            tell(told)
        elif told.status != "completed":
            raise _failure(told)
        else:
            return told
    message = "a run that is followed ends with its entry"
    raise AssertionError(message)


def _tell(state: State, told: TaskFailed | Waiting) -> None:
    """Say what it waits for, and that an attempt failed where another one may follow."""
    if isinstance(told, Waiting):
        state.output.say(f"[yellow]![/yellow] {escape(told.what)}")
    elif told.error.transient:
        where = f"{told.error.where}: " if told.error.where else ""
        state.output.say(f"[yellow]![/yellow] attempt {told.attempt} failed: {escape(where + told.error.what)}")


def _failure(entry: RunEntry) -> PenstockError:
    error = entry.error or {
        "code": "refused",
        "what": f"the run is {entry.status}",
        "hint": f"penstock status {entry.pipeline}",
    }
    return retold(error)


@contextmanager
def bar(state: State, name: str, *, shown: bool = True) -> Iterator[Callable[[RunProgress], None]]:
    """A progress bar with rows, rate and time left, on a terminal; a line at each phase elsewhere."""
    if not shown or state.output.as_json:
        yield lambda _: None
        return
    if not state.output.console.is_terminal:
        yield _Lines(state, name)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:>12,} rows"),
        TextColumn("{task.fields[rate]:>9,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=state.output.console, transient=True) as progress:
        task = progress.add_task(name, total=None, rows=0, rate=0.0)

        def show(told: RunProgress) -> None:
            total = max(told.estimate or 0, told.rows_in) or None
            progress.update(task, total=total, completed=told.rows_in, rows=told.rows_in)
            progress.update(task, rate=progress.tasks[0].speed or 0.0, description=f"{name} ({told.phase})")

        yield show


class _Lines:
    """A line at each phase, where nobody watches a bar."""

    def __init__(self, state: State, name: str) -> None:
        self._state, self._name, self._phase = state, name, ""

    def __call__(self, told: RunProgress) -> None:
        if told.phase != self._phase:
            self._phase = told.phase
            self._state.output.say(f"  {self._name}: {told.phase}, {told.rows_out:,} rows")


@command(name="runs")
@click.argument("name", required=False, shell_complete=pipeline_names)
@click.option("--limit", default=20, show_default=True, help="How many.")
def runs_(state: State, name: str | None, limit: int) -> None:
    """Runs, the latest first; of one pipeline with NAME."""
    with connected(state.settings, runs=False) as client:
        found = client.store.runs(pipeline=name, limit=limit).items
    state.output.table(*run_table(found), empty="There was no run yet.")
    explain(state, found)
    state.output.data(found)
    state.output.hint("penstock why RUN")
