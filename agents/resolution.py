"""The agent for errors: it has each failure diagnosed, and chooses what follows it.

Workers classify errors, and look for their causes; here numbers are compared with the policy. What the policy does not
let it do by itself, it proposes to a person in an incident. The orchestrator and the lifecycle agent carry out what it
chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from agents import breakers, chores, components, incidents
from agents.failures import CHANGES, RESOLVED, SETTLES, labels_of
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.ready import is_attempt
from agents.retries import delay, is_worth_retrying
from agents.strategies import Strategy, proposal_of, strategies
from agents.streams import failures_since
from penstock.models.connection import TYPES
from penstock.models.domain import AgentDecision, Alternative
from penstock.models.pipeline import Retry
from penstock.models.scope import Scope
from penstock.models.sets import set_of
from penstock.models.traits import traits
from penstock.records import Record

__all__ = ["ErrorResolutionAgent"]

SETTLED: Final = timedelta(minutes=1)
"""A stream that has run for so long after a failure counts as resolved."""


class ErrorResolutionAgent:
    """Has failures diagnosed, chooses strategies, holds connections back, and opens and closes incidents.

    State: ``connections`` name -> type; ``pipelines`` name -> what is needed of its file; ``tasks`` id -> open task,
    with its failures so far; ``trials`` pipeline -> a strategy whose outcome its next run shows; ``learned``
    fingerprint -> strategy -> [how often it helped, how often not]; ``incidents`` those that are open; ``breakers``
    connection -> failures in a row; ``components`` and ``chores`` as the modules of these names say.
    """

    name = "error_resolution"
    rules = 9

    @property
    def concerns(self) -> frozenset[str]:
        """Types of the records that it looks at."""
        return CONCERNS

    def initial(self) -> State:
        """Return the state before the first failure."""
        rooms = ("connections", "pipelines", "tasks", "trials", "learned", "incidents", "breakers")
        return {room: {} for room in (*rooms, "components", "chores")}

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """React to a failure, a success, or a time that is over."""
        if cause.type == "task.failed":
            return self._failed(state, cause, policies)
        reaction = REACTIONS.get(cause.type)
        effects = tuple(reaction(state, cause)) if reaction else ()
        if cause.type == "policy.accepted":
            effects = tuple(chores.unscheduled(state, policies.after(cause.record)))
        if not effects:
            return None
        why = self._why(ACTIONS[effects[0].type], effects[0].key, f"after {cause.type}")
        return Decision(why, effects, asked=cause.record.id)

    def evolve(self, state: State, record: Record) -> State:
        """Return the state after `record`."""
        change = CHANGES.get(record.type)
        state = change(state, record.payload) if change else state
        return chores.evolved(components.evolved(state, record), record)

    def _failed(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """Choose what follows a failed attempt; of other tasks than runs the orchestrator decides that by itself."""
        found, task = cause.payload.get("classified"), state["tasks"].get(cause.payload["task"])
        if not found or task is None or not is_attempt(task, cause.payload):
            return None
        seen = (*breakers.after_failure(state, cause), *_diagnosis(task, cause))
        if task["kind"] not in RESOLVED:
            why = self._why("diagnose", cause.payload["task"], f"{found['kind']} error at its {found['origin']}")
            return Decision(why, seen, asked=cause.record.id) if seen else None
        case = _Case(state, cause, task, policies)
        chosen, others = case.choice()
        effects = case.effects(chosen, others)
        why = self._why(
            chosen.action,
            cause.payload["task"],
            effects[-1].payload["reason"],
            confidence=chosen.confidence,
            inputs={
                "fingerprint": found["fingerprint"],
                "kind": found["kind"],
                "certainty": found["confidence"],
                "failures": case.failures,
                "attempts": case.retry.attempts,
            },
            alternatives=tuple(Alternative(option=o.action, score=o.confidence, reason=o.what) for o in others),
            held=case.held,
        )
        asked = cause.record.id if chosen.action == "escalate" else None
        return Decision(why, (*seen, *effects), labels=case.labels, asked=asked, scope=case.scope(chosen))

    def _why(self, action: str, subject: str, reason: str, **more: Any) -> AgentDecision:
        return AgentDecision(agent=self.name, rules=self.rules, action=action, subject=subject, reason=reason, **more)


def _diagnosis(task: Mapping[str, Any], cause: Cause) -> Iterator[Draft]:
    """Request a diagnosis, one for each kind of error of a task."""
    payload, found = cause.payload, cause.payload["classified"]
    if found["fingerprint"] in task["diagnosed"]:
        return
    failure = {name: payload[name] for name in ("run", "task", "attempt", "error") if payload.get(name) is not None}
    failure |= {"id": payload["raised"], "pipeline": task["pipeline"], "classified": found}
    yield Draft("diagnosis.requested", task["pipeline"], {"failure": failure})


class _Case:
    """One failed attempt of a run, and what may follow it."""

    def __init__(self, state: State, cause: Cause, task: dict[str, Any], policies: Policies) -> None:
        self.state, self.cause, self.task = state, cause, task
        self.found, self.error = cause.payload["classified"], cause.payload["error"]
        self.pipeline: dict[str, Any] = state["pipelines"].get(task["pipeline"], {})
        self.retry = Retry.parse(task["retry"])
        self.labels = labels_of(self.pipeline)
        self.policies, self.policy = policies, policies.for_labels(dict(self.labels))
        self.halted = policies.is_halted(ErrorResolutionAgent.name)
        counters = cause.payload.get("counters") or {}
        self.failures, self.rows = task["failures"] + 1, None
        if task["stream"]:
            self.failures, self.rows = failures_since(task, counters, cause.at, self.retry.max)
        self.incident = incidents.open_one(state, task["pipeline"], self.found)
        self.held: str | None = None
        """The limit that kept it from what it would have chosen."""

    def choice(self) -> tuple[Strategy, list[Strategy]]:
        """Return the best strategy that the policy allows, else to escalate; and the others."""
        left = self.task["stream"] or self.failures < self.retry.attempts
        outcomes = self.state["learned"].get(self.found["fingerprint"], {})
        repeats = self.incident[1]["repeats"] + 1 if self.incident else 0
        spec = self.pipeline.get("spec", {})
        found = strategies(self.cause.payload, spec, outcomes, left=left, repeats=repeats)
        chosen = next((one for one in found if self._allows(one)), None)
        if chosen is None:
            return Strategy("escalate", 1.0, self._nothing_left(found)), found
        return chosen, [one for one in found if one is not chosen]

    def _allows(self, one: Strategy) -> bool:
        rules = self.policy.spec.error_resolution
        dead = (self.cause.payload.get("counters") or {}).get("dead", 0)
        if self.halted:
            return one.action == "retry"  # the gate refuses that, and the pipeline's own rules apply
        if one.set and set_of(self.task["pipeline"]):
            return False  # the settings of a member are those of its set
        if one.action == "skip_record" and dead > self.policy.spec.constraints.max_rows_skipped:
            return False
        level = rules.actions.get(one.action, rules.autonomy)  # type: ignore[call-overload]  # a name of the policy's
        if level != "act" or one.confidence <= rules.act_above:
            return False
        limit = self.policies.held(one.action, self.scope(one), self.cause.used, self.cause.at)
        self.held = self.held or limit
        return limit is None

    def scope(self, one: Strategy) -> Scope:
        """Return what a strategy touches."""
        dead = (self.cause.payload.get("counters") or {}).get("dead") if one.action == "skip_record" else None
        labels, table = dict(self.labels) or None, self.pipeline.get("target")
        return Scope(subject=self.task["pipeline"], table=table, rows=dead, labels=labels)

    def _nothing_left(self, found: list[Strategy]) -> str:
        if self.halted:
            return f"{self.error['code']}: agent {ErrorResolutionAgent.name} is halted"
        if self.held:
            return f"{self.error['code']}: {self.held}"
        if any(one.action == "retry" for one in found):
            return f"{self.error['code']}: policy {self.policy.name} does not let it be tried again"
        why = "no attempt is left" if is_worth_retrying(self.error) else "trying again would not help"
        return f"{self.error['code']}: {why}"

    def effects(self, chosen: Strategy, others: list[Strategy]) -> tuple[Draft, ...]:
        """Return the outcome of what was tried before, an incident if a person is needed, and what was chosen."""
        escalates = chosen.action in {"escalate", "pause"}
        lasts = self.task["stream"] and self.failures == self.retry.attempts
        opened = incidents.opened(self, others) if (escalates or lasts) and self.incident is None else ()
        known = self.incident[0] if self.incident else None
        ended = (*self._trial_failed(), *(self._retry_failed() if opened and self.failures > 1 else ()))
        return (*ended, *opened, self._chosen(chosen, others, known))

    def _trial_failed(self) -> Iterator[Draft]:
        trial = self.state["trials"].get(self.task["pipeline"])
        if trial is not None and trial["fingerprint"] == self.found["fingerprint"]:
            yield incidents.outcome(self.task["pipeline"], trial, "failed")

    def _retry_failed(self) -> Iterator[Draft]:
        tried = {"fingerprint": self.found["fingerprint"], "action": "retry"}
        yield incidents.outcome(self.task["pipeline"], tried, "failed")

    def _chosen(self, chosen: Strategy, others: list[Strategy], incident: str | None) -> Draft:
        payload = self.cause.payload
        values: dict[str, Any] = {name: payload[name] for name in ("task", "run", "attempt") if name in payload}
        values |= {"raised": payload["raised"], "pipeline": self.task["pipeline"], "action": chosen.action}
        values |= {"fingerprint": self.found["fingerprint"], "failures": self.failures, "reason": chosen.what}
        values |= {"rows": self.rows} if self.rows is not None else {}
        values |= {"set": dict(chosen.set)} if chosen.set else {}
        values |= {"incident": incident} if incident else {}
        if chosen.action == "retry":
            wait = delay(self.retry, self.failures, self.cause.record.id)
            number = payload["attempt"] if self.task["stream"] else self.failures
            values |= {"timer": f"retry:{payload['task']}:{number}", "due": (self.cause.at + wait).isoformat()}
            known = f"failure {self.failures}" + ("" if self.task["stream"] else f" of {self.retry.attempts}")
            values["reason"] = (
                f"{known}, {self.error['code']}: retry in {wait.total_seconds():.3g} s; {self._repeats()}"
            )
        elif chosen.action == "escalate":
            left = [one for one in others if one.set]
            values |= {"proposals": [proposal_of(one) for one in left]} if left else {}
        else:
            values["reason"] = f"{self.error['code']}: {chosen.what}"
        return Draft("strategy.chosen", payload["task"], values)

    def _repeats(self) -> str:
        """Say what keeps a retry from writing twice what was written before."""
        kind = self.state["connections"].get(self.pipeline.get("sink"))
        if traits(TYPES.get(kind or "")).at_least_once:
            return "its sink may get rows again that were under way"
        return "it continues after what its sink has committed"


def _completed(state: State, cause: Cause) -> Iterator[Draft]:
    yield from chores.compared(state, cause)
    task = state["tasks"].get(cause.payload["task"])
    if task is not None and task["kind"] in RESOLVED:
        yield from _resolved(state, task)
    elif task is not None:
        pipeline = state["pipelines"].get(task["pipeline"], {})
        looked_at = ("source",) if task["kind"] == "list" else ("source", "sink")
        yield from breakers.after_success(state, [pipeline[side] for side in looked_at if side in pipeline])


def _resolved(state: State, task: Mapping[str, Any]) -> Iterator[Draft]:
    """Record that a task works: what was tried has helped, and its incidents and breakers are over."""
    name = task["pipeline"]
    pipeline = state["pipelines"].get(name, {})
    used = pipeline.get("connections", [])
    for tried in (task["strategy"], state["trials"].get(name)):
        if tried is not None:
            yield incidents.outcome(name, tried, "resolved")
    yield from incidents.closed(state, name, used)
    yield from breakers.after_success(state, used)


def _started(state: State, cause: Cause) -> Iterator[Draft]:
    """Ask for the time at which a stream counts as resolved that has failed, or whose connections have."""
    id_ = cause.payload["task"]
    task = state["tasks"].get(id_)
    if task is None or not task["stream"]:
        return
    used = state["pipelines"].get(task["pipeline"], {}).get("connections", ())
    failed = task["strategy"] or incidents.about(state, task["pipeline"])
    if not failed and state["breakers"].keys().isdisjoint(used):
        return
    timer = f"settled:{id_}:{cause.payload['attempt']}"
    due = (cause.at + SETTLED).isoformat()
    yield Draft("timer.requested", timer, {"timer": timer, "due": due, "subject": f"{SETTLES}{id_}"})


def _fired(state: State, cause: Cause) -> Iterator[Draft]:
    yield from breakers.tried(state, cause)
    yield from components.lasts(state, cause)
    for task in state["tasks"].values():
        if task["settles"] == cause.payload["timer"]:
            yield from _resolved(state, task)


ACTIONS: Final = {
    "strategy.ended": "learn",
    "incident.opened": "open_incident",
    "incident.closed": "close_incident",
    "breaker.changed": "hold",
    "timer.requested": "watch",
}
"""The name of a decision by its first effect, if it chooses no strategy."""
REACTIONS: Final[dict[str, Callable[[State, Cause], Iterable[Draft]]]] = {
    "task.completed": _completed,
    "task.closed": chores.ended,
    "task.started": _started,
    "timer.fired": _fired,
    "connection.changed": lambda s, cause: breakers.reset(s, cause.payload["name"]),
    "connection.deleted": lambda s, cause: (
        *breakers.reset(s, cause.payload["name"]),
        *incidents.of_connection(s, cause.payload["name"]),
    ),
    "pipeline.updated": chores.dropped,
    "pipeline.deleted": lambda s, cause: incidents.abandoned(s, cause.payload["name"]),
    "agent.faulted": incidents.of_agent,
    "component.failed": components.failed,
    "component.recovered": components.recovered,
    "brain.started": incidents.after_restart,
}

CONCERNS: Final = frozenset({*REACTIONS, *CHANGES, "policy.accepted"})
