"""`penstock check`: do both sides of a pipeline agree?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from shlex import quote
from typing import Any

import click

from api.cli.choice import Choice
from api.cli.comparisons import asked, difference, wait_for_result
from api.cli.completion import pipeline_names, tables_option
from api.cli.console import ago, escape, plain
from api.cli.main import State, command
from api.client import Client, connected
from catalog.answers import Command
from catalog.differences import Differences
from penstock.errors import PenstockError, UsageError
from penstock.records.commands import CheckStart

SHOWN = 20


@command(name="check")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=pipeline_names)
@tables_option("Members of sets whose objects match.")
@click.option(
    "--since", metavar="TIME|DURATION", help="Only rows whose cursor is at or after this: a value, or 10m, 7d."
)
@click.option("--last", is_flag=True, help="Show what the last check has found; compare nothing.")
def check_(state: State, names: tuple[str, ...], tables: tuple[str, ...], since: str | None, *, last: bool) -> int:
    """Compare both sides of the pipelines NAME row by row, through their own mapping and filters; writes no row.

    Both sides are read once; rows that differ are looked at again. Rows that are new at the source since the last run
    are no difference. The result is recorded, and `penstock status` shows it. Of a set, each member is compared, one
    after the other. Exit code 1 if the sides of one differ or cannot be compared.
    """
    if last and since is not None:
        raise UsageError("is for a comparison", where="--since", hint="leave out --last")
    choice = Choice(names, tables=tables, command="check", has_all=False)
    with connected(state.settings, worker=not last) as client:
        wanted = choice.members_among(client.overview())
        if last:
            found = [_shown(state, client, name) for name in wanted]
        else:
            answers = asked(state, client, "check.start", wanted, lambda name: CheckStart(name=name, since=since))
            alone = choice.single in wanted
            found = [_result(state, client, name, answers[name], alone=alone) for name in wanted]
    state.output.data(found[0] if choice.single in wanted else found)
    differ = [one["pipeline"] for one in found if one.get("agree") is False and not one.get("error")]
    state.output.hint(
        f"penstock run {quote(differ[0])} --full" if differ else f"penstock status {choice.words}".rstrip()
    )
    return 0 if all(one.get("agree") for one in found) else 1


def _shown(state: State, client: Client, name: str) -> dict[str, Any]:
    """Show the recorded result of the last check of a pipeline, and the keys that are kept of it."""
    one = client.store.pipeline(name)
    if one.checked is None:
        state.output.say(f"{escape(name)}: not checked yet")
        return {"pipeline": name}
    when = ago(datetime.fromisoformat(one.checked["at"]))
    verdict = difference(one.checked)
    state.output.say(
        f"{escape(name)}: checked {when}: " + (f"[red]{escape(verdict)}[/red]" if verdict else "both sides agree")
    )
    with closing(Differences(client.site.catalog_dsn)) as kept:
        found = kept.get(one.uid) if verdict and not one.checked.get("error") else None
    differences = found["differences"] if found else []
    _table(state, differences, one.checked, "key" if found is None or found.get("key") else "row")
    return {"pipeline": name, **one.checked, "differences": differences}


def _result(state: State, client: Client, name: str, answer: Command | PenstockError, *, alone: bool) -> dict[str, Any]:
    """Wait for the result of a check, and show it."""
    if (error := wait_for_result(state, client, name, answer, "not compared", alone=alone)) is not None:
        return {"pipeline": name, "refused": str(error)}
    one = client.store.pipeline(name)
    with closing(Differences(client.site.catalog_dsn)) as kept:
        found = kept.last(one.uid) or {"pipeline": name, **(one.checked or {})}
    _tell(state, found)
    return found


def _tell(state: State, found: Mapping[str, Any]) -> None:
    say = state.output.say
    rows = f"{found['source_rows']:,} rows of the source, {found['target_rows']:,} of the target"
    rows += f", since {found['since']}" if found.get("since") is not None else ""
    verdict = "[green]both sides agree[/green]" if found["agree"] else "[red]both sides differ[/red]"
    say(f"{escape(found['pipeline'])}: {verdict} ({escape(rows)})")
    if found.get("partly"):
        say("  so much differs, or is new, that only a part of it was looked at:")
    if found.get("not_compared"):
        say(f"  not compared, for the target has no such columns: {escape(', '.join(found['not_compared']))}")
    for kind, text in (
        ("missing", "missing in the target"), ("extra", "only in the target"), ("changed", "with other values"),
        ("in_flight", "changed since, which the next run brings"), ("refused", "refused by the steps"),
    ):  # fmt: skip
        if count := found.get(kind):
            say(f"  {count:,} {text}")
    _table(state, found.get("differences") or (), found, "key" if found.get("key") else "row")


def _table(state: State, differences: Sequence[Mapping[str, Any]], found: Mapping[str, Any], by: str) -> None:
    """Show the first differences, and how many more were `found`."""
    shown = [(one["kind"], _key(one["key"]), ", ".join(one["columns"])) for one in differences[:SHOWN]]
    if shown:
        state.output.table(("what", by, "columns"), shown, empty="")
        more = sum(found.get(kind) or 0 for kind in ("missing", "extra", "changed")) - len(shown)
        if more > 0:
            state.output.say(f"  and {more:,} more")


def _key(key: dict[str, Any]) -> str:
    return ", ".join(f"{name}={'NULL' if value is None else plain(value)}" for name, value in key.items())
