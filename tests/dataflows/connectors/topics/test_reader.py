"""The reader of a topic of a log over messages that the test gives: turns of partitions, splits, and what stops it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataflows.connectors.streaming import Share
from dataflows.connectors.topics import reader as module
from dataflows.connectors.topics.positions import Position
from dataflows.connectors.topics.reader import TopicReader
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import BadData, LogError, Refused
from penstock.topics.log import Message, Stored
from penstock.topics.table import Topic

SHOP = Topic("shop", "the shop", partitions=2)
AT = datetime(2026, 1, 1, tzinfo=UTC)


class Log:
    """A log with so many messages in each partition, on a clock that goes on by a second with each wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int = 0, second: int = 0, **given: Any) -> None:
        self.ends, self.begins = {0: first, 1: second}, {0: 0, 1: 0}
        self.id, self.seconds, self.sessions, self.drains = "i1", 1000.0, 0, False
        self.checked = self.moved = 0
        self.waits: list[float] = []
        self.limits: list[int] = []
        self.late = given.get("late", {})
        """Messages that come with each wait after the first, by its number."""
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.seconds, sleep=self.sleep))
        share = given.get("share", Share())
        order = SimpleNamespace(
            read=SimpleNamespace(check=self.check, batch_rows=given.get("rows", 4)),
            positions={f"shop/{part}": str(Position(0, "i1")) for part in (1, 0)},
            first=4,
            slot="00",
            linger=3.0,
            draining=lambda: self.drains,
            moved=self.answered,
            share=share,
        )
        self.reader = TopicReader(
            cast("Any", order),
            cast("Any", lambda events: [(one.partition(), one.offset()) for one in events]),
            "shop",
            "items",
            cast("Any", self.open),
            lambda _: (SHOP, self.id),
        )
        self.reader._came = self.seconds

    def open(self) -> Log:
        self.sessions += 1
        return self

    def close(self) -> None:
        self.sessions -= 1

    def check(self) -> None:
        self.checked += 1

    def answered(self) -> None:
        self.moved += 1

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.reader.committed(99)

    def await_any(self, _: Topic, at: dict[int, int], seconds: float) -> bool:
        self.waits.append(seconds)
        self.seconds += 1
        for part, count in self.late.pop(len(self.waits), {}).items():
            self.ends[part] += count
        return any(self.ends[part] > offset for part, offset in at.items())

    def wait(self, _: Topic, part: int, offset: int, seconds: float) -> bool:
        assert seconds == 0, "the others have their turn"
        return self.ends[part] > offset

    def begin(self, _: Topic, part: int) -> int:
        return self.begins[part]

    def end(self, _: Topic, part: int) -> int:
        return self.ends[part]

    def read(self, topic: Topic, part: int, offset: int, limit: int) -> list[Stored]:
        self.limits.append(limit)
        if offset < self.begins[part]:
            raise LogError("gone", where="here")
        upto = min(self.ends[part], offset + limit)
        return [Stored(topic, part, at, Message(None, b"12345", AT)) for at in range(offset, upto)]

    def opened(self) -> TopicReader:
        """Let the reader stand at the first message of both partitions."""
        self.reader._opened = cast("Any", (self, SHOP))
        self.reader._at = {0: Position(0, "i1"), 1: Position(0, "i1")}
        self.reader._turns.extend((0, 1))
        return self.reader

    def gathered(self) -> list[tuple[int, int]]:
        return [(one.partition(), one.offset()) for one in self.reader._gathered()]


def test_partitions_take_turns_in_a_split_up_to_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch, 3, 3, rows=4)
    reader = log.opened()
    assert log.gathered() == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert (log.limits, log.moved, log.checked) == ([4, 1], 2, 1)
    assert log.gathered() == [(1, 1), (1, 2)]
    assert {part: at.offset for part, at in reader._at.items()} == {0: 3, 1: 3}
    assert log.gathered() == []
    monkeypatch.setattr(module, "PIECE", 1)
    log = Log(monkeypatch, 3, 3, rows=4)
    log.opened()
    assert log.gathered() == [(0, 0), (1, 0), (0, 1), (1, 1)]
    monkeypatch.setattr(module, "SPLIT_BYTES", 10)
    log = Log(monkeypatch, 3, 3, rows=4)
    log.opened()
    assert log.gathered() == [(0, 0), (1, 0)]


def test_a_split_is_closed_so_long_after_its_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch, 1, late={3: {1: 1}, 6: {0: 1}})
    log.opened()
    assert log.gathered() == [(0, 0), (1, 0)]
    assert log.waits == [0.1, 0.1, 0.1, 0.1, 0.0]
    assert log.checked == 4
    assert log.reader._came == 1001.0
    log = Log(monkeypatch, 1, late={5: {1: 1}})
    log.opened()
    assert log.gathered() == [(0, 0), (1, 0)], "what is there at the end is taken"


def test_splits_move_positions_and_are_kept_until_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch, 2, 1)
    found = []
    for chunk in log.reader.chunks():
        found.append(chunk)
        assert log.reader.splits[4].times == (AT.timestamp(), AT.timestamp())
        log.drains = True
    (rows, marker) = found
    assert rows.data == [(0, 0), (0, 1), (1, 0)]
    moves = {one.partition: (Position.parse(one.start).offset, Position.parse(one.end).offset) for one in marker.moves}
    assert (marker.split, marker.last, moves) == (4, True, {"shop/0": (0, 2), "shop/1": (0, 1)})
    assert (log.sessions, log.reader.splits) == (1, {})
    log.reader.close()
    log.reader.close()
    assert log.sessions == 0
    shared = Log(monkeypatch, 2, 1, share=Share(1, 2))
    shared.drains = True
    numbers = [chunk.split for chunk in shared.reader.chunks()]
    assert (numbers, list(shared.reader._at), list(shared.reader._turns)) == ([4, 4], [1], [1])
    for number in (3, 5):
        log.reader.splits[number] = Split(number)
    log.reader.committed(3)
    assert list(log.reader.splits) == [5]


def test_it_is_drained_behind_the_ends_of_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch, 1, 1)
    reader = log.opened()
    assert not reader._is_drained()
    log.drains = True
    assert not reader._is_drained()
    log.ends[0] = 9
    reader._at = {0: Position(1, "i1"), 1: Position(0, "i1")}
    assert not reader._is_drained()
    reader._at[1] = Position(1, "i1")
    assert reader._is_drained()


def test_a_topic_that_was_made_again_or_has_lost_what_comes_next_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch, 5, 5)
    reader = log.opened()
    reader._looked = log.seconds
    log.id = "i2"
    reader._look_around()
    assert log.moved == 0
    log.seconds += module.LOOK_SECONDS
    with pytest.raises(Refused, match="made again"):
        reader._look_around()
    log.id, log.seconds = "i1", log.seconds + module.LOOK_SECONDS
    reader._look_around()
    assert (log.moved, reader._looked) == (1, log.seconds)
    log.begins[1] = 2
    log.seconds += module.LOOK_SECONDS
    with pytest.raises(Refused, match="2 messages of shop/1 were deleted"):
        reader._look_around()
    with pytest.raises(Refused, match="2 messages of shop/1 were deleted"):
        reader._read(1, 5)
    log.begins[1] = 0

    def fails(*_: object) -> None:
        raise LogError("lost", where="here")

    monkeypatch.setattr(log, "read", fails)
    with pytest.raises(LogError):
        reader._read(1, 5)
    again = Log(monkeypatch, 1)
    again.id = "i2"
    with pytest.raises(Refused, match="made again"):
        list(again.reader.chunks())
    assert again.reader.splits == {}


def split(topic: str = "i1") -> Split:
    moves = [Move(f"shop/{part}", str(Position(1, topic)), str(Position(3, topic))) for part in (0, 1)]
    return Split(4, moves=tuple(moves), turns=(("shop/1", 2), ("shop/0", 3), ("shop/1", 3)))


def test_a_split_is_read_once_more_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch, 9, 9)
    (rows, marker) = log.reader.read("00", split())
    assert (rows.data, marker.last) == ([(1, 1), (0, 1), (0, 2), (1, 2)], True)
    assert (log.limits, log.moved, log.sessions) == ([2, 2], 2, 0)
    monkeypatch.setattr(module, "PIECE", 1)
    assert len(log.reader._again(split())) == 4
    assert log.limits[2:] == [1, 1, 1, 1]
    log.ends[1] = 2
    with pytest.raises(BadData, match="are gone"):
        log.reader._again(split())
    log.ends[1], log.begins[0] = 9, 2
    with pytest.raises(BadData, match="were deleted"):
        log.reader._again(split())
    log.begins[0] = 0
    with pytest.raises(Refused, match="made again"):
        log.reader._again(split("i2"))
    assert log.sessions == 0
