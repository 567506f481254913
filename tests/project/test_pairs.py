from itertools import combinations, product

import pytest

from tests.pairs import all_pairs, covering, soon


def test_chosen_cases_hold_all_pairs_and_are_few() -> None:
    cases = list(product("abc", "xy", "12"))
    chosen = list(covering(cases))
    assert len(chosen) == 6
    for first, second in combinations(range(3), 2):
        assert {(one[first], one[second]) for one in chosen} == {(one[first], one[second]) for one in cases}


def test_the_other_cases_are_long_tests() -> None:
    cases = all_pairs(write=["append", "merge"], there=[False, True], options=[{}, {"key": 1}]).args[1]
    assert len(cases) == 8
    assert sum("chaos" in {mark.name for mark in case.marks} for case in cases) == 4


def test_those_that_are_not_long_are_cases_and_there_is_one() -> None:
    assert [[mark.name for mark in getattr(case, "marks", ())] for case in soon("abc", "b")] == [
        ["chaos"],
        [],
        ["chaos"],
    ]
    for chosen in ((), ("d",)):
        with pytest.raises(AssertionError):
            soon("abc", *chosen)
