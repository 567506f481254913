"""Routes of alerts in a policy: `log`, and connections that take alerts, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from penstock.errors import Issue, did_you_mean
from penstock.models.policy import AgentPolicy
from penstock.models.receivers import RECEIVERS

__all__ = ["LOG", "issues_of_routes", "receivers"]

LOG: Final = "log"
"""The route that sends nothing: the alert stands on the control topic, and in `penstock alerts`."""


def receivers(policy: AgentPolicy) -> list[str]:
    """Return the connections that a policy sends alerts to."""
    return [route for route in policy.spec.monitor.routes if route != LOG]


def issues_of_routes(policy: AgentPolicy, types: Mapping[str, str | None]) -> Iterator[Issue]:
    """Yield an issue for each route that leads nowhere; `types` are those of the connections that there are, by name.

    The type of a connection may be None if it is not known.
    """
    for number, route in enumerate(policy.spec.monitor.routes):
        path = f"spec.monitor.routes[{number}]"
        if route == LOG:
            continue
        if route not in types:
            fitting = [LOG, *(name for name, type_ in types.items() if type_ in RECEIVERS)]
            hint = did_you_mean(route, fitting) or "write one of type webhook, slack or smtp into connections.yaml"
            yield Issue(path, f"there is no connection {route!r}; {hint}")
        elif (type_ := types[route]) is not None and type_ not in RECEIVERS:
            yield Issue(
                path, f"connection {route!r} is of type {type_}; alerts go to one of type webhook, slack or smtp"
            )
