"""Changes of schemas that runs propose: which are open, what an answer does, and what the policy answers by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from penstock.errors import InvalidDocument, Refused
from penstock.ids import named_id
from penstock.models.moves import moved
from penstock.models.pipeline import Pipeline
from penstock.models.proposals import Proposal
from penstock.models.sets import set_of

__all__ = [
    "answer_of",
    "answered",
    "applied",
    "approval",
    "approved_by",
    "following",
    "known_as",
    "proposals",
    "proposed",
    "voided",
    "with_value",
]


def proposals(state: State, name: str, run: str, found: Sequence[dict[str, Any]]) -> tuple[Draft, ...]:
    """Return those of the changes for a failed run that were not proposed before; what was denied stays denied.

    One that was approved, and is met again, is proposed again.
    """
    one = state["pipelines"][name]
    known, drafts = one.get("proposals", {}), []
    for item in found:
        proposal = Proposal.parse(item)
        id_ = named_id("change", one["uid"], proposal.key)
        if known.get(id_, {}).get("status") not in {"open", "denied"}:
            payload = {"id": id_, "name": name, "uid": one["uid"], "run": run}
            drafts.append(Draft("change.proposed", name, payload | {"proposal": proposal.to_dict()}))
    return tuple(drafts)


def approved_by(state: State, cause: Cause, found: tuple[Draft, ...], policies: Policies) -> tuple[Draft, ...]:
    """Return what follows if the policy approves all that a run has proposed; nothing if it leaves one to a person.

    A change that was approved before is left to a person: it has not helped.
    """
    name = cause.payload["run"]["pipeline"]
    one = state["pipelines"][name]
    labels = one["versions"][-1]["metadata"].get("labels", {})
    policy = policies.for_labels(labels)
    rules, known = policy.spec.evolution, one.get("proposals", {})
    made = {draft.payload["id"]: Proposal.parse(draft.payload["proposal"]) for draft in found}
    takes = all(
        each.rule in rules.approve and (each.confidence == 1 or each.confidence > rules.act_above) and id_ not in known
        for id_, each in made.items()
    )
    if not made or len(made) < len(cause.payload["error"]["proposed"]) or not takes:
        return ()
    try:
        return approval(name, one, made, f"policy:{policy.name}")
    except (InvalidDocument, Refused):
        return ()


def answer_of(
    name: str, one: Mapping[str, Any], id_: str, answer: str, by: str = "agent:lifecycle", reason: str | None = None
) -> Draft:
    """Return the answer to a change, or its end."""
    payload = {"id": id_, "name": name, "uid": one["uid"], "answer": answer, "by": by}
    return Draft("change.answered", name, payload | ({"reason": reason} if reason else {}))


def open_proposals(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return the proposals of a pipeline that wait for an answer, by their ids."""
    return {id_: known for id_, known in one.get("proposals", {}).items() if known["status"] == "open"}


def approval(name: str, one: dict[str, Any], made: dict[str, Proposal], by: str) -> tuple[Draft, ...]:
    """Approve changes: the pipeline gets a version with them, and then is active again if it was paused.

    Raises:
        Refused: a column has another name, and an expression of the mapping uses the old one; or it is a member that is
            stopped: the next listing would put the set's version in the place of this one.
    """
    if set_of(name) and one["status"] not in {"active", "paused"}:
        first = "wait until it is paused" if one["status"] == "draining" else f"penstock resume {quote(name)}"
        hint = f"{first}, then approve again"
        raise Refused(
            f"is {one['status']}: what is approved for it now would be lost", where=f"pipeline {name}", hint=hint
        )
    document = applied(one["versions"][-1], list(made.values()))
    Pipeline.parse(document)
    effects = [answer_of(name, one, id_, "approved", by) for id_ in made]
    version = {"name": name, "uid": one["uid"], "version": len(one["versions"]) + 1, "pipeline": document, "by": by}
    version |= {"again": True} if one["status"] in {"active", "paused"} else {}
    effects.append(Draft("pipeline.updated", name, version))
    if one["status"] == "paused":
        payload = {"name": name, "uid": one["uid"], "before": "paused", "status": "active"}
        effects.append(Draft("pipeline.status_changed", name, payload))
    return tuple(effects)


def applied(document: dict[str, Any], made: Sequence[Proposal]) -> dict[str, Any]:
    """Return the pipeline with changes that are approved.

    Raises:
        Refused: a column has another name, and an expression of the mapping uses the old one.
    """
    renamed = {one.subject: one.to for one in made if one.rule == "renames" and one.to}
    if renamed:
        followed = following(document, renamed)
        if followed == document:
            where = f"pipeline {document['metadata']['name']}"
            hint = "change the names in its file by hand, apply it, and `penstock deny` the proposal"
            raise Refused("an expression of its mapping uses the old name", where=where, hint=hint)
        document = followed
    for one in made:
        if one.rule == "tables" and one.to:
            document = moved(document, one.to)
        elif one.rule == "settings":
            document = {**document, "spec": with_value(document["spec"], one.subject.split("."), one.value)}
    if casts := {one.subject: one.to for one in made if one.rule == "casts" and one.to}:
        document = _casting(document, casts)
    if put := {one.subject: one.to for one in made if one.rule == "defaults" and one.to}:
        document = _putting(document, put)
    keys = [one.key for one in made if one.rule in {"additive", "types", "lost"}]
    if not keys:
        return document
    rules = document["spec"].get("schema", {})
    approved = list(dict.fromkeys([*rules.get("approved", ()), *keys]))
    return {**document, "spec": {**document["spec"], "schema": {**rules, "approved": approved}}}


def with_value(part: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return a part of a document with one value set, `path` below it."""
    name, *more = path
    inner = part.get(name)
    return {**part, name: with_value(inner if isinstance(inner, dict) else {}, more, value) if more else value}


def following(pipeline: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """Return a pipeline that reads renamed columns under their new names, and is otherwise the same.

    A first step gives them their old names back; a mapping names the new ones, if it has no expression over them.
    """
    spec = pipeline["spec"]
    fields = (spec.get("mapping") or {}).get("fields")
    if fields is not None:
        fields = [{**one, "from": renamed.get(one["from"], one["from"])} if "from" in one else one for one in fields]
        return {**pipeline, "spec": {**spec, "mapping": {**spec["mapping"], "fields": fields}}}
    steps = spec.get("transforms", [])
    step = {"name": _step_name(steps, "renamed"), "rename": {new: old for old, new in renamed.items()}}
    return {**pipeline, "spec": {**spec, "transforms": [step, *steps]}}


def _casting(pipeline: dict[str, Any], casts: dict[str, str]) -> dict[str, Any]:
    """Return a pipeline whose last step gives columns other types."""
    spec = pipeline["spec"]
    steps = spec.get("transforms", [])
    step = {"name": _step_name(steps, "cast"), "cast": casts}
    return {**pipeline, "spec": {**spec, "transforms": [*steps, step]}}


def _putting(pipeline: dict[str, Any], put: dict[str, str]) -> dict[str, Any]:
    """Return a pipeline that has expressions in the place of columns: in its mapping, or else in a first step."""
    spec = pipeline["spec"]
    fields = (spec.get("mapping") or {}).get("fields")
    if fields is not None:
        fields = [
            {"target": one["target"], "sql": put[one["from"]]} if one.get("from") in put else one for one in fields
        ]
        return {**pipeline, "spec": {**spec, "mapping": {**spec["mapping"], "fields": fields}}}
    steps = spec.get("transforms", [])
    step = {"name": _step_name(steps, "put"), "set": put}
    return {**pipeline, "spec": {**spec, "transforms": [step, *steps]}}


def _step_name(steps: list[dict[str, Any]], word: str) -> str:
    names = {step["name"] for step in steps}
    return next(f"{word}-{number}" for number in range(1, len(names) + 2) if f"{word}-{number}" not in names)


def known_as(before: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Return a file as it is applied: one that names a moved object as its pipeline does keeps the position, too."""
    old, new = before["spec"]["source"], written["spec"]["source"]
    same = all(old.get(key) == new.get(key) for key in ("connection", "object"))
    if not same or "known_as" in new or "known_as" not in old:
        return written
    source = {**new, "known_as": old["known_as"]}
    return {**written, "spec": {**written["spec"], "source": source}}


def voided(state: State, name: str) -> tuple[Draft, ...]:
    """Return the end of each open proposal of a pipeline, of which a run has completed without it."""
    one = state["pipelines"][name]
    return tuple(answer_of(name, one, id_, "void") for id_ in open_proposals(one))


def proposed(state: State, payload: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline's proposals after ``change.proposed``."""
    known = state["pipelines"].get(payload["name"], {}).get("proposals", {})
    return {**known, payload["id"]: {"proposal": payload["proposal"], "status": "open", "plan": payload.get("plan")}}


def answered(state: State, payload: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline's proposals after ``change.answered``; void and expired ones are dropped."""
    known: dict[str, Any] = state["pipelines"].get(payload["name"], {}).get("proposals", {})
    if payload["id"] not in known:
        return known
    left = {id_: one for id_, one in known.items() if id_ != payload["id"]}
    if payload["answer"] in {"void", "expired"}:
        return left
    return {**known, payload["id"]: {**known[payload["id"]], "status": payload["answer"]}}
