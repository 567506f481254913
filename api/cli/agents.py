"""`penstock agents`: what the agents are, what they may do, and the kill switch."""

from __future__ import annotations

from typing import Any

import click

from api.cli.console import ago
from api.cli.main import State, command
from api.client import connected
from api.switches import ALL, is_halted
from penstock.errors import UsageError


@command(name="agents")
@click.argument("action", type=click.Choice(["list", "halt", "resume"]), default="list")
@click.argument("agent", required=False)
def agents_(state: State, action: str, agent: str | None) -> None:
    """Show the agents; `halt [AGENT]` stops one, or all, from acting on its own, `resume [AGENT]` lets it act again.

    A halted orchestrator gives no task to a worker; what runs goes on. Commands of people are still carried out.
    """
    if action == "list":
        if agent is not None:
            raise UsageError("`agents list` takes no name", where="penstock agents", value=agent)
        _list(state)
        return
    key = f"agent {agent or ALL}"
    with connected(state.settings) as client:
        result = client.ask(f"agent.{action}", key, {"agent": agent} if agent else {}).result or {}
    state.output.data(result)
    done = {"halt": "no longer acts on its own", "resume": "may act again"}[action]
    state.output.say(f"{agent or 'every agent'} {done}" + ("" if result["changed"] else ", as before"))
    state.output.hint("penstock agents")


def _list(state: State) -> None:
    from agents.policies import Policies
    from agents.switches import AGENTS

    with connected(state.settings, runs=False) as client:
        spec = Policies({one.name: dict(one.policy) for one in client.store.policies()}).for_labels({}).spec
        halted = {name for name in AGENTS if is_halted(client.store, name)}
        last = {name: client.store.decisions(agent=name, limit=1).items for name in AGENTS}
    rows: list[dict[str, Any]] = []
    for name in AGENTS:
        rules = getattr(spec, name)
        rows.append({
            "agent": name,
            "status": "halted" if name in halted else "acting",
            "autonomy": getattr(rules, "autonomy", "act"),
            "above": getattr(rules, "act_above", None),
            "last_decision": last[name][0].at if last[name] else None,
        })  # fmt: skip
    state.output.table(
        ("agent", "status", "autonomy", "#above", "last decision"),
        [
            (one["agent"], one["status"], one["autonomy"], one["above"], ago(one["last_decision"]) or "never")
            for one in rows
        ],
        empty="",
    )
    state.output.data(rows)
    state.output.hint("penstock decisions --agent AGENT")
