"""Policies that come in: what is accepted, and what is refused while the old one stays."""

from __future__ import annotations

from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from penstock.errors import InvalidDocument
from penstock.models.policy import AgentPolicy
from penstock.models.routes import issues_of_routes
from penstock.records.commands import PolicyPublish

__all__ = ["publish"]


def publish(
    state: State, cause: Cause, command: PolicyPublish, _: Policies
) -> tuple[tuple[Draft, ...], dict[str, Any], str]:
    """Accept a policy.

    Raises:
        InvalidDocument: it is no policy, contradicts itself, or sends alerts to what does not take them.
        Refused: it ties with another one.
    """
    policy = AgentPolicy.parse(command.policy)
    Policies(state["policies"]).check(policy)
    types = {name: one["connection"].get("type") for name, one in state["connections"].items()}
    if issues := list(issues_of_routes(policy, types)):
        raise InvalidDocument(issues, where=f"policy {policy.name}")
    before = state["policies"].get(policy.name)
    if before is not None and AgentPolicy.parse(before).hash == policy.hash:
        return (), {"hash": policy.hash, "changed": False}, "it is in force already"
    payload = {"name": policy.name, "hash": policy.hash, "origin": command.origin, "policy": policy.to_dict()}
    accepted = Draft("policy.accepted", policy.name, payload)
    return (accepted,), {"hash": policy.hash, "changed": True}, "it is valid and ties with none"
