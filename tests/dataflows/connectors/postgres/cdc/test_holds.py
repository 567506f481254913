"""For whom a slot is kept, by a clock that the test sets: nobody who may come back loses changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflows.connectors.postgres.cdc.holds import LEFT_SECONDS, UNKNOWN, Holds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "slot.json"


def begun(file: Path, confirmed: int = 100, *, new: bool = True) -> Holds:
    holds = Holds(file)
    holds.begin(confirmed, 0.0, new=new)
    return holds


def test_a_slot_is_kept_up_to_what_the_slowest_member_has(file: Path) -> None:
    holds = begun(file)
    assert holds.least(0.0, 120) == (120, []), "nobody reads it"
    holds.keep("a", 150)
    holds.keep("b", 130)
    assert holds.least(0.0, 999) == (130, [])
    holds.keep("b", 110)
    assert holds.least(0.0, 999) == (130, []), "it never moves back"
    holds.keep("b", 160)
    assert holds.least(1e9, 999) == (150, []), "who reads is kept for any time"
    assert json.loads(file.read_text()) == ["a", "b"]


def test_one_that_has_left_is_waited_for_and_then_given_up(file: Path) -> None:
    holds = begun(file)
    for uid, place in (("a", 110), ("b", 130), ("c", 140)):
        holds.keep(uid, place)
    holds.leave("a", 5.0)
    holds.leave("b", 5.0, 0)
    holds.leave("nobody", 5.0)
    assert holds.least(5.0, 999) == (110, ["b"])
    assert json.loads(file.read_text()) == ["a", "c"]
    assert holds.least(4.0 + LEFT_SECONDS, 999) == (110, [])
    holds.renew("a", 50.0)
    holds.renew("c", 0.0)
    holds.renew("nobody", 0.0)
    assert holds.least(5.0 + LEFT_SECONDS, 999) == (110, [])
    assert holds.least(49.0 + LEFT_SECONDS, 999) == (110, [])
    assert holds.least(50.0 + LEFT_SECONDS, 999) == (140, ["a"])
    holds.leave("c", 0.0, 1.0)
    holds.keep("c", 145)
    assert holds.least(1e9, 999) == (145, []), "it is back"
    holds.leave("c", 0.0, 1.0)
    assert holds.least(1.0, 999) == (999, ["c"])
    assert json.loads(file.read_text()) == []


def test_one_that_catches_up_elsewhere_keeps_what_there_is(file: Path) -> None:
    holds = begun(file)
    holds.wait("a", 10.0)
    assert holds.least(9.0, 999) == (100, [])
    assert json.loads(file.read_text()) == ["a"]
    holds.wait("a", 20.0)
    assert holds.least(19.0, 999) == (100, [])
    holds.keep("a", 130)
    holds.wait("a", 21.0)
    assert holds.least(1e9, 999) == (130, []), "who reads does not wait"
    holds.leave("a", 0.0, 1.0)
    holds.wait("a", 30.0)
    assert holds.least(29.0, 999) == (130, [])
    assert holds.least(30.0, 999) == (999, ["a"])


def test_the_next_reader_waits_for_those_in_the_list_or_for_all_that_may_exist(file: Path) -> None:
    holds = begun(file)
    holds.keep("b", 150)
    holds.keep("a", 150)
    again = begun(file, 120, new=False)
    assert again.least(LEFT_SECONDS - 1, 999) == (120, [])
    again.keep("a", 160)
    assert again.least(LEFT_SECONDS, 999) == (160, ["b"])
    assert begun(file, 120).least(0.0, 999) == (999, []), "a new slot has no members"
    assert json.loads(file.read_text()) == []
    for content in (None, '["a"'):
        file.unlink() if content is None else file.write_text(content)
        lost = begun(file, 120, new=False)
        assert lost.least(LEFT_SECONDS - 1, 999) == (120, [])
        assert lost.least(LEFT_SECONDS, 999) == (999, [UNKNOWN])


def test_a_list_that_cannot_be_written_is_none(file: Path) -> None:
    """The next reader then waits for all that may exist."""
    holds = begun(file)
    holds.keep("a", 150)
    file.with_suffix(".new").mkdir()
    holds.keep("b", 150)
    assert not file.exists()
    holds.keep("c", 150)
    assert holds.least(0.0, 999) == (150, [])
