"""The state of the monitor, as each record changes it: bounded by the pipelines, and what is open about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from agents.alerts import KINDS
from agents.freshness import SUBJECT as FRESH
from agents.freshness import owner_of
from agents.protocol import State
from agents.quieting import ALL, QUIET
from agents.ready import connections_in
from agents.rooms import put, without
from agents.sets import is_set
from penstock.models.expect import Expect
from penstock.records import Record
from penstock.records.alerts import watched_part

__all__ = ["CHANGES", "EMPTY", "evolved", "newer", "series_of", "without_alerts"]

EMPTY: Final[State] = {room: {} for room in ("pipelines", "series", "alerts", "silences", "incidents", "proposals")}
NUMBERS: Final = ("pipeline", "metric", "part", "at", "value", "expected", "score", "samples", "run")
Payload = dict[str, Any]


def evolved(state: State, record: Record) -> State:
    """Return the state after a record."""
    change = CHANGES.get(record.type)
    return change(state, record) if change else state


def newer(state: State, one: Mapping[str, Any]) -> bool:
    """True if a scored value is not older than the last one of its metric."""
    known = state["series"].get(_series(one))
    return known is None or datetime.fromisoformat(known["at"]) <= datetime.fromisoformat(one["at"])


def series_of(state: State, name: str) -> Iterator[dict[str, Any]]:
    """Yield the last numbers of a pipeline, without those of parts."""
    return (state["series"][key] for metric in KINDS if (key := f"{name}\n{metric}\n") in state["series"])


def without_alerts(state: State, keys: Sequence[str]) -> State:
    """Return the state without the alerts of these causes."""
    return {**state, "alerts": {key: one for key, one in state["alerts"].items() if key not in keys}} if keys else state


def _series(one: Mapping[str, Any]) -> str:
    return "\n".join((one["pipeline"], one["metric"], watched_part(one["metric"], one.get("part", ""))))


def _pipeline(state: State, name: str, **values: Any) -> State:
    before = state["pipelines"].get(name)
    return state if before is None else put(state, "pipelines", name, {**before, **values})


def _changed(state: State, record: Record) -> State:
    """Follow a version; a new promise counts from now."""
    document = record.payload["pipeline"]
    name, spec = record.payload["name"], document["spec"]
    written = spec.get("expect")
    expect = Expect.parse(written) if written and not is_set(document) else None
    fresh = expect.fresh.total_seconds() if expect and expect.fresh else None
    before = state["pipelines"].get(name)
    kept: dict[str, Any] = before or {"status": "active", "succeeded": None, "run": None, "timer": None, "fresh": None}
    if kept["succeeded"] is None or (fresh and not kept["fresh"]):
        kept = {**kept, "succeeded": record.at.isoformat(), "run": None}
    kept = {**kept, "labels": document["metadata"].get("labels", {}), "connections": sorted(connections_in(spec))}
    kept |= {"stream": spec.get("mode") == "stream", "fresh": fresh, "rows": bool(expect and expect.rows)}
    return put(state, "pipelines", name, kept | ({} if fresh else {"timer": None}))


def _status(state: State, record: Record) -> State:
    p = record.payload
    begins = {"succeeded": record.at.isoformat(), "run": None} if p["status"] == "active" else {"timer": None}
    if p["status"] == "active":  # how far a stream was behind is of before
        state = without(state, "series", f"{p['name']}\nlag\n")
    return _pipeline(state, p["name"], status=p["status"], **begins)


def _deleted(state: State, record: Record) -> State:
    name = record.payload["name"]
    for room in ("pipelines", "silences", "proposals"):
        state = without(state, room, name)
    series = {key: one for key, one in state["series"].items() if one["pipeline"] != name}
    return state if len(series) == len(state["series"]) else {**state, "series": series}


def _finished(state: State, record: Record) -> State:
    run = record.payload["run"]
    if run["status"] != "completed" or not state["pipelines"].get(run["pipeline"], {}).get("fresh"):
        return state
    at = run.get("finished_at") or record.at.isoformat()
    return _pipeline(state, run["pipeline"], succeeded=at, run=run["id"])


def _scored(state: State, record: Record) -> State:
    one = record.payload
    if one["pipeline"] not in state["pipelines"] or one["metric"] not in KINDS or not newer(state, one):
        return state
    return put(state, "series", _series(one), {name: one[name] for name in NUMBERS if name in one})


def _timer(state: State, record: Record) -> State:
    name = record.payload["subject"].removeprefix(FRESH)
    return state if name == record.payload["subject"] else _pipeline(state, name, timer=record.payload["timer"])


def _fired(state: State, record: Record) -> State:
    timer = record.payload["timer"]
    if (owner := owner_of(state, timer)) is not None:
        return _pipeline(state, owner, timer=None)
    if not timer.startswith(QUIET):
        return state
    for key, alert in state["alerts"].items():
        if (alert["snoozed"] or {}).get("timer") == timer:
            return put(state, "alerts", key, {**alert, "snoozed": None})
    for name, silences in state["silences"].items():
        left = {metric: one for metric, one in silences.items() if one["timer"] != timer}
        if len(left) < len(silences):
            return put(state, "silences", name, left) if left else without(state, "silences", name)
    return state


def _opened(state: State, record: Record) -> State:
    p = record.payload
    kept = {"pipeline": None, **p, "told": p.get("routes", []), "snoozed": None}
    return put(state, "alerts", p["cause"], kept)


def _told(state: State, record: Record) -> State:
    p = record.payload
    known = state["alerts"].get(p["cause"])
    if known is None:
        return state
    told = p.get("routes") or known["told"]
    return put(state, "alerts", p["cause"], {"pipeline": None, **p, "told": told, "snoozed": known["snoozed"]})


def _snoozed(state: State, record: Record) -> State:
    p = record.payload
    for key, alert in state["alerts"].items():
        if alert["alert"] == p["alert"]:
            return put(state, "alerts", key, {**alert, "snoozed": _held(p)})
    return state


def _held(p: Payload) -> dict[str, Any]:
    return {"until": p["until"], "timer": p["timer"]}


def _silenced(state: State, record: Record) -> State:
    p = record.payload
    silences = {**state["silences"].get(p["pipeline"], {}), p.get("metric") or ALL: _held(p)}
    return put(state, "silences", p["pipeline"], silences)


def _incident(state: State, record: Record) -> State:
    p = record.payload
    kept = {name: p.get(name) for name in ("pipeline", "connection", "component", "what", "hint")}
    kept |= {"run": p.get("facts", {}).get("run"), "since": record.at.isoformat()}
    return put(state, "incidents", p["id"], kept)


def _proposed(state: State, record: Record) -> State:
    p = record.payload
    one = {"proposal": p["proposal"], "run": p["run"], "since": record.at.isoformat()}
    return put(state, "proposals", p["name"], {**state["proposals"].get(p["name"], {}), p["id"]: one})


def _answered(state: State, record: Record) -> State:
    name = record.payload["name"]
    left = {id_: one for id_, one in state["proposals"].get(name, {}).items() if id_ != record.payload["id"]}
    return put(state, "proposals", name, left) if left else without(state, "proposals", name)


def _set_back(state: State, record: Record) -> State:
    """Follow clocks that were set back: nothing was later than what they show now."""
    for room, field in (("pipelines", "succeeded"), ("series", "at")):
        later = {key: one for key, one in state[room].items() if datetime.fromisoformat(one[field]) > record.at}
        if later:
            now = {key: {**one, field: record.at.isoformat()} for key, one in later.items()}
            state = {**state, room: {**state[room], **now}}
    return state


CHANGES: Final[dict[str, Callable[[State, Record], State]]] = {
    "pipeline.created": _changed,
    "pipeline.updated": _changed,
    "pipeline.status_changed": _status,
    "pipeline.deleted": _deleted,
    "run.finished": _finished,
    "series.scored": _scored,
    "timer.requested": _timer,
    "timer.fired": _fired,
    "alert.opened": _opened,
    "alert.changed": _told,
    "alert.closed": lambda state, record: without(state, "alerts", record.payload["cause"]),
    "alert.snoozed": _snoozed,
    "alert.silenced": _silenced,
    "incident.opened": _incident,
    "incident.closed": lambda state, record: without(state, "incidents", record.payload["id"]),
    "change.proposed": _proposed,
    "change.answered": _answered,
    "clock.set_back": _set_back,
    "brain.started": _set_back,
}
