"""The lifecycle agent: it answers commands about connections, pipelines (versions, status) and policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from shlex import quote
from typing import Any, Final

from agents.approvals import answer, contradicted, ended, expired, proposing, settled
from agents.connections import delete_connection, put_connection, unknown
from agents.datasets import configure, configured
from agents.dependencies import check_followers, issues_of_after
from agents.limits import scope_of
from agents.policies import Policies
from agents.proposals import answered, known_as, proposed
from agents.protocol import Cause, Decision, Draft, State
from agents.publishing import publish
from agents.repairs import Repair, ordered, repaired
from agents.rooms import put, without
from agents.set_renames import listed
from agents.sets import accept, accepted, is_set, listed_page, member_changes, members_of, noted, placeholder_issues
from agents.switches import SWITCHED, switch
from agents.writers import Writers, check_target
from penstock.errors import InvalidDocument, Issue, NotFound, Refused, UsageError, did_you_mean
from penstock.ids import named_id
from penstock.models.domain import AgentDecision
from penstock.models.pipeline import Pipeline
from penstock.models.receivers import RECEIVERS
from penstock.models.sets import check_written, is_member, set_of
from penstock.records import UNREADABLE, Record
from penstock.records.commands import (
    PipelineApply,
    PipelineDelete,
    PipelineRollback,
    PipelineTransition,
)
from penstock.records.families import COMMANDS, body

__all__ = ["Lifecycle"]

TRANSITIONS: dict[str, dict[str, str]] = {
    "pause": {"active": "paused", "draining": "paused"},
    "resume": {"paused": "active", "stopped": "active"},
    "drain": {"active": "draining"},
    "stop": {"active": "stopped", "draining": "stopped", "paused": "stopped"},
    "delete": dict.fromkeys(("active", "draining", "paused", "stopped", "deleting"), "deleting"),
}
"""The status that each command leads to, by the current status; other transitions are refused."""

OTHER_AGENTS = {
    "run.start", "run.trigger", "discovery.start", "check.start", "deletes.start", "letters.start", "alert.snooze",
    "alert.silence", "route.try",
}  # fmt: skip
"""Commands that other agents answer."""


class Lifecycle:
    """Keeps which connections, pipelines and policies exist, in which version, and whether they may run.

    State: ``connections`` name -> {version, connection}; ``pipelines`` name -> {uid, status, versions: [pipeline …]};
    ``policies`` name -> policy: those accepted so far; ``datasets`` name -> the rule for its schemas. A pipeline has
    ``repairs``, the number of its last versions that repair the one before them, ``proposals``, id -> {proposal,
    status, plan}, and ``ended``, those that are void or expired. A member has ``because`` if its set changed its
    status, and its table's ``identity``; a set has ``listed``, its last version whose objects are known, and
    ``accepted``, proposed ones. ``listings``: objects of a listing in progress, by set. ``halted``: agents that a
    person has halted. ``proposing``: pipelines for which a proposal is open.
    """

    name = "lifecycle"
    rules = 17

    def __init__(self) -> None:
        self._reactions: Mapping[str, Callable[[State, Cause], Decision | None]] = {
            "task.closed": self._cleaned_up,
            "pipeline.drained": self._drained,
            UNREADABLE: self._unreadable,
        }

    @property
    def concerns(self) -> frozenset[str]:
        """Types of the records that it looks at."""
        return CONCERNS

    def initial(self) -> State:
        """Return the empty state."""
        return {"connections": {}, "pipelines": {}, "policies": {}, "datasets": {}, "listings": {}}

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """Carry out or refuse a command; finish a deletion or a drain when it is done; report what cannot be read.

        Whatever it decides, changes that it proposes get a plan, and what it makes stale is void.
        """
        found = self._decided(state, cause, policies)
        return found and replace(found, effects=settled(state, cause, policies, found.effects))

    def _decided(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        if cause.record.kind == "command" and cause.type not in OTHER_AGENTS:
            return self._command(state, cause, policies)
        if cause.type == "objects.found":
            page = listed_page(state, cause, policies)
            if page is None:
                return None
            effects, reason, limit = page
            why = self._why("list", cause.payload["name"], reason).model_copy(update={"held": limit})
            return Decision(why, effects)
        if cause.type in REPAIRS:
            return self._repaired(state, REPAIRS[cause.type](state, cause, policies))
        reaction = self._reactions.get(cause.type)
        return reaction(state, cause) if reaction else None

    def _repaired(self, state: State, found: Repair | None) -> Decision | None:
        if found is None:
            return None
        name = found.effects[0].key
        why = self._why(found.action, name, found.reason).model_copy(update={"held": found.held})
        scope = scope_of(name, state["pipelines"][name]["versions"][-1])
        return Decision(why, found.effects, labels=tuple(sorted((scope.labels or {}).items())), scope=scope)

    def _unreadable(self, _: State, cause: Cause) -> Decision:
        report = Draft("record.unreadable", cause.record.key, cause.payload)
        return Decision(self._why("report", f"offset {cause.offset}", cause.payload["reason"]), (report,))

    def _command(self, state: State, cause: Cause, policies: Policies) -> Decision:
        if cause.type not in HANDLERS:
            hint = did_you_mean(cause.type, COMMANDS)
            raise UsageError("is not a command of this release", where=cause.type, hint=hint)
        effects, result, reason = HANDLERS[cause.type](state, cause, body(cause.record), policies)
        applied = Draft("command.applied", cause.record.id, {"command": cause.record.id, "result": result})
        why = self._why(cause.type.partition(".")[2], _subject(cause.record), reason)
        return Decision(
            why, (*effects, applied), needs=_needs(cause), labels=_labels(state, cause), asked=cause.record.id
        )

    def _cleaned_up(self, state: State, cause: Cause) -> Decision | None:
        ended = cause.payload
        if (
            ended["kind"] != "cleanup"
            or ended["status"] != "completed"
            or ended.get("pipeline") not in state["pipelines"]
        ):
            return None
        name = ended["pipeline"]
        deleted = [name]
        if (whole := set_of(name)) and state["pipelines"].get(whole, {}).get("status") == "deleting":
            deleted += [] if any(one != name and set_of(one) == whole for one in state["pipelines"]) else [whole]
        why = self._why("delete", name, "its clean-up is done")
        return Decision(why, tuple(_deleted(state, one) for one in deleted))

    def _drained(self, state: State, cause: Cause) -> Decision | None:
        name = cause.payload["name"]
        pipeline = state["pipelines"].get(name)
        if pipeline is None or (pipeline["uid"], pipeline["status"]) != (cause.payload["uid"], "draining"):
            return None
        payload = {"name": name, "uid": pipeline["uid"], "before": "draining", "status": "paused"}
        why = self._why("pause", name, "it has no run any more")
        return Decision(why, (Draft("pipeline.status_changed", name, payload),), labels=_labels(state, cause))

    def _why(self, action: str, subject: str, reason: str) -> AgentDecision:
        return AgentDecision(agent=self.name, rules=self.rules, action=action, subject=subject, reason=reason)

    def evolve(self, state: State, record: Record) -> State:
        """Return the state after `record`."""
        change = CHANGES.get(record.type)
        return change(state, record.payload) if change else state


Effects = tuple[tuple[Draft, ...], dict[str, Any], str]
Handler = Callable[[State, Cause, Any, Policies], Effects]


def _deleted(state: State, name: str) -> Draft:
    return Draft("pipeline.deleted", name, {"name": name, "uid": state["pipelines"][name]["uid"]})


def _apply(state: State, cause: Cause, command: PipelineApply, _: Policies) -> Effects:
    pipeline = Pipeline.parse(command.pipeline)
    check_written(pipeline)
    _check_connections(state, pipeline)
    before, written = state["pipelines"].get(pipeline.name), pipeline.to_dict()
    _expect(pipeline.name, before, command.expect)
    check_target(state, pipeline.name, written)
    if before is None:
        uid = named_id("pipeline", pipeline.name, cause.offset)
        return _version(cause, "pipeline.created", pipeline.name, uid, 1, written)
    if before["status"] == "deleting":
        raise Refused("is being deleted", where=f"pipeline {pipeline.name}", hint="wait until it is gone, then apply")
    if is_set(before["versions"][-1]) != pipeline.spec.is_set:
        kinds = ("a single pipeline", "a set") if pipeline.spec.is_set else ("a set", "a single pipeline")
        hint = f"give it another name, or `penstock delete {quote(pipeline.name)}` first"
        raise Refused(f"is {kinds[0]}, not {kinds[1]}", where=f"pipeline {pipeline.name}", hint=hint)
    version, written = len(before["versions"]), known_as(before["versions"][-1], written)
    if before["versions"][-1] == written:
        return (), {"version": version, "changed": False}, "it is as asked already"
    return _version(cause, "pipeline.updated", pipeline.name, before["uid"], version + 1, written)


def _roll_back(state: State, cause: Cause, command: PipelineRollback, _: Policies) -> Effects:
    before = _pipeline(state, command.name)
    _expect(command.name, before, command.expect)
    if whole := set_of(command.name):
        hint = f"`penstock rollback {quote(whole)} --to V`, or change `tables` in its file"
        raise Refused(f"is a member of {whole}, which makes its versions", where=f"pipeline {command.name}", hint=hint)
    if before["status"] == "deleting":
        raise Refused("is being deleted", where=f"pipeline {command.name}")
    versions = before["versions"]
    if command.to > len(versions):
        hint = f"`penstock versions {quote(command.name)}` lists 1 to {len(versions)}"
        raise NotFound(f"has no version {command.to}", where=f"pipeline {command.name}", hint=hint)
    target = versions[command.to - 1]
    if target == versions[-1]:
        return (), {"version": len(versions), "changed": False}, f"it equals version {command.to} already"
    _check_connections(state, Pipeline.parse(target))
    check_target(state, command.name, target)
    return _version(cause, "pipeline.updated", command.name, before["uid"], len(versions) + 1, target, of=command.to)


def _transition(state: State, cause: Cause, command: PipelineTransition | PipelineDelete, _: Policies) -> Effects:
    """Change the status of a pipeline; of a set also that of each member that this is possible for."""
    verb = cause.type.partition(".")[2]
    before = _pipeline(state, command.name)
    _expect(command.name, before, command.expect)
    status = TRANSITIONS[verb].get(before["status"])
    if status is None:
        allowed = " or ".join(TRANSITIONS[verb])
        raise Refused(f"cannot {verb}: it is {before['status']}, not {allowed}", where=f"pipeline {command.name}")
    if is_member(command.name):
        _check_member(state, command.name, before, verb)
    if writers := Writers(state) if verb == "resume" else None:
        check_target(state, command.name, before["versions"][-1], resumes=True, writers=writers)
    if verb == "delete":
        check_followers(state, command.name)
    more = {"drop_table": command.drop_table} if isinstance(command, PipelineDelete) else {}

    def change(name: str, one: dict[str, Any]) -> Draft | None:
        then = TRANSITIONS[verb].get(one["status"])
        stays = one["status"] == "stopped" and writers and writers.refused(name, one["versions"][-1])
        if then is None or stays or (verb == "resume" and one.get("because") == "excluded"):
            return None
        payload = {"name": name, "uid": one["uid"], "before": one["status"], "status": then}
        return Draft("pipeline.status_changed", name, payload | more)

    changes = [change(command.name, before), *member_changes(state, command.name, change)]
    effects = [draft for draft in changes if draft is not None]
    result = {"status": status, "version": len(before["versions"])}
    if is_set(before["versions"][-1]):
        result["members"] = len(effects) - 1
        if verb == "delete" and not members_of(state, command.name):
            effects.append(_deleted(state, command.name))
    return tuple(effects), result, f"{before['status']} -> {status}"


def _check_member(state: State, name: str, member: dict[str, Any], verb: str) -> None:
    """Refuse to resume a member that its set does not let run, and to delete one that would come back.

    Raises:
        Refused: as said.
    """
    whole = set_of(name) or ""
    if whole not in state["pipelines"]:
        return
    status = state["pipelines"][whole]["status"]
    if verb == "resume" and status != "active":
        hint = f"`penstock resume {quote(whole)}` makes it and its members active"
        raise Refused(f"cannot resume: its set {whole} is {status}", where=f"pipeline {name}", hint=hint)
    if verb == "resume" and member.get("because") == "excluded":
        hint = "select it in the set's file, by `objects`, `except` and `tables`, and apply that: it then continues"
        raise Refused(f"cannot resume: {whole} does not select it any more", where=f"pipeline {name}", hint=hint)
    if verb == "delete" and not member.get("because") and member["status"] != "deleting":
        object_ = member["versions"][-1]["spec"]["source"]["object"]
        hint = f"write {object_!r} in `except` of the set's file and apply it, then delete the member"
        raise Refused(f"is a member that {whole} selects: it would come back", where=f"pipeline {name}", hint=hint)


HANDLERS: dict[str, Handler] = {
    "connection.put": put_connection,
    "connection.delete": delete_connection,
    "dataset.configure": configure,
    "change.answer": answer,
    "pipeline.apply": _apply,
    "pipeline.rollback": _roll_back,
    "pipeline.pause": _transition,
    "pipeline.resume": _transition,
    "pipeline.drain": _transition,
    "pipeline.stop": _transition,
    "pipeline.delete": _transition,
    "set.accept": accept,
    "policy.publish": publish,
    **dict.fromkeys(("agent.halt", "agent.resume"), switch),
}


REPAIRS: dict[str, Callable[[State, Cause, Policies], Repair | None]] = {
    "run.finished": repaired,
    "strategy.chosen": ordered,
    "timer.fired": expired,
    "schema.observed": contradicted,
}
"""What changes a pipeline, or its proposals, though nobody asked for it."""


def _version(
    cause: Cause, type_: str, name: str, uid: str, version: int, pipeline: dict[str, Any], *, of: int | None = None
) -> Effects:
    by = cause.record.actor
    payload: dict[str, Any] = {"name": name, "uid": uid, "version": version, "pipeline": pipeline, "by": by}
    if of is not None:
        payload["rollback_of"] = of
    return (Draft(type_, name, payload),), {"version": version, "changed": True, "uid": uid}, f"version {version}"


def _pipeline(state: State, name: str) -> dict[str, Any]:
    if name not in state["pipelines"]:
        raise unknown("pipeline", name, state["pipelines"])
    found: dict[str, Any] = state["pipelines"][name]
    return found


def _expect(name: str, before: dict[str, Any] | None, expect: int | None) -> None:
    version = len(before["versions"]) if before else 0
    if expect is not None and expect != version:
        hint = "look at the current version, then repeat with its number"
        raise Refused(f"is at version {version}, not {expect}", where=f"pipeline {name}", hint=hint)


def _check_connections(state: State, pipeline: Pipeline) -> None:
    issues = []
    spec = pipeline.spec
    used = [("source.connection", spec.source.connection), ("sink.connection", spec.sink.connection)]
    for path, name in (*used, *(spec.triggers.connections if spec.triggers else ())):
        if name not in state["connections"]:
            hint = did_you_mean(name, state["connections"]) or "apply connections.yaml first"
            issues.append(Issue(f"spec.{path}", f"no connection {name!r}; {hint}"))
        elif state["connections"][name]["connection"].get("type") in RECEIVERS:
            issues.append(Issue(f"spec.{path}", f"connection {name!r} takes alerts only: it has no rows"))
    if issues := [*issues, *placeholder_issues(state, pipeline), *issues_of_after(state, pipeline)]:
        raise InvalidDocument(issues, where=f"pipeline {pipeline.name}")


def _subject(record: Record) -> str:
    return record.key or record.type


def _needs(cause: Cause) -> tuple[str, ...]:
    return ("drop_table",) if cause.payload.get("drop_table") else ()


def _labels(state: State, cause: Cause) -> tuple[tuple[str, str], ...]:
    pipeline = state["pipelines"].get(cause.payload.get("name"))
    labels = pipeline["versions"][-1]["metadata"].get("labels", {}) if pipeline else {}
    return tuple(sorted(labels.items()))


def _versioned(state: State, payload: dict[str, Any]) -> State:
    before = state["pipelines"].get(payload["name"])
    base = before or {"uid": payload["uid"], "status": "active", "versions": []}
    after = {**base, "versions": [*base["versions"], payload["pipeline"]]}
    repairs = after.pop("repairs", 0)
    after |= {"repairs": repairs + 1} if payload.get("again") or payload.get("follows") else {}
    return put(state, "pipelines", payload["name"], after)


def _changed(state: State, payload: dict[str, Any], **values: Any) -> State:
    """Set values of a pipeline that is there; None takes one away."""
    before = state["pipelines"].get(payload["name"])
    if before is None:
        return state
    after = {key: value for key, value in {**before, **values}.items() if value is not None}
    return put(state, "pipelines", payload["name"], after)


CHANGES: dict[str, Callable[[State, dict[str, Any]], State]] = {
    "connection.changed": lambda s, p: put(
        s, "connections", p["name"], {"version": p["version"], "connection": p["connection"]}
    ),
    "connection.deleted": lambda s, p: without(s, "connections", p["name"]),
    "dataset.configured": configured,
    "pipeline.created": _versioned,
    "pipeline.updated": _versioned,
    "pipeline.status_changed": lambda s, p: _changed(s, p, status=p["status"], because=p.get("because")),
    "change.proposed": lambda s, p: proposing(_changed(s, p, proposals=proposed(s, p)), p["name"]),
    "change.answered": lambda s, p: proposing(_changed(s, p, proposals=answered(s, p), ended=ended(s, p)), p["name"]),
    "pipeline.deleted": lambda s, p: proposing(without(s, "pipelines", p["name"]), p["name"]),
    "policy.accepted": lambda s, p: put(s, "policies", p["name"], p["policy"]),
    "objects.found": noted,
    "objects.accepted": lambda s, p: _changed(s, p, accepted=accepted(s, p)),
    "set.listed": listed,
} | SWITCHED

CONCERNS: Final = frozenset({*CHANGES, *REPAIRS, "objects.found", "task.closed", "pipeline.drained", UNREADABLE})
