"""The gate between a decision and the log: it enforces the policy. Pure, and verified like a decision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from agents.limits import room_of
from agents.policies import Policies
from agents.protocol import Cause, Decision
from penstock.errors import RefusedByPolicy
from penstock.models.policy import CAPABILITIES, AgentPolicy
from penstock.models.scope import Scope

__all__ = ["gate", "is_own"]

RECORDS_FACTS: Final = frozenset({"lifecycle", "orchestrator"})
"""Agents whose decisions also record what happened: while halted, the orchestrator assigns no task, but still closes
tasks."""


def gate(decision: Decision, policies: Policies, cause: Cause) -> Decision:
    """Return the decision as the policy allows it: with the policy's hash, and without effects if it may not act.

    Raises:
        RefusedByPolicy: it answers a command, and a policy forbids what it needs.
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
    judged: dict[str, Any] = {"policy": hash_, "threshold": threshold}
    if is_own(decision):
        scope = _scope(decision)
        judged["scope"] = scope
        if outcome == "acted" and (limit := policies.held(decision.why.action, scope, cause.used, cause.at)):
            outcome, judged["held"] = "proposed", limit
    if not decision.asked and decision.why.agent not in RECORDS_FACTS and policies.is_halted(decision.why.agent):
        outcome = "refused"
    why = decision.why.model_copy(update={**judged, "outcome": outcome})
    return replace(decision, why=why, effects=decision.effects if outcome == "acted" else ())


def is_own(decision: Decision) -> bool:
    """True if the agent acts on its own, and does not only record what happened or what follows from a file."""
    agent, action = decision.why.agent, decision.why.action
    known = CAPABILITIES.get(room_of(agent, action))
    return decision.asked is None and (agent not in RECORDS_FACTS if known is None else action in known)


def _scope(decision: Decision) -> Scope:
    """Return what an action of the agent itself touches; its labels are those that select the policy."""
    scope = decision.scope or Scope(subject=decision.why.subject)
    return scope.model_copy(update={"labels": dict(decision.labels) or None})


def _autonomy(decision: Decision, policy: AgentPolicy) -> tuple[str, float | None]:
    """Return the outcome and the threshold used: an agent acts only if its confidence is ABOVE it."""
    rules = getattr(policy.spec, decision.why.agent, None)
    level = getattr(rules, "autonomy", "act")
    level = getattr(rules, "actions", {}).get(decision.why.action, level)
    threshold: float | None = getattr(rules, "act_above", None)
    if decision.asked or (level == "act" and (threshold is None or decision.why.confidence > threshold)):
        return "acted", threshold
    return "proposed", threshold
