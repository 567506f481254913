"""The monitoring agent: it compares the numbers that workers record with the policy, and opens and closes alerts.

An alert touches nothing, so that neither limits nor quiet hours of a policy hold it back; a person who halts the agent
does: then none opens until it may act again. An incident is an alert, too, so that it is told; while one is open about
a pipeline, no alert about its errors opens, and others name it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agents import alerts, freshness, incident_alerts, quieting
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.watched import CHANGES, EMPTY, evolved, newer
from penstock.models.domain import AgentDecision
from penstock.models.proposals import Proposal
from penstock.records import Record

__all__ = ["MonitoringAgent"]


class MonitoringAgent:
    """Opens an alert when numbers leave what is usual or a promise is not kept, and closes it when that is over.

    State: ``pipelines`` name -> labels, status, and what its file promises; ``series`` -> the last numbers recorded
    of a metric; ``alerts`` cause -> the open alert; ``silences`` pipeline -> metric -> until when; ``incidents`` and
    ``proposals`` that are open.
    """

    name = "monitor"
    rules = 1

    @property
    def concerns(self) -> frozenset[str]:
        """Types of the records that it looks at."""
        return CONCERNS

    def initial(self) -> State:
        """Return the state without pipelines."""
        return EMPTY

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """React to numbers, ends of runs, timers, changes of a pipeline or of a policy, and to commands."""
        reaction = REACTIONS.get(cause.type)
        found = reaction(state, cause, policies) if reaction else None
        if found is None or not found.effects:
            return None
        first = found.effects[0]
        why = AgentDecision(
            agent=self.name,
            rules=self.rules,
            action=ACTIONS[first.type],
            subject=found.subject,
            reason=_reason(first),
            inputs=found.inputs,
        )
        labels = tuple(sorted(state["pipelines"].get(found.subject, {}).get("labels", {}).items()))
        return Decision(why, found.effects, labels=labels, asked=cause.record.id)

    def evolve(self, state: State, record: Record) -> State:
        """Return the state after `record`."""
        return evolved(state, record)


class Reaction(NamedTuple):
    """What follows a record, about a pipeline, and the numbers that were used."""

    subject: str
    effects: tuple[Draft, ...]
    inputs: dict[str, Any]


def _reason(first: Draft) -> str:
    payload = first.payload
    if first.type == "timer.requested":
        return f"it is looked at again at {payload['due']}"
    return str(payload.get("reason") or payload.get("summary") or payload.get("why") or "a person decides that")


def _is_halted(policies: Policies) -> bool:
    return policies.is_halted(MonitoringAgent.name)


def _scored(state: State, cause: Cause, policies: Policies) -> Reaction | None:
    one = cause.payload
    pipeline = state["pipelines"].get(one["pipeline"])
    if pipeline is None or not newer(state, one):
        return None
    halted = _is_halted(policies)
    effects = alerts.evaluated(state, cause, one, policies, halted=halted)
    effects += freshness.lagging(state, cause, policies, halted=halted)
    rules = policies.for_labels(pipeline["labels"]).spec.monitor
    used = {name: one[name] for name in ("metric", "score", "samples")}
    return Reaction(
        one["pipeline"], tuple(effects), {**used, "sensitivity": rules.sensitivity, "warm_up": rules.warm_up}
    )


def _finished(state: State, cause: Cause, _: Policies) -> Reaction:
    return Reaction(cause.payload["run"]["pipeline"], tuple(freshness.ended(state, cause)), {})


def _fired(state: State, cause: Cause, policies: Policies) -> Reaction | None:
    timer = cause.payload["timer"]
    effects = freshness.fired(state, cause, policies, halted=_is_halted(policies))
    if effects:
        return Reaction(str(freshness.owner_of(state, timer)), tuple(effects), {})
    after = evolved(state, cause.record)
    if after is state or _is_halted(policies):
        return None
    told = [
        alerts.worse(after, cause, alert, policies, "nothing keeps it quiet any longer")
        for key, alert in after["alerts"].items()
        if not quieting.is_quiet(after, alert, cause.at) and _was_quiet(state, key, timer)
    ]
    return Reaction(told[0].payload.get("pipeline") or told[0].key, tuple(told), {}) if told else None


def _was_quiet(state: State, key: str, timer: str) -> bool:
    """True if the timer is that of what kept an alert quiet."""
    alert = state["alerts"][key]
    if (alert["snoozed"] or {}).get("timer") == timer:
        return True
    return any(
        one["timer"] == timer and metric in {quieting.ALL, alert.get("metric"), alert["kind"]}
        for name in quieting.owners(alert["pipeline"])
        for metric, one in state["silences"].get(name, {}).items()
    )


def _changed(state: State, cause: Cause, _: Policies) -> Reaction:
    """Follow a version: a promise begins, becomes another one, or ends."""
    name, key = cause.payload["name"], freshness.key_of(cause.payload["name"])
    before, after = state["pipelines"].get(name), evolved(state, cause.record)["pipelines"][name]
    same = before is not None and before["fresh"] == after["fresh"] and before["stream"] == after["stream"]
    over = [] if same or key not in state["alerts"] else [alerts.closed(state, cause, key, "its file is another one")]
    effects = [*over, *([] if same else freshness.requested(after, name, cause))]
    return Reaction(name, tuple(effects), {})


def _status(state: State, cause: Cause, _: Policies) -> Reaction:
    name, status = cause.payload["name"], cause.payload["status"]
    keys = list(alerts.all_of(state, name)) if status in {"stopped", "deleting"} else [freshness.key_of(name)]
    over = [alerts.closed(state, cause, key, f"the pipeline is {status}") for key in keys if key in state["alerts"]]
    after = evolved(state, cause.record)["pipelines"].get(name)
    return Reaction(name, (*over, *freshness.requested(after, name, cause)), {})


def _deleted(state: State, cause: Cause, _: Policies) -> Reaction:
    name = cause.payload["name"]
    over = [alerts.closed(state, cause, key, "its pipeline is deleted") for key in alerts.all_of(state, name)]
    return Reaction(name, tuple(over), {})


def _judged_again(state: State, cause: Cause, policies: Policies) -> Reaction | None:
    """Compare the last numbers with a policy that is new, or that a person lets the agent act by again."""
    policies = policies.after(cause.record)
    halted = _is_halted(policies)
    effects = [
        draft
        for one in state["series"].values()
        for draft in alerts.evaluated(state, cause, one, policies, halted=halted)
    ]
    effects += _looked_at(state, cause)
    return Reaction(cause.record.key, tuple(effects), {})


def _looked_at(state: State, cause: Cause) -> list[Draft]:
    """Request timers of pipelines that have none, for those of before may have fired while the agent was halted."""
    return [
        freshness.due(name, cause, cause.at)
        for name, one in state["pipelines"].items()
        if cause.type != "policy.accepted" and freshness.key_of(name) not in state["alerts"] and not one["timer"]
        and freshness.requested(one, name, cause)
    ]  # fmt: skip


def _begun(state: State, cause: Cause, _: Policies) -> Reaction:
    return Reaction(cause.record.key, tuple(_looked_at(state, cause)), {})


def _proposed(state: State, cause: Cause, policies: Policies) -> Reaction | None:
    name, key = cause.payload["name"], f"drift {cause.payload['name']}"
    if key in state["alerts"] or name not in state["pipelines"] or _is_halted(policies):
        return None
    what = str(Proposal.parse(cause.payload["proposal"]))
    summary = f"the schema of {name} has changed, and it waits for an answer: {what}"
    payload = {"cause": key, "pipeline": name, "kind": "drift", "severity": "warning", "summary": summary}
    payload |= {"since": cause.at.isoformat(), "run": cause.payload["run"]}
    return Reaction(name, (alerts.opened(state, cause, payload, policies),), {})


def _answered(state: State, cause: Cause, _: Policies) -> Reaction | None:
    name, key = cause.payload["name"], f"drift {cause.payload['name']}"
    left = evolved(state, cause.record)["proposals"].get(name)
    if key not in state["alerts"] or left:
        return None
    reason = f"the change is {cause.payload['answer']}"
    return Reaction(name, (alerts.closed(state, cause, key, reason),), {})


def _incident(state: State, cause: Cause, policies: Policies) -> Reaction | None:
    if _is_halted(policies):
        return None
    return Reaction(
        cause.payload.get("pipeline") or cause.record.key, (incident_alerts.opened(state, cause, policies),), {}
    )


def _incident_over(state: State, cause: Cause, _: Policies) -> Reaction:
    return Reaction(cause.record.key, tuple(incident_alerts.closed(state, cause)), {})


def _command(
    carry_out: Callable[[State, Cause], tuple[str, tuple[Draft, ...], dict[str, Any]]],
) -> Callable[[State, Cause, Policies], Reaction]:
    def react(state: State, cause: Cause, _: Policies) -> Reaction:
        subject, effects, result = carry_out(state, cause)
        applied = Draft("command.applied", cause.record.id, {"command": cause.record.id, "result": result})
        return Reaction(subject, (*effects, applied), {})

    return react


ACTIONS: Final = {
    "alert.opened": "open_alert",
    "alert.changed": "tell_again",
    "alert.closed": "close_alert",
    "alert.snoozed": "snooze",
    "alert.silenced": "silence",
    "timer.requested": "watch",
}
"""The name of a decision by its first effect."""

REACTIONS: Final[dict[str, Callable[[State, Cause, Policies], Reaction | None]]] = {
    "series.scored": _scored,
    "run.finished": _finished,
    "timer.fired": _fired,
    "pipeline.created": _changed,
    "pipeline.updated": _changed,
    "pipeline.status_changed": _status,
    "pipeline.deleted": _deleted,
    "policy.accepted": _judged_again,
    "agent.resumed": _judged_again,
    "brain.started": _begun,
    "change.proposed": _proposed,
    "change.answered": _answered,
    "incident.opened": _incident,
    "incident.closed": _incident_over,
    "alert.snooze": _command(quieting.snoozed),
    "alert.silence": _command(quieting.silenced),
}

CONCERNS: Final = frozenset({*REACTIONS, *CHANGES})
