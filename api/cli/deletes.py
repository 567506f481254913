"""`penstock deletes`: mark or remove the target's rows whose key the source does not have any more."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from api.cli.candidates import not_in_force
from api.cli.choice import Choice
from api.cli.completion import pipeline_names
from api.cli.console import ago, escape
from api.cli.main import State, command
from api.client import Client, connected
from catalog.answers import Command
from catalog.task_ends import wait_for
from penstock.errors import PenstockError, UsageError
from penstock.models.upkeep import REMOVE
from penstock.records.commands import DeletesStart

__all__ = ["deletes_line"]


@command(name="deletes")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=pipeline_names)
@click.option("--table", "tables", multiple=True, metavar="PATTERN", help="Members of sets whose objects match.")
@click.option("--limit", metavar="SHARE", help="Approve that up to this share of the keys is gone: 30%, or 0.3.")
def deletes_(state: State, names: tuple[str, ...], tables: tuple[str, ...], limit: str | None) -> int:
    """Find rows of the target whose key is gone from the source of the pipelines NAME; mark or remove them.

    A pipeline's file says which, by `deletes`. The result is recorded, and `penstock status` shows it. Of a set, the
    keys of each member are compared, but of those that are replaced. Exit code 1 if nothing could be compared, or more
    keys are gone than the limit allows.
    """
    choice, share = Choice(names, tables=tables, command="deletes"), None if limit is None else _share(limit)
    with connected(state.settings, worker=True) as client:
        applied = client.overview()
        specs, wanted = {one.name: one.pipeline["spec"] for one in applied}, choice.members_among(applied)
        replaced = [name for name in wanted if _is_replaced(specs[name])]
        for name in replaced:
            state.output.say(f"{escape(name)}: has no need to: it is replaced")
        alone, wanted = choice.single in wanted, [name for name in wanted if name not in replaced]
        asked: dict[str, Command | PenstockError] = {**not_in_force(state, client, wanted)} if wanted else {}
        payloads = {name: DeletesStart(name=name, limit=share).to_dict() for name in wanted if name not in asked}
        asked |= client.ask_each("deletes.start", payloads) if payloads else {}
        found: list[dict[str, Any]] = [{"pipeline": name, "replaced": True} for name in replaced]
        found += [_result(state, client, name, asked[name], alone=alone) for name in wanted]
    state.output.data(found[0] if alone else found)
    errors = [one["error"] for one in found if one.get("error")]
    hints = [error["hint"] for error in errors if error.get("hint")]
    state.output.hint(hints[0] if hints else f"penstock status {choice.words}".rstrip())
    return 1 if errors else 0


def _is_replaced(spec: Mapping[str, Any]) -> bool:
    """True if each run replaces the target: it has the rows of its source anyway."""
    return spec["sink"].get("write") == "replace" and not spec.get("deletes")


def _result(state: State, client: Client, name: str, answer: Command | PenstockError, *, alone: bool) -> dict[str, Any]:
    """Wait for the result of a comparison, and show it; an error of one holds up no other, unless it is `alone`."""
    try:
        if isinstance(answer, PenstockError):
            raise answer
        wait_for(client.site.catalog_dsn, str((answer.result or {})["task"]), f"pipeline {name}", client.look_after)
    except PenstockError as error:
        if alone:
            raise
        state.output.say(f"{escape(name)}: [red]nothing was changed:[/red] {escape(str(error))}")
        return {"pipeline": name, "error": {"code": error.code, "what": error.what, "hint": error.hint}}
    one = client.store.pipeline(name)
    result = dict(one.deletes or {})
    state.output.say(f"{escape(name)}: {deletes_line(result, one.pipeline)}")
    return {"pipeline": name, **result}


def _share(text: str) -> float:
    """Return a share of all. Raises UsageError."""
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise UsageError("is not a share of the keys", where="--limit", value=text, hint="write 30% or 0.3")
    return found


def deletes_line(deletes: Mapping[str, Any], pipeline: Mapping[str, Any]) -> str:
    """Return the line on the last comparison of keys: what was done to how many rows of the target."""
    when = f"keys compared {ago(datetime.fromisoformat(deletes['at']))}"
    found = deletes.get("found")
    if found is None:
        return (
            f"{when}: [red]nothing was changed: {escape((deletes.get('error') or {}).get('what', 'it failed'))}[/red]"
        )
    returned = f", {found['returned']:,} returned" if found.get("returned") else ""
    sides = f"{found['source_keys']:,} at the source, {found['target_keys']:,} in the target"
    mark = (pipeline["spec"].get("deletes") or {}).get("mark", REMOVE)
    done = "removed" if mark == REMOVE else f"marked in {escape(mark)}"
    return f"{when}: {found['removed']:,} {done}{returned} ({sides})"
