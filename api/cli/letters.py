"""`penstock dlq`: dead letters, the rows that a run could not write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from shlex import quote
from typing import Any

import click

from api.cli.console import clipped
from api.cli.letter_options import choice_of, keys_of
from api.cli.main import State, command
from api.client import connected
from catalog.letters import KeptLetter, LetterGroup, groups, letter, letters
from penstock.errors import NotFound, UsageError
from penstock.postgres import connect

VALUES_WIDTH = 60
ACTIONS = ("list", "show", "fix", "replay", "discard", "erase")


@command(name="dlq")
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.argument("name", metavar="[PIPELINE|ID]", required=False)
@click.option("--run", help="Only those of this run.")
@click.option("--step", help="Only those that this step, check or `target` refused.")
@click.option("--group", help="Only those of this fingerprint, as `--groups` shows it.")
@click.option("--column", help="Only those whose reason names this column.")
@click.option("--since", help="Only those since a time, or a duration ago such as 2h, 1d.")
@click.option("--id", "ids", multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--key", "keys", multiple=True, metavar="COLUMN=VALUE", help="list, discard, erase: only rows with this value."
)
@click.option("--state", "state_", type=click.Choice(["open", "redriving", "overtaken"]), help="list: only those.")
@click.option("--groups", "grouped", is_flag=True, help="list: count them by fingerprint.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="list: how many, the newest.")
@click.option("--set", "sets", multiple=True, metavar="COLUMN=SQL", help="fix: a new value for the source's column.")
@click.option("--where", metavar="SQL", help="fix: only rows where this is true; others are left.")
@click.option("--apply", "apply_", is_flag=True, help="fix: redrive them; without it, show what would pass.")
@click.option("--reason", help="discard, erase: why.")
@click.option("--all", "every", is_flag=True, help="discard, erase: all of the pipeline's.")
def dlq_(state: State, action: str, name: str | None, **options: Any) -> None:
    """Show rows that could not be written, correct them, and write them: `list [PIPELINE]`, `show ID`, and more.

    `fix PIPELINE --set COLUMN=SQL` shows how many rows would pass the pipeline's steps with new values, which are
    expressions over the columns of the source, and which would still fail; with `--apply` it redrives them. `replay
    PIPELINE` redrives them as they are, after the step or the check was corrected. Each is written once, in order; one
    that fails again stays. `discard` and `erase` delete letters for a reason, which goes to the log with the counts.
    """
    if action in {"list", "show"}:
        _shown(state, action, name, options)
        return
    if name is None:
        raise UsageError("name the pipeline", where=f"penstock dlq {action}", hint="penstock dlq list --groups")
    from api.cli.redrives import fix, settle

    choice = choice_of(options)
    if action == "fix":
        fix(state, name, choice, options)
    else:
        settle(state, action, name, choice, options)


def _shown(state: State, action: str, name: str | None, options: dict[str, Any]) -> None:
    with (
        connected(state.settings, runs=False) as client,
        closing(connect(client.site.catalog_dsn, "penstock:dlq")) as session,
    ):
        if action == "list":
            how: dict[str, Any] = {"name": name, "state": options["state_"], "key": keys_of(options)}
            found: list[Any] = (groups if options["grouped"] else letters)(
                session, choice_of(options), options["limit"], **how
            )
            if name is not None and not found:
                client.store.pipeline(name)  # a name that is not known is an error
            if options["grouped"]:
                _groups(state, found)
            else:
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
        [(one.id[:8], one.name, one.split, one.row, one.step, one.reason, _values(one)) for one in found],
        empty="no dead letters",
    )
    state.output.data([asdict(one) for one in found])
    if found:
        state.output.hint(f"penstock dlq show {found[0].id[:8]}, or penstock dlq list --groups")


def _groups(state: State, found: list[LetterGroup]) -> None:
    state.output.table(
        ("group", "pipeline", "#letters", "step", "reason, such as"),
        [(one.group, one.name, one.count, one.step, one.reason) for one in found],
        empty="no dead letters",
    )
    state.output.data([asdict(one) for one in found])
    if found:
        first = found[0]
        state.output.hint(f'penstock dlq fix {quote(first.name)} --group {first.group} --set "COLUMN=SQL"')


def _show(state: State, found: KeptLetter) -> None:
    state.output.say(
        f"{found.name}, run {found.run}, split {found.split}, row {found.row}: {found.step}: {found.reason}"
    )
    if found.change is not None:
        state.output.say(_change(found.change, found.state))
    state.output.table(
        ("column", "value"), [(name, json.dumps(value)) for name, value in found.values.items()], empty=""
    )
    state.output.data(asdict(found))
    state.output.hint(f'penstock dlq fix {quote(found.name)} --group {found.group} --set "COLUMN=SQL"')


def _change(change: Mapping[str, Any], state: str) -> str:
    """Say which change of a row a letter is."""
    parts = [f"a change of a row: {change['op']}"]
    parts += [f"of key {', '.join(json.loads(change['key']))}"] if change.get("key") else []
    parts += [f"before, {', '.join(json.loads(change['was']))}"] if change.get("was") else []
    parts += [f"without the unchanged values of {', '.join(change['lacks'])}"] if change.get("lacks") else []
    parts += [f"up to {change['place']}"] if change.get("place") else []
    parts += ["a later one of its key is written"] if state == "overtaken" else []
    return "; ".join(parts)


def _values(found: KeptLetter) -> str:
    return clipped(json.dumps(found.values, ensure_ascii=False), VALUES_WIDTH)
