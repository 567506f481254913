"""Listings of a source's objects, as a worker reports them."""

from __future__ import annotations

import pytest

from dataflows.connectors.listing import ListedObject
from dataflows.runs import listing
from penstock.errors import Refused


def test_a_name_that_no_pipeline_can_have_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [ListedObject("s.good", "s", "good"), ListedObject("s.a\tb", "s", "a\tb")]
    monkeypatch.setattr(listing, "listed_objects", lambda *_: found)
    with pytest.raises(Refused, match=r"'s\.a\\tb': no pipeline can have this name") as refused:
        listing.found_objects({"pipeline": {}, "connections": {}}, lambda: None)
    assert "source.except" in (refused.value.hint or "")
