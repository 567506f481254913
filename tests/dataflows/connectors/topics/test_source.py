"""A topic of a log as a source: where a stream of it begins, and how far it is behind, by a session that is ended."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.topics import source as module
from dataflows.connectors.topics.positions import Position
from dataflows.connectors.topics.source import TopicsSource, topic_names
from dataflows.data.tables import Column
from penstock.errors import MissingTable, Refused
from penstock.models.connection import parse_connection
from penstock.topics.table import TOPICS, Topic

SETTINGS = parse_connection("bus", {"type": "topics", "dsn": "dbname=none"})
AT = datetime(2026, 1, 1, tzinfo=UTC)
SHOP = Topic("shop", "the shop", partitions=2)


class Log:
    """A log with the topic `shop` and one of Penstock's own; counts the sessions that are open."""

    ends = {0: (2, 9), 1: (5, 5)}

    def __init__(self) -> None:
        self.sessions = self.opened = 0
        self.read_: list[Any] = []

    def open(self, _: Place) -> Log:
        self.sessions += 1
        self.opened += 1
        return self

    def close(self) -> None:
        self.sessions -= 1

    def topics(self) -> dict[str, tuple[Topic, str]]:
        return {"shop": (SHOP, "i1")} | {name: (one, "i2") for name, one in TOPICS.items()}

    def begin(self, _: Topic, part: int) -> int:
        return self.ends[part][0]

    def end(self, _: Topic, part: int) -> int:
        return self.ends[part][1]

    def seek_time(self, _: Topic, part: int, at: datetime) -> int:
        assert at == AT
        return 5 + part

    def read(self, _: Topic, part: int, offset: int, limit: int) -> list[Any]:
        self.read_.append((part, offset, limit))
        return []


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(module, "_log_of", made.open)
    return made


def source(object_: str = "shop") -> TopicsSource:
    return TopicsSource(Place("orders", "bus", SETTINGS, object_))


def stood(offset: int, topic: str = "i1") -> str:
    return str(Position(offset, topic))


def offsets(found: Any) -> dict[str, int]:
    return {name: Position.parse(text).offset for name, text in found.items()}


def test_a_stream_begins_at_an_end_or_at_a_time_but_for_what_stands(log: Log) -> None:
    for begin, begins in (("earliest", [2, 5]), ("latest", [9, 5]), (AT, [5, 6])):
        found = source().beginnings({}, begin)  # type: ignore[arg-type]
        assert offsets(found) == {"shop/0": begins[0], "shop/1": begins[1]}
        assert {Position.parse(one).topic for one in found.values()} == {"i1"}
    assert offsets(source().beginnings({"shop/1": stood(5)}, "earliest")) == {"shop/0": 2}
    for position, said in (
        (stood(1), "were deleted"),
        (stood(10), "messages were lost"),
        (stood(9, "x"), "made again"),
    ):
        with pytest.raises(Refused, match=said):
            source().beginnings({"shop/0": position}, "earliest")
    assert source().partitions() == 2
    assert log.sessions == 0
    with pytest.raises(MissingTable, match="no topic shopp") as error:
        source("shopp").beginnings({}, "earliest")
    assert "did you mean `shop`" in (error.value.hint or "")
    with pytest.raises(MissingTable) as error:
        source("zzz").partitions()
    assert (error.value.hint, log.sessions) == ("penstock topics create zzz", 0)


def test_a_new_beginning_says_what_it_repeats_and_skips(log: Log) -> None:
    known = {"shop/0": stood(4), "shop/1": stood(5)}
    found = source().restarted(known, "earliest")
    assert (offsets(found.positions), len(found.shifts)) == ({"shop/0": 2, "shop/1": 5}, 1)
    assert "shop/0 repeats 2 messages" in found.shifts[0]
    found = source().restarted(known, {"1": "5"})
    assert (offsets(found.positions), list(found.shifts)) == ({"shop/0": 4, "shop/1": 5}, [])
    assert offsets(source().restarted({"shop/0": stood(4, "old")}, {}).positions) == {"shop/0": 2, "shop/1": 5}
    assert log.sessions == 0


def test_what_a_stream_has_still_to_read_is_counted_over_one_session(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    one = source()
    for _ in range(2):
        assert one.behind({"shop/0": stood(4), "shop/1": stood(6)}) == {"shop/0": 5, "shop/1": 0}
    assert (log.sessions, log.opened) == (1, 1)
    monkeypatch.setattr(Log, "end", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        one.behind({"shop/0": stood(4)})
    assert log.sessions == 0
    monkeypatch.undo()
    monkeypatch.setattr(module, "_log_of", log.open)
    one.behind({"shop/0": stood(4)})
    assert (log.sessions, log.opened) == (1, 2)
    one.close()
    source().close()
    assert log.sessions == 0


def test_what_the_topic_has_is_told_and_sampled_in_equal_parts(log: Log) -> None:
    assert source().extent() == (7, 2)
    assert source().newest(5) == []
    assert log.read_ == [(0, 6, 3), (1, 5, 3)]
    assert topic_names(source().place) == ["shop"]
    assert log.sessions == 0


def test_a_topic_that_is_not_there_is_missed_although_its_columns_are_declared(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TopicsSource, "_form", SimpleNamespace(columns=lambda _: ((Column("id", "bigint"),), "a file")))
    with pytest.raises(MissingTable):
        source("shopp").describe()
    one = source()
    table = one.describe()
    assert (table.name, table.kind, table.types_from, table.columns[0].name) == ("shop", "topic", "a file", "id")
    assert one.describe() is table
    assert (log.sessions, log.opened) == (0, 2)
