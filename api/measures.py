"""What an installation measures now, for Prometheus and OpenTelemetry: one look at the catalog and at the log.

Labels are bounded: no run's, row's or task's id is one. Counters and histograms of pipelines beyond
`MAX_PIPELINES` are added up; their gauges are left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import psycopg

from catalog.metric_points import OTHER
from dataflows.process.site import Site
from penstock import postgres
from penstock.histogram import added
from penstock.topics.table import CONTROL

__all__ = ["BUCKETS", "Family", "Measured", "Measures", "Values"]

MAX_PIPELINES: Final = 1000
"""Pipelines that are shown one by one: the first ones by name."""
KEEP_SECONDS: Final = 2.0
"""Seconds for which one look serves every scrape."""
STATEMENT_SECONDS: Final = 3
BUCKETS: Final = tuple(range(0, 56, 4))
"""Parts of `penstock.histogram` whose upper bounds are those of the buckets: 1 ms to 19 hours, each four times the
one before."""


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a histogram: how many, their sum, and their parts."""

    count: int
    sum: float
    parts: Mapping[int, int]

    def buckets(self) -> list[int]:
        """Return the number of values up to each of `BUCKETS`."""
        return [sum(count for part, count in self.parts.items() if part <= bound) for bound in BUCKETS]


@dataclass(frozen=True, slots=True)
class Measured:
    """One value with its labels."""

    value: float | Values
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric by its name without a prefix, with what it means and its unit, and all of its values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    unit: str = ""
    values: list[Measured] = field(default_factory=list)


class Measures:
    """Looks at an installation, over a session of its own for each look. Thread-safe."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._seen: tuple[float, list[Family]] | None = None

    def look(self) -> list[Family]:
        """Return what is measured now, or was a moment ago. Raises Unavailable."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] >= KEEP_SECONDS:
                self._seen = time.monotonic(), self._families()
            return self._seen[1]

    def _families(self) -> list[Family]:
        dsn = self._site.catalog_dsn
        with closing(postgres.connect(dsn, "penstock:measures")) as session, self._site.open_log("measures") as log:
            try:
                session.execute(f"SET statement_timeout TO '{STATEMENT_SECONDS}s'")
                end = log.end(CONTROL, 0)
                return [*_of_pipelines(session), *_of_control(session, end), *_of_letters(session)]
            except psycopg.Error as error:
                raise postgres.translated(error, where="catalog") from error


def _of_pipelines(session: psycopg.Connection[Any]) -> Iterator[Family]:
    rows: dict[str, list[tuple[str, str, Values, float]]] = {}
    shown = {name for (name,) in session.execute(_SHOWN, [MAX_PIPELINES])}
    for pipeline, metric, part, count, total, last, parts in session.execute(_SERIES):
        name = pipeline if pipeline in shown else OTHER
        values = Values(count, total, {int(one): number for one, number in parts.items()})
        rows.setdefault(metric, []).append((name, part, values, last))
    for metric, (family, label) in _COUNTERS.items():
        kept = [one for one in rows.get(metric, ()) if bool(one[1]) == bool(label)]
        sums: dict[tuple[str, str], float] = {}
        for name, part, values, _ in kept:
            sums[name, part] = sums.get((name, part), 0.0) + values.sum
        yield _filled(family, ((value, _labels(*key, label)) for key, value in sums.items()))
    for metric, family in _HISTOGRAMS.items():
        merged: dict[str, Values] = {}
        for name, part, values, _ in rows.get(metric, ()):
            if not part:
                old = merged.get(name, Values(0, 0.0, {}))
                merged[name] = Values(old.count + values.count, old.sum + values.sum, added((old.parts, values.parts)))
        yield _filled(family, ((value, {"pipeline": name}) for name, value in merged.items()))
    for metric, family in _GAUGES.items():
        found = [(last, {"pipeline": name}) for name, part, _, last in rows.get(metric, ()) if not part]
        yield _filled(family, (one for one in found if one[1]["pipeline"] != OTHER))


def _labels(pipeline: str, part: str, label: str) -> dict[str, str]:
    return {"pipeline": pipeline, label: part} if label else {"pipeline": pipeline}


def _filled(family: Family, values: Iterable[tuple[float | Values, Mapping[str, str]]]) -> Family:
    found = [Measured(value, labels) for value, labels in values]
    return Family(
        family.name, family.kind, family.about, family.unit, sorted(found, key=lambda one: [*one.labels.values()])
    )


def _of_control(session: psycopg.Connection[Any], end: int) -> Iterator[Family]:
    projected = _one(session, "SELECT next FROM catalog.position WHERE id = 'control'") or 0
    yield Family("log_end_records", "gauge", "Records on the control topic.", "records", [Measured(end)])
    lag = [Measured(max(0, end - projected))]
    yield Family("projector_lag_records", "gauge", "Records that the catalog does not have yet.", "records", lag)
    for name, about, query in (
        ("runs_open", "Runs that have not ended, by status.", _OPEN),
        ("tasks_open", "Tasks of these runs, by status.", _TASKS),
        ("workers", "Workers by status.", _WORKERS),
    ):
        rows = session.execute(query).fetchall()
        yield Family(name, "gauge", about, "", [Measured(count, {"status": status}) for status, count in rows])
    incidents = _one(session, "SELECT count(*) FROM catalog.incidents WHERE status = 'open'") or 0
    yield Family("incidents_open", "gauge", "Failures that a person has to look at.", "", [Measured(incidents)])
    counts = dict.fromkeys(("critical", "warning"), 0) | dict(session.execute(_ALERTS).fetchall())
    alerts = [Measured(count, {"severity": severity}) for severity, count in sorted(counts.items())]
    yield Family("alerts_open", "gauge", "What is not as it should be, by severity.", "", alerts)


def _of_letters(session: psycopg.Connection[Any]) -> Iterator[Family]:
    """Yield the number of dead letters, unless they are too many to be counted in time."""
    with suppress(psycopg.errors.QueryCanceled):
        rows = session.execute(_LETTERS, [MAX_PIPELINES]).fetchall()
        letters = [Measured(count, {"pipeline": name}) for name, count in rows]
        yield Family("dead_letters", "gauge", "Rows that could not be written, and wait for a redrive.", "", letters)


def _one(session: psycopg.Connection[Any], query: str) -> int | None:
    row = session.execute(query).fetchone()
    return None if row is None else int(row[0])


_COUNTERS: Final = {
    "rows_in": (Family("rows_read", "counter", "Rows read and committed.", "rows"), ""),
    "rows_out": (Family("rows_written", "counter", "Rows written.", "rows"), ""),
    "filtered": (Family("rows_filtered", "counter", "Rows that a step has left out.", "rows"), ""),
    "dead": (Family("rows_dead", "counter", "Rows that became dead letters.", "rows"), ""),
    "bytes": (Family("read_bytes", "counter", "Bytes read.", "bytes"), ""),
    "errors": (Family("errors", "counter", "Errors by their kind."), "kind"),
    "runs": (Family("runs", "counter", "Runs that have ended, by status."), "status"),
}
"""Counters by metric, and the label of their parts; those of an empty label have none."""
_HISTOGRAMS: Final = {
    "duration": Family("run_duration_seconds", "histogram", "Time from a run's start to its end.", "seconds"),
    "wait": Family("run_wait_seconds", "histogram", "Time from the request of a run to its start.", "seconds"),
    "latency": Family("event_latency_seconds", "histogram", "Time from an event to the commit of its row.", "seconds"),
}
_GAUGES: Final = {
    "lag": Family("lag_seconds", "gauge", "Age of the newest row read; 0 if a stream has caught up.", "seconds"),
    "behind": Family("source_behind", "gauge", "What the source has beyond a stream's position, in its own unit."),
    "slot_retained": Family("slot_retained_bytes", "gauge", "WAL that is kept for a stream's slot.", "bytes"),
}
_SHOWN: Final = 'SELECT name FROM catalog.pipelines WHERE deleted_at IS NULL ORDER BY name COLLATE "C" LIMIT %s'
_SERIES: Final = """SELECT pipeline, metric, part, count, sum, last, parts FROM ops.metric_series
WHERE pipeline IN (SELECT name FROM catalog.pipelines WHERE deleted_at IS NULL)"""
_OPEN: Final = """SELECT r.status, count(*) FROM ops.metric_runs AS m JOIN catalog.runs AS r ON r.id = m.subject
WHERE NOT m.done AND r.finished_at IS NULL GROUP BY 1 ORDER BY 1"""
_TASKS: Final = """SELECT t.status, count(*) FROM ops.metric_runs AS m JOIN catalog.tasks AS t ON t.run = m.subject
WHERE NOT m.done AND t.status IN ('queued', 'assigned', 'waiting') GROUP BY 1 ORDER BY 1"""
_WORKERS: Final = "SELECT status, count(*) FROM catalog.workers WHERE status = 'joined' GROUP BY 1"
_ALERTS: Final = "SELECT severity, count(*) FROM catalog.alerts WHERE status = 'open' GROUP BY 1"
_LETTERS: Final = 'SELECT name, count(*) FROM ops.dead_letters GROUP BY 1 ORDER BY name COLLATE "C" LIMIT %s'
