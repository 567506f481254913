"""Circuit breakers of connections: after failures in a row, over all pipelines, a connection is held back.

Closed, runs use it. Open, none begins. Half open, one run tries it: if that completes, the breaker closes; if it fails
in the same way, it opens again, for twice as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from agents.protocol import Cause, Draft, State

__all__ = ["after_failure", "after_success", "evolved", "reset", "tried", "used"]

LIMIT: Final = 5
"""Failures in a row that open a breaker."""
SHORTEST: Final = timedelta(seconds=30)
LONGEST: Final = timedelta(minutes=5)
"""Time for which a connection is held back: the first time, and at most."""
TIMER: Final = "breaker "
"""Prefix of the subject of a breaker's timer; the connection's name follows."""


def counted(payload: Mapping[str, Any]) -> str | None:
    """Return the connection whose fault a failed attempt is, if it may pass; None if it counts for no breaker."""
    found = payload.get("classified")
    if not found or found["kind"] != "transient" or not payload["error"].get("transient"):
        return None
    name: str | None = found.get("connection")
    return name


def after_failure(state: State, cause: Cause) -> Iterator[Draft]:
    """Open the breaker of a connection that fails again and again; `state` is that before the failure."""
    name = counted(cause.payload)
    if name is None:
        return
    one = state["breakers"].get(name, {"failures": 0, "status": "closed", "opened": 0})
    failures = one["failures"] + 1
    if one["status"] == "half_open" or (one["status"] == "closed" and failures >= LIMIT):
        hold = min(LONGEST, SHORTEST * 2 ** min(one["opened"], 10))
        until = (cause.at + hold).isoformat()
        reason = f"{failures} failures in a row: {cause.payload['error']['what']}"
        yield _changed(name, "open", failures, reason, until)
        timer = f"breaker:{name}:{cause.offset}"
        yield Draft("timer.requested", timer, {"timer": timer, "due": until, "subject": f"{TIMER}{name}"})


def tried(state: State, cause: Cause) -> Iterator[Draft]:
    """Let one run try the connection whose time is over."""
    for name, one in state["breakers"].items():
        if one.get("timer") == cause.payload["timer"] and one["status"] == "open":
            yield _changed(name, "half_open", one["failures"], "one run tries it")


def after_success(state: State, names: Iterable[str]) -> Iterator[Draft]:
    """Close the breakers of connections that a run has used successfully."""
    for name in sorted(set(names)):
        if state["breakers"].get(name, {}).get("status", "closed") != "closed":
            yield _changed(name, "closed", 0, "a run has completed")


def reset(state: State, name: str) -> Iterator[Draft]:
    """Close the breaker of a connection that was changed: earlier failures no longer count."""
    if state["breakers"].get(name, {}).get("status", "closed") != "closed":
        yield _changed(name, "closed", 0, "the connection was changed")


def _changed(name: str, status: str, failures: int, reason: str, until: str | None = None) -> Draft:
    payload = {"connection": name, "status": status, "failures": failures, "reason": reason}
    return Draft("breaker.changed", name, payload | ({"until": until} if until else {}))


def evolved(state: State, type_: str, payload: Mapping[str, Any]) -> State:
    """Return the state after a record about a breaker, a failure, or a timer that was requested for one."""
    breakers = state["breakers"]
    if type_ == "task.failed" and (name := counted(payload)) is not None:
        one = breakers.get(name, {"failures": 0, "status": "closed", "opened": 0})
        return {**state, "breakers": {**breakers, name: {**one, "failures": one["failures"] + 1}}}
    if type_ == "breaker.changed":
        name, status = payload["connection"], payload["status"]
        if status == "closed":
            return {**state, "breakers": {key: one for key, one in breakers.items() if key != name}}
        one = breakers.get(name, {"failures": 0, "opened": 0})
        opened = one["opened"] + (status == "open")
        return {**state, "breakers": {**breakers, name: {**one, "status": status, "opened": opened}}}
    if type_ == "timer.requested" and payload["subject"].startswith(TIMER):
        name = payload["subject"].removeprefix(TIMER)
        if name in breakers:
            return {**state, "breakers": {**breakers, name: {**breakers[name], "timer": payload["timer"]}}}
    return state


def used(state: State, names: set[str]) -> State:
    """Return the state after a run that used these connections successfully: earlier failures no longer count."""
    left = {key: one for key, one in state["breakers"].items() if key not in names or one["status"] != "closed"}
    return {**state, "breakers": left} if len(left) < len(state["breakers"]) else state
