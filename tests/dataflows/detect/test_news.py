"""Which scores are recorded: few, and enough to open and close alerts by."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataflows.detect.news import DEFAULT, GROWTH, SHARE, STEP, is_news, least


def recorded(scores: list[float], floor: float) -> list[tuple[int, float]]:
    """Return the scores that get a record, with their places."""
    last, found = None, []
    for at, score in enumerate(scores):
        if is_news(last, score, floor):
            found.append((at, last := score))
    return found


@given(scores=st.lists(st.floats(-50, 50), max_size=60), sensitivity=st.floats(0.5, 20))
def test_what_is_recorded_last_is_never_far_from_what_is(scores: list[float], sensitivity: float) -> None:
    floor, last, places = least(sensitivity), 0.0, dict(recorded(scores, least(sensitivity)))
    for at, score in enumerate(scores):
        last = places.get(at, last)
        if abs(score) < floor:
            assert abs(last) < floor, "an alert can close at once"
        else:
            assert abs(last - score) < max(STEP, GROWTH * abs(last)), "and open"


def test_what_is_usual_costs_little_and_what_stays_unusual_nothing() -> None:
    noise = np.random.default_rng(5).normal(size=10_000)
    assert len(recorded(list(noise), least(DEFAULT))) < 400, "a record in 25 values, at most"
    assert len(recorded([9.0 + 0.1 * (at % 2) for at in range(1000)], least(DEFAULT))) == 1


def test_scores_are_recorded_from_well_below_the_sensitivity_on() -> None:
    assert least(1.0) == SHARE
    assert least(100.0) == least(DEFAULT) < DEFAULT
