"""`penstock plan` of a set: its members, what would change in them, and what their runs would do."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Final

from agents.writers import Writers, goes_on
from api.cli.candidates import Candidates, entry
from api.cli.choice import object_matches
from api.cli.console import escape
from api.cli.main import State
from api.cli.set_survey import look_at
from api.client import Client
from catalog.overview import Overview
from dataflows.runs.listing import listed_objects, rule_of
from dataflows.runs.references import references
from penstock.errors import PenstockError
from penstock.models.moves import moved, name_is_taken, object_of, readers
from penstock.models.sets import FoundObject, Members, circle, in_circle, member_name

__all__ = ["SetPlan", "plan_set", "tell_set"]

SHOWN: Final = 50
"""Objects in the table for people, those that are new or change first; `--json` has all."""
ORDER: Final = ("changed", "new", "proposed", "ignored", "there")
LOOKED_AT: Final = 20
"""Last runs of a member that show if it was loaded."""
EARLY: Final = "a row that is written before the one that it refers to becomes a dead letter, until a run with --full"
NAMED: Final = 3
"""Objects by name in a note for people."""
KEYLESS: Final = {
    "replace": "without a primary key, so that each run reads it as a whole and replaces the target",
    "append": "without a primary key, so that rows are appended",
}


def plan_set(state: State, client: Client, chosen: Candidates, name: str, tables: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a set would make of its objects as they are now, and what the runs of its members would do.

    Members are looked at for a limited time; with `tables` those whose objects match, however long it takes.

    Raises:
        Refused: its source cannot be listed.
        Unavailable: its source or its sink does not answer.
    """
    document = chosen.pipelines[name]
    secrets, rule = Path(state.settings.secrets), rule_of(document, chosen.connections)
    listed = listed_objects(document, chosen.connections, secrets, lambda: None)
    objects = [FoundObject.parse(one.to_dict()) for one in listed]
    members = {one.name: one for one in chosen.applied.values() if one.member_of == name}
    before = chosen.applied.get(name)
    accepted = (before and client.store.pipeline(name).accepted) or ()
    is_changed = before is None or before.pipeline != document
    plan = SetPlan(
        client, rule, members, is_changed=is_changed, accepted=accepted, writers=Writers(chosen.as_state(), name)
    )
    for one in objects:
        plan.add(one)
    plan.order(references(rule, chosen.connections, secrets, objects, lambda: None) or {})
    wanted = (lambda one: object_matches(member_name(name, one), tables)) if tables else None
    looked_at, left = look_at(state, chosen, plan.documents(), wanted)
    plan.note(looked_at)
    more = {"looked_at": len(looked_at), "not_looked_at": [] if tables else left}
    return {"pipeline": name, **plan.result([one.object for one in objects]), **more}


@dataclass
class SetPlan:
    """What the next listing would do, as `agents.sets` decides it."""

    client: Client
    rule: Members
    members: Mapping[str, Overview]
    is_changed: bool
    """True if the set is new or its file differs, so that all its objects may become members."""
    accepted: Collection[str] = ()
    """Objects that may become members although they are new."""
    writers: Writers = field(default_factory=lambda: Writers({"connections": {}, "pipelines": {}}))
    """Who writes which table besides the members."""
    found: dict[str, list[Any]] = field(
        default_factory=lambda: {"members": [], "refused_objects": [], "without_key": [], "self_references": []}
    )
    _taken: dict[str, str] = field(default_factory=dict)
    _readers: dict[str, str] = field(default_factory=dict)
    """The member that reads each object: perhaps under another name than it had first."""
    _documents: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let the members keep their targets."""
        self._taken = {self.rule.identity(one.pipeline): name for name, one in self.members.items()}
        self._readers = readers({name: one.pipeline for name, one in self.members.items()})

    def add(self, one: FoundObject) -> None:
        """Plan the member of an object, unless it is disabled."""
        name = self.rule.named(one.object, self._readers)
        if not self.rule.selects(one.object):
            return
        if name in self.members and self.rule.is_taken(one.object, reads := object_of(self.members[name].pipeline)):
            self._refuse(one.object, name_is_taken(name, reads))
            return
        try:
            member = moved(self.rule.member(one, name.partition("/")[2]), one.object)
        except PenstockError as error:
            self._refuse(one.object, str(error))
            return
        target = member["spec"]["sink"]["object"]
        other = self._taken.setdefault(self.rule.identity(member), name)
        if other != name:
            self._refuse(one.object, f"{other} writes to {target!r} already")
            return
        applied = self.members.get(name)
        before = entry(applied.status, applied.pipeline) if applied is not None else None
        if not goes_on(before, member) and (found := self.writers.refused(name, member)) is not None:
            self._refuse(one.object, found[1])
            return
        self._free(name, member)
        write = member["spec"]["sink"].get("write", "append")
        changes = self._changes(name, member)
        planned = {"object": one.object, "target": target, "write": write, "member": self._word(name, changes)}
        self.found["members"].append(planned | ({"changes": changes} if changes else {}))
        # The applied one has what has repaired it since its set made it.
        self._documents[one.object] = member if changes or applied is None else applied.pipeline
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

    def documents(self) -> dict[str, Mapping[str, Any]]:
        """Return the pipelines of the members to look at, by object: those that change or are new first."""
        refused = {one["object"] for one in self.found["refused_objects"]}
        members = [one for one in self.found["members"] if one["member"] != "ignored" and one["object"] not in refused]
        members.sort(key=lambda one: ORDER.index(one["member"]))
        return {one["object"]: self._documents[one["object"]] for one in members}

    def note(self, looked_at: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what the run of each member would do, or why it would be refused."""
        for member in self.found["members"]:
            plan = looked_at.get(member["object"])
            if plan is not None and "refused" in plan:
                self._refuse(member["object"], plan["refused"])
            elif plan is not None:
                member |= {"rows": plan["estimated_rows"], "notes": [*plan["risks"], *plan["notes"]]}

    def _is_loaded(self, object_: str) -> bool:
        """True if one of the last runs of the member has completed."""
        name = self.rule.named(object_, self._readers)
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
        old = dict(_leaves(moved(made.pipeline, member["spec"]["source"]["object"])))
        new = dict(_leaves(member))
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
    waits = ("after",) if any("after" in member for member in members) else ()
    rows = [
        (
            *(member[name] for name in ("object", "target", "write", "member")),
            member.get("rows", ""),
            *(", ".join(member.get(name, ())) for name in waits),
        )
        for member in members[:SHOWN]
    ]
    state.output.table(("object", "target", "write", "member", "#rows", *waits), rows, empty="It selects nothing.")
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
    for line in _note_lines(one["members"]):
        say(f"{note} {escape(line)}")
    for name in one["self_references"]:
        say(f"{note} {escape(name)} refers to itself at the sink: {EARLY}")
    for name in one["excluded"]:
        say(f"{note} {escape(name)} is not selected any more: its member is stopped; its target stays")
    for name in one["vanished"]:
        then = "paused until it is back" if one["vanish"] == "pause" else "kept as it is"
        say(f"{note} {escape(name)} is gone at the source: its member is {then}")
    if any(member["member"] == "proposed" for member in one["members"]):
        say(f"{note} what is proposed waits: penstock approve {escape(quote(one['pipeline']))}")
    for item in one["refused_objects"]:
        say(f"  [red]refused:[/red] {escape(item['object'])}: {escape(item['reason'])}")
    for pattern in one["unmatched"]:
        say(f"{note} nothing matches {escape(pattern)}")
    _tell_left(state, one)


def _note_lines(members: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield each note on runs of members, once, with the objects that it is about."""
    notes: dict[str, list[str]] = {}
    for member in members:
        for text in member.get("notes", ()):
            notes.setdefault(text, []).append(member["object"])
    for text, names in notes.items():
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        yield f"{', '.join(names[:NAMED])}{more}: {text}"


def _tell_left(state: State, one: Mapping[str, Any]) -> None:
    """Say which members were not looked at."""
    if left := one["not_looked_at"]:
        words = f"penstock plan {quote(one['pipeline'])} --table PATTERN looks at some"
        about = f"the time was over after {one['looked_at']:,} members; {len(left):,} were not looked at"
        state.output.say(f"  [yellow]note:[/yellow] {about}, from {escape(left[0])} on: {escape(words)}")
