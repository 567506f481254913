"""Members of sets, as the lifecycle agent makes and changes them from what a listing found.

Each page of a listing is one decision. A member changes only if its pipeline differs, so that a changed set leaves the
rest alone. What is gone, or not selected any more, is known with the last page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from shlex import quote
from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from penstock.errors import Issue, NotFound, PenstockError, Refused, did_you_mean
from penstock.ids import named_id
from penstock.models.pipeline import Pipeline
from penstock.models.sets import FoundObject, Members, is_member, member_name, placeholder_issue
from penstock.records.commands import SetAccept

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
    seen = [*(before["seen"] if page["page"] and before else ()), *(one["object"] for one in page["objects"])]
    listing = {"task": page["task"], "next": page["page"] + 1, "seen": seen}
    return {**state, "listings": {**state["listings"], name: listing}}


def listed_page(state: State, cause: Cause) -> tuple[tuple[Draft, ...], str] | None:
    """Return the records that a page of objects leads to, and the reason; None if the page is not the set's any more.

    `set.listed` comes last.
    """
    page = cause.payload
    one, before = state["pipelines"].get(page["name"]), state["listings"].get(page["name"])
    if one is None or (one["uid"], len(one["versions"])) != (page["uid"], page["version"]):
        return None
    if one["status"] in {"deleting", "stopped"} or not is_set(one["versions"][-1]):
        return None
    if page["page"] > 0 and (before is None or (before["task"], before["next"]) != (page["task"], page["page"])):
        return None
    return _Listing(state, cause, one).page(before["seen"] if page["page"] and before else [])


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

    def __init__(self, state: State, cause: Cause, one: dict[str, Any]) -> None:
        document = one["versions"][-1]
        self._name, self._cause, self._set = cause.payload["name"], cause, one
        self._rule = Members(document, _type(state, document, "sink"), _type(state, document, "source"))
        self._members = {name: state["pipelines"][name] for name in members_of(state, self._name)}
        self._is_first = one.get("listed") != len(one["versions"])
        self._effects: list[Draft] = []
        self._listed: dict[str, list[Any]] = {"members": [], "refused": [], "proposed": [], "vanished": []}

    def page(self, seen: list[str]) -> tuple[tuple[Draft, ...], str]:
        page = self._cause.payload
        taken = {self._rule.identity(one["versions"][-1]): name for name, one in self._members.items()}
        for item in page["objects"]:
            self._object(FoundObject.parse(item), taken)
        more: dict[str, Any] = {}
        if page["last"]:
            objects = {*seen, *(item["object"] for item in page["objects"])}
            self._gone(objects)
            more = {"unmatched": self._rule.unmatched(objects)}
        head = {name: page[name] for name in ("name", "uid", "version", "task", "page", "last")}
        listed = head | {key: value for key, value in (self._listed | more).items() if value}
        listed |= {"after": self._after(page["after"])} if page.get("after") is not None else {}
        changes = len(self._effects)
        self._effects.append(Draft("set.listed", self._name, listed))
        reason = f"{len(page['objects'])} objects, {changes} changes, {len(self._listed['refused'])} refused"
        return tuple(self._effects), reason

    def _object(self, item: FoundObject, taken: dict[str, str]) -> None:
        """Make or change the member of an object, unless it is disabled or cannot be one."""
        name = member_name(self._name, item.object)
        before = self._members.get(name)
        if not self._rule.selects(item.object):
            return
        if before is None and not self._may_appear(item.object):
            if self._appear == "propose":
                self._listed["proposed"].append(item.object)
            return
        try:
            written = self._rule.member(item)
        except PenstockError as error:
            self._refuse(item.object, str(error))
            return
        other = taken.setdefault(self._rule.identity(written), name)
        if other != name:
            target = written["spec"]["sink"]["object"]
            self._refuse(item.object, f"{other} writes to {target!r} already; give one of them a target by `tables`")
            return
        if before is not None and (old := self._rule.identity(before["versions"][-1])) != self._rule.identity(written):
            taken.pop(old, None)
        if before is None:
            uid = named_id("pipeline", name, self._cause.offset)
            self._version("pipeline.created", name, uid, 1, written)
        elif _made(before) != written and before["status"] != "deleting":
            self._version("pipeline.updated", name, before["uid"], len(before["versions"]) + 1, written)
        if before is not None and before.get("because"):
            self._status(name, before, "active", None)
        self._listed["members"].append(name)

    def _after(self, references: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return the members whose first loads come before that of each member of the page."""
        listed = {*self._listed["members"]}
        found = {
            member_name(self._name, one): [member_name(self._name, other) for other in others if other != one]
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

    def _gone(self, objects: set[str]) -> None:
        """Stop members that are not selected any more, and pause those whose object is gone, if the set says so."""
        for name, one in self._members.items():
            object_ = one["versions"][-1]["spec"]["source"]["object"]
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
