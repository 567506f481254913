"""Decisions judged again: what an agent decides about each record on the state that its RECORDED decisions led to.

Each decision is judged alone. What another one would have led to is not followed, so no cascade is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agents.fold import Fold
from agents.policies import Policies
from agents.protocol import Agent, Cause
from penstock.records import Record, decode, encode

__all__ = ["Judge", "Judgement", "differing", "is_same", "outcome_of", "rules_of"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is recorded of an agent about a cause, and what it decides now; each [] for nothing."""

    agent: str
    cause: Cause
    recorded: list[Record]
    decided: list[Record]
    in_force: int | None = None
    """Version of the agent's rules in the control process of that time; None if that does not name the agent."""


class Judge(Fold):
    """One agent's pass over the records of a log that count, from its first one on.

    `recorded` returns the decision on the log about the cause at an offset. `begin` is the agent's first offset.
    """

    def __init__(self, agent: Agent, begin: int, recorded: Callable[[int], list[Record]]) -> None:
        super().__init__(agent, 0)
        self.begin, self._recorded = begin, recorded
        self._rules: int | None = None

    def follow(self, cause: Cause, policies: Callable[[Policies], Policies] = lambda found: found) -> Judgement | None:
        """Judge the decision about a record, under what `policies` makes of those in force; None if there is none."""
        record, recorded = cause.record, self._recorded(cause.offset)
        if record.type == "brain.started":
            self._rules = record.payload["agents"].get(self.agent.name)
        judgement = None
        if self._is_asked(record, recorded=bool(recorded)):
            judgement = self._judged(Cause(cause.offset, record, self.used), recorded, policies)
        self._passed(record)
        return judgement

    def again(self, judgement: Judgement) -> list[Record]:
        """Return what the agent decides about the cause of `follow`'s last judgement under the policies in force.

        To be called before the next `follow`.
        """
        state, self.state = self.state, self._before
        try:
            return self._decided(judgement.cause, self._in_force, judgement.recorded)
        finally:
            self.state = state

    def _judged(
        self, cause: Cause, recorded: list[Record], policies: Callable[[Policies], Policies]
    ) -> Judgement | None:
        record = cause.record
        repeated = record.kind == "command" and self.answered.repeats(record)
        self._before, self._in_force = self.state, self.policies
        judgement = None
        if cause.offset >= self.begin:
            decided = [] if repeated else self._decided(cause, policies(self.policies), recorded)
            if recorded or decided:
                judgement = Judgement(self.agent.name, cause, recorded, decided, self._rules)
        if recorded or not repeated:
            self._follow_recorded(cause, recorded)
        self._remember(record, recorded)
        return judgement

    def _decided(self, cause: Cause, policies: Policies, recorded: Sequence[Record]) -> list[Record]:
        self.brain = (recorded[0].brain if recorded else None) or 0
        try:
            decision = self._decide(cause, policies)
            out = [] if decision is None else self._records(cause, decision)
            if recorded and recorded[0].type == "agent.faulted":
                self._evolved(cause, out)  # it may have been this that raised
        except Exception as error:  # noqa: BLE001 - as in `Fold`
            return self._fault(cause, error)
        return out


def is_same(judgement: Judgement) -> bool:
    """True if what is recorded is what the agent decides now, byte for byte but for the version of its rules."""
    recorded, decided = judgement.recorded, judgement.decided
    rules = rules_of(judgement)
    if decided and rules is not None and rules != decided[0].payload.get("rules"):
        decided = [decided[0].replaced(payload={**decided[0].payload, "rules": rules}), *decided[1:]]
    return len(recorded) == len(decided) and all(map(_equal, recorded, decided))


def _equal(recorded: Record, decided: Record) -> bool:
    message = encode(decided)
    return message.value == encode(recorded).value or decode(message) == recorded


def rules_of(judgement: Judgement) -> int | None:
    """Return the version of the rules that made the recorded decision; None if it has none."""
    first = judgement.recorded[0] if judgement.recorded else None
    return None if first is None else first.payload.get("rules")


def outcome_of(records: Sequence[Record]) -> str:
    """Return the outcome of a decision: acted, proposed or refused; `faulted`; `nothing` if there is none.

    Where its first record was dropped from the log, what is left has none: `unknown`.
    """
    if not records:
        return "nothing"
    return "faulted" if records[0].type == "agent.faulted" else str(records[0].payload.get("outcome", "unknown"))


def differing(one: Sequence[Record], other: Sequence[Record]) -> list[Record] | None:
    """Return the effects that only one of two decisions about a cause has; None if they come to the same.

    Which policy judged is no difference, nor is the text of a refusal.
    """
    first, second = _effects(one), _effects(other)
    alone = [record for effects, others in ((first, second), (second, first)) for record in effects
             if not any(_is_like(record, another) for another in others)]  # fmt: skip
    return alone if alone or outcome_of(one) != outcome_of(other) else None


def _effects(records: Sequence[Record]) -> Sequence[Record]:
    return [record for record in records[1:] if record.type != "command.refused"]


def _is_like(one: Record, other: Record) -> bool:
    if (one.type, one.key) != (other.type, other.key):
        return False
    return one.payload == other.payload or decode(encode(one)).payload == decode(encode(other)).payload
