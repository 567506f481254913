"""`penstock test` and `penstock preview`: a pipeline's own tests, and rows after each of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from shlex import quote
from typing import Any

import click

from api.cli.candidates import candidates
from api.cli.completion import names_or_files
from api.cli.console import clipped, escape, plain
from api.cli.main import State, command
from api.cli.project import FILES, Files, documents_of
from api.client import connected
from dataflows.runs.dry_run import StepRows, TrialResult, preview, run_tests
from dataflows.runs.lookups import mask_key
from dataflows.runs.survey import opened
from penstock.errors import Refused

CELL_WIDTH = 40


@command(name="test")
@FILES
def test_(state: State, files: Files) -> int:
    """Run the tests in pipelines' files, offline: rows given, rows expected. Default: all of the project."""
    modules = frozenset(state.settings.modules)
    key = mask_key(state.settings.mask_key, state.settings.secrets)
    found = {one.name: run_tests(one, modules, key) for one in documents_of(state, files).pipelines}
    for name, results in found.items():
        for one in results:
            _tell(state, name, one)
    results = [one for part in found.values() for one in part]
    failed = sum(not one.passed for one in results)
    state.output.data(
        [
            {"pipeline": name, **asdict(one), "differences": one.differences}
            for name, part in found.items()
            for one in part
        ]
    )
    state.output.say(f"{len(results) - failed} passed, {failed} failed")
    state.output.hint("penstock plan" if not failed else "correct the steps, or the rows that the tests expect")
    return 1 if failed else 0


def _tell(state: State, name: str, one: TrialResult) -> None:
    mark = "[green]passed[/green]" if one.passed else "[red]failed[/red]"
    state.output.say(f"{mark} {escape(name)}: {escape(one.test)}")
    if one.passed:
        return
    if one.error:
        state.output.say(f"  {escape(one.error)}")
        return
    state.output.table(*_side_by_side(one), empty="")
    for difference in one.differences:
        state.output.say(f"  {escape(difference)}")
    for row in one.refused:
        state.output.say(f"  row {row['row']} refused by `{escape(row['step'])}`: {escape(row['reason'])}")


def _side_by_side(one: TrialResult) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    height = max(len(one.expected), len(one.got))
    rows = [(at + 1, _at(one.expected, at), _at(one.got, at)) for at in range(height)]
    return ("#row", "expected", "got"), [row for row in rows if row[1] != row[2]] or list(rows)


def _at(rows: Sequence[Mapping[str, Any]], at: int) -> str:
    return ", ".join(f"{name}={plain(value)}" for name, value in rows[at].items()) if at < len(rows) else ""


@command(name="preview")
@click.argument("what", metavar="NAME|FILE", shell_complete=names_or_files)
@click.option(
    "--rows", default=10, show_default=True, type=click.IntRange(1, 10_000), help="How many rows of the source."
)
def preview_(state: State, what: str, rows: int) -> None:
    """Show rows of the source before and after each step; writes nothing.

    Takes the pipeline in FILE, or the pipeline NAME: from the project's files, else as it was applied.
    """
    with connected(state.settings, runs=False) as client:
        chosen = candidates(state, client, [what])
        shown = []
        for name, document in chosen.pipelines.items():
            if document["spec"]["source"].get("objects"):
                hint = f"name a member: penstock status {quote(name)}"
                raise Refused("is a set: each of its members has rows", where=f"pipeline {name}", hint=hint)
            job = chosen.job(state, name)
            with opened(job) as ends:
                shown += preview(job, ends, rows)
    for one in shown:
        _show(state, one)
    state.output.data([asdict(one) for one in shown])
    state.output.hint(f"penstock plan {quote(what)}")


def _show(state: State, one: StepRows) -> None:
    rows = [[_short(row[name]) for name in one.columns] for row in one.rows]
    state.output.table(tuple(one.columns), rows, empty="no rows", title=f"after {one.step}: {len(one.rows)} rows")
    if one.note:
        state.output.say(f"  {escape(one.note)}")
    for row in one.refused:
        state.output.say(f"  row {row['row']} refused by `{escape(row['step'])}`: {escape(row['reason'])}")


def _short(value: object) -> str:
    return clipped("NULL" if value is None else str(plain(value)), CELL_WIDTH)
