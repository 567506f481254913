"""Waits before the next attempt."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agents.retries import delay
from penstock.models.pipeline import Retry
from tests.strategies import models


@given(retry=models(Retry), seeds=st.lists(st.text(min_size=1), min_size=2, max_size=12))
def test_property_07_backoff_is_exponential(retry: Retry, seeds: list[str]) -> None:
    """Delay n is base * factor ** n up to the cap, plus at most factor - 1 of it; so delays never fall."""
    tick = timedelta(microseconds=1)
    waits = [delay(retry, failures, seed) for failures, seed in enumerate(seeds, start=1)]
    for failures, wait in enumerate(waits, start=1):
        plain = delay(retry, failures)
        try:
            exact = retry.base * retry.factor ** (failures - 1)
        except OverflowError:
            exact = retry.max
        assert plain == min(retry.max, exact)
        assert plain <= wait <= min(retry.max, plain * retry.factor + tick)
    for one, following in pairwise(waits):
        assert one <= following + tick, "delays never fall"


def test_the_jitter_is_that_of_the_record_and_differs_between_records() -> None:
    retry = Retry()
    waits = {delay(retry, 3, f"record {number}") for number in range(20)}
    assert len(waits) == 20
    assert delay(retry, 3, "record 7") in waits
    assert max(waits) - min(waits) > timedelta(seconds=1)
