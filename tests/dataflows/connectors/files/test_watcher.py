"""The reader of a folder that is watched, over listings and a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataflows.connectors.files import watched as module
from dataflows.connectors.files.seen import Seen
from dataflows.connectors.files.store import Listed
from dataflows.connectors.files.watched import (
    LISTING_SHARE,
    LOOK_SECONDS,
    PART,
    PAUSE_SECONDS,
    FolderWatcher,
    begun,
    restarted,
)
from dataflows.data.splits import Split
from penstock.errors import Refused

AT = datetime(2026, 1, 1, tzinfo=UTC)


def file(name: str, seconds: float = 0, version: str = "1") -> Listed:
    return Listed(name, 5, AT + timedelta(seconds=seconds), version)


A, B, C = file("a"), file("b", 1), file("c", 2)


def read(seen: Seen, files: Sequence[Listed] = (A, B, C)) -> str:
    return "".join(one.path for one in files if seen.has(one))


def test_a_stream_begins_before_all_files_or_behind_some() -> None:
    found = [begun((A, B, C), begin, "p") for begin in ("earliest", "latest", B.modified)]
    assert [read(one) for one in found] == ["", "abc", "a"]


def test_a_new_beginning_says_what_it_repeats_and_skips() -> None:
    known = {PART: Seen().with_files([A, B], [], "p").text()}
    for begin, repeats, skips in (
        ("earliest", ["it repeats 2 files"], ""),
        ("latest", ["it skips 1 files"], "abc"),
        (B.modified, ["it repeats 1 files"], "a"),
        (C.modified, [], "ab"),
    ):
        found = restarted((A, B, C), known, cast("Any", begin), "p")
        assert (list(found.shifts), read(Seen.parse(found.positions[PART]))) == (repeats, skips)
    assert restarted((A,), {}, "latest", "p").shifts == [], "nobody has read it"
    with pytest.raises(Refused, match="no offsets"):
        restarted((A,), known, {"0": "3"}, "p")


class Watch:
    """A watcher with the listings that it gets, one after another, and a clock; keeps what it does."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *listings: Sequence[Listed], drains: int = 0, **given: Any
    ) -> None:
        self.listings, self.drains = list(listings), drains
        self.seconds, self.done, self.naps, self.checked = 1000.0, list[Any](), list[float](), 0
        self.moved = 0
        self.lasts = 0.0
        """Seconds that a listing takes."""
        monkeypatch.setattr(module, "now", lambda: AT + timedelta(seconds=self.seconds))
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.seconds, sleep=self.sleep))
        order = SimpleNamespace(
            read=SimpleNamespace(check=self.check),
            positions={PART: given.get("seen", Seen()).text()},
            first=4,
            slot="00",
            draining=lambda: self.drains <= 0,
            moved=self.answered,
        )
        self.watcher = FolderWatcher(
            cast("Any", order),
            "items",
            self.listed,
            self.packed,
            lambda pack: self.done.append("".join(one.path for one in pack)),
            cast("Any", self),
            given.get("at_once", True),
        )

    def check(self) -> None:
        self.checked += 1

    def answered(self) -> None:
        self.moved += 1

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.seconds += seconds
        self.watcher.committed(max(self.watcher.splits, default=0))

    def listed(self) -> Sequence[Listed]:
        self.drains -= 1
        self.seconds += self.lasts
        return self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]

    def packed(self, files: Sequence[Listed]) -> Iterator[tuple[str, Sequence[Listed]]]:
        """Put two files into a split."""
        for at in range(0, len(files), 2):
            yield files[at].path, files[at : at + 2]

    def read(self, slot: str, split: Split) -> Iterator[Any]:
        assert split.number in self.watcher.splits
        self.done.append((slot, split))
        yield split.number

    def close(self) -> None:
        self.done.append("closed")

    def ends(self) -> list[str]:
        """Return what the chunks that come come from; and where each split ends, by what was read then."""
        assert list(self.watcher.chunks()) == [one[1].number for one in self.done if isinstance(one, tuple)]
        return [read(Seen.parse(one[1].moves[0].end)) for one in self.done if isinstance(one, tuple)]


def test_files_that_are_there_are_read_once_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    late = replace(file("0", 9), modified=C.modified)
    watch = Watch(monkeypatch, [C, B, late, A])
    assert watch.ends() == ["ab", "abc"]
    assert watch.done[::2] == ["ab", "0c"], "files of one time by their names"
    (_, first), (_, second) = watch.done[1::2]
    assert [(one.number, one.lower) for one in (first, second)] == [(4, "a"), (5, "0")]
    times = [one.modified.timestamp() for one in (A, B)]
    assert (first.times, first.moves[0].start) == (tuple(times), Seen().text())
    assert second.moves[0].start == first.moves[0].end
    assert watch.watcher.splits == {}, "it ends once all is written"
    assert (watch.moved, watch.naps, watch.checked) == (1, [0.01], 2)


def test_what_comes_after_a_drain_has_begun_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen().with_files([A], [], "p")
    watch = Watch(monkeypatch, [A, B], [A, B, C], seen=seen, at_once=False)
    monkeypatch.setattr(module, "now", lambda: AT + timedelta(seconds=2))
    assert watch.ends() == ["ab"]
    assert watch.watcher._found == {}, "of what is read nothing is kept"
    watch = Watch(monkeypatch, [A], [A, B], [A, B, C], drains=1, seen=seen)
    assert watch.ends() == ["ab"]
    watch = Watch(monkeypatch, [A], [A, B], [A, B, C], drains=2, seen=seen)
    assert watch.ends() == ["ab", "abc"]
    assert watch.moved == 3


def test_a_file_that_was_read_and_has_changed_stops_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch, [A, file("b", 1, "2")], seen=Seen().with_files([A, B], [], "p"))
    with pytest.raises(Refused, match="b has changed"):
        watch.ends()


def test_the_pause_is_longer_if_a_listing_takes_long_and_nothing_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen().with_files([A], [], "p")
    watch = Watch(monkeypatch, [A], [A], [A, B], [A, B], drains=3, seen=seen)
    watch.lasts = 1.0
    assert watch.ends() == ["ab"]
    assert sum(watch.naps) == pytest.approx(2 * LISTING_SHARE + PAUSE_SECONDS), "it is to drain, so it looks at once"
    assert max(watch.naps) == PAUSE_SECONDS
    watch = Watch(monkeypatch, [A], drains=3, seen=seen)
    assert watch.ends() == []
    assert sum(watch.naps) == pytest.approx(2 * LOOK_SECONDS + PAUSE_SECONDS)


def test_a_file_of_this_machine_is_read_once_it_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch, [A], at_once=False)
    complete = watch.watcher._is_complete
    watch.seconds = 1.0
    assert complete(A), "its time is a second ago"
    for name, at in (("new", 0.5), ("future", 1e6)):
        watch.seconds = 1.0
        assert not complete(file(name, at))
        watch.seconds = 1.4
        assert not complete(file(name, at, "2")), "it has grown"
    watch.seconds = 2.3
    assert not complete(file("future", 1e6, "2"))
    watch.seconds = 2.4
    assert complete(file("future", 1e6, "2"))
    assert Watch(monkeypatch, [A], at_once=True).watcher._is_complete(file("future", 1e6))


def test_splits_are_kept_until_they_are_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch, [A])
    watcher = watch.watcher
    watcher.splits.update({one: Split(one) for one in (3, 4, 5)})
    watcher.committed(4)
    assert list(watcher.splits) == [5]
    assert list(watcher.read("00", watcher.splits[5])) == cast("Any", [5])
    watcher.close()
    assert watch.done == [("00", Split(5)), "closed"]
