"""Scores of series of the Numenta benchmark's kind: anomalies are found, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.detect.measures import MEASURES
from dataflows.detect.scores import LEAST, missing, scored
from tests.dataflows.detect.series import BEGIN, HOUR, KINDS, WEEK, Series, series

SENSITIVITY = 4.0
"""That of the built-in policy."""
PAST = 4 * WEEK
AFTER = 48
"""Hours after an anomaly in which the return to what was before may be unusual, too."""
APART = 6
"""Hours between two alarms that are different ones."""


def alarms(one: Series) -> list[int]:
    """Return the hours whose score is above the sensitivity, each against four weeks before it."""
    there = ~np.isnan(one.values)
    found = []
    for hour in range(PAST, len(one.values)):
        window = slice(hour - PAST, hour + 1)
        known = there[window]
        scores = [missing(known)]
        if there[hour]:
            scores.append(scored(one.times[window][known], one.values[window][known], 0.0))
        if max((abs(score.score) for score in scores if score is not None), default=0.0) > SENSITIVITY:
            found.append(hour)
    return found


def episodes(hours: list[int]) -> int:
    """Return how many alarms a person gets: those that follow each other are one."""
    return sum(1 for at, hour in enumerate(hours) if at == 0 or hour - hours[at - 1] > APART)


def test_anomalies_are_found_at_less_than_one_false_alarm_a_week() -> None:
    """Recall of at least 0.9 over spikes, drops, level shifts, drifts, lost seasons and gaps."""
    found: list[bool] = []
    false, weeks = 0, 0.0
    for number in range(12):
        one = series(number, anomalies=True, weeks=7)
        hours = alarms(one)
        found += [any(begin <= hour <= end + 2 for hour in hours) for _, begin, end in one.anomalies]
        others = [hour for hour in hours if not any(b <= hour <= e + AFTER for _, b, e in one.anomalies)]
        false, weeks = false + episodes(others), weeks + (len(one.values) - PAST) / WEEK
    assert len(found) > 30
    assert sum(found) / len(found) >= 0.9, (sum(found), len(found))
    assert false / weeks <= 1, (false, weeks)


def test_series_without_anomalies_have_an_alarm_in_months() -> None:
    """The rate that the documentation states: less than one in four weeks of hourly values, of each series."""
    false = sum(episodes(alarms(series(number, anomalies=False))) for number in (1, 4))
    assert false <= 2, false


@pytest.mark.parametrize("kind", KINDS)
def test_the_series_have_every_kind_of_anomaly(kind: str) -> None:
    assert any(kind == one for number in range(12) for one, _, _ in series(number, anomalies=True, weeks=7).anomalies)


def times(count: int) -> list[float]:
    return [BEGIN + HOUR * 24.0 * at for at in range(count)]


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.integers(-1000, 1000), min_size=LEAST + 1, max_size=60),
    shift=st.integers(-1000, 1000),
    scale=st.floats(0.01, 100),
)
def test_a_score_is_finite_and_does_not_depend_on_unit_and_origin(values: list[int], shift: int, scale: float) -> None:
    one = scored(times(len(values)), values, 0.5)
    other = scored(times(len(values)), [shift + scale * value for value in values], 0.5 * scale)
    assert one is not None
    assert other is not None
    assert abs(one.score) < 1000
    assert other.score == pytest.approx(one.score, rel=0.05, abs=0.05)


def test_few_values_are_less_certain() -> None:
    rng = np.random.default_rng(7)
    last = 0.0
    for count in (LEAST, 10, 30, 200):
        one = scored(times(count + 1), [*np.tile([99.0, 101.0, 100.0], 100)[:count], 120.0], 1.0)
        assert one is not None
        assert (one.samples, one.score > last) == (count, True)
        last = one.score
    assert scored(times(LEAST), rng.normal(size=LEAST), 0.0) is None


def test_a_constant_count_may_vary_by_some_and_nothing_is_unusual_if_it_mostly_is() -> None:
    rows = MEASURES["rows_out"]
    usual = [1000.0] * 50
    for value, unusual in ((1100, False), (900, False), (1300, True), (600, True), (0, True), (1e9, True)):
        one = rows.scored(times(51), [*usual, value])
        assert one is not None
        assert (abs(one.score) > SENSITIVITY) == unusual, (value, one)
        assert one.expected == pytest.approx(1000, rel=0.01)
    sparse = [0.0, 0.0, 0.0, 0.0, 300.0, 0.0, 0.0, 0.0, 0.0, 0.0] * 5
    one = rows.scored(times(51), [*sparse, 280.0])
    assert one is not None
    assert one.score < SENSITIVITY, "it has had such runs"
    slow = MEASURES["duration"].scored(times(51), [40.0] * 50 + [1.0])
    assert slow is not None
    assert slow.score == 0, "faster is not worse"


def test_a_season_by_the_hour_of_the_week_is_learned() -> None:
    """Runs each hour, with many rows at work and few at night and at the weekend."""
    hours = np.arange(5 * WEEK)
    rng = np.random.default_rng(3)
    busy = (hours % 24 >= 8) & (hours % 24 < 18) & (hours // 24 % 7 < 5)
    rows = np.where(busy, 10_000, 100) * rng.normal(1, 0.05, len(hours))
    quiet, loud = 4 * WEEK + 6 * 24 + 10, 4 * WEEK + 10
    for at, value, unusual in ((loud, 10_000, False), (loud, 100, True), (quiet, 100, False), (quiet, 10_000, True)):
        past = [*rows[:at], value]
        one = MEASURES["rows_out"].scored(BEGIN + HOUR * hours[: at + 1].astype(float), past)
        assert one is not None
        assert (abs(one.score) > SENSITIVITY) == unusual, (at, value, one)


def gaps() -> Iterator[tuple[list[bool], bool]]:
    yield [True] * 500 + [False] * 2, True
    yield [True] * 500 + [False] + [True], False
    yield [True, False] * 250, False
    yield [True, True, False] * 100 + [False], False
    yield [True] * 4 + [False], False


def test_what_does_not_come_is_unusual_if_it_always_has() -> None:
    for present, unusual in gaps():
        one = missing(present)
        assert (one is not None and abs(one.score) > SENSITIVITY) == unusual, (present[-5:], one)
