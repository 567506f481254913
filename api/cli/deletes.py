"""`penstock deletes`: mark or remove the target's rows whose key the source does not have any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from api.cli.choice import Choice
from api.cli.comparisons import asked, deletes_line, wait_for_result
from api.cli.completion import pipeline_names, tables_option
from api.cli.console import escape
from api.cli.main import State, command
from api.client import Client, connected
from catalog.answers import Command
from penstock.errors import PenstockError, UsageError
from penstock.records.commands import DeletesStart


@command(name="deletes")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=pipeline_names)
@tables_option("Members of sets whose objects match.")
@click.option("--limit", metavar="SHARE", help="Approve that up to this share of the keys is gone: 30%, or 0.3.")
def deletes_(state: State, names: tuple[str, ...], tables: tuple[str, ...], limit: str | None) -> int:
    """Find rows of the target whose key is gone from the source of the pipelines NAME; mark or remove them.

    A pipeline's file says which, by `deletes`. The result is recorded, and `penstock status` shows it. Of a set, the
    keys of each member are compared, but of those that are replaced. Exit code 1 if nothing could be compared, or more
    keys are gone than the limit allows.
    """
    choice = Choice(names, tables=tables, command="deletes", has_all=False)
    share = None if limit is None else _share(limit)
    with connected(state.settings, worker=True) as client:
        applied = client.overview()
        specs, wanted = {one.name: one.pipeline["spec"] for one in applied}, choice.members_among(applied)
        replaced = [name for name in wanted if _is_replaced(specs[name])]
        for name in replaced:
            state.output.say(f"{escape(name)}: has no need to: it is replaced")
        alone, wanted = choice.single in wanted, [name for name in wanted if name not in replaced]
        answers = asked(state, client, "deletes.start", wanted, lambda name: DeletesStart(name=name, limit=share))
        found: list[dict[str, Any]] = [{"pipeline": name, "replaced": True} for name in replaced]
        found += [_result(state, client, name, answers[name], alone=alone) for name in wanted]
    state.output.data(found[0] if alone else found)
    errors = [one["error"] for one in found if one.get("error")]
    hints = [error["hint"] for error in errors if error.get("hint")]
    state.output.hint(hints[0] if hints else f"penstock status {choice.words}".rstrip())
    return 1 if errors else 0


def _is_replaced(spec: Mapping[str, Any]) -> bool:
    """True if each run replaces the target: it has the rows of its source anyway."""
    return spec["sink"].get("write") == "replace" and not spec.get("deletes")


def _result(state: State, client: Client, name: str, answer: Command | PenstockError, *, alone: bool) -> dict[str, Any]:
    """Wait for the result of a comparison, and show it."""
    if (error := wait_for_result(state, client, name, answer, "nothing was changed", alone=alone)) is not None:
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
