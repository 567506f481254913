"""What a policy must not say: rules that contradict each other, or that nothing could follow.

These are checked when a policy comes in, not when it is read back: what an older release accepted stays readable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.errors import Issue
from penstock.models.policy import DEFAULT_ZONE, AgentPolicy, AgentPolicySpec, Constraints
from penstock.models.quiet import issue_of_hours
from penstock.models.schedule import time_zone

__all__ = ["contradictions"]

BOTH = "`constraints.never` lists it: take it out there, or here"


def contradictions(policy: AgentPolicy) -> list[Issue]:
    """Return what contradicts itself in a policy, and what no agent could keep to, each with its path."""
    spec = policy.spec
    found = (*_forbidden(spec), *_limits(spec.constraints), *_repeated(spec.monitor.routes))
    return [Issue(f"spec.{path}", text) for path, text in found]


def _forbidden(spec: AgentPolicySpec) -> Iterator[tuple[str, str]]:
    never = spec.constraints.never
    for action, level in spec.error_resolution.actions.items():
        if level == "act" and action in never:
            yield f"error_resolution.actions.{action}", f"is `act`, but {BOTH}"
    if spec.evolution.approve and "approve" in never:
        yield "evolution.approve", f"names changes to approve, but {BOTH}"
    if spec.discovery.every and spec.discovery.autonomy == "act" and "discover" in never:
        yield "discovery.every", f"asks for discoveries, but {BOTH}"
    for limited in spec.constraints.limits or ():
        if limited in never:
            yield f"constraints.limits.{limited}", f"limits an action, but {BOTH}"


def _repeated(routes: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, route in enumerate(routes):
        if route in routes[:number]:
            yield f"monitor.routes[{number}]", f"names `{route}` twice"


def _limits(constraints: Constraints) -> Iterator[tuple[str, str]]:
    for number, hours in enumerate(constraints.quiet_hours):
        if wrong := issue_of_hours(hours):
            yield f"constraints.quiet_hours[{number}]", wrong
    try:
        time_zone(constraints.timezone or DEFAULT_ZONE)
    except ValueError as error:
        yield "constraints.timezone", str(error)
    if constraints.timezone and not constraints.quiet_hours:
        yield "constraints.timezone", "is that of `quiet_hours`, of which there are none: add some, or leave it out"
    for action, rate in (constraints.limits or {}).items():
        if rate.per_hour is None and rate.per_pipeline is None:
            yield f"constraints.limits.{action}", "limits nothing: give it `per_hour` or `per_pipeline`"
        elif rate.per_hour is not None and (rate.per_pipeline or 0) > rate.per_hour:
            yield f"constraints.limits.{action}", "allows more for one pipeline than for all together"
        if action == "discover" and rate.per_pipeline is not None:
            yield f"constraints.limits.{action}.per_pipeline", "discoveries are of connections: give it `per_hour`"
    radius = constraints.blast_radius
    if radius is not None and radius.pipelines is radius.tables is radius.rows is None:
        yield "constraints.blast_radius", "limits nothing: give it `pipelines`, `tables` or `rows`"
