"""Measures for OpenTelemetry: what is exported, when, and what a receiver that fails does to the process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExportResult, MetricsData

from api.measures import Family, Measured, Values
from api.otel_metrics import Exporting
from penstock.errors import SettingsError, Unavailable
from penstock.histogram import part_of
from tests import otlp

FAMILIES = [
    Family("rows_written", "counter", "Rows written.", "rows", [Measured(7, {"pipeline": "orders"})]),
    Family("lag_seconds", "gauge", "Age.", "seconds", [Measured(1.5, {"pipeline": "orders"})]),
    Family("run_duration_seconds", "histogram", "Time.", "seconds", [
        Measured(Values(3, 10.5, {part_of(0.5): 2, part_of(9.5): 1}), {"pipeline": "orders"}),
    ]),
    Family("errors", "counter", "None yet."),
]  # fmt: skip


class Receiver:
    """An exporter that keeps what it gets, or does what a test says."""

    def __init__(self) -> None:
        self.got: list[MetricsData] = []
        self.arrived, self.hold = threading.Event(), threading.Event()
        self.hangs = False

    def export(self, data: MetricsData) -> MetricExportResult:
        self.got.append(data)
        self.arrived.set()
        if self.hangs:
            self.hold.wait(60)
        return MetricExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is open."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """The exporter of OTLP's package, which is the user's to install."""
    made, name = Receiver(), "opentelemetry.exporter.otlp.proto.http.metric_exporter"
    module = ModuleType(name)
    vars(module)["OTLPMetricExporter"] = lambda: made
    for part in range(name.count(".") - 2, name.count(".")):
        package = ".".join(name.split(".")[: part + 1])
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, name, module)
    return made


OTLP = {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "5", "OTEL_SERVICE_NAME": "pipes"}


def test_what_is_measured_is_exported_with_units_and_exact_buckets(capsys: pytest.CaptureFixture[str]) -> None:
    Exporting(lambda: FAMILIES, {"OTEL_METRICS_EXPORTER": "console"}).close()
    (found,) = json.loads(capsys.readouterr().err)["resource_metrics"]
    assert found["resource"]["attributes"]["service.name"] == "penstock"
    metrics = {one["name"]: one for one in found["scope_metrics"][0]["metrics"]}
    assert list(metrics) == ["penstock.rows_written", "penstock.lag_seconds", "penstock.run_duration_seconds"]
    rows = metrics["penstock.rows_written"]
    assert (rows["unit"], rows["data"]["is_monotonic"], rows["data"]["data_points"][0]["value"]) == ("{row}", True, 7)
    assert rows["data"]["data_points"][0]["attributes"] == {"pipeline": "orders"}
    (point,) = metrics["penstock.run_duration_seconds"]["data"]["data_points"]
    assert len(point["bucket_counts"]) == len(point["explicit_bounds"]) + 1
    filled = {
        bound: count for bound, count in zip(point["explicit_bounds"], point["bucket_counts"], strict=False) if count
    }
    assert (filled, point["count"], point["sum"]) == ({1.024: 2, 16.384: 1}, 3, 10.5)


def test_measures_arrive_by_otlp_and_totals_have_no_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.otel_metrics.LAST_SECONDS", 60.0)
    with otlp.receiver() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        Exporting(lambda: FAMILIES, {"OTEL_METRICS_EXPORTER": "otlp"}).close()
    rows, lag, duration = found.metrics
    (total,), (age,), (spread,) = rows.sum.data_points, lag.gauge.data_points, duration.histogram.data_points
    assert (rows.name, rows.unit, rows.sum.is_monotonic) == ("penstock.rows_written", "{row}", True)
    assert (total.as_int, total.attributes[0].value.string_value, age.as_double) == (7, "orders", 1.5)
    assert (spread.count, spread.sum, sum(spread.bucket_counts)) == (3, 10.5, 3)
    cumulative = AggregationTemporality.CUMULATIVE.value
    assert rows.sum.aggregation_temporality == duration.histogram.aggregation_temporality == cumulative
    assert total.start_time_unix_nano == spread.start_time_unix_nano == 0, "not that of this process"
    assert total.time_unix_nano > 0


def test_it_exports_at_intervals_although_a_look_fails(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    looks: list[Any] = []

    def look() -> list[Family]:
        looks.append(None)
        if len(looks) < 3:
            raise Unavailable("the catalog cannot be reached")
        return FAMILIES

    exporting = Exporting(look, OTLP)
    assert receiver.arrived.wait(30)
    exporting.close()
    assert len(looks) >= 3
    assert receiver.got[0].resource_metrics[0].resource.attributes["service.name"] == "pipes"
    assert [one.getMessage() for one in caplog.records] == ["metrics are not exported: the catalog cannot be reached"]


def test_a_receiver_that_does_not_answer_does_not_hold_up_the_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.otel_metrics.LAST_SECONDS", 0.01)
    receiver.hangs = True
    exporting = Exporting(lambda: FAMILIES, OTLP)
    assert receiver.arrived.wait(30)
    exporting.close()
    assert not receiver.hold.is_set(), "it still waits for its answer"
    receiver.hold.set()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"OTEL_METRICS_EXPORTER": "otpl"}, "did you mean `?otlp"),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "pip install opentelemetry-exporter-otlp"),
        ({"OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": "1s"}, "milliseconds"),
    ],
)
def test_a_variable_without_a_valid_value_is_refused(
    given: dict[str, str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("penstock.telemetry.import_module", missing)
    with pytest.raises(SettingsError, match=what):
        Exporting(list, given)


def test_nothing_of_opentelemetry_is_loaded_where_nothing_is_exported() -> None:
    program = "import sys, api.cli.up; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
