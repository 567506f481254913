"""Alerts about metrics: which numbers open one, what it says, and when it is over. Pure.

What is compared are numbers that a worker has recorded (`series.scored`). There is one open alert for each cause, which
is a metric of a pipeline. It closes when the score is well below the sensitivity, not just below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.quieting import routes_of
from penstock.ids import named_id
from penstock.models.base import duration_text
from penstock.models.policy import MonitorPolicy
from penstock.models.sets import set_of
from penstock.records.alerts import watched_part

__all__ = [
    "CALM",
    "FALLING",
    "GONE",
    "KINDS",
    "MOST",
    "about",
    "all_of",
    "closed",
    "evaluated",
    "opened",
    "severity_of",
    "words",
    "worse",
]

KINDS: Final[Mapping[str, str]] = {
    "rows_out": "volume",
    "duration": "latency",
    "latency": "latency",
    "lag": "lag",
    "behind": "lag",
    "errors": "errors",
    "dead": "errors",
    "nulls": "nulls",
}
"""The kind of alert that each metric may open."""
FALLING: Final = frozenset({"rows_out"})
"""Metrics of which less than usual is unusual, too; of the others only more."""
GONE: Final = frozenset({"stopped", "deleting"})
"""Statuses of pipelines about which no alert is open."""
MOST: Final = 1e12
"""The largest number that a sentence shows, whatever a record has."""
CALM: Final = 0.6
"""Share of the sensitivity below which an alert is over."""
CRITICAL: Final = 2.0
"""Times the sensitivity from which on an alert is critical."""


def severity_of(one: Mapping[str, Any], rules: MonitorPolicy, *, promised: bool = False) -> str | None:
    """Return how severe a scored value is for a policy; None if it opens no alert.

    `promised` is True if the pipeline's file promises that metric.
    """
    size = _size(one)
    if one["samples"] < rules.warm_up or size <= rules.sensitivity:
        return None
    return "critical" if promised or size >= CRITICAL * rules.sensitivity else "warning"


def _size(one: Mapping[str, Any]) -> float:
    score: float = one["score"]
    return abs(score) if one["metric"] in FALLING else max(score, 0.0)


def about(one: Mapping[str, Any]) -> str:
    """Return the cause that an alert about a scored value has."""
    part = watched_part(one["metric"], one.get("part", ""))
    return " ".join(word for word in (KINDS[one["metric"]], one["pipeline"], one["metric"], part) if word)


def evaluated(state: State, cause: Cause, one: Mapping[str, Any], policies: Policies, *, halted: bool) -> list[Draft]:
    """Return what follows from a scored value under a policy: an alert that opens, gets worse, or is over."""
    pipeline = state["pipelines"].get(one["pipeline"])
    if pipeline is None or pipeline["status"] in GONE or one["metric"] not in KINDS:
        return []
    if one["metric"] == "lag" and pipeline["stream"] and pipeline["fresh"]:
        return []  # what its file promises counts
    rules = policies.for_labels(pipeline["labels"]).spec.monitor
    known, key = state["alerts"].get(about(one)), about(one)
    promised = pipeline["rows"] and one["metric"] == "rows_out"
    severity = severity_of(one, rules, promised=bool(promised))
    if severity is None:
        over = known and (_size(one) < CALM * rules.sensitivity or one["samples"] < rules.warm_up)
        return [closed(state, cause, key, f"it is as usual again: {words(one)}")] if over else []
    if known is not None:
        escalates = known["severity"] == "warning" and severity == "critical" and not halted
        return [worse(state, cause, known | _numbers(one, severity), policies, "it is worse")] if escalates else []
    incident = incident_of(state, one["pipeline"])
    if halted or (KINDS[one["metric"]] == "errors" and incident):
        return []  # the incident says so
    payload = {"cause": key, "pipeline": one["pipeline"], "kind": KINDS[one["metric"]], "metric": one["metric"]}
    payload |= {"part": one.get("part", ""), "since": one["at"], **_numbers(one, severity)}
    return [opened(state, cause, payload, policies)]


def _numbers(one: Mapping[str, Any], severity: str) -> dict[str, Any]:
    found = {name: one[name] for name in ("value", "expected", "score", "run") if one.get(name) is not None}
    return {**found, "severity": severity, "summary": words(one)}


def opened(state: State, cause: Cause, payload: Mapping[str, Any], policies: Policies) -> Draft:
    """Return the record of a new alert, with the incident that may be why."""
    id_ = named_id("alert", payload["cause"], cause.record.id)
    incident = payload.get("incident") or incident_of(state, payload["pipeline"])
    more = {"incident": incident} if incident else {}
    routes = routes_of(state, payload, policies, cause.at)
    return Draft("alert.opened", id_, {"alert": id_, **payload, **more, "routes": routes})


def worse(state: State, cause: Cause, alert: Mapping[str, Any], policies: Policies, reason: str) -> Draft:
    """Return the record by which an open alert is told again, with the numbers of now."""
    kept = {name: value for name, value in alert.items() if name not in {"told", "snoozed", "routes"}}
    routes = routes_of(state, alert, policies, cause.at)
    return Draft("alert.changed", alert["alert"], {**kept, "reason": reason, "routes": routes})


def closed(state: State, cause: Cause, key: str, reason: str) -> Draft:
    """Return the record by which an alert is over; it is told where it was told before, unless it is quiet now."""
    alert = state["alerts"][key]
    lasted = max(0.0, (cause.at - datetime.fromisoformat(alert["since"])).total_seconds())
    payload = {"alert": alert["alert"], "cause": key, "pipeline": alert.get("pipeline"), "reason": reason}
    payload |= {"connection": alert["connection"]} if alert.get("connection") else {}
    payload |= {"summary": alert["summary"], "lasted_s": lasted, "routes": routes_of(state, alert, None, cause.at)}
    return Draft("alert.closed", alert["alert"], payload)


def incident_of(state: State, name: str) -> str | None:
    """Return the open incident about runs of a pipeline, or a connection that it uses."""
    used = state["pipelines"].get(name, {}).get("connections", ())
    for id_, one in state["incidents"].items():
        if one["component"]:  # a check of it, or a discovery, which explains no number of its runs
            continue
        if one["pipeline"] in {name, set_of(name)} - {None} or (not one["pipeline"] and one["connection"] in used):
            return str(id_)
    return None


def words(one: Mapping[str, Any]) -> str:
    """Return a scored value as a sentence."""
    numbers = {name: min(max(one[name], -MOST), MOST) for name in ("value", "expected", "score")}
    what = WORDS[one["metric"]]({**one, **numbers})
    return f"{one['pipeline']} {what} (score {numbers['score']:.1f} by {one['samples']} values)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004 - digits


def _seconds(value: float) -> str:
    return duration_text(timedelta(seconds=round(max(value, 0.0), 3 if value < 10 else 0)))  # noqa: PLR2004 - digits


def _compared(begin: str, shown: Callable[[float], str], end: str = "") -> Callable[[Mapping[str, Any]], str]:
    def sentence(one: Mapping[str, Any]) -> str:
        return f"{begin} {shown(one['value'])}{end}, usually about {shown(one['expected'])}"

    return sentence


def _share(value: float) -> str:
    return f"{value:.3%}" if 0 < value < 0.001 else f"{value:.1%}"  # noqa: PLR2004 - digits


def _nulls(one: Mapping[str, Any]) -> str:
    column = f"`{one['part']}`" if one.get("part") else "a column"
    return f"has {_share(one['value'])} nulls in {column}, usually about {_share(one['expected'])}"


WORDS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "rows_out": _compared("wrote", _number, " rows"),
    "duration": _compared("took", _seconds),
    "latency": _compared("commits rows after", _seconds),
    "lag": _compared("is behind by", _seconds),
    "behind": _compared("is behind by", _number, " messages"),
    "errors": _compared("has errors:", _number),
    "dead": _compared("refused", _share, " of its rows"),
    "nulls": _nulls,
}
"""The sentence about each metric."""


def all_of(state: State, name: str) -> Iterator[str]:
    """Yield the causes of the open alerts about a pipeline."""
    return (key for key, one in state["alerts"].items() if one["pipeline"] == name)
