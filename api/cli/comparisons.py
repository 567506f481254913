"""Comparisons of both sides, for people: what the last ones have found; and the wait for those that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from api.cli.console import ago, escape
from api.cli.main import State
from catalog.overview import verdict
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from api.client import Client
    from catalog.answers import Command
    from penstock.models.base import Model

__all__ = ["asked", "deletes_line", "difference", "receipt_line", "wait_for_result"]


def asked(
    state: State, client: Client, type_: str, names: Sequence[str], payload: Callable[[str], Model]
) -> dict[str, Command | PenstockError]:
    """Ask workers to compare both sides of each pipeline that is applied as the files have it; return the answers."""
    from api.cli.candidates import not_in_force

    answers: dict[str, Command | PenstockError] = {**not_in_force(state, client, names)} if names else {}
    wanted = {name: payload(name).to_dict() for name in names if name not in answers}
    return answers | (client.ask_each(type_, wanted) if wanted else {})


def wait_for_result(
    state: State, client: Client, name: str, answer: Command | PenstockError, failed: str, *, alone: bool
) -> PenstockError | None:
    """Wait until a comparison is done; return the error of one that could not be, once it is shown after `failed`.

    Raises:
        PenstockError: that error, if the pipeline is the only one that was asked for: it holds up no other.
    """
    from catalog.task_ends import wait_for

    try:
        if isinstance(answer, PenstockError):
            raise answer
        wait_for(client.site.catalog_dsn, str((answer.result or {})["task"]), f"pipeline {name}", client.look_after)
    except PenstockError as error:
        if alone:
            raise
        state.output.say(f"{escape(name)}: [red]{failed}:[/red] {escape(str(error))}")
        return error
    return None


def difference(checked: Mapping[str, Any] | None, deletes: Mapping[str, Any] | None = None) -> str | None:
    """Return in words what a check has found, or why a comparison of keys has failed; None if all is well."""
    if checked is None or checked["agree"]:
        error = (deletes or {}).get("error")
        return error and f"deletes were not applied: {error['what']}"
    if error := checked.get("error"):
        return f"both sides could not be compared: {error['what']}"
    return verdict(checked)


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
    from penstock.models.upkeep import REMOVE

    mark = (pipeline["spec"].get("deletes") or {}).get("mark", REMOVE)
    done = "removed" if mark == REMOVE else f"marked in {escape(mark)}"
    return f"{when}: {found['removed']:,} {done}{returned} ({sides})"


def receipt_line(found: Mapping[str, Any]) -> str:
    """Return in words what became of dead letters."""
    if found.get("action") != "replay":
        return f"{found.get('deleted', 0):,} dead letters {'erased' if found.get('action') == 'erase' else 'discarded'}"
    passed = f", {found['overtaken']:,} dropped as later changes are written" if found.get("overtaken") else ""
    held = f"; {found['held_back']:,} others are to be read again by a run" if found.get("held_back") else ""
    counts = f"{found['written']:,} written, {found['filtered']:,} filtered, {found['refused']:,} refused again{passed}"
    return f"{found['chosen']:,} dead letters redriven: {counts}{held}"
