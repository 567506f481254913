"""The policies in force: which one judges a decision, by the labels of its pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from agents.limits import Used, held
from penstock.errors import InvalidDocument, Refused
from penstock.models.policy import DEFAULT_ZONE, AgentPolicy
from penstock.models.policy_checks import contradictions
from penstock.models.quiet import quiet_until
from penstock.models.scope import Scope
from penstock.records import Record

__all__ = ["ALL", "CHANGES", "DEFAULT", "Policies", "switched"]

DEFAULT = AgentPolicy.parse({"metadata": {"name": "built-in"}})
"""The policy that applies if no other does."""
_DEFAULT = (DEFAULT, DEFAULT.hash)
ALL: Final = "*"
"""In place of an agent's name: all of them."""
CHANGES: Final = frozenset({"policy.accepted", "agent.halted", "agent.resumed"})
"""Types of the records that change which policies are in force, or who may act."""


@dataclass(frozen=True)
class Policies:
    """The policies accepted at lower offsets, by name, as builtins. Each is parsed once, when first needed."""

    accepted: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    """Names of policies that stay as they are, whatever is accepted later: an audit judges under them."""

    halted: frozenset[str] = frozenset()
    """Agents that may not act on their own; `ALL` stands for every one."""

    @cached_property
    def _parsed(self) -> tuple[tuple[AgentPolicy, str], ...]:
        """Every policy in force, with its hash."""
        parsed = [AgentPolicy.parse(policy) for policy in self.accepted.values()]
        return tuple((policy, policy.hash) for policy in parsed)

    def all(self) -> list[AgentPolicy]:
        """Every policy in force."""
        return [policy for policy, _ in self._parsed]

    def for_labels(self, labels: Mapping[str, str]) -> AgentPolicy:
        """Return the most specific policy that applies to `labels`, or `DEFAULT`."""
        return self.judging(labels)[0]

    def judging(self, labels: Mapping[str, str]) -> tuple[AgentPolicy, str]:
        """Return `for_labels` and its hash."""
        fitting = [found for found in self._parsed if found[0].matches(labels)]
        return max(fitting, key=lambda found: len(found[0].spec.applies), default=_DEFAULT)

    def held(self, action: str, scope: Scope, used: Used, at: datetime) -> str | None:
        """Return the limit that keeps an agent from an action on its own, whatever its confidence; None for none.

        `used` is what it did before.
        """
        return held(self.for_labels(scope.labels or {}), used, action, scope, at)

    def quiet_until(self, labels: Mapping[str, str], at: datetime) -> datetime | None:
        """Return the end of the quiet hours that `at` is in; None if it is in none."""
        constraints = self.for_labels(labels).spec.constraints
        end = quiet_until(constraints.quiet_hours, constraints.timezone or DEFAULT_ZONE, at)
        return end if end > at else None

    def check(self, policy: AgentPolicy) -> None:
        """Refuse a policy that contradicts itself, or ties: equally specific, and both may apply to one pipeline.

        Raises:
            InvalidDocument, Refused: as said.
        """
        if issues := contradictions(policy):
            raise InvalidDocument(issues, where=f"policy {policy.name}")
        for other in self.all():
            mine, its = policy.spec.applies, other.spec.applies
            clash = any(its.get(key, value) != value for key, value in mine.items())
            if other.name != policy.name and len(mine) == len(its) and not clash:
                hint = "give one of them another label in `applies`"
                raise Refused(
                    f"ties with policy {other.name!r}: both could apply", where=f"policy {policy.name}", hint=hint
                )

    def is_halted(self, agent: str) -> bool:
        """True if a person has stopped this agent from acting on its own."""
        return ALL in self.halted or agent in self.halted

    def after(self, record: Record) -> Policies:
        """Return the policies, and the halted agents, after a record."""
        if record.type == "policy.accepted":
            return self.with_record(record.payload)
        if record.type in {"agent.halted", "agent.resumed"}:
            return replace(self, halted=switched(self.halted, record.type, record.payload))
        return self

    def with_record(self, payload: Mapping[str, Any]) -> Policies:
        """Return these policies and the one just accepted."""
        if payload["name"] in self.pinned:
            return self
        return replace(self, accepted={**self.accepted, payload["name"]: payload["policy"]})

    def pinning(self, policies: Sequence[AgentPolicy]) -> Policies:
        """Return these policies with others in the place of those with the same names, for good."""
        accepted = {**self.accepted, **{one.name: one.to_dict() for one in policies}}
        return replace(self, accepted=accepted, pinned=self.pinned | {one.name for one in policies})


def switched(halted: frozenset[str], type_: str, payload: Mapping[str, Any]) -> frozenset[str]:
    """Return the halted agents after ``agent.halted`` or ``agent.resumed``; to resume all leaves none."""
    name = payload.get("agent")
    if type_ == "agent.halted":
        return halted | {name or ALL}
    return halted - {name} if name else frozenset()
