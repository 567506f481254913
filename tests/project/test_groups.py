"""Tests of a group run in one worker of pytest-xdist."""

import pytest


@pytest.mark.xdist_group("together")
def test_the_id_of_a_test_tells_the_scheduler_its_group(request: pytest.FixtureRequest) -> None:
    distributed = bool(request.config.getoption("loadgroup", default=False))
    assert request.node.nodeid.endswith("@together") == distributed
