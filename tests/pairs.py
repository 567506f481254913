"""Fewer cases of parametrized tests in `make test`: all pairs of values, or those that differ; the rest is long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import pytest

__all__ = ["all_pairs", "covering", "pairs_of", "soon"]

Case = tuple[Any, ...]


def all_pairs(**axes: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by cases that hold every two values of different axes together at least once.

    The other combinations are long tests.
    """
    return pairs_of(tuple(axes), list(product(*axes.values())))


def pairs_of(names: Sequence[str], cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Parametrize a test by as few of the cases as hold every pair of values that one of them holds."""
    places = [tuple(_place(cases, axis, value) for axis, value in enumerate(case)) for case in cases]
    chosen = set(covering(places))
    marked = (
        pytest.param(*case, marks=() if place in chosen else (pytest.mark.chaos,))
        for case, place in zip(cases, places, strict=True)
    )
    return pytest.mark.parametrize(names, list(marked))


def soon(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """Return all cases as parameters; those that are not chosen are long tests, since a chosen one takes their way."""
    listed = list(cases)
    assert chosen, "at least one is not long"
    assert set(chosen) <= set(listed), "each chosen one is a case"
    return [
        one if one in chosen else pytest.param(*one if isinstance(one, tuple) else (one,), marks=pytest.mark.chaos)
        for one in listed
    ]


def _place(cases: Sequence[Case], axis: int, value: Any) -> int:
    """Return the number of the first case with this value, which need not be hashable."""
    return next(number for number, case in enumerate(cases) if case[axis] == value and type(case[axis]) is type(value))


def covering(cases: Sequence[Case]) -> Iterator[Case]:
    """Choose cases until they hold all pairs, always the first of those that add most."""
    left = {pair for case in cases for pair in _pairs(case)}
    while left:
        best = max(cases, key=lambda case: len(left & _pairs(case)))
        left -= _pairs(best)
        yield best


def _pairs(case: Case) -> set[Case]:
    return set(combinations(enumerate(case), 2))
