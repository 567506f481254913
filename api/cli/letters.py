"""`penstock dlq`: dead letters, the rows that a run could not write."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from shlex import quote

import click

from api.cli.main import State, command
from api.client import connected
from catalog.letters import KeptLetter, letter, letters
from penstock.errors import NotFound, UsageError
from penstock.postgres import connect

VALUES_WIDTH = 60


@command(name="dlq")
@click.argument("action", type=click.Choice(["list", "show"]), default="list")
@click.argument("name", metavar="[PIPELINE|ID]", required=False)
@click.option("--run", help="list: only those of this run.")
@click.option("--limit", default=50, show_default=True, help="list: how many, the newest.")
def dlq_(state: State, action: str, name: str | None, run: str | None, limit: int) -> None:
    """Show rows that could not be written: `list [PIPELINE]`, or `show ID` with the values of one."""
    with connected(state.settings, runs=False) as client, closing(connect(client.site.catalog_dsn, "dlq")) as session:
        if action == "list":
            found = letters(session, name, run, limit)
            if name is not None and not found:
                client.store.pipeline(name)  # a name that is not known is an error
            _list(state, found)
            return
        if name is None:
            raise UsageError("name the dead letter", where="penstock dlq show", hint="penstock dlq list shows the ids")
        one = letter(session, name)
    if one is None:
        raise NotFound("there is no such dead letter", value=name, hint="penstock dlq list")
    _show(state, one)


def _list(state: State, found: list[KeptLetter]) -> None:
    state.output.table(
        ("id", "pipeline", "#split", "#row", "step", "reason", "values"),
        [(one.id[:8], one.name, one.split, one.row, one.step, one.reason, _short(one)) for one in found],
        empty="no dead letters",
    )
    state.output.data([asdict(one) for one in found])
    if found:
        state.output.hint(f"penstock dlq show {found[0].id[:8]}")


def _show(state: State, found: KeptLetter) -> None:
    state.output.say(
        f"{found.name}, run {found.run}, split {found.split}, row {found.row}: {found.step}: {found.reason}"
    )
    state.output.table(
        ("column", "value"), [(name, json.dumps(value)) for name, value in found.values.items()], empty=""
    )
    state.output.data(asdict(found))
    state.output.hint(
        f"correct the rows at their source, or the step in the file, then penstock run {quote(found.name)}"
    )


def _short(found: KeptLetter) -> str:
    text = json.dumps(found.values, ensure_ascii=False)
    return text if len(text) <= VALUES_WIDTH else text[: VALUES_WIDTH - 1] + "…"
