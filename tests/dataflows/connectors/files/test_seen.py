"""The files that a pipeline has read, as its position."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dataflows.connectors.files import seen as module
from dataflows.connectors.files.seen import Seen
from dataflows.connectors.files.store import Listed
from penstock.errors import Refused

AT = datetime(2026, 1, 1, tzinfo=UTC)


def listed(*names: str, version: str = "1") -> list[Listed]:
    return [Listed(name, 5, AT, version) for name in names]


def read(seen: Seen, *names: str, version: str = "1") -> list[bool]:
    return [seen.has(one) for one in listed(*names, version=version)]


def test_a_file_was_read_in_one_version() -> None:
    seen = Seen.parse(None).with_files(listed("a", "b"), listed("a", "b"), "p")
    assert read(seen, "a", "b", "c") == [True, True, False]
    assert read(seen, "a", version="2") == [False]
    assert [seen.changed(one) for one in (*listed("a", "c"), *listed("a", "c", version="2"))] == [
        False,
        False,
        True,
        False,
    ]
    again = seen.with_files(listed("a", version="2"), listed("a"), "p")
    assert (read(again, "a", version="2"), read(again, "a"), read(again, "b")) == ([True], [False], [True])


def test_it_is_kept_as_text_that_later_releases_read() -> None:
    seen = Seen().with_files(listed("b", "a"), [], "p")
    assert Seen.parse(seen.text()) == seen
    assert seen.text() == '{"upto":null,"files":{"EVM0m7c4/O1Q":"vRieKSY6ACpE","GlgfDiIQw9si":"vRieKSY6ACpE"}}'
    older = replace(seen, upto=AT)
    assert Seen.parse(older.text()) == older


def test_files_up_to_a_time_of_an_older_position_were_read_unless_they_have_changed() -> None:
    seen = Seen(Seen().with_files(listed("a"), [], "p").files, AT)
    late = Listed("c", 5, AT + timedelta(microseconds=1), "1")
    assert (read(seen, "c"), seen.has(late), read(seen, "a", version="2")) == ([True], False, [False])
    assert read(Seen(), "c") == [False]


def test_what_is_gone_is_forgotten_only_if_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    seen = Seen().with_files(listed("a", "b", "c"), [], "p")
    assert read(seen, "a", "b", "c") == [True] * 3
    seen = seen.with_files(listed("d"), listed("b", "c", "d"), "p")
    assert read(seen, "a", "b", "c", "d") == [False, True, True, True]
    with pytest.raises(Refused, match="4 files are more"):
        seen.with_files(listed("e"), listed("b", "c", "d", "e"), "p")
