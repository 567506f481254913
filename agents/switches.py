"""The kill switch: commands that halt an agent, or all of them, and let them act again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from agents.policies import ALL, Policies, switched
from agents.protocol import Cause, Draft, State
from penstock.errors import NotFound, Refused, did_you_mean
from penstock.models.policy import AgentPolicySpec
from penstock.records.commands import AgentSwitch

__all__ = ["AGENTS", "SWITCHED", "switch"]

AGENTS: Final = tuple(sorted(name for name in AgentPolicySpec.model_fields if name not in {"applies", "constraints"}))
"""Agents that may be halted: those that a policy has rules for."""


def _subject(agent: str | None) -> str:
    """Return the key of a switch's records: no pipeline has such a name."""
    return f"agent {agent or ALL}"


def switch(
    state: State, cause: Cause, command: AgentSwitch, _: Policies
) -> tuple[tuple[Draft, ...], dict[str, Any], str]:
    """Halt an agent, or let it act again.

    Raises:
        NotFound: there is no such agent that could be halted.
        Refused: one of all that are halted is to be resumed.
    """
    if command.agent is not None and command.agent not in AGENTS:
        hint = did_you_mean(command.agent, AGENTS) or f"one of {', '.join(AGENTS)}"
        raise NotFound(f"there is no agent {command.agent!r} to halt", hint=hint)
    halted, type_ = frozenset(state.get("halted", ())), {"agent.halt": "agent.halted"}.get(cause.type, "agent.resumed")
    if type_ == "agent.resumed" and command.agent and ALL in halted:
        raise Refused("all agents are halted", where=f"agent {command.agent}", hint="penstock agents resume")
    payload = {"by": cause.record.actor} | ({"agent": command.agent} if command.agent else {})
    after = switched(halted, type_, payload)
    result = {"halted": sorted(after), "resumed": sorted(halted - after)}
    if after == halted:
        return (), result | {"changed": False}, "it is as asked already"
    return (Draft(type_, _subject(command.agent), payload),), result | {"changed": True}, "a person decides that"


def _switched(type_: str, state: State, payload: dict[str, Any]) -> State:
    return {**state, "halted": sorted(switched(frozenset(state.get("halted", ())), type_, payload))}


SWITCHED: Final[dict[str, Callable[[State, dict[str, Any]], State]]] = {
    type_: partial(_switched, type_) for type_ in ("agent.halted", "agent.resumed")
}
"""How each record of the switch changes the state."""
