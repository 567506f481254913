"""`penstock decisions`: what agents decided, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from api.cli.completion import pipeline_names
from api.cli.main import State, command
from api.cli.moments import moment
from api.client import connected


@command(name="decisions")
@click.option("--agent", help="Only those of this agent.")
@click.option("--pipeline", help="Only those about this pipeline, its runs and tasks.", shell_complete=pipeline_names)
@click.option("--outcome", type=click.Choice(["acted", "proposed", "refused"]), help="Only those with this outcome.")
@click.option("--since", help="Only those since a time (ISO 8601) or a duration ago such as 10m, 2h, 1d.")
@click.option("--policy", help="Only those judged by this policy: its name, or the beginning of its hash.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many, the latest.")
@click.option("--after", help="Continue after this page, as `after` of --json says.")
def decisions_(state: State, *, since: str | None, limit: int, after: str | None, **choice: str | None) -> None:
    """Show decisions of agents, the latest first: what was done or proposed, why, and by which policy."""
    begin = moment(since, "--since") if since else None
    with connected(state.settings, runs=False) as client:
        page = client.store.decisions(**choice, since=begin, limit=limit, after=after)
    rows = [
        (one.offset, f"{one.at:%Y-%m-%d %H:%M:%S}", one.agent, one.action, one.subject, one.outcome,
         _reason(one.decision), (one.policy or "")[:8])
        for one in page.items
    ]  # fmt: skip
    columns = ("#offset", "at", "agent", "action", "about", "outcome", "reason", "policy")
    state.output.table(columns, rows, empty="There are no such decisions.")
    state.output.data({"items": page.items, "after": page.after})
    state.output.hint(f"penstock why {page.items[0].offset}" if page.items else "penstock events")


def _reason(decision: Mapping[str, Any]) -> str:
    """Return the reason of a decision, with the limit that held it back."""
    reason, held = str(decision["reason"]), decision.get("held")
    return reason if not held or held in reason else f"{reason}; held by {held}"
