"""`penstock plan` of a set: its members and what would change in them, from names and keys at the source."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from api.cli.candidates import Candidates
from api.cli.console import escape
from api.cli.main import State
from api.client import Client
from catalog.overview import Overview
from dataflows.runs.listing import listed_objects, rule_of
from dataflows.runs.references import references
from penstock.errors import PenstockError
from penstock.models.sets import FoundObject, Members, circle, in_circle, member_name

__all__ = ["plan_set", "tell_set"]

SHOWN: Final = 50
"""Objects in the table for people, those that are new or change first; `--json` has all."""
ORDER: Final = ("changed", "new", "proposed", "ignored", "there")
LOOKED_AT: Final = 20
"""Last runs of a member that show if it was loaded."""
EARLY: Final = "a row that is written before the one that it refers to becomes a dead letter, until a run with --full"
KEYLESS: Final = {
    "replace": "without a primary key, so that each run reads it as a whole and replaces the target",
    "append": "without a primary key, so that rows are appended",
}


def plan_set(state: State, client: Client, chosen: Candidates, name: str) -> dict[str, Any]:
    """Return what a set would make of its objects as they are now.

    Raises:
        Refused: its source cannot be listed.
        Unavailable: its source does not answer.
    """
    document = chosen.pipelines[name]
    secrets, rule = Path(state.settings.secrets), rule_of(document, chosen.connections)
    listed = listed_objects(document, chosen.connections, secrets, lambda: None)
    objects = [FoundObject.parse(one.to_dict()) for one in listed]
    members = {one.name: one for one in chosen.applied.values() if one.member_of == name}
    before = chosen.applied.get(name)
    accepted = (before and client.store.pipeline(name).accepted) or ()
    is_changed = before is None or before.pipeline != document
    plan = _Plan(client, rule, members, is_changed=is_changed, accepted=accepted)
    for one in objects:
        plan.add(one)
    plan.order(references(rule, chosen.connections, secrets, objects, lambda: None) or {})
    return {"pipeline": name, **plan.result([one.object for one in objects])}


@dataclass
class _Plan:
    """What the next listing would do, as `agents.sets` decides it."""

    client: Client
    rule: Members
    members: Mapping[str, Overview]
    is_changed: bool
    """True if the set is new or its file differs, so that all its objects may become members."""
    accepted: Collection[str] = ()
    """Objects that may become members although they are new."""
    found: dict[str, list[Any]] = field(
        default_factory=lambda: {"members": [], "refused_objects": [], "without_key": [], "self_references": []}
    )
    _taken: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let the members keep their targets."""
        self._taken = {self.rule.identity(one.pipeline): name for name, one in self.members.items()}

    def add(self, one: FoundObject) -> None:
        """Plan the member of an object, unless it is disabled."""
        name = member_name(self.rule.name, one.object)
        if not self.rule.selects(one.object):
            return
        try:
            member = self.rule.member(one)
        except PenstockError as error:
            self._refuse(one.object, str(error))
            return
        target = member["spec"]["sink"]["object"]
        other = self._taken.setdefault(self.rule.identity(member), name)
        if other != name:
            self._refuse(one.object, f"{other} writes to {target!r} already")
            return
        self._free(name, member)
        write = member["spec"]["sink"].get("write", "append")
        changes = self._changes(name, member)
        planned = {"object": one.object, "target": target, "write": write, "member": self._word(name, changes)}
        self.found["members"].append(planned | ({"changes": changes} if changes else {}))
        if not one.key and "key" not in member["spec"]["sink"]:
            self.found["without_key"].append(one.object)

    def order(self, before: Mapping[str, Sequence[str]]) -> None:
        """Plan which first loads come after which, by the references between the targets.

        What was loaded does not wait, and is not waited for.
        """
        named = {*before, *(other for others in before.values() for other in others)}
        members = {one["object"]: one for one in self.found["members"] if one["object"] in named}
        loads = {name: one for name, one in members.items() if not self._is_loaded(name)}
        waits = {one: [other for other in before.get(one, ()) if other in loads] for one in loads}
        for one, member in loads.items():
            if after := [other for other in waits[one] if other != one]:
                member["after"] = after
            self.found["self_references"] += [one] if one in waits[one] else []
            if found := circle(lambda name: [other for other in waits[name] if other != name], one):
                self._refuse(one, in_circle(found))

    def _is_loaded(self, object_: str) -> bool:
        """True if one of the last runs of the member has completed."""
        name = member_name(self.rule.name, object_)
        runs = self.client.store.runs(pipeline=name, limit=LOOKED_AT).items if name in self.members else ()
        return any(one.status == "completed" for one in runs)

    def _free(self, name: str, member: Mapping[str, Any]) -> None:
        """Let others have the target that a member leaves."""
        before = self.members.get(name)
        if before is not None and (old := self.rule.identity(before.pipeline)) != self.rule.identity(member):
            self._taken.pop(old, None)

    def _refuse(self, object_: str, reason: str) -> None:
        self.found["refused_objects"].append({"object": object_, "reason": reason})

    def _word(self, name: str, changes: list[dict[str, Any]]) -> str:
        if name in self.members:
            return "changed" if changes else "there"
        if self.is_changed:
            return "new"
        if name.partition("/")[2] in self.accepted:
            return "new"
        appear = self.rule.document["spec"].get("appear", "apply")
        return {"apply": "new", "propose": "proposed", "ignore": "ignored"}[appear]

    def _changes(self, name: str, member: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return how the member's pipeline differs; what has repaired it since its set made it is no difference."""
        before = self.members.get(name)
        if before is None or before.pipeline == member:
            return []
        versions = self.client.store.pipeline_versions(name)
        made = next((one for one in reversed(versions) if not one.actor.startswith("agent:")), versions[0])
        old, new = dict(_leaves(made.pipeline)), dict(_leaves(member))
        paths = [path for path in dict.fromkeys((*old, *new)) if old.get(path) != new.get(path)]
        return [{"path": path, "before": old.get(path), "after": new.get(path)} for path in paths]

    def result(self, objects: list[str]) -> dict[str, Any]:
        """Return the plan, after the last object."""
        objects_of = {one.pipeline["spec"]["source"]["object"]: one.status for one in self.members.values()}
        there = {name for name, status in objects_of.items() if status != "deleting"}
        excluded = sorted(name for name in there if not self.rule.selects(name) and objects_of[name] != "stopped")
        vanished = sorted(name for name in there - {*objects} if self.rule.selects(name))
        more = {"vanish": self.rule.document["spec"].get("vanish", "keep"), "unmatched": self.rule.unmatched(objects)}
        return {**self.found, "excluded": excluded, "vanished": vanished, **more}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a document with their paths."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}".lstrip("."))
    else:
        yield path, value


def tell_set(state: State, one: dict[str, Any]) -> None:
    """Print what a set would make."""
    say = state.output.say
    members = sorted(one["members"], key=lambda member: ORDER.index(member["member"]))
    counts = [(word, sum(member["member"] == word for member in members)) for word in ORDER[:-1]]
    rest = {"excluded": "excluded", "gone": "vanished", "refused": "refused_objects"}
    counts += [(word, len(one[key])) for word, key in rest.items()]
    parts = [f"{len(members)} objects", *(f"{count} {word}" for word, count in counts if count)]
    say(f"[bold]{escape(one['pipeline'])}[/bold]: a set of {', '.join(parts)}")
    columns = [
        "object",
        "target",
        "write",
        "member",
        *(["after"] if any("after" in member for member in members) else []),
    ]
    rows = [[member.get(name, "") for name in columns] for member in members[:SHOWN]]
    rows = [[", ".join(cell) if isinstance(cell, list) else cell for cell in row] for row in rows]
    state.output.table(columns, rows, empty="It selects nothing.")
    if len(members) > SHOWN:
        say(f"and {len(members) - SHOWN:,} more; --json shows all")
    for member in members[:SHOWN]:
        for change in member.get("changes", ()):
            before, after = (json.dumps(change[end], ensure_ascii=False) for end in ("before", "after"))
            say(f"  {escape(member['object'])}: {escape(change['path'])}: {escape(before)} -> {escape(after)}")
    _tell_rest(state, one)


def _tell_rest(state: State, one: dict[str, Any]) -> None:
    say, note = state.output.say, "  [yellow]note:[/yellow]"
    writes = {member["object"]: member["write"] for member in one["members"]}
    for write, why in KEYLESS.items():
        if names := [name for name in one["without_key"] if writes[name] == write]:
            say(f"{note} {why}: {escape(', '.join(names))}")
    for name in one["self_references"]:
        say(f"{note} {escape(name)} refers to itself at the sink: {EARLY}")
    for name in one["excluded"]:
        say(f"{note} {escape(name)} is not selected any more: its member is stopped; its target stays")
    for name in one["vanished"]:
        then = "paused until it is back" if one["vanish"] == "pause" else "kept as it is"
        say(f"{note} {escape(name)} is gone at the source: its member is {then}")
    if any(member["member"] == "proposed" for member in one["members"]):
        say(f"{note} what is proposed waits: penstock approve {escape(one['pipeline'])}")
    for item in one["refused_objects"]:
        say(f"  [red]refused:[/red] {escape(item['object'])}: {escape(item['reason'])}")
    for pattern in one["unmatched"]:
        say(f"{note} nothing matches {escape(pattern)}")
