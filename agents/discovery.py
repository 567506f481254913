"""The discovery agent: it decides when the objects of a connection are looked at, and which of them.

A worker looks, and reports what it finds as records; here nothing is measured. There is one discovery of a connection
at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.rooms import put, without
from agents.workload import DISCOVER
from penstock.errors import Conflict, NotFound, Refused, did_you_mean
from penstock.ids import named_id
from penstock.models.domain import AgentDecision
from penstock.models.policy import DiscoveryPolicy
from penstock.models.receivers import RECEIVERS
from penstock.models.scope import Scope
from penstock.records import Record
from penstock.records.commands import DiscoveryStart
from penstock.records.families import body

__all__ = ["DataDiscoveryAgent", "is_scheduled"]

TIMER: Final = "discovery "
"""Prefix of the subject of a timer; the connection's name follows."""


class Reaction(NamedTuple):
    """What follows a record, about a connection; `held` is the limit that keeps the agent from more."""

    effects: tuple[Draft, ...]
    action: str
    subject: str
    reason: str
    held: str | None = None


Outcome = Reaction | None


class DataDiscoveryAgent:
    """Starts discoveries: on command, and as often as the policy says.

    State: ``connections`` names, and ``receivers`` those of them that take alerts only; ``open`` connection ->
    {id, task, error}: the discovery under way; ``timers`` connection -> the timer of the next one.
    """

    name = "discovery"
    rules = 5

    @property
    def concerns(self) -> frozenset[str]:
        """Types of the records that it looks at."""
        return CONCERNS

    def initial(self) -> State:
        """Return the state without connections."""
        return {"connections": [], "open": {}, "timers": {}}

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """Start a discovery, finish one, or request the timer of the next."""
        reaction = REACTIONS.get(cause.type)
        outcome = reaction(state, cause, policies) if reaction else None
        if outcome is None:
            return None
        effects, action, subject, reason, limit = outcome
        why = AgentDecision(
            agent=self.name, rules=self.rules, action=action, subject=subject, reason=reason, held=limit
        )
        if cause.record.kind != "command":
            # The end of a discovery is reported whatever the policy lets the agent begin, or none could follow it. A
            # policy that lets it begin some is itself what was asked for: the gate still has the one before it.
            ends = effects[0].payload["id"] if action == "finish" else None
            return Decision(why, effects, asked=cause.record.id if cause.type == "policy.accepted" else ends)
        answer = {"command": cause.record.id, "result": {"discovery": effects[0].payload["discovery"]["id"]}}
        applied = Draft("command.applied", cause.record.id, answer)
        return Decision(why, (*effects, applied), asked=cause.record.id)

    def evolve(self, state: State, record: Record) -> State:
        """Return the state after `record`."""
        change = CHANGES.get(record.type)
        return change(state, record.payload) if change else state


def _asked(state: State, cause: Cause, policies: Policies) -> Outcome:
    command = body(cause.record)
    assert isinstance(command, DiscoveryStart)  # noqa: S101 - the table of types says so
    name = command.connection
    if name not in state["connections"]:
        hint = did_you_mean(name, state["connections"]) or "`penstock apply` puts connections.yaml into effect"
        raise NotFound(f"there is no connection {name!r}", hint=hint)
    if name in state.get("receivers", ()):
        hint = "discover one that has tables, files or topics"
        raise Refused("takes alerts only: it has nothing to discover", where=f"connection {name}", hint=hint)
    if name in state["open"]:
        hint = "`penstock catalog search` shows what it has found so far"
        other, what = state["open"][name]["id"], "a discovery is under way"
        raise Conflict("one_discovery_at_a_time", other, what, where=f"connection {name}", hint=hint)
    rules = _rules(policies)
    wanted = {
        "tables": command.tables if command.tables is not None else rules.tables,
        "except": command.except_,
        "sample_rows": command.sample_rows if command.sample_rows is not None else rules.sample_rows,
        "asked": True,
    }
    return Reaction((_started(cause, name, wanted),), "discover", name, "it was asked for")


def _started(cause: Cause, connection: str, wanted: dict[str, Any]) -> Draft:
    id_ = named_id("discovery", connection, cause.record.id)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()}
    return Draft("discovery.started", connection, {"discovery": {"id": id_, "connection": connection, **plain}})


def _closed(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Finish the discovery whose task has ended, and request the next one."""
    ended = cause.payload
    for name, found in state["open"].items():
        if found["id"] == ended.get("discovery"):
            completed = ended["status"] == "completed"
            result = {"id": found["id"], "connection": name, "status": "completed" if completed else "failed"}
            result |= {} if completed or found["error"] is None else {"error": found["error"]}
            finished = Draft("discovery.finished", name, result)
            following = _next(name, cause.at, policies, wait=True) if name in state["connections"] else ()
            return Reaction((finished, *following), "finish", name, f"its task is {ended['status']}")
    return None


def _fired(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Start the discovery that is due; a policy that no longer asks for it ends the schedule.

    Within quiet hours it waits for their end, and for its next time if a limit is reached.
    """
    name = next((name for name, timer in state["timers"].items() if timer == cause.payload["timer"]), None)
    if name is None or name in state["open"] or not is_scheduled(policies):
        return None
    rules = _rules(policies)
    if limit := policies.held("discover", Scope(subject=name), cause.used, cause.at):
        due = policies.quiet_until({}, cause.at) or cause.at + (rules.every or timedelta(days=1))
        return Reaction((_timer(name, cause.at, due),), "wait", name, f"until {due.isoformat()}: {limit}", limit)
    wanted = {"tables": rules.tables, "sample_rows": rules.sample_rows}
    return Reaction((_started(cause, name, wanted),), "discover", name, "it is due")


def _connected(state: State, cause: Cause, policies: Policies) -> Outcome:
    name = cause.payload["name"]
    if name in state["connections"] or _receives(cause.payload) or not is_scheduled(policies):
        return None
    return Reaction(_next(name, cause.at, policies), "schedule", name, "it is a new connection")


def _policy(state: State, cause: Cause, policies: Policies) -> Outcome:
    return _on_restart(state, cause, policies.with_record(cause.payload))


def _on_restart(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Request a discovery of each connection that has none ahead, if the policy now asks for it."""
    taken = {*state["timers"], *state["open"], *state.get("receivers", ())}
    idle = [name for name in state["connections"] if name not in taken]
    if not idle or not is_scheduled(policies):
        return None
    effects = tuple(draft for name in idle for draft in _next(name, cause.at, policies))
    return Reaction(effects, "schedule", f"{len(idle)} connections", f"every {_rules(policies).every}")


def _switched(state: State, cause: Cause, policies: Policies) -> Outcome:
    """Take up the schedule again once a person lets agents act; what was due meanwhile is due now."""
    return _on_restart(state, cause, policies) if cause.payload.get("result", {}).get("resumed") else None


def _next(name: str, at: datetime, policies: Policies, *, wait: bool = False) -> tuple[Draft, ...]:
    """Request the timer of a connection's next discovery: at once, or after the policy's time if it has to `wait`."""
    every = _rules(policies).every
    if every is None or not is_scheduled(policies):
        return ()
    return (_timer(name, at, at + every if wait else at),)


def _timer(name: str, at: datetime, due: datetime) -> Draft:
    timer = f"discovery:{name}:{at.isoformat()}"
    return Draft("timer.requested", timer, {"timer": timer, "due": due.isoformat(), "subject": TIMER + name})


def _rules(policies: Policies) -> DiscoveryPolicy:
    return policies.for_labels({}).spec.discovery


def is_scheduled(policies: Policies) -> bool:
    """True if connections are discovered without being asked."""
    rules = _rules(policies)
    return rules.every is not None and rules.autonomy == "act"


REACTIONS: Final[dict[str, Callable[[State, Cause, Policies], Outcome]]] = {
    "discovery.start": _asked,
    "task.closed": _closed,
    "timer.fired": _fired,
    "connection.changed": _connected,
    "policy.accepted": _policy,
    "brain.started": _on_restart,
    "command.applied": _switched,
}


def _receives(p: dict[str, Any]) -> bool:
    return p["connection"].get("type") in RECEIVERS


def _now_known(state: State, p: dict[str, Any]) -> State:
    names = state["connections"]
    state = state if p["name"] in names else {**state, "connections": [*names, p["name"]]}
    known = state.get("receivers", [])
    if _receives(p) == (p["name"] in known):
        return state
    others = [name for name in known if name != p["name"]]
    return {**state, "receivers": [*others, p["name"]] if _receives(p) else others}


def _gone(state: State, p: dict[str, Any]) -> State:
    for room in ("connections", "receivers"):
        state = {**state, room: [name for name in state.get(room, ()) if name != p["name"]]}
    return without(state, "timers", p["name"])


def _under_way(state: State, p: dict[str, Any]) -> State:
    found = p["discovery"]
    return put(state, "open", found["connection"], {"id": found["id"], "task": None, "error": None})


def _queued(state: State, p: dict[str, Any]) -> State:
    task = p["task"]
    if task["kind"] != DISCOVER:
        return state
    name = task["discovery"]["connection"]
    found = state["open"].get(name)
    if found is None or found["id"] != task["discovery"]["id"]:
        return state
    return put(state, "open", name, {**found, "task": task["id"]})


def _failed(state: State, p: dict[str, Any]) -> State:
    """Keep the error of the last attempt."""
    for name, found in state["open"].items():
        if found["task"] == p["task"]:
            return put(state, "open", name, {**found, "error": p["error"]})
    return state


def _requested(state: State, p: dict[str, Any]) -> State:
    name = p["subject"].removeprefix(TIMER)
    return state if name == p["subject"] else put(state, "timers", name, p["timer"])


def _is_over(state: State, p: dict[str, Any]) -> State:
    name = next((name for name, timer in state["timers"].items() if timer == p["timer"]), None)
    return state if name is None else without(state, "timers", name)


def _finished(state: State, p: dict[str, Any]) -> State:
    found = state["open"].get(p["connection"])
    return state if found is None or found["id"] != p["id"] else without(state, "open", p["connection"])


CHANGES: Final[dict[str, Callable[[State, dict[str, Any]], State]]] = {
    "connection.changed": _now_known,
    "connection.deleted": _gone,
    "discovery.started": _under_way,
    "discovery.finished": _finished,
    "task.queued": _queued,
    "task.failed": _failed,
    "timer.requested": _requested,
    "timer.fired": _is_over,
}

CONCERNS: Final = frozenset({*REACTIONS, *CHANGES})
