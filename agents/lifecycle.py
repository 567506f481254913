"""The lifecycle agent: it answers commands about connections, pipelines (versions, status) and policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents.datasets import configure, configured
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.repairs import repaired
from penstock.errors import InvalidDocument, Issue, NotFound, Refused, UsageError, did_you_mean
from penstock.ids import named_id
from penstock.models.connection import parse_connection
from penstock.models.domain import AgentDecision
from penstock.models.pipeline import Pipeline
from penstock.models.policy import AgentPolicy
from penstock.records import UNREADABLE, Record
from penstock.records.commands import (
    CheckRecord,
    ConnectionDelete,
    ConnectionPut,
    PipelineApply,
    PipelineDelete,
    PipelineRollback,
    PipelineTransition,
    PolicyPublish,
)
from penstock.records.families import COMMANDS, body

__all__ = ["TRANSITIONS", "Lifecycle"]

TRANSITIONS: dict[str, dict[str, str]] = {
    "pause": {"active": "paused", "draining": "paused"},
    "resume": {"paused": "active", "stopped": "active"},
    "drain": {"active": "draining"},
    "stop": {"active": "stopped", "draining": "stopped", "paused": "stopped"},
    "delete": dict.fromkeys(("active", "draining", "paused", "stopped", "deleting"), "deleting"),
}
"""The status that each command leads to, by the current status; other transitions are refused."""

OTHER_AGENTS = {"run.start", "discovery.start"}
"""Commands that other agents answer."""


class Lifecycle:
    """Keeps which connections, pipelines and policies exist, in which version, and whether they may run.

    State: ``connections`` name -> {version, connection}; ``pipelines`` name -> {uid, status, versions: [pipeline …]};
    ``policies`` name -> policy: those accepted so far, a record or two ahead of those in force; ``datasets`` name ->
    the rule for its schemas.
    """

    name = "lifecycle"
    rules = 5

    def initial(self) -> State:
        """Return the empty state."""
        return {"connections": {}, "pipelines": {}, "policies": {}, "datasets": {}}

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """Carry out or refuse a command; finish a deletion or a drain when it is done; report what cannot be read."""
        if cause.record.kind == "command" and cause.type not in OTHER_AGENTS:
            return self._command(state, cause, policies)
        if cause.type == "task.closed":
            return self._cleaned_up(state, cause)
        if cause.type == "pipeline.drained":
            return self._drained(state, cause)
        if cause.type == "run.finished" and (found := repaired(state, cause)):
            effect, action, reason = found
            return Decision(self._why(action, effect.key, reason), (effect,), labels=_labels(state, cause))
        if cause.type == UNREADABLE:
            report = Draft("record.unreadable", cause.record.key, cause.payload)
            return Decision(self._why("report", f"offset {cause.offset}", cause.payload["reason"]), (report,))
        return None

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
        if ended["kind"] != "cleanup" or ended["status"] != "completed" or ended["pipeline"] not in state["pipelines"]:
            return None
        name = ended["pipeline"]
        why = self._why("delete", name, "its clean-up is done")
        deleted = {"name": name, "uid": state["pipelines"][name]["uid"]}
        return Decision(why, (Draft("pipeline.deleted", name, deleted),))

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


def _put_connection(state: State, cause: Cause, command: ConnectionPut, _: Policies) -> Effects:
    connection = parse_connection(command.name, command.connection).to_dict()
    before = state["connections"].get(command.name)
    if before is not None and before["connection"] == connection:
        return (), {"version": before["version"], "changed": False}, "it is as asked already"
    version = before["version"] + 1 if before else 1
    payload = {"name": command.name, "version": version, "connection": connection}
    change = Draft("connection.changed", command.name, payload)
    return (change,), {"version": version, "changed": True}, f"version {version}"


def _delete_connection(state: State, cause: Cause, command: ConnectionDelete, _: Policies) -> Effects:
    if command.name not in state["connections"]:
        raise _unknown("connection", command.name, state["connections"])
    users = [name for name, p in state["pipelines"].items() if command.name in _connections(p["versions"][-1])]
    if users:
        raise Refused(f"is used by {', '.join(users)}", where=f"connection {command.name}", hint="delete them first")
    return (Draft("connection.deleted", command.name, {"name": command.name}),), {}, "nothing uses it"


def _apply(state: State, cause: Cause, command: PipelineApply, _: Policies) -> Effects:
    pipeline = Pipeline.parse(command.pipeline)
    _check_connections(state, pipeline)
    before, written = state["pipelines"].get(pipeline.name), pipeline.to_dict()
    _expect(pipeline.name, before, command.expect)
    if before is None:
        uid = named_id("pipeline", pipeline.name, cause.offset)
        return _version(cause, "pipeline.created", pipeline.name, uid, 1, written)
    if before["status"] == "deleting":
        raise Refused("is being deleted", where=f"pipeline {pipeline.name}", hint="wait until it is gone, then apply")
    version = len(before["versions"])
    if before["versions"][-1] == written:
        return (), {"version": version, "changed": False}, "it is as asked already"
    return _version(cause, "pipeline.updated", pipeline.name, before["uid"], version + 1, written)


def _roll_back(state: State, cause: Cause, command: PipelineRollback, _: Policies) -> Effects:
    before = _pipeline(state, command.name)
    _expect(command.name, before, command.expect)
    if before["status"] == "deleting":
        raise Refused("is being deleted", where=f"pipeline {command.name}")
    versions = before["versions"]
    if command.to > len(versions):
        hint = f"`penstock versions {command.name}` lists 1 to {len(versions)}"
        raise NotFound(f"has no version {command.to}", where=f"pipeline {command.name}", hint=hint)
    target = versions[command.to - 1]
    if target == versions[-1]:
        return (), {"version": len(versions), "changed": False}, f"it equals version {command.to} already"
    _check_connections(state, Pipeline.parse(target))
    return _version(cause, "pipeline.updated", command.name, before["uid"], len(versions) + 1, target, of=command.to)


def _transition(state: State, cause: Cause, command: PipelineTransition | PipelineDelete, _: Policies) -> Effects:
    verb = cause.type.partition(".")[2]
    before = _pipeline(state, command.name)
    _expect(command.name, before, command.expect)
    status = TRANSITIONS[verb].get(before["status"])
    if status is None:
        allowed = " or ".join(TRANSITIONS[verb])
        raise Refused(f"cannot {verb}: it is {before['status']}, not {allowed}", where=f"pipeline {command.name}")
    payload = {"name": command.name, "uid": before["uid"], "before": before["status"], "status": status}
    if isinstance(command, PipelineDelete):
        payload["drop_table"] = command.drop_table
    change = Draft("pipeline.status_changed", command.name, payload)
    return (change,), {"status": status, "version": len(before["versions"])}, f"{before['status']} -> {status}"


def _publish(state: State, cause: Cause, command: PolicyPublish, _: Policies) -> Effects:
    policy = AgentPolicy.parse(command.policy)
    Policies(state["policies"]).check(policy)
    before = state["policies"].get(policy.name)
    if before is not None and AgentPolicy.parse(before).hash == policy.hash:
        return (), {"hash": policy.hash, "changed": False}, "it is in force already"
    payload = {"name": policy.name, "hash": policy.hash, "origin": command.origin, "policy": policy.to_dict()}
    accepted = Draft("policy.accepted", policy.name, payload)
    return (accepted,), {"hash": policy.hash, "changed": True}, "it is valid and ties with none"


def _checked(state: State, cause: Cause, command: CheckRecord, _: Policies) -> Effects:
    before = _pipeline(state, command.name)
    if before["uid"] != command.uid:
        what, hint = "is another one than the one that was compared", f"penstock check {command.name}"
        raise Refused(what, where=f"pipeline {command.name}", hint=hint)
    payload = command.to_dict() | {"by": cause.record.actor}
    reason = "both sides agree" if command.agree else "both sides differ"
    return (Draft("check.recorded", command.name, payload),), {"agree": command.agree}, reason


HANDLERS: dict[str, Handler] = {
    "connection.put": _put_connection,
    "connection.delete": _delete_connection,
    "dataset.configure": configure,
    "pipeline.apply": _apply,
    "pipeline.rollback": _roll_back,
    "pipeline.pause": _transition,
    "pipeline.resume": _transition,
    "pipeline.drain": _transition,
    "pipeline.stop": _transition,
    "pipeline.delete": _transition,
    "check.record": _checked,
    "policy.publish": _publish,
}


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
        raise _unknown("pipeline", name, state["pipelines"])
    found: dict[str, Any] = state["pipelines"][name]
    return found


def _unknown(kind: str, name: str, known: dict[str, Any]) -> NotFound:
    hint = did_you_mean(name, known) or (
        f"there are: {', '.join(sorted(known)[:10])}" if known else "there are none yet"
    )
    return NotFound(f"there is no {kind} {name!r}", hint=hint)


def _expect(name: str, before: dict[str, Any] | None, expect: int | None) -> None:
    version = len(before["versions"]) if before else 0
    if expect is not None and expect != version:
        hint = "look at the current version, then repeat with its number"
        raise Refused(f"is at version {version}, not {expect}", where=f"pipeline {name}", hint=hint)


def _check_connections(state: State, pipeline: Pipeline) -> None:
    issues = []
    for path, name in (("source", pipeline.spec.source.connection), ("sink", pipeline.spec.sink.connection)):
        if name not in state["connections"]:
            hint = did_you_mean(name, state["connections"]) or "apply connections.yaml first"
            issues.append(Issue(f"spec.{path}.connection", f"no connection {name!r}; {hint}"))
    if issues:
        raise InvalidDocument(issues, where=f"pipeline {pipeline.name}")


def _connections(pipeline: dict[str, Any]) -> set[str]:
    return {pipeline["spec"]["source"]["connection"], pipeline["spec"]["sink"]["connection"]}


def _subject(record: Record) -> str:
    return record.key or record.type


def _needs(cause: Cause) -> tuple[str, ...]:
    return ("drop_table",) if cause.payload.get("drop_table") else ()


def _labels(state: State, cause: Cause) -> tuple[tuple[str, str], ...]:
    name = cause.payload.get("name") or cause.payload.get("run", {}).get("pipeline")
    pipeline = state["pipelines"].get(name)
    labels = pipeline["versions"][-1]["metadata"].get("labels", {}) if pipeline else {}
    return tuple(sorted(labels.items()))


def _with(state: State, room: str, name: str, value: Any) -> State:
    return {**state, room: {**state[room], name: value}}


def _without(state: State, room: str, name: str) -> State:
    return {**state, room: {key: value for key, value in state[room].items() if key != name}}


def _versioned(state: State, payload: dict[str, Any]) -> State:
    before = state["pipelines"].get(payload["name"])
    base = before or {"uid": payload["uid"], "status": "active", "versions": []}
    return _with(state, "pipelines", payload["name"], {**base, "versions": [*base["versions"], payload["pipeline"]]})


CHANGES: dict[str, Callable[[State, dict[str, Any]], State]] = {
    "connection.changed": lambda s, p: _with(
        s, "connections", p["name"], {"version": p["version"], "connection": p["connection"]}
    ),
    "connection.deleted": lambda s, p: _without(s, "connections", p["name"]),
    "dataset.configured": configured,
    "pipeline.created": _versioned,
    "pipeline.updated": _versioned,
    "pipeline.status_changed": lambda s, p: (
        _with(s, "pipelines", p["name"], {**s["pipelines"][p["name"]], "status": p["status"]})
        if p["name"] in s["pipelines"]
        else s
    ),
    "pipeline.deleted": lambda s, p: _without(s, "pipelines", p["name"]),
    "policy.accepted": lambda s, p: _with(s, "policies", p["name"], p["policy"]),
}
