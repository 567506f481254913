"""The rules that people set for datasets, as the lifecycle agent keeps them."""

from __future__ import annotations

from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from penstock.errors import NotFound, did_you_mean
from penstock.records.commands import DatasetConfigure

__all__ = ["configure", "configured"]


def configure(
    state: State, _: Cause, command: DatasetConfigure, __: Policies
) -> tuple[tuple[Draft, ...], dict[str, Any], str]:
    """Set the rule of a dataset. Raises NotFound for one of a connection that does not exist."""
    dataset, rule = command.dataset, command.compatibility
    if dataset.connection not in state["connections"]:
        hint = did_you_mean(dataset.connection, state["connections"]) or "apply connections.yaml first"
        raise NotFound(f"there is no connection {dataset.connection!r}", where=f"dataset {dataset}", hint=hint)
    before = state.get("datasets", {}).get(str(dataset), "none")
    result = {"compatibility": rule, "before": before, "changed": before != rule}
    if before == rule:
        return (), result, "it is as asked already"
    return (Draft("dataset.configured", str(dataset), command.to_dict()),), result, f"{before} -> {rule}"


def configured(state: State, payload: dict[str, Any]) -> State:
    """Return the state with the rule of a dataset; one without a rule takes no room."""
    ref = f"{payload['dataset']['connection']}:{payload['dataset']['object']}"
    rules = {**state.get("datasets", {}), ref: payload["compatibility"]}
    return {**state, "datasets": {name: rule for name, rule in rules.items() if rule != "none"}}
