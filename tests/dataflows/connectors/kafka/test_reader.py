"""The reader of topics over messages that the test gives: where splits and positions end, and what stops it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from dataflows.connectors.kafka import reader as module
from dataflows.connectors.kafka.positions import Position
from dataflows.connectors.kafka.reader import KafkaReader
from dataflows.connectors.streaming import Share
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import BadData, PenstockError, Refused, Unreachable

END = KafkaError._PARTITION_EOF


def message(part: int, offset: int, value: bytes = b"12345", *, error: int | None = None) -> Message:
    found = Message(topic="t", partition=part, offset=offset, value=value)
    if error is not None:
        return cast("Message", Failed(found, error))
    return found


class Failed:
    """What the client returns in place of a message."""

    def __init__(self, of: Message, code: int) -> None:
        self.of, self.code = of, code

    def error(self) -> KafkaError:
        return KafkaError(self.code)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)


class Broker:
    """A consumer with what each call returns, on a clock that goes on by a second with each; keeps what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *turns: list[Message], **given: Any) -> None:
        self.turns, self.done = list(turns), list[Any]()
        self.seconds, self.moved, self.checked, self.drains = 1000.0, 0, 0, False
        self.step = given.get("step", 1.0)
        self.parts, self.id = given.get("parts", (0, 1)), "i1"
        self.ends = {"t/0": (0, 7), "t/1": (0, 9), "t/2": (0, 0)}
        self.begun: list[dict[str, str]] = []
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.seconds, sleep=self.sleep))
        monkeypatch.setattr(module, "watermarks", lambda _, names, __: {name: self.ends[name] for name in names})
        positions = {f"t/{part}": str(Position(5, 1, "i1")) for part in (0, 1)} | {"other/0": "x"}
        order = SimpleNamespace(
            read=SimpleNamespace(check=self.check, batch_rows=given.get("rows", 3)),
            positions=positions,
            first=4,
            slot="00",
            linger=5.0,
            draining=lambda: self.drains,
            moved=self.answered,
            begin=lambda begins: self.begun.append(dict(begins)),
            share=Share(),
        )
        self.reader = KafkaReader(
            cast("Any", order),
            cast("Any", len),
            "items",
            lambda: cast("Any", self),
            lambda topic: topic == "t",
            cast("Any", self.look),
            lambda _: {name: str(Position(0, -1, "i1")) for name in ("t/2", "t/3")},
        )
        self.reader._came = self.seconds
        self.reader._consumer = cast("Any", self)
        self.reader._at = {name: Position.parse(positions[name]) for name in ("t/0", "t/1")}

    def check(self) -> None:
        self.checked += 1

    def answered(self) -> None:
        self.moved += 1

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.reader.committed(99)

    def look(self, names: Any) -> Any:
        self.done.append(("look", set(names)))
        return {"t": SimpleNamespace(name="t", id=self.id, partitions=self.parts)}

    def consume(self, count: int, seconds: float) -> list[Message]:
        self.done.append((count, seconds))
        self.seconds += self.step
        return self.turns.pop(0) if self.turns else []

    def incremental_assign(self, places: Any) -> None:
        self.done.append([(one.partition, one.offset) for one in places])

    assign = incremental_assign

    def list_topics(self, topic: str, _: float) -> None:
        self.done.append(topic)

    def commit(self, offsets: Any, **_: Any) -> None:
        self.done.append(("commit", sorted((one.partition, one.offset) for one in offsets)))

    def close(self) -> None:
        self.done.append("close")

    def gathered(self) -> list[int]:
        return [cast("int", one.offset()) for one in self.reader._gathered()]


def test_a_split_has_what_comes_within_the_linger_up_to_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(monkeypatch, [message(0, 5)], [message(0, 6), message(1, 5)], [message(0, 7)])
    assert broker.gathered() == [5, 6, 5]
    assert [one[0] for one in broker.done] == [1, 2]
    assert (broker.moved, broker.checked) == (2, 1)
    broker = Broker(monkeypatch, [message(0, 5)], *[[]] * 9, [message(0, 6)])
    assert broker.gathered() == [5]
    assert len(broker.done) == 7, "so long after its first row"
    assert Broker(monkeypatch).gathered() == []
    monkeypatch.setattr(module, "SPLIT_BYTES", 10)
    sizes = [[message(0, at)] for at in range(5, 9)]
    assert Broker(monkeypatch, *sizes, rows=9).gathered() == [5, 6]
    monkeypatch.setattr(module, "PIECE", 1)
    assert Broker(monkeypatch, *sizes, rows=9, step=9.0).gathered() == [5, 6], "what is there is taken"


def test_positions_move_behind_messages_and_past_what_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Broker(monkeypatch).reader

    def moves(*messages: Message, **ended: int) -> dict[str, int]:
        reader._ended = {f"t/{name[1:]}": end for name, end in ended.items()}
        found = reader._moves(list(messages))
        assert all(Position.parse(one.start) == reader._at[one.partition] for one in found)
        assert [one.partition for one in found] == sorted(one.partition for one in found)
        ends = {one.partition: Position.parse(one.end) for one in found}
        assert {(one.epoch, one.topic) for one in ends.values()} <= {(1, "i1")}
        return {name: one.offset for name, one in ends.items()}

    assert moves() == {}
    assert moves(message(1, 8), message(0, 5), message(1, 9)) == {"t/0": 6, "t/1": 10}
    assert moves(message(0, 6), p0=9, p1=5) == {"t/0": 9}
    assert moves(p0=6, p1=4) == {"t/0": 6}
    with pytest.raises(Refused, match="offset 4 of epoch 1 came after offset 5 of epoch 1"):
        moves(message(0, 4))
    reader._at["t/0"] = Position(5, 3, "i1")
    late = SimpleNamespace(topic=lambda: "t", partition=lambda: 0, offset=lambda: 5)
    late.leader_epoch = lambda: 2
    with pytest.raises(Refused, match="offset 5 of epoch 2 came after offset 5 of epoch 3"):
        moves(cast("Message", late))
    late.leader_epoch = lambda: 4
    (move,) = reader._moves([cast("Message", late)])
    assert Position.parse(move.end) == Position(6, 4, "i1")


def test_ends_are_noted_and_errors_that_pass_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(monkeypatch, [message(0, 8, error=END), message(1, 5)])
    taken = broker.reader._taken(2, 0.0)
    assert ([one.offset() for one in taken], broker.reader._ended, broker.moved) == ([5], {"t/0": 8}, 1)
    broker.turns = [[message(0, 8, error=END)]]
    assert (broker.reader._taken(2, 0.0), broker.moved) == ([], 1)
    broker.turns = [[message(0, 5, error=KafkaError.OFFSET_OUT_OF_RANGE)]]
    with pytest.raises(Refused, match="t/0 has offsets 0 to 7, and the next one to read is 5"):
        broker.reader._taken(2, 0.0)
    with pytest.raises(PenstockError):
        broker.reader._raise(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "t/0")
    with pytest.raises(PenstockError):
        broker.reader._raise(KafkaError(KafkaError.REQUEST_TIMED_OUT, "x", fatal=True, retriable=True), "t/0")
    broker.done.clear()
    broker.reader._raise(KafkaError(KafkaError.REQUEST_TIMED_OUT, "x", retriable=True), "t/0")
    assert broker.done == []
    broker.reader._raise(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "x", retriable=True), "t/0")
    assert broker.done == [("look", {"t"})]
    broker.id = "i2"
    with pytest.raises(Refused, match="deleted and made again"):
        broker.reader._raise(KafkaError(KafkaError.UNKNOWN_TOPIC_ID, "x", retriable=True), "t/0")


def test_it_is_drained_behind_the_ends_of_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(monkeypatch)
    reader = broker.reader
    assert not reader._is_drained()
    assert broker.done == []
    broker.drains = True
    assert not reader._is_drained()
    broker.ends["t/0"] = (0, 99)
    reader._at = {"t/0": Position(7, 1, "i1"), "t/1": Position(8, 1, "i1")}
    assert not reader._is_drained()
    reader._ended = {"t/1": 9}
    assert reader._is_drained()
    assert len([one for one in broker.done if one == ("look", {"t"})]) == 1


def test_new_partitions_begin_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(monkeypatch, parts=(0, 1, 2))
    reader = broker.reader
    reader._looked = broker.seconds
    reader._look_around()
    assert broker.done == []
    broker.seconds += module.LOOK_SECONDS
    reader._came = broker.seconds
    reader._look_around()
    assert broker.done == [("look", {"t"}), "t", [(2, 0)]]
    assert broker.begun == [{"t/2": str(Position(0, -1, "i1"))}]
    assert reader._at["t/2"] == Position(0, -1, "i1")
    broker.seconds += module.LOOK_SECONDS
    reader._came = broker.seconds
    reader._look_around()
    assert (len(broker.begun), broker.moved) == (1, 2)
    reader.order.share = Share(0, 2)  # type: ignore[misc]
    assert [reader._is_own(name) for name in ("t/0", "t/1", "u/0")] == [True, False, False]


def test_each_split_moves_what_it_has_read_and_is_kept_until_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(monkeypatch, [message(0, 5)], [message(0, 6), message(1, 8)])
    broker.reader._consumer = None
    found = []
    for chunk in broker.reader.chunks():
        found.append(chunk)
        assert chunk.last or chunk.data == 3
        broker.drains = True
    assert {chunk.split for chunk in found} == {4}
    ends = {move.partition: Position.parse(move.end).offset for move in found[-1].moves}
    assert (found[-1].last, ends) == (True, {"t/0": 7, "t/1": 9})
    assert broker.done[0] == [(0, 5), (1, 5)], "those of its own topic"
    assert broker.done[-1] == ("commit", [(0, 7), (1, 9)])
    assert broker.reader.splits == {}
    broker.reader.close()
    broker.reader.close()
    assert broker.done.count("close") == 1


def test_a_group_follows_the_splits_that_are_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(monkeypatch)
    for number in (4, 5, 6):
        move = Move("t/0", "", str(Position(number * 10, 1, "i1")))
        broker.reader.splits[number] = Split(number, moves=(move,))
    broker.reader.committed(5)
    assert (broker.done, list(broker.reader.splits)) == ([("commit", [(0, 50)])], [6])
    broker.reader.committed(5)
    assert len(broker.done) == 1

    def fails(**_: Any) -> None:
        raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))

    monkeypatch.setattr(broker, "commit", fails)
    broker.reader.committed(6)
    assert broker.reader.splits == {}
    broker.reader._consumer = None
    broker.reader.splits[7] = Split(7)
    broker.reader.committed(7)
    assert broker.reader.splits == {}


def split(*turns: tuple[str, int]) -> Split:
    moves = [Move(f"t/{part}", str(Position(5, 1, "i1")), str(Position(8, 1, "i1"))) for part in (0, 1)]
    return Split(4, moves=tuple(moves), turns=turns)


def test_a_split_is_read_once_more_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [[message(0, 5), message(0, 7), message(0, 8)], [], [message(1, 6)], [message(1, 8, error=END)]]
    broker = Broker(monkeypatch, *first)
    found = broker.reader._again(split(("t/1", 7), ("t/0", 8)))
    assert [(one.partition(), one.offset()) for one in found] == [(1, 6), (0, 5), (0, 7)]
    assert [one for one in broker.done if isinstance(one, list)] == [[(0, 5)], [(1, 5)]]
    assert (broker.moved, broker.done[-1]) == (4, "close")
    broker = Broker(monkeypatch, [message(0, 5, error=KafkaError.OFFSET_OUT_OF_RANGE)])
    with pytest.raises(BadData, match="deleted while they were written"):
        broker.reader._again(split())
    broker = Broker(monkeypatch, step=module.AGAIN_SECONDS / 2)
    with pytest.raises(Unreachable, match="do not come again"):
        broker.reader._again(split())
    assert len([one for one in broker.done if isinstance(one, tuple)]) == 3
    broker = Broker(monkeypatch)
    (chunk,) = broker.reader.read("00", Split(4))
    assert (chunk.last, broker.done) == (True, []), "nothing is asked for a split without messages"
