"""Policies, and the gate between a decision and the log that enforces them. Pure, and verified like a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from penstock.errors import Refused, RefusedByPolicy
from penstock.models.policy import AgentPolicy

if TYPE_CHECKING:
    from agents.protocol import Decision

__all__ = ["DEFAULT", "Policies", "gate"]

DEFAULT = AgentPolicy.parse({"metadata": {"name": "built-in"}})
"""What applies where no policy does."""
_DEFAULT = (DEFAULT, DEFAULT.hash)


@dataclass(frozen=True)
class Policies:
    """The policies accepted at a lower offset, by name, as builtins. Each is read once, when it is first needed."""

    accepted: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def _parsed(self) -> tuple[tuple[AgentPolicy, str], ...]:
        """Every policy in force, with its hash."""
        parsed = [AgentPolicy.parse(policy) for policy in self.accepted.values()]
        return tuple((policy, policy.hash) for policy in parsed)

    def all(self) -> list[AgentPolicy]:
        """Every policy in force."""
        return [policy for policy, _ in self._parsed]

    def for_labels(self, labels: Mapping[str, str]) -> AgentPolicy:
        """The most specific policy that applies to `labels`; `DEFAULT` if none does."""
        return self.judging(labels)[0]

    def judging(self, labels: Mapping[str, str]) -> tuple[AgentPolicy, str]:
        """`for_labels`, with its hash."""
        fitting = [found for found in self._parsed if found[0].matches(labels)]
        return max(fitting, key=lambda found: len(found[0].spec.applies), default=_DEFAULT)

    def check(self, policy: AgentPolicy) -> None:
        """Refuse a policy that ties with another one: as specific, and both may apply to one pipeline."""
        for other in self.all():
            mine, its = policy.spec.applies, other.spec.applies
            clash = any(its.get(key, value) != value for key, value in mine.items())
            if other.name != policy.name and len(mine) == len(its) and not clash:
                hint = "give one of them another label in `applies`"
                raise Refused(
                    f"ties with policy {other.name!r}: both could apply", where=f"policy {policy.name}", hint=hint
                )

    def with_record(self, payload: Mapping[str, Any]) -> Policies:
        """These policies after one was accepted."""
        return Policies({**self.accepted, payload["name"]: payload["policy"]})


def gate(decision: Decision, policies: Policies) -> Decision:
    """The decision as the policy lets it pass: with its hash, and without effects where it may not act.

    Raises:
        RefusedByPolicy: it follows a command, and a policy forbids what it needs.
    """
    policy, hash_ = policies.judging(dict(decision.labels))
    never = [need for need in decision.needs if need in policy.spec.constraints.never]
    if never and decision.asked:
        hint = f"change `constraints.never` of policy {policy.name!r}, or ask without it"
        what = f"policy {policy.name!r} never allows {', '.join(never)}"
        raise RefusedByPolicy(what, where=decision.why.subject, hint=hint)
    if never:
        why = decision.why.model_copy(update={"policy": hash_, "outcome": "refused"})
        return replace(decision, why=why, effects=())
    outcome, threshold = _autonomy(decision, policy)
    why = decision.why.model_copy(update={"policy": hash_, "outcome": outcome, "threshold": threshold})
    return replace(decision, why=why, effects=decision.effects if outcome == "acted" else ())


def _autonomy(decision: Decision, policy: AgentPolicy) -> tuple[str, float | None]:
    """What comes of it, and the threshold used: acts only where confidence is ABOVE it."""
    rules = getattr(policy.spec, decision.why.agent, None)
    level = getattr(rules, "autonomy", "act")
    level = getattr(rules, "actions", {}).get(decision.why.action, level)
    threshold: float | None = getattr(rules, "act_above", None)
    if decision.asked or (level == "act" and (threshold is None or decision.why.confidence > threshold)):
        return "acted", threshold
    return "proposed", threshold
