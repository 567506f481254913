"""`make test` draws the same examples of a property each time; `make chaos` draws new ones, of each property."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

ROOT = Path(__file__).parents[2]


@settings(max_examples=1)
@given(strategies.none())
def test_a_property_is_marked_and_its_examples_are_as_the_command_says(
    request: pytest.FixtureRequest, nothing: None
) -> None:
    (chosen,) = {line.split('"')[1] for line in (ROOT / "Makefile").read_text().splitlines() if "pytest -m" in line}
    assert chosen == "chaos or hypothesis"
    assert request.node.get_closest_marker("hypothesis")
    assert settings.default is not None
    assert settings.default.derandomize == (request.config.option.markexpr == "not chaos")
