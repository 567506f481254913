"""Measures for OpenTelemetry: sent at intervals, as its standard variables say.

Loaded only where ``OTEL_METRICS_EXPORTER`` asks for an exporter. The SDK's own reader is not used: its thread ends for
good at the first look that takes too long, and it holds up the end of the process while a receiver does not answer.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from api.measures import BUCKETS, Family, Measured, Values
from dataflows.process.condition import Report
from penstock.errors import PenstockError, SettingsError, Unavailable, did_you_mean
from penstock.histogram import BOUNDS
from penstock.telemetry import otlp_exporter

__all__ = ["METRICS_EXPORTER", "Exporting", "metrics_data"]

METRICS_EXPORTER: Final = "OTEL_METRICS_EXPORTER"
INTERVAL: Final = "OTEL_METRIC_EXPORT_INTERVAL"
SECONDS: Final = 60.0
"""Seconds between two exports, unless the variable says otherwise."""
LAST_SECONDS: Final = 2.0
"""Seconds that the end waits for the last export."""
UNKNOWN: Final = 0
"""The begin of a total, as OTLP writes that it is not known."""
_UNITS: Final = {"seconds": "s", "bytes": "By", "rows": "{row}", "records": "{record}"}

_log = logging.getLogger(__name__)


class Exporting:
    """Exports what `look` returns at intervals until `close`, and once more then; `report` gets its errors.

    Raises:
        SettingsError: a variable has no valid value, or the exporter's package is not installed.
    """

    def __init__(
        self,
        look: Callable[[], Sequence[Family]],
        environ: Mapping[str, str] | None = None,
        report: Report = lambda _: None,
    ) -> None:
        given = os.environ if environ is None else environ
        self._report = report
        self._look, self._seconds, self._exporter = look, _seconds(given), _exporter(given)
        self._resource = Resource.create({"service.name": given.get("OTEL_SERVICE_NAME") or "penstock"})
        self._over = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="otel-metrics", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self._seconds)
            try:
                self._told(self._export())
            except PenstockError as error:
                self._told(error)
            except Exception as error:  # noqa: BLE001 - of the exporter's package: the next export is tried
                self._told(Unavailable(type(error).__name__, where=METRICS_EXPORTER))
        self._exporter.shutdown()

    def _export(self) -> PenstockError | None:
        """Return why the receiver has not taken the measures; None if it has."""
        data = metrics_data(self._look(), self._resource, time.time_ns())
        if self._exporter.export(data) is MetricExportResult.SUCCESS:
            return None
        hint = "is the URL of the receiver right, and does it run?"
        return Unavailable("the receiver did not take them", where=METRICS_EXPORTER, hint=hint)

    def _told(self, error: PenstockError | None) -> None:
        """Log the first failure of several."""
        if error is not None and not self._failed:
            _log.warning("metrics are not exported: %s", error.what)
        self._failed = error is not None
        self._report(error)

    def close(self) -> None:
        """Export once more, but do not wait for a receiver that does not answer."""
        self._over.set()
        self._thread.join(LAST_SECONDS)


def _seconds(environ: Mapping[str, str]) -> float:
    text = environ.get(INTERVAL) or ""
    if not text:
        return SECONDS
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise SettingsError("is not a number of milliseconds", where=INTERVAL, value=text, hint="such as 60000")
    return int(text) / 1000


def _exporter(environ: Mapping[str, str]) -> MetricExporter:
    name = environ.get(METRICS_EXPORTER) or ""
    if name == "console":
        return ConsoleMetricExporter(out=sys.stderr)
    if name == "otlp":
        found: MetricExporter = otlp_exporter("metric_exporter", "OTLPMetricExporter", METRICS_EXPORTER, environ)
        return found
    hint = did_you_mean(name, ("none", "console", "otlp")) or "one of none, console, otlp; /metrics is for Prometheus"
    raise SettingsError("no such exporter of metrics", where=METRICS_EXPORTER, value=name, hint=hint)


def metrics_data(families: Iterable[Family], resource: Resource, at: int) -> MetricsData:
    """Return families as the SDK's data at a time in nanoseconds, their totals cumulative.

    Totals are older than this process. Since when they are summed up is not kept, so that it is sent as unknown: a
    receiver would count them again after each start of the process that they are said to begin with.
    """
    metrics = [
        Metric(f"penstock.{one.name}", one.about, _UNITS.get(one.unit, "1"), _data(one, at))
        for one in families
        if one.values
    ]
    scope = ScopeMetrics(InstrumentationScope("penstock"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _data(family: Family, at: int) -> Any:
    points: list[Any] = [_point(one, at) for one in family.values]
    if family.kind == "histogram":
        return Histogram(points, AggregationTemporality.CUMULATIVE)
    if family.kind == "counter":
        return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
    return Gauge(points)


def _point(one: Measured, at: int) -> NumberDataPoint | HistogramDataPoint:
    labels = dict(one.labels)
    if not isinstance(one.value, Values):
        return NumberDataPoint(labels, UNKNOWN, at, one.value)
    upto = [0, *one.value.buckets(), one.value.count]
    counts = [after - before for before, after in pairwise(upto)]
    bounds = [BOUNDS[part] for part in BUCKETS]
    unknown: Any = None  # neither the least value of all time nor the greatest is kept
    return HistogramDataPoint(labels, UNKNOWN, at, one.value.count, one.value.sum, counts, bounds, unknown, unknown)
