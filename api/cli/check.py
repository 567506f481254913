"""`penstock check`: do both sides of a pipeline agree?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from api.cli.board import counting
from api.cli.candidates import candidates
from api.cli.completion import pipeline_names
from api.cli.console import escape, plain
from api.cli.main import State, command
from api.client import connected
from dataflows.runs.comparison import Comparison, compare
from dataflows.runs.survey import opened
from penstock.errors import Refused
from penstock.records.commands import CheckRecord

SHOWN = 20


@command(name="check")
@click.argument("name", shell_complete=pipeline_names)
def check_(state: State, name: str) -> int:
    """Compare both sides of the pipeline NAME row by row, through its own mapping and filters; writes no row.

    Both sides are read once; rows that differ are looked at again. Rows that are new at the source since the last run
    are no difference. The result is recorded, and `penstock status` shows it. Exit code 1 if both sides differ.
    """
    with connected(state.settings) as client:
        if any(one.is_set for one in client.overview() if one.name == name):
            hint = f"check its members: penstock check {name}/OBJECT; penstock list --members shows them"
            raise Refused("is a set, which has no rows of its own", where=f"pipeline {name}", hint=hint)
        chosen = candidates(state, client, [name])
        if name not in chosen.uids or not chosen.in_force:
            hint = "penstock apply, then penstock run"
            raise Refused("is not applied as the files have it", where=f"pipeline {name}", hint=hint)
        job = chosen.job(state, name)
        with counting(state.output, f"checking {name}") as told, opened(job) as ends:
            found = compare(job, ends, told)
        client.ask("check.record", name, recorded(found, job.uid).to_dict())
    _tell(state, found)
    state.output.data(asdict(found) | {"agree": found.agree})
    state.output.hint(f"penstock status {name}" if found.agree else f"penstock run {name} --full")
    return 0 if found.agree else 1


def recorded(found: Comparison, uid: str) -> CheckRecord:
    """Return what goes on the log: numbers, no values."""
    names = CheckRecord.model_fields.keys() & asdict(found).keys()
    return CheckRecord(name=found.pipeline, uid=uid, agree=found.agree, **{one: getattr(found, one) for one in names})


def _tell(state: State, found: Comparison) -> None:
    say = state.output.say
    rows = f"{found.source_rows:,} rows of the source, {found.target_rows:,} of the target"
    verdict = "[green]both sides agree[/green]" if found.agree else "[red]both sides differ[/red]"
    say(f"{escape(found.pipeline)}: {verdict} ({rows})")
    if found.counted_only:
        say("  too many rows differ to tell them one by one")
    if found.not_compared:
        say(f"  not compared, for the target has no such columns: {escape(', '.join(found.not_compared))}")
    for kind, text in (
        ("missing", "missing in the target"), ("extra", "only in the target"), ("changed", "with other values"),
        ("in_flight", "changed since, which the next run brings"), ("refused", "refused by the steps"),
    ):  # fmt: skip
        if count := getattr(found, kind):
            say(f"  {count:,} {text}")
    shown = [(one.kind, _key(one.key), ", ".join(one.columns)) for one in found.differences[:SHOWN]]
    if shown:
        state.output.table(("what", "key" if found.key else "row", "columns"), shown, empty="")


def _key(key: dict[str, Any]) -> str:
    return ", ".join(f"{name}={'NULL' if value is None else plain(value)}" for name, value in key.items())
