"""`penstock plan` of a set: the members that it would have, from names and keys at the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from api.cli.candidates import Candidates
from api.cli.console import escape
from api.cli.main import State
from dataflows.runs.listing import listed_objects
from penstock.errors import PenstockError
from penstock.models.connection import parse_connection
from penstock.models.sets import FoundObject, Members, member_name

__all__ = ["plan_set", "tell_set"]


def plan_set(state: State, chosen: Candidates, name: str) -> dict[str, Any]:
    """Return what a set would make of its objects as they are now.

    Raises:
        Refused: its source cannot be listed.
        Unavailable: its source does not answer.
    """
    document = chosen.pipelines[name]
    objects = listed_objects(document, chosen.connections, Path(state.settings.secrets), lambda: None)
    sink = document["spec"]["sink"]["connection"]
    rule = Members(document, parse_connection(sink, chosen.connections[sink]).type)
    taken: dict[str, str] = {}
    found: dict[str, Any] = {"pipeline": name, "members": [], "refused_objects": [], "without_key": []}
    for one in objects:
        if not rule.selects(one.name):
            continue
        try:
            member = rule.member(FoundObject.parse(one.to_dict()))
        except PenstockError as error:
            found["refused_objects"].append({"object": one.name, "reason": str(error)})
            continue
        target = member["spec"]["sink"]["object"]
        other = taken.setdefault(rule.identity(member), one.name)
        if other != one.name:
            reason = f"{other} writes to {target!r} already"
            found["refused_objects"].append({"object": one.name, "reason": reason})
            continue
        write = member["spec"]["sink"].get("write", "append")
        change = "new" if member_name(name, one.name) not in chosen.uids else "there"
        found["members"].append({"object": one.name, "target": target, "write": write, "member": change})
        if not one.key:
            found["without_key"].append(one.name)
    return found | {"unmatched": rule.unmatched([one.name for one in objects])}


def tell_set(state: State, one: dict[str, Any]) -> None:
    """Print what a set would make."""
    new = sum(member["member"] == "new" for member in one["members"])
    state.output.say(
        f"[bold]{escape(one['pipeline'])}[/bold]: a set of {len(one['members'])} members, {new} of them new"
    )
    rows = [(member["object"], member["target"], member["write"], member["member"]) for member in one["members"]]
    state.output.table(("object", "target", "write", "member"), rows, empty="It selects nothing.")
    if one["without_key"]:
        names = ", ".join(one["without_key"])
        state.output.say(f"  [yellow]note:[/yellow] without a primary key: {escape(names)}")
    for item in one["refused_objects"]:
        state.output.say(f"  [red]refused:[/red] {escape(item['object'])}: {escape(item['reason'])}")
    for pattern in one["unmatched"]:
        state.output.say(f"  [yellow]note:[/yellow] nothing matches {escape(pattern)}")
