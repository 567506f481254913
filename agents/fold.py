"""The fold: one agent's deterministic pass over the log.

For each record that counts and is not the agent's own: ``decide`` on the state before it, ``evolve`` by it, ``evolve``
by each record of the decision at once. The agent's own records are skipped when they are read back. Up to the last
cause that it answered on the log it never decides again: it evolves by what is RECORDED, so that other rules, an
upgrade or a repeat after a crash cannot answer twice. An agent that an older release did not have starts at the first
`brain.started` that names it: earlier records only change its state. The agents of the very first brain start with
the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.answered import Answered
from agents.gate import gate
from agents.limits import Used
from agents.policies import CHANGES, Policies
from agents.protocol import Agent, Cause, Decision, Draft, State, Thread
from catalog.entries import Snapshot
from penstock.errors import Conflict, InvalidDocument, PenstockError, RefusedByPolicy, TooOld
from penstock.ids import named_id
from penstock.models.domain import AgentDecision
from penstock.records import AGENT, Reading, Record

__all__ = ["Fold", "Recorded", "look_ahead"]

NEVER = (-1, -1)
CLOCKS = {"brain.started", "clock.set_back"}
"""Records whose time shows that a clock was set back."""
MOST_ISSUES, MOST_CHARACTERS = 100, 2000
"""Limits of a refusal: issues, and characters of a text."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Content of the log about an agent: its first offset, its last pair, and its decisions' records by cause."""

    begin: int = 0
    last: tuple[int, int] = NEVER
    by_cause: dict[int, list[Record]] = field(default_factory=dict)


def look_ahead(records: Iterable[tuple[int, Record]], reading: Reading) -> dict[str, Recorded]:
    """Collect what `records` contain about each agent that a brain names; `reading` is the state before them.

    An agent's first offset is right only if `records` start with the log; otherwise its snapshot has the right one.
    """
    decided: dict[str, dict[int, list[Record]]] = {}
    begins: dict[str, int] = {}
    for offset, record in records:
        if record.type == "brain.started":
            begins = dict.fromkeys(record.payload["agents"], offset if begins else 0) | begins
        agent = record.agent
        if reading.keep(offset, record) and agent is not None and record.cause is not None:
            decided.setdefault(agent, {}).setdefault(record.cause[0], []).append(record)
    last = reading.pairs
    return {name: Recorded(begins[name], last.get(name, NEVER), decided.get(name, {})) for name in begins}


class Fold:
    """One agent's pass over the log, for the brain of generation `brain`."""

    def __init__(
        self, agent: Agent, brain: int, recorded: Recorded | None = None, snapshot: Snapshot | None = None
    ) -> None:
        self.agent, self.brain = agent, brain
        self.recorded = recorded or Recorded()
        self.concerns = frozenset(agent.concerns)
        self.state = agent.initial()
        self.policies = Policies()
        self.used = Used()
        self.reading = Reading()
        self.answered = Answered()
        self.next = 0
        self.emitted = NEVER
        self.begin = self.recorded.begin
        if snapshot is not None and snapshot.rules == agent.rules:
            self._restore(snapshot)

    def _restore(self, snapshot: Snapshot) -> None:
        saved = snapshot.state
        self.state, self.answered, self.next = saved["agent"], Answered(saved), snapshot.offset
        self.policies = Policies(saved["policies"], halted=frozenset(saved.get("halted", ())))
        self.used = Used.from_dict(saved.get("used", {}))
        self.reading = Reading.from_dict(saved["reading"])
        self.begin = saved["begin"]

    def snapshot(self) -> Snapshot | None:
        """Return the current state, or None while a decision of this agent is not yet known to be durable."""
        if self.emitted > self.reading.pairs.get(self.agent.name, NEVER):
            return None
        saved = {
            "v": 1,
            "agent": self.state,
            **self.answered.to_dict(),
            "policies": dict(self.policies.accepted),
            "halted": sorted(self.policies.halted),
            "used": self.used.to_dict(),
            "reading": self.reading.to_dict(),
            "begin": self.begin,
        }
        return Snapshot(self.agent.name, self.next, self.agent.rules, saved)

    def step(self, offset: int, record: Record) -> list[Record]:
        """Return the records of the decision about `record`; [] for none, and for one that is already on the log."""
        if offset < self.next:
            return []
        self.next = offset + 1
        if not self.reading.keep(offset, record):
            return []
        out = []
        if self._is_asked(record, recorded=offset in self.recorded.by_cause):
            out = self._answer(Cause(offset, record, self.used))
        self._passed(record)
        if out:
            self.emitted = (offset, len(out) - 1)
        return out

    def _is_asked(self, record: Record, *, recorded: bool) -> bool:
        """True if the record may change anything: by what the agent decides, or by what is `recorded` of that."""
        concerned = recorded or record.type in self.concerns or record.kind == "command"
        return concerned and record.agent != self.agent.name

    def _passed(self, record: Record) -> None:
        """Note what a record changes for those after it, whoever wrote it."""
        if record.type in CLOCKS:
            self.answered.set_back(record.at)
            self.used = self.used.set_back(record.at)
        elif record.type in CHANGES:
            self.policies = self.policies.after(record)

    def _answer(self, cause: Cause) -> list[Record]:
        repeated = cause.record.kind == "command" and self.answered.repeats(cause.record)
        if cause.offset < self.begin or cause.offset <= self.recorded.last[0]:
            recorded = self.recorded.by_cause.pop(cause.offset, [])
            if recorded or not repeated:
                self._follow_recorded(cause, recorded)
            self._remember(cause.record, recorded)
            return []
        if repeated:
            return []
        try:
            decision = self._decide(cause, self.policies)
            out = [] if decision is None else self._records(cause, decision)
            self._follow(cause, out)
        except Exception as error:  # noqa: BLE001 - an agent's fault becomes a record; the fold continues
            out = self._fault(cause, error)
        self._remember(cause.record, out)
        return out

    def _decide(self, cause: Cause, policies: Policies) -> Decision | None:
        """Return the agent's decision as these policies allow it, or the refusal of the command."""
        decision = None
        try:
            decision = self.agent.decide(self.state, cause, policies)
            if decision is not None and cause.record.kind == "command" and self.answered.is_too_old(cause.record):
                raise _too_old(cause.record)
            return None if decision is None else gate(decision, policies, cause)
        except PenstockError as error:
            if cause.record.kind != "command":
                raise
            policy = policies.for_labels(dict(decision.labels) if decision else {}).hash
            return refusal(self.agent, cause, error, policy)

    def _follow(self, cause: Cause, out: list[Record]) -> None:
        """Evolve by the cause, then by the decision; keep the state if the decision was a fault."""
        if any(record.type == "agent.faulted" for record in out):
            return
        self.state = self._evolved(cause, out)
        self.used = self.used.after(out)

    def _evolved(self, cause: Cause, out: list[Record]) -> State:
        state = self.agent.evolve(self.state, cause.record)
        for record in out:
            state = self.agent.evolve(state, record)
        return state

    def _follow_recorded(self, cause: Cause, recorded: list[Record]) -> None:
        """Follow recorded decisions. Keep the old state on failure: the records are already committed."""
        try:
            self._follow(cause, recorded)
        except Exception as error:  # noqa: BLE001 - an agent's fault must not end the fold
            fault, name = type(error).__qualname__, self.agent.name
            told, trace = "agent %s cannot evolve by the decision about offset %d: %s", cause.record.traceparent
            _log.warning(told, name, cause.offset, fault, extra={"traceparent": trace})

    def _records(self, cause: Cause, decision: Decision) -> list[Record]:
        why = Draft("agent.decided", decision.why.subject, decision.why.to_dict())
        return [self._record(cause, index, draft) for index, draft in enumerate((why, *decision.effects))]

    def _record(self, cause: Cause, index: int, draft: Draft) -> Record:
        name, record = self.agent.name, cause.record
        thread = draft.thread or Thread(record.correlation or record.id, record.traceparent)
        return Record(
            id=named_id(name, cause.offset, index),
            type=draft.type,
            key=draft.key,
            payload=draft.payload,
            kind="policy" if draft.type == "policy.accepted" else "event",
            at=cause.at,
            actor=AGENT + name,
            cause=(cause.offset, index),
            brain=self.brain,
            correlation=thread.correlation,
            traceparent=thread.traceparent,
        )

    def _fault(self, cause: Cause, error: Exception) -> list[Record]:
        """Return the record of the fault, and a refusal if a command caused it, for the client that waits."""
        fault = f"{type(error).__module__}.{type(error).__qualname__}"
        payload = {"agent": self.agent.name, "fault": fault, "record": cause.record.id}
        out = [Draft("agent.faulted", self.agent.name, payload)]
        if cause.record.kind == "command":
            what, hint = f"agent {self.agent.name} has a defect: {fault}", "nothing changed; report it"
            answer = {"command": cause.record.id, "code": "defect", "what": what, "hint": hint}
            out.append(Draft("command.refused", cause.record.id, answer))
        return [self._record(cause, index, draft) for index, draft in enumerate(out)]

    def _remember(self, record: Record, out: list[Record]) -> None:
        """Remember the id of a command that this agent answered; others need no entry."""
        if record.kind == "command" and out:
            self.answered.remember(record)


def _too_old(command: Record) -> TooOld:
    hint = "send it again as a new command, with the time of now"
    what = f"its time, {command.at.isoformat()}, is before those of commands that are forgotten: it may be a repeat"
    return TooOld(what, where=command.type, hint=hint)


def refusal(agent: Agent, cause: Cause, error: PenstockError, policy: str) -> Decision:
    """Return the decision to refuse a command, with its answer."""
    found = error.issues[:MOST_ISSUES] if isinstance(error, InvalidDocument) else ()
    issues = [{"path": _clipped(i.path), "message": _clipped(i.message)} for i in found]
    what = _clipped(error.what if error.where is None else f"{error.where}: {error.what}")
    payload: dict[str, Any] = {"command": cause.record.id, "code": error.code, "what": what, "issues": issues}
    payload |= {"exit_code": error.exit_code} | ({"hint": _clipped(error.hint)} if error.hint else {})
    why = AgentDecision(
        agent=agent.name,
        rules=agent.rules,
        action=cause.type.partition(".")[2],
        subject=cause.record.key or cause.type,
        reason=f"{what} (rule {error.rule})" if isinstance(error, Conflict) else what,
        outcome="refused",
        policy=policy,
        inputs=_inputs(error),
    )
    return Decision(why, (Draft("command.refused", cause.record.id, payload),), asked=cause.record.id)


def _clipped(text: str) -> str:
    """Return `text` as it may be recorded: what a command contains may be large, its refusal is not."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"


def _inputs(error: PenstockError) -> Mapping[str, Any]:
    found: dict[str, Any] = {"code": error.code, "by_policy": isinstance(error, RefusedByPolicy)}
    return found | ({"rule": error.rule, "other": error.other} if isinstance(error, Conflict) else {})
