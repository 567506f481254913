"""Members of a set whose table has another name now: which they are, and when they follow.

The server keeps an identity for a table that is renamed, so this is known and not guessed. Names come first all the
same: while there is an object of the member's name, the member reads that one, as where a table is replaced by a copy
that is given its name. So what seems to be renamed is set aside until the last page, which knows all names.

A member that follows keeps its own name and its target. It is its first name under which the sink has its position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agents.limits import following_of
from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from penstock.ids import named_id
from penstock.models.moves import object_of, readers
from penstock.models.pipeline import Pipeline
from penstock.models.proposals import Proposal
from penstock.models.sets import member_name

__all__ = ["Outcome", "decided", "listed", "owners", "set_aside"]

Members = Mapping[str, dict[str, Any]]
"""The pipelines of a set's members, by name."""


def owners(members: Members) -> dict[str, str]:
    """Return the member of each identity, without those that are being deleted."""
    return {
        one["identity"]: name for name, one in members.items() if one.get("identity") and one["status"] != "deleting"
    }


def set_aside(members: Members, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects of a page that no member reads, and whose identity belongs to a member."""
    known = owners(members) if any("identity" in one for one in objects) else {}
    if not known:
        return []
    read = readers({name: one["versions"][-1] for name, one in members.items()})
    return [one for one in objects if one.get("identity") in known and one["object"] not in read]


def listed(state: State, payload: Mapping[str, Any]) -> State:
    """Return the state after ``set.listed``: the version that is listed, and identities of members' objects.

    An identity is that of one member: whichever read its object last.
    """
    found: dict[str, dict[str, Any]] = {payload["name"]: {"listed": payload["version"]}} if payload["last"] else {}
    identities: dict[str, str] = payload.get("identities") or {}
    if identities:
        prefix, taken = member_name(payload["name"], ""), {*identities.values()}
        others = {name: one for name, one in state["pipelines"].items() if name.startswith(prefix)}
        found |= {name: {"identity": None} for name, one in others.items() if one.get("identity") in taken}
        found |= {name: {"identity": one} for name, one in identities.items()}
    known = {name: {**state["pipelines"][name], **more} for name, more in found.items() if name in state["pipelines"]}
    return {**state, "pipelines": {**state["pipelines"], **known}} if known else state


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a member whose table has another name.

    It follows, it waits until somebody has approved that, or it stays, and the table is a new one.
    """

    what: Literal["follows", "waits", "stays"]
    proposed: tuple[Draft, ...] = ()
    pauses: bool = False
    held: str | None = None
    """The limit that keeps it from following."""


def decided(member: dict[str, Any], written: dict[str, Any], to: str, cause: Cause, policies: Policies) -> Outcome:
    """Return what a member does whose table is called `to` now; `written` is its pipeline by the set's file."""
    document = Pipeline.parse(written)
    name, rule = document.name, document.spec.schema_.tables
    proposal = Proposal(rule="tables", subject=object_of(member["versions"][-1]), to=to)
    id_ = named_id("change", member["uid"], proposal.key)
    status = member.get("proposals", {}).get(id_, {}).get("status")
    if rule == "ignore" or status == "denied" or document.spec.mode == "stream":
        return Outcome("stays")
    if policies.is_halted("evolution"):
        return Outcome("waits")
    labels = written["metadata"].get("labels", {})
    follows = rule == "apply" or (status is None and "tables" in policies.for_labels(labels).spec.evolution.approve)
    action, scope = following_of(name, written)
    limit = policies.held(action, scope, cause.used, cause.at) if follows else None
    if follows and limit is None:
        return Outcome("follows")
    if status == "open":
        return Outcome("waits", pauses=rule == "pause", held=limit)
    payload = {
        "id": id_,
        "name": name,
        "uid": member["uid"],
        "run": cause.payload["task"],
        "proposal": proposal.to_dict(),
    }
    return Outcome("waits", (Draft("change.proposed", name, payload),), rule == "pause", limit)
