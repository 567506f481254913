"""The strategies themselves: every generated value is valid, and every record type is generated."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.models.pipeline import Pipeline
from penstock.records.families import TYPES, body, is_known
from tests.strategies import pipelines, records


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(pipelines)
def test_generated_pipelines_are_valid(document: dict[str, object]) -> None:
    assert Pipeline.parse(document).to_dict() == document


@pytest.mark.parametrize("type_", sorted(TYPES))
@settings(max_examples=8)
@given(data=st.data())
def test_generated_records_are_valid(type_: str, data: st.DataObject) -> None:
    record = data.draw(records(type_))
    assert is_known(record)
    body(record)
