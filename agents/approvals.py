"""Approvals: a change that waits for a person is bound to its plan, expires, and is void once what it is about changes.

All proposals of changes come through here, whoever made them: each gets its plan and a timer, and each decision that
changes a pipeline or a policy ends those that it makes stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from shlex import quote
from typing import Any, Final

from agents.policies import Policies
from agents.proposals import answer_of, applied, approval, open_proposals
from agents.protocol import Cause, Draft, State
from agents.repairs import Repair
from penstock.errors import NotFound, Refused, did_you_mean
from penstock.models.plans import differences, digest_of
from penstock.models.policy import Approvals
from penstock.models.proposals import Proposal
from penstock.records.commands import ChangeAnswer

__all__ = ["answer", "contradicted", "ended", "expired", "proposing", "settled"]

TIMER: Final = "change:"
"""Prefix of the timer of an approval; the id of the change and the hash of its plan follow."""
REMEMBERED: Final = 20
"""Proposals of a pipeline that are void or expired and still known by name."""


def settled(state: State, cause: Cause, policies: Policies, effects: Sequence[Draft]) -> tuple[Draft, ...]:
    """Return the effects of a decision with a plan for each change that they propose, and the end of each stale one."""
    if not {"change.proposed", "pipeline.updated", "policy.accepted"} & {draft.type for draft in effects}:
        return tuple(effects)
    done = {draft.payload["id"] for draft in effects if draft.type == "change.answered"}
    plans = {
        draft.payload["id"]: _plan_of(state["pipelines"][draft.payload["name"]], cause, draft.payload, policies)
        for draft in effects
        if draft.type == "change.proposed"
    }
    planned = [one for draft in effects for one in _planned(state, draft, plans, done)]
    last = [draft for draft in planned if draft.type == "command.applied"]
    return (*(draft for draft in planned if draft.type != "command.applied"), *_stale(state, effects, done), *last)


def _plan_of(one: Mapping[str, Any], cause: Cause, payload: Mapping[str, Any], policies: Policies) -> dict[str, Any]:
    expires = cause.at + _rules(one, policies).expire
    return _plan(one, Proposal.parse(payload["proposal"]), policies) | {"expires": expires.isoformat()}


def _planned(state: State, draft: Draft, plans: Mapping[str, dict[str, Any]], done: set[str]) -> Iterator[Draft]:
    payload = draft.payload
    if draft.type == "change.proposed":
        id_, plan = payload["id"], plans[payload["id"]]
        yield Draft(draft.type, draft.key, {**payload, "plan": plan})
        if id_ not in done:
            timer = f"{TIMER}{id_}:{plan['hash']}"
            yield Draft("timer.requested", timer, {"timer": timer, "due": plan["expires"], "subject": f"change {id_}"})
    elif draft.type == "change.answered" and payload["answer"] == "approved":
        known = open_proposals(state["pipelines"][payload["name"]]).get(payload["id"], {})
        found = plans.get(payload["id"]) or known.get("plan")
        yield Draft(draft.type, draft.key, {**payload, "plan": found["hash"]}) if found else draft
    else:
        yield draft


def _plan(one: Mapping[str, Any], proposal: Proposal, policies: Policies) -> dict[str, Any]:
    """Return what a change would do to a pipeline as it is now."""
    before = one["versions"][-1]
    try:
        after = applied(before, [proposal])
    except Refused:  # it has to be made by hand
        after = before
    hash_ = policies.judging(before["metadata"].get("labels", {}))[1]
    plan = {"version": len(one["versions"]), "policy": hash_}
    digest = digest_of(one["uid"], before, after, proposal.to_dict(), plan)
    return plan | {"hash": digest, "diff": list(differences(before, after))}


def _rules(one: Mapping[str, Any], policies: Policies) -> Approvals:
    policy = policies.for_labels(one["versions"][-1]["metadata"].get("labels", {}))
    return policy.spec.constraints.approvals or Approvals()


def answer(
    state: State, cause: Cause, command: ChangeAnswer, policies: Policies
) -> tuple[tuple[Draft, ...], dict[str, Any], str]:
    """Approve or deny changes; those approved make one version, which runs at once.

    Raises:
        NotFound: there is no such pipeline, or it has proposed no such change.
        Refused: it is being deleted, or is a member that is stopped; a change is void or expired, is not the one that
            was shown, or cannot be carried out by a version.
    """
    name, where = command.name, f"pipeline {command.name}"
    if name not in state["pipelines"]:
        hint = did_you_mean(name, state["pipelines"]) or "`penstock approvals` lists what is proposed"
        raise NotFound(f"there is no {where}", hint=hint)
    one = state["pipelines"][name]
    known = one.get("proposals", {})
    if missing := [id_ for id_ in command.ids if id_ not in known and id_ not in one.get("ended", {})]:
        hint = "`penstock approvals` lists what is proposed"
        raise NotFound(
            "has proposed no such change, or has completed without it", where=where, value=missing[0], hint=hint
        )
    if one["status"] == "deleting":
        raise Refused("is being deleted", where=where)
    _check(one, cause, command, policies)
    wanted = "approved" if command.approve else "denied"
    made = {id_: Proposal.parse(known[id_]["proposal"]) for id_ in command.ids if known[id_]["status"] != wanted}
    result = {"changed": len(made)}
    if not made:
        return (), result, f"{wanted} already"
    reason = f"{wanted}: {'; '.join(map(str, made.values()))}"
    if command.approve:
        return approval(name, one, made, cause.record.actor), result, reason
    return tuple(answer_of(name, one, id_, wanted, cause.record.actor) for id_ in made), result, reason


def _check(one: Mapping[str, Any], cause: Cause, command: ChangeAnswer, policies: Policies) -> None:
    """Refuse an answer to what is void or expired, and an approval of another plan than the one that was shown.

    Raises:
        Refused: as said.
    """
    again = f"`penstock run {quote(command.name)}` looks again, and proposes what is still needed"
    for id_ in command.ids:
        where = f"change {id_}"
        known = one.get("proposals", {}).get(id_)
        if known is None:
            over = one["ended"][id_]
            raise Refused(f"is {over['status']}: {over['reason']}", where=where, hint=again)
        plan = known.get("plan")
        if plan is None or known["status"] != "open" or not command.approve:
            continue
        if datetime.fromisoformat(plan["expires"]) <= cause.at:
            raise Refused(f"is expired: nobody answered until {plan['expires']}", where=where, hint=again)
        if (shown := (command.plans or {}).get(id_)) and shown != plan["hash"]:
            what, hint = "has another plan now than the one that was shown", "penstock approvals"
            raise Refused(what, where=where, value=shown[:12], hint=hint)
        if _plan(one, Proposal.parse(known["proposal"]), policies)["hash"] != plan["hash"]:
            what = (
                f"is void: it was proposed for version {plan['version']} of the pipeline, and the policy of that time"
            )
            raise Refused(what, where=where, hint=again)


def _stale(state: State, effects: Sequence[Draft], done: set[str]) -> Iterator[Draft]:
    """Yield the end of what is open for a pipeline that gets another version, or that another policy judges now."""
    for draft in effects:
        if draft.type == "pipeline.updated":
            reason = f"the pipeline has version {draft.payload['version']} now"
            yield from _ends(state, draft.payload["name"], reason, done)
        elif draft.type == "policy.accepted":
            after = Policies({**state["policies"], draft.payload["name"]: draft.payload["policy"]})
            for name in [name for name, one in _proposing(state) if _has_another_policy(one, after)]:
                yield from _ends(state, name, f"policy {draft.payload['name']!r} has changed", done)


def _proposing(state: State) -> list[tuple[str, dict[str, Any]]]:
    """Return the pipelines for which something is open."""
    return [(name, state["pipelines"][name]) for name in state.get("proposing", ())]


def proposing(state: State, name: str) -> State:
    """Return the state after a pipeline or its proposals have changed: ``proposing`` names those with open ones."""
    before = state.get("proposing", [])
    after = [one for one in before if one != name]
    after += [name] if open_proposals(state["pipelines"].get(name, {})) else []
    return state if after == before else {**state, "proposing": after}


def _has_another_policy(one: Mapping[str, Any], policies: Policies) -> bool:
    plans = [known["plan"] for known in open_proposals(one).values() if known.get("plan")]
    hash_ = policies.judging(one["versions"][-1]["metadata"].get("labels", {}))[1] if plans else None
    return any(plan["policy"] != hash_ for plan in plans)


def _ends(state: State, name: str, reason: str, done: set[str]) -> Iterator[Draft]:
    one = state["pipelines"].get(name, {})
    for id_ in open_proposals(one):
        if id_ not in done:
            done.add(id_)
            yield answer_of(name, one, id_, "void", reason=reason)


def expired(state: State, cause: Cause, policies: Policies) -> Repair | None:
    """Return the end of a change that nobody has answered in time; None for any other timer."""
    timer = cause.payload["timer"]
    if not timer.startswith(TIMER):
        return None
    id_, _, digest = timer.removeprefix(TIMER).partition(":")
    for name, one in _proposing(state):
        known = open_proposals(one).get(id_)
        if known and known.get("plan", {}).get("hash") == digest:
            denies = _rules(one, policies).then == "deny"
            answer, reason = "denied" if denies else "expired", f"nobody answered until {known['plan']['expires']}"
            return Repair((answer_of(name, one, id_, answer, reason=reason),), "expire", reason)
    return None


def contradicted(state: State, cause: Cause, _: Policies) -> Repair | None:
    """Return the end of what is open for pipelines whose source has a schema now that does not fit it."""
    dataset, names = cause.payload["dataset"], {field["name"] for field in cause.payload["schema"]["fields"]}
    found: list[Draft] = []
    for name, one in _proposing(state):
        source = one["versions"][-1]["spec"]["source"]
        if all(source.get(part) == dataset[part] for part in ("connection", "object")):
            plans = {id_: Proposal.parse(known["proposal"]) for id_, known in open_proposals(one).items()}
            wrong = {id_: _contradiction(plan, names) for id_, plan in plans.items()}
            found += [answer_of(name, one, id_, "void", reason=reason) for id_, reason in wrong.items() if reason]
    return Repair(tuple(found), "void", found[0].payload["reason"]) if found else None


def _contradiction(plan: Proposal, names: set[str]) -> str | None:
    """Return how the columns of a source contradict a change; None if they do not."""
    if plan.rule in {"renames", "lost"} and plan.subject in names:
        return f"the source has column {plan.subject!r} again"
    if plan.rule == "renames" and plan.to not in names:
        return f"the source has no column {plan.to!r} any more"
    return None


def ended(state: State, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the proposals of a pipeline that are void or expired, after ``change.answered``."""
    one = state["pipelines"].get(payload["name"], {})
    before = {id_: known for id_, known in one.get("ended", {}).items() if id_ != payload["id"]}
    if payload["answer"] not in {"void", "expired"}:
        return before
    reason = payload.get("reason") or "a run has completed without it"
    if payload["id"] not in one.get("proposals", {}):
        return before
    after = {**before, payload["id"]: {"status": payload["answer"], "reason": reason}}
    return dict(list(after.items())[-REMEMBERED:])
