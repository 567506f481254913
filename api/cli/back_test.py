"""`penstock alerts test`: the alerts that a sensitivity would have opened, and the scores as a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from shlex import quote

from agents.policies import Policies
from api.cli.history import BLOCKS
from api.client import Client
from dataflows.detect.runs import completed
from dataflows.detect.score import boundary
from dataflows.detect.streams import Grid
from dataflows.detect.trial import Fired, Scored, fired, of_runs, of_steps
from penstock.clock import now
from penstock.errors import UsageError
from penstock.models.policy import MonitorPolicy
from penstock.postgres import connect

__all__ = ["Tried", "back_test", "drawing"]

WIDTH = 60


@dataclass(frozen=True, slots=True)
class Tried:
    """What a back-test has found."""

    name: str
    rules: MonitorPolicy
    runs: int
    scored: Sequence[Scored]
    fired: Sequence[Fired]


def back_test(client: Client, name: str, since: datetime, sensitivity: float | None, most: int) -> Tried:
    """Score the history of a pipeline, and judge it by its policy, or by another sensitivity.

    Raises:
        NotFound: there is no such pipeline.
        UsageError: it is a set.
    """
    pipeline = client.store.pipeline(name)
    if pipeline.pipeline["spec"]["source"].get("objects"):
        hint = f"`penstock status {quote(name)}` lists its members"
        raise UsageError("is a set: name one of its members", where=f"pipeline {name}", hint=hint)
    policies = Policies({one.name: dict(one.policy) for one in client.store.policies()})
    rules = policies.for_labels(pipeline.pipeline["metadata"].get("labels", {})).spec.monitor
    rules = rules if sensitivity is None else MonitorPolicy.parse(rules.to_dict() | {"sensitivity": sensitivity})
    streams, at = pipeline.pipeline["spec"].get("mode") == "stream", now()
    with closing(connect(client.site.catalog_dsn, "penstock:alerts")) as session:
        runs = [] if streams else completed(session, name, most)
        grid = Grid(name)
        if streams:
            grid.read(session, boundary(at), at)
    expect = pipeline.pipeline["spec"].get("expect") or {}
    found = of_steps(grid, since) if streams else of_runs(name, runs, since)
    scores = [one for one in found if not (streams and expect.get("fresh") and one.metric == "lag")]
    return Tried(name, rules, len(runs), scores, fired(scores, rules, promised=bool(expect.get("rows"))))


def drawing(tried: Tried) -> Iterator[str]:
    """Yield a chart of the size of the scores of each metric, in the order of time; a full block is the sensitivity."""
    for metric in dict.fromkeys(one.metric for one in tried.scored):
        sizes = [abs(one.score.score) for one in tried.scored if one.metric == metric]
        each = max(1, -(-len(sizes) // WIDTH))
        cells = [max(sizes[at : at + each]) for at in range(0, len(sizes), each)]
        top = len(BLOCKS) - 1
        drawn = "".join(BLOCKS[min(top, int(one / tried.rules.sensitivity * top))] for one in cells)
        yield f"{drawn}  {metric}, {each} a block; full: {tried.rules.sensitivity:g} or more"
