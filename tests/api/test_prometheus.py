"""The text at `/metrics`: what a parser of Prometheus reads is what was measured."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from api.measures import Family, Measured, Values
from api.prometheus import exposition
from penstock.histogram import part_of


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8"), max_size=20), st.floats(allow_nan=False, allow_infinity=False))
def test_labels_and_numbers_of_any_kind_are_read_as_they_are(pipeline: str, value: float) -> None:
    family = Family("lag_seconds", "gauge", "Age.\nOf \\ rows.", "seconds", [Measured(value, {"pipeline": pipeline})])
    (found,) = text_string_to_metric_families(exposition([family]))
    (sample,) = found.samples
    assert (found.name, found.type, found.documentation) == ("penstock_lag_seconds", "gauge", "Age.\nOf \\ rows.")
    assert (sample.labels, sample.value) == ({"pipeline": pipeline}, value)


@settings(max_examples=50)
@given(st.lists(st.floats(0.0001, 10**6), max_size=30))
def test_a_histogram_counts_each_value_in_every_bucket_above_it(seconds: list[float]) -> None:
    parts: dict[int, int] = {}
    for one in seconds:
        parts[part_of(one)] = parts.get(part_of(one), 0) + 1
    values = Values(len(seconds), sum(seconds), parts)
    family = Family("run_duration_seconds", "histogram", "Time.", "seconds", [Measured(values, {"pipeline": "orders"})])
    (found,) = text_string_to_metric_families(exposition([family]))
    buckets = {one.labels["le"]: one.value for one in found.samples if one.name.endswith("_bucket")}
    for bound, count in buckets.items():
        assert count == sum(one <= float(bound) for one in seconds)
    totals = {one.name: one.value for one in found.samples if not one.name.endswith("_bucket")}
    assert totals == {
        "penstock_run_duration_seconds_sum": sum(seconds),
        "penstock_run_duration_seconds_count": len(seconds),
    }


def test_a_counter_ends_with_total_and_what_has_no_values_is_left_out() -> None:
    rows = Family("rows_written", "counter", "Rows.", "rows", [Measured(5, {"pipeline": "a"}), Measured(6)])
    text = exposition([rows, Family("errors", "counter", "Errors.")])
    assert text == (
        "# HELP penstock_rows_written_total Rows.\n# TYPE penstock_rows_written_total counter\n"
        'penstock_rows_written_total{pipeline="a"} 5\npenstock_rows_written_total 6\n'
    )
