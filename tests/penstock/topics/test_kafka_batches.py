"""Which messages go into one batch of a log on Kafka, and which append is refused before anything is sent."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from penstock.errors import LogError
from penstock.topics import CONTROL, Message, Stored
from penstock.topics import kafka as module
from penstock.topics.kafka import _batch_bytes, _batches, _check, _first
from penstock.topics.kafka_client import APPEND_BYTES, RECORD_OVERHEAD

AT = datetime(2026, 1, 1, tzinfo=UTC)


def message(size: int, headers: int = 0, at: datetime = AT) -> Message:
    return Message(None, bytes(size), at, (("h", b"x"),) * headers)


def test_a_header_takes_bytes_of_a_batch_besides_its_own() -> None:
    plain, more = _batch_bytes(message(10)), _batch_bytes(message(10, 3))
    assert plain >= 10 + RECORD_OVERHEAD
    assert more - plain == 3 * (16 + len("hx"))


def test_messages_are_copied_in_batches_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    one = _batch_bytes(message(10))
    monkeypatch.setattr(module, "READ_BYTES", 2 * one)
    sizes = [10, 10, 10, 9 * one, 10, 10]
    stored = [Stored(CONTROL, 0, at, message(size)) for at, size in enumerate(sizes)]
    assert [[found.offset for found in batch] for batch in _batches(stored)] == [[0, 1], [2], [3], [4, 5]]
    assert list(_batches([])) == []


def test_an_append_that_no_batch_can_hold_is_refused() -> None:
    room = APPEND_BYTES - _batch_bytes(message(0))
    _check(CONTROL, 0, [message(room)])
    for batch in ([message(room + 1)], [message(room), message(0)], [message(room, 1)]):
        with pytest.raises(LogError, match="too much for one append"):
            _check(CONTROL, 0, batch)
    with pytest.raises(LogError, match="has no zone"):
        _check(CONTROL, 0, [message(1), message(1, at=AT.replace(tzinfo=None))])


def test_an_append_that_was_torn_apart_is_noticed() -> None:
    assert _first(CONTROL, 0, 3, [7, 8, 9]) == 7
    for offsets in ([7, 9, 10], [7, 8], [8, 7, 9]):
        with pytest.raises(LogError, match="not stored next to each other"):
            _first(CONTROL, 0, 3, offsets)
