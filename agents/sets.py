"""Members of sets, as the lifecycle agent makes and changes them from what a listing found.

Each page of a listing is one decision. A member changes only if its pipeline differs, so that a changed set leaves the
rest alone. What is gone, or not selected any more, is known with the last page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from shlex import quote
from typing import Any

from agents.limits import following_of
from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.set_renames import Outcome, decided, owners, set_aside
from agents.writers import Writers, goes_on
from penstock.errors import Issue, NotFound, PenstockError, Refused, did_you_mean
from penstock.ids import named_id
from penstock.models.moves import moved, name_is_taken, object_of, readers
from penstock.models.pipeline import Pipeline
from penstock.models.sets import FoundObject, Members, is_member, member_name, placeholder_issue
from penstock.records.commands import SetAccept
from penstock.records.sets import PAGE

__all__ = [
    "accept",
    "accepted",
    "is_set",
    "listed_page",
    "member_changes",
    "members_of",
    "noted",
    "placeholder_issues",
]


def is_set(document: dict[str, Any]) -> bool:
    """True if a pipeline file is that of a set."""
    return bool(document["spec"]["source"].get("objects"))


def members_of(state: State, name: str) -> list[str]:
    """Return the names of a set's members."""
    prefix = member_name(name, "")
    return [one for one in state["pipelines"] if one.startswith(prefix)]


def noted(state: State, page: dict[str, Any]) -> State:
    """Return the state after a page of objects: the names seen so far in this listing, in pages that follow up."""
    name, before = page["name"], state["listings"].get(page["name"])
    if page["page"] > 0 and (before is None or (before["task"], before["next"]) != (page["task"], page["page"])):
        return state
    if page["last"]:
        return {**state, "listings": {key: one for key, one in state["listings"].items() if key != name}}
    earlier = before if page["page"] and before else {"seen": []}
    seen = [*earlier["seen"], *(one["object"] for one in page["objects"])]
    listing = {"task": page["task"], "next": page["page"] + 1, "seen": seen}
    members = {one: state["pipelines"][one] for one in members_of(state, name)}
    if aside := [*earlier.get("aside", ()), *set_aside(members, page["objects"])]:
        listing["aside"] = aside
    return {**state, "listings": {**state["listings"], name: listing}}


def listed_page(state: State, cause: Cause, policies: Policies) -> tuple[tuple[Draft, ...], str, str | None] | None:
    """Return the records that a page of objects leads to, the reason, and the limit that held a member back.

    None if the page is not the set's any more. `set.listed` comes last.
    """
    page = cause.payload
    one, before = state["pipelines"].get(page["name"]), state["listings"].get(page["name"])
    if one is None or (one["uid"], len(one["versions"])) != (page["uid"], page["version"]):
        return None
    if one["status"] in {"deleting", "stopped"} or not is_set(one["versions"][-1]):
        return None
    if page["page"] > 0 and (before is None or (before["task"], before["next"]) != (page["task"], page["page"])):
        return None
    return _Listing(state, cause, one, policies).page(before if page["page"] and before else {"seen": []})


def accept(
    state: State, cause: Cause, command: SetAccept, _: Policies
) -> tuple[tuple[Draft, ...], dict[str, Any], str]:
    """Let objects become members of a set although they are new; they do with its next listing.

    Raises:
        NotFound: there is no such pipeline.
        Refused: it is not a set, or not active.
    """
    where, one = f"pipeline {command.name}", state["pipelines"].get(command.name)
    if one is None:
        raise NotFound(f"there is no {where}", hint=did_you_mean(command.name, state["pipelines"]) or "penstock list")
    if not is_set(one["versions"][-1]):
        hint = "only a set, whose source has `objects`, proposes any"
        raise Refused("is not a set: it has no objects to accept", where=where, hint=hint)
    if one["status"] != "active":
        raise Refused(
            f"is {one['status']}", where=where, hint=f"`penstock resume {quote(command.name)}`, then accept them"
        )
    new = sorted({*command.objects} - {*one.get("accepted", ())})
    payload = {"name": command.name, "uid": one["uid"], "objects": new, "by": cause.record.actor}
    effects = (Draft("objects.accepted", command.name, payload),) if new else ()
    return effects, {"changed": bool(new)}, f"{len(new)} objects may become members"


def accepted(state: State, payload: dict[str, Any]) -> list[str]:
    """Return all objects that may become members of a set although they are new, after ``objects.accepted``."""
    return sorted({*state["pipelines"].get(payload["name"], {}).get("accepted", ()), *payload["objects"]})


def placeholder_issues(state: State, pipeline: Pipeline) -> list[Issue]:
    """Return what in a set's template of targets has no meaning for its source."""
    source = state["connections"].get(pipeline.spec.source.connection, {}).get("connection", {}).get("type")
    issue = placeholder_issue(pipeline.spec.sink.object, source) if pipeline.spec.is_set else None
    return [Issue("spec.sink.object", issue)] if issue else []


class _Listing:
    """One page of a listing, against the members that are there."""

    def __init__(self, state: State, cause: Cause, one: dict[str, Any], policies: Policies) -> None:
        document = one["versions"][-1]
        self._name, self._cause, self._set, self._policies = cause.payload["name"], cause, one, policies
        self._rule = Members(document, _type(state, document, "sink"), _type(state, document, "source"))
        self._members = {name: state["pipelines"][name] for name in members_of(state, self._name)}
        self._readers = readers({name: one["versions"][-1] for name, one in self._members.items()})
        self._owners = owners(self._members)
        self._renamed: dict[str, str] = {}
        """Objects whose member does not read them yet, by member."""
        self._identities: dict[str, str] = {}
        self._is_first = one.get("listed") != len(one["versions"])
        self._held: str | None = None
        self._writers = Writers(state, self._name)
        self._effects: list[Draft] = []
        self._listed: dict[str, list[Any]] = {"members": [], "refused": [], "proposed": [], "vanished": []}

    def page(self, before: dict[str, Any]) -> tuple[tuple[Draft, ...], str, str | None]:
        """Return what a page leads to, as `listed_page`; `before` is what the pages before it have left."""
        page = self._cause.payload
        taken = {self._rule.identity(one["versions"][-1]): name for name, one in self._members.items()}
        aside = set_aside(self._members, page["objects"])
        for item in page["objects"]:
            if item not in aside:
                self._object(FoundObject.parse(item), taken)
        more: dict[str, Any] = {"renamed": self._renamed, "identities": self._identities}
        if page["last"]:
            objects = {*before["seen"], *(item["object"] for item in page["objects"])}
            for number, item in enumerate([*before.get("aside", ()), *aside]):
                self._set_aside(FoundObject.parse(item), objects, taken, is_late=number >= PAGE)
            self._gone(objects)
            more |= {"unmatched": self._rule.unmatched(objects)}
        head = {name: page[name] for name in ("name", "uid", "version", "task", "page", "last")}
        listed = head | {key: value for key, value in (self._listed | more).items() if value}
        listed |= {"after": self._after(page["after"])} if page.get("after") is not None else {}
        changes = len(self._effects)
        self._effects.append(Draft("set.listed", self._name, listed))
        reason = f"{len(page['objects'])} objects, {changes} changes, {len(self._listed['refused'])} refused"
        return tuple(self._effects), reason, self._held

    def _set_aside(self, item: FoundObject, objects: set[str], taken: dict[str, str], *, is_late: bool) -> None:
        """Let a member follow its table to another name, or wait; or let the object be a new one.

        Of many, the rest follows in the next listing. A page before this one may have found its member another object.
        """
        name = self._owners.get(str(item.identity), "")
        member = self._members.get(name)
        if member is None or _read(member) in objects or not self._rule.selects(item.object):
            self._object(item, taken)
            return
        if (written := self._written(item, name)) is None:
            return
        waits = Outcome("waits")
        found = waits if is_late else decided(member, written, item.object, self._cause, self._policies)
        if found.what != "waits":
            self._object(item, taken, name if found.what == "follows" else None)
            return
        self._held = self._held or found.held
        self._renamed[name] = item.object
        self._effects += found.proposed
        if found.pauses and member["status"] in {"active", "draining"}:
            self._status(name, member, "paused", "vanished")

    def _object(self, item: FoundObject, taken: dict[str, str], name: str | None = None) -> None:
        """Make or change the member of an object, unless it is disabled or cannot be one."""
        if not self._rule.selects(item.object):
            return
        member = name or self._rule.named(item.object, self._readers)
        before = self._members.get(member)
        if name is None and before is not None and self._rule.is_taken(item.object, reads := _read(before)):
            self._refuse(item.object, name_is_taken(member, reads))
            return
        if before is None and not self._may_appear(item.object):
            if self._appear == "propose":
                self._listed["proposed"].append(item.object)
            return
        if (written := self._written(item, member)) is None or not self._has_own_target(item, member, written, taken):
            return
        self._make(item, member, written)
        if item.identity is not None and (before or {}).get("identity") != item.identity:
            self._identities[member] = item.identity
        self._listed["members"].append(member)

    def _written(self, item: FoundObject, name: str) -> dict[str, Any] | None:
        """Return the pipeline of a member by the set's file; None if the object cannot be one."""
        try:
            return moved(self._rule.member(item, name.partition("/")[2]), item.object)
        except PenstockError as error:
            self._refuse(item.object, str(error))
            return None

    def _has_own_target(self, item: FoundObject, name: str, written: dict[str, Any], taken: dict[str, str]) -> bool:
        """True if no other member writes to its target; what it leaves, others may have."""
        other, before = taken.setdefault(self._rule.identity(written), name), self._members.get(name)
        if other != name:
            target = written["spec"]["sink"]["object"]
            self._refuse(item.object, f"{other} writes to {target!r} already; give one of them a target by `tables`")
            return False
        found = None if goes_on(before, written) else self._writers.refused(name, written)
        if found is not None:
            self._refuse(item.object, found[1])
            return False
        if before is not None and (old := self._rule.identity(before["versions"][-1])) != self._rule.identity(written):
            taken.pop(old, None)
        return True

    def _make(self, item: FoundObject, name: str, written: dict[str, Any]) -> None:
        """Make the member's next version, if it needs one, and let it be active again if its set has ended that."""
        before = self._members.get(name)
        if before is None:
            uid = named_id("pipeline", name, self._cause.offset)
            self._version("pipeline.created", name, uid, 1, written)
            return
        if before["status"] != "deleting":
            version = len(before["versions"]) + 1
            if _read(before) != item.object:
                self._follow(name, before, item.object)
                version += 1
            if moved(_made(before), item.object) != written:
                self._version("pipeline.updated", name, before["uid"], version, written)
        if before.get("because"):
            self._status(name, before, "active", None)

    def _after(self, references: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return the members whose first loads come before that of each member of the page."""
        listed, named, readers_ = {*self._listed["members"]}, self._rule.named, self._readers
        found = {
            named(one, readers_): [named(other, readers_) for other in others if other != one]
            for one, others in references.items()
        }
        return {one: others for one, others in found.items() if others and one in listed}

    def _may_appear(self, object_: str) -> bool:
        """True if an object that is no member yet may become one now."""
        return self._is_first or self._appear == "apply" or object_ in self._set.get("accepted", ())

    @property
    def _appear(self) -> str:
        return str(self._set["versions"][-1]["spec"].get("appear", "apply"))

    def _refuse(self, object_: str, reason: str) -> None:
        self._listed["refused"].append({"object": object_, "reason": reason[:500]})

    def _version(self, type_: str, name: str, uid: str, version: int, written: dict[str, Any]) -> None:
        payload = {"name": name, "uid": uid, "version": version, "pipeline": written, "by": f"set:{self._name}"}
        self._effects.append(Draft(type_, name, payload))

    def _follow(self, name: str, member: dict[str, Any], to: str) -> None:
        """Let a member read its table under another name, with all that has repaired it since its set made it."""
        payload = {"name": name, "uid": member["uid"], "version": len(member["versions"]) + 1, "follows": True}
        payload |= {"pipeline": moved(member["versions"][-1], to), "by": "agent:lifecycle"}
        self._effects.append(Draft("pipeline.updated", name, payload))
        used = self._cause.used.with_use(self._cause.at, *following_of(name, payload["pipeline"]))
        self._cause = replace(self._cause, used=used)

    def _gone(self, objects: set[str]) -> None:
        """Stop members that are not selected any more, and pause those whose object is gone, if the set says so."""
        here = {*self._renamed, *self._listed["members"]}
        for name, one in self._members.items():
            object_ = _read(one)
            if name in here:
                continue
            if not self._rule.selects(object_):
                if one["status"] in {"active", "draining", "paused"}:
                    self._status(name, one, "stopped", "excluded")
            elif object_ not in objects:
                self._listed["vanished"].append(object_)
                pauses = self._set["versions"][-1]["spec"].get("vanish") == "pause"
                if pauses and one["status"] in {"active", "draining"}:
                    self._status(name, one, "paused", "vanished")

    def _status(self, name: str, one: dict[str, Any], status: str, because: str | None) -> None:
        payload = {"name": name, "uid": one["uid"], "before": one["status"], "status": status}
        payload |= {"because": because} if because else {}
        self._effects.append(Draft("pipeline.status_changed", name, payload))


def _type(state: State, document: dict[str, Any], end: str) -> str:
    """Return the type of the connection at an end of a set."""
    connection = state["connections"].get(document["spec"][end]["connection"], {})
    return str(connection.get("connection", {}).get("type"))


def _read(member: dict[str, Any]) -> str:
    """Return the name of the object that a member reads."""
    return object_of(member["versions"][-1])


def _made(member: dict[str, Any]) -> dict[str, Any]:
    """Return a member's pipeline as its set made it last; what repaired it since, such as a renamed column, stays."""
    found: dict[str, Any] = member["versions"][-1 - member.get("repairs", 0)]
    return found


def member_changes(state: State, name: str, change: Callable[[str, dict[str, Any]], Draft | None]) -> Iterator[Draft]:
    """Yield what a command on a set asks of each member; none for a pipeline that is not a set."""
    for member in members_of(state, name) if not is_member(name) else ():
        draft = change(member, state["pipelines"][member])
        if draft is not None:
            yield draft
