"""Connections: commands that create, replace and delete them."""

from __future__ import annotations

from typing import Any

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import connections_in
from penstock.errors import NotFound, Refused, did_you_mean
from penstock.models.connection import parse_connection
from penstock.models.policy import AgentPolicy
from penstock.models.routes import receivers
from penstock.models.sets import set_of
from penstock.records.commands import ConnectionDelete, ConnectionPut

__all__ = ["delete_connection", "put_connection", "unknown"]

Effects = tuple[tuple[Draft, ...], dict[str, Any], str]


def put_connection(state: State, cause: Cause, command: ConnectionPut, _: Policies) -> Effects:
    """Create or replace a connection."""
    connection = parse_connection(command.name, command.connection).to_dict()
    before = state["connections"].get(command.name)
    if before is not None and before["connection"] == connection:
        return (), {"version": before["version"], "changed": False}, "it is as asked already"
    version = before["version"] + 1 if before else 1
    payload = {"name": command.name, "version": version, "connection": connection}
    change = Draft("connection.changed", command.name, payload)
    return (change,), {"version": version, "changed": True}, f"version {version}"


def delete_connection(state: State, cause: Cause, command: ConnectionDelete, _: Policies) -> Effects:
    """Delete a connection that nothing uses.

    Raises:
        NotFound, Refused: there is none, or something uses it.
    """
    if command.name not in state["connections"]:
        raise unknown("connection", command.name, state["connections"])
    specs = {name: one["versions"][-1]["spec"] for name, one in state["pipelines"].items()}
    users = sorted({set_of(name) or name for name, spec in specs.items() if command.name in connections_in(spec)})
    if users:
        raise Refused(f"is used by {', '.join(users)}", where=f"connection {command.name}", hint="delete them first")
    policies = [name for name, one in state["policies"].items() if command.name in receivers(AgentPolicy.parse(one))]
    if policies:
        what, hint = f"gets the alerts of policy {policies[0]}", "take it out of its `monitor.routes` first"
        raise Refused(what, where=f"connection {command.name}", hint=hint)
    return (Draft("connection.deleted", command.name, {"name": command.name}),), {}, "nothing uses it"


def unknown(kind: str, name: str, known: dict[str, Any]) -> NotFound:
    """Return the error that there is no such thing, with the most similar name."""
    hint = did_you_mean(name, known) or (
        f"there are: {', '.join(sorted(known)[:10])}" if known else "there are none yet"
    )
    return NotFound(f"there is no {kind} {name!r}", hint=hint)
