"""The monitoring agent: it compares the numbers that workers record with the policy, and opens and closes alerts.

An alert touches nothing, so that neither limits nor quiet hours of a policy hold it back; a person who halts the agent
does: then none opens until it may act again. An incident is an alert, too, so that it is told; while one is open about
runs of a pipeline, no alert about its errors opens, and others name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from agents import alerts, freshness, incident_alerts, quieting
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.watched import CHANGES, EMPTY, evolved, newer, series_of, without_alerts
from penstock.models.domain import AgentDecision
from penstock.models.proposals import Proposal
from penstock.records import Record

__all__ = ["MonitoringAgent"]


class MonitoringAgent:
    """Opens an alert when numbers leave what is usual or a promise is not kept, and closes it when that is over.

    State: ``pipelines`` name -> labels, status, and what its file promises; ``series`` -> the last numbers recorded
    of a metric; ``alerts`` cause -> the open alert; ``silences`` pipeline -> metric -> until when; ``incidents`` id ->
    the open incident; ``proposals`` pipeline -> id -> the open change of its schema.
    """

    name = "monitor"
    rules = 3

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
    effects = _compared(state, cause, [one], policies)
    rules = policies.for_labels(pipeline["labels"]).spec.monitor
    used = {name: one[name] for name in ("metric", "score", "samples")}
    return Reaction(
        one["pipeline"], tuple(effects), {**used, "sensitivity": rules.sensitivity, "warm_up": rules.warm_up}
    )


def _compared(state: State, cause: Cause, numbers: Iterable[Mapping[str, Any]], policies: Policies) -> list[Draft]:
    """Compare recorded numbers with the policies, and with what files promise."""
    halted = _is_halted(policies)
    return [
        draft
        for one in numbers
        for compare in (alerts.evaluated, freshness.lagging)
        for draft in compare(state, cause, one, policies, halted=halted)
    ]


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


def _changed(state: State, cause: Cause, policies: Policies) -> Reaction:
    """Follow a version: a promise begins, becomes another one, or ends; a stream is compared with it at once."""
    name, key = cause.payload["name"], freshness.key_of(cause.payload["name"])
    after = evolved(state, cause.record)
    before, now = state["pipelines"].get(name), after["pipelines"][name]
    same = before is not None and before["fresh"] == now["fresh"] and before["stream"] == now["stream"]
    stays = before is not None and before["stream"] and now["stream"] and now["fresh"]
    over = [key] if key in state["alerts"] and not (same or stays) else []
    effects = [alerts.closed(state, cause, key, "its file is another one") for key in over]
    effects += [] if same else freshness.requested(now, name, cause)
    effects += _compared(without_alerts(after, over), cause, series_of(after, name), policies)
    return Reaction(name, tuple(effects), {})


def _status(state: State, cause: Cause, policies: Policies) -> Reaction:
    """Follow a status; what was wrong when the pipeline was stopped counts again as soon as it may run."""
    name, status = cause.payload["name"], cause.payload["status"]
    keys = list(alerts.all_of(state, name)) if status in alerts.GONE else [freshness.key_of(name)]
    keys = [key for key in keys if key in state["alerts"]]
    effects = [alerts.closed(state, cause, key, f"the pipeline is {status}") for key in keys]
    after = without_alerts(evolved(state, cause.record), keys)
    effects += freshness.requested(after["pipelines"].get(name), name, cause)
    effects += _compared(after, cause, series_of(after, name), policies)
    if status == "active" and not _is_halted(policies):
        effects += [*incident_alerts.untold(after, cause, policies, name), *_drift(after, cause, name, policies)]
    return Reaction(name, tuple(effects), {})


def _deleted(state: State, cause: Cause, _: Policies) -> Reaction:
    name = cause.payload["name"]
    over = [alerts.closed(state, cause, key, "its pipeline is deleted") for key in alerts.all_of(state, name)]
    return Reaction(name, tuple(over), {})


def _judged_again(state: State, cause: Cause, policies: Policies) -> Reaction | None:
    """Compare the last numbers with a policy that is new, or that a person lets the agent act by again."""
    policies = policies.after(cause.record)
    effects = _compared(state, cause, state["series"].values(), policies)
    if cause.type == "agent.resumed":
        effects += [*_looked_at(state, cause), *_untold(state, cause, policies)]
    return Reaction(cause.record.key, tuple(effects), {})


def _untold(state: State, cause: Cause, policies: Policies) -> list[Draft]:
    """Tell what no record has led to: incidents and changes from before the agent was there, or while it was halted.

    Alerts that were told nowhere are those whose silence or snooze has ended while it was halted.
    """
    if _is_halted(policies):
        return []
    incidents = incident_alerts.untold(state, cause, policies)
    drifts = [draft for name in state["proposals"] for draft in _drift(state, cause, name, policies)]
    open_ones = [one for one in state["alerts"].values() if not one["told"]]
    again = [alerts.worse(state, cause, one, policies, "nothing keeps it quiet any longer") for one in open_ones]
    return [*incidents, *drifts, *(draft for draft in again if draft.payload["routes"])]


def _looked_at(state: State, cause: Cause) -> list[Draft]:
    """Request timers of pipelines that have none, for those of before may have fired while the agent was halted."""
    return [
        freshness.due(name, cause, cause.at)
        for name, one in state["pipelines"].items()
        if not one["timer"] and freshness.requested(one, name, cause)
        and state["alerts"].get(freshness.key_of(name), {}).get("severity") != "critical"
    ]  # fmt: skip


def _begun(state: State, cause: Cause, policies: Policies) -> Reaction:
    return Reaction(cause.record.key, (*_looked_at(state, cause), *_untold(state, cause, policies)), {})


def _proposed(state: State, cause: Cause, policies: Policies) -> Reaction | None:
    name = cause.payload["name"]
    if _is_halted(policies):
        return None
    return Reaction(name, tuple(_drift(evolved(state, cause.record), cause, name, policies)), {})


def _drift(state: State, cause: Cause, name: str, policies: Policies) -> Iterator[Draft]:
    """Yield the record of the alert about the first open change of a pipeline's schema, if there is none."""
    key = f"drift {name}"
    status = state["pipelines"].get(name, {}).get("status", "deleting")
    if key in state["alerts"] or status in alerts.GONE or name not in state["proposals"]:
        return
    first = next(iter(state["proposals"][name].values()))
    summary = f"the schema of {name} has changed, and it waits for an answer: {Proposal.parse(first['proposal'])}"
    payload = {"cause": key, "pipeline": name, "kind": "drift", "severity": "warning", "summary": summary}
    payload |= {"since": first["since"], "run": first["run"]}
    yield alerts.opened(state, cause, payload, policies)


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
    after = evolved(state, cause.record)
    subject = cause.payload.get("pipeline") or cause.record.key
    return Reaction(subject, (incident_alerts.opened(after, cause, cause.payload["id"], policies),), {})


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
