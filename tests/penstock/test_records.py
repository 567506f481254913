"""Records: round trips of the envelope, payloads of an older version, and invalid messages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidDocument, LogError
from penstock.models.base import Model
from penstock.records import Reading, Record, decode, encode, families
from penstock.records.families import TYPES, body, current, is_known
from penstock.topics.log import Message
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import CONTROL
from tests.strategies import logs, records

AT = datetime(2026, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize("type_", sorted(TYPES))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_property_02_messages_round_trip(type_: str, data: st.DataObject) -> None:
    """Property 2: Message round trip consistency.

    A record of any type comes back equal from its message, with its time, key, trace context and payload.

    Validates: Requirements 6.1
    """
    record = data.draw(records(type_))
    message = encode(record)
    assert decode(message) == record
    assert (message.key, message.at) == (record.key.encode(), record.at)
    assert dict(message.headers).get("traceparent", b"").decode() == (record.traceparent or "")
    assert body(decode(message)) == body(record)


def test_the_bytes_on_the_log_are_those_of_the_first_release() -> None:
    """An empty payload and the defaults of kind and version are written; unset fields are not."""
    bare = record(id="7", payload={})
    assert encode(bare).value == (
        b'{"id":"7","kind":"event","type":"worker.lost","key":"k","at":"2026-01-01T12:30:00.123456Z","actor":"x",'
        b'"version":1,"payload":{}}'
    )
    asked = record(id="7", kind="command", at=AT.replace(microsecond=0), cause=(3, 1), brain=2, payload={"n": None})
    assert encode(asked).value == (
        b'{"id":"7","kind":"command","type":"worker.lost","key":"k","at":"2026-01-01T12:30:00Z","actor":"x",'
        b'"cause":[3,1],"version":1,"brain":2,"payload":{"n":null}}'
    )


@pytest.fixture(scope="module")
def log_dsn(new_database: Callable[[], str]) -> str:
    dsn = new_database()
    with closing(PostgresLog(dsn)) as log:
        log.create(CONTROL)
    return dsn


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(found=logs(20))
def test_property_02_messages_round_trip_through_the_log(log_dsn: str, found: list[Record]) -> None:
    """Property 2: Message round trip consistency.

    Records of all types come back from the topic log equal and in order.

    Validates: Requirements 6.1
    """
    with closing(PostgresLog(log_dsn)) as log:
        start = log.end(CONTROL, 0)
        log.append(CONTROL, [encode(record) for record in found], partition=0)
        stored = log.read(CONTROL, 0, start, len(found) + 1)
    assert [decode(one.message) for one in stored] == found
    assert [one.offset for one in stored] == list(range(start, start + len(found)))


def record(type_: str = "worker.lost", **more: Any) -> Record:
    return Record(**{"type": type_, "key": "k", "at": AT, "actor": "x", **more})


def test_an_older_payload_is_upcast(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(Model):
        worker: str
        reason: str
        since: int

    upcasts = {1: lambda p: {"worker": p["name"], "reason": "?"}, 2: lambda p: p | {"since": 0}}
    newer = families.RecordType("worker.lost", "event", Lost, version=3, upcasts=upcasts)
    monkeypatch.setitem(families.TYPES, "worker.lost", newer)
    old = record(payload={"name": "w"})
    assert body(old) == Lost(worker="w", reason="?", since=0)
    assert body(record(version=2, payload={"worker": "w", "reason": "r"})) == Lost(worker="w", reason="r", since=0)
    assert current(old).version == 3
    assert old.payload == {"name": "w"}, "a record is never rewritten"


def test_a_missing_upcast_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = families.RecordType("worker.lost", "event", TYPES["worker.lost"].payload, version=2)
    monkeypatch.setitem(families.TYPES, "worker.lost", newer)
    with pytest.raises(LogError, match=r"worker\.lost: has no upcast to a newer version, got 1"):
        body(record())


@pytest.mark.parametrize("more", [{"version": 2}, {"kind": "command"}, {"type_": "later.invented"}])
def test_records_of_a_later_release_are_unknown_and_kept(more: dict[str, Any]) -> None:
    later = record(**more, payload={"anything": [1, {"x": None}]})
    assert not is_known(later)
    assert decode(encode(later)) == later
    assert current(later) == later
    with pytest.raises(LogError, match="is not a record type of this release"):
        body(later)


def test_an_invalid_payload_is_reported_with_its_path() -> None:
    with pytest.raises(InvalidDocument) as caught:
        body(record("worker.joined", payload={"worker": "w", "kinds": ["pipeline"], "slots": 0, "slot": 1}))
    assert {issue.path for issue in caught.value.issues} == {"slots", "slot"}
    assert "did you mean `slots`?" in str(caught.value)


NO_RECORDS = [
    b"", b"{", b"[]", b'{"type": "worker.lost"}', b"\xff", b"null", b"[" * 5000, b'{"key":"\xff"}',
    b'{"type":"worker.lost","key":"k","actor":"x","at":"2026-01-01T12:30:00"}',
]  # fmt: skip


@pytest.mark.parametrize("value", NO_RECORDS)
def test_a_message_without_a_record_is_reported(value: bytes) -> None:
    with pytest.raises(LogError, match="contains no record"):
        decode(Message(key=None, value=value, at=AT))


def test_a_repeated_answer_has_the_same_id() -> None:
    asked = record(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    first, again = (asked.answer(7, "task.started", "t", {}, at=AT, actor="worker:w") for _ in range(2))
    assert first == again
    assert (first.cause, first.correlation, first.traceparent) == ((7, 0), asked.id, asked.traceparent)
    assert asked.answer(8, "task.started", "t", {}, at=AT, actor="worker:w").id != first.id


def decided(offset: int, index: int, brain: int, agent: str = "a") -> Record:
    return record("agent.decided", actor=f"agent:{agent}", cause=(offset, index), brain=brain)


def test_a_reader_drops_repeats_and_superseded_brains() -> None:
    reading = Reading()
    log = [
        (record("brain.started"), True),
        (decided(0, 0, 0), True),
        (decided(0, 1, 0), True),
        (decided(0, 1, 0), False),
        (decided(0, 0, 0), False),
        (decided(0, 0, 0, "b"), True),
        (record("brain.started"), True),
        (decided(5, 0, 0), False),
        (decided(5, 0, 6), True),
        (record(), True),
        (decided(4, 9, 6), False),
    ]
    assert [reading.keep(offset, one) for offset, (one, _) in enumerate(log)] == [kept for _, kept in log]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(found=logs(30), cut=st.integers(0, 30))
def test_a_restored_reader_drops_the_same_records(found: list[Record], cut: int) -> None:
    whole, first = Reading(), Reading()
    expected = [whole.keep(offset, one) for offset, one in enumerate(found)]
    kept = [first.keep(offset, one) for offset, one in enumerate(found[:cut])]
    second = Reading.from_dict(first.to_dict())
    kept += [second.keep(offset, one) for offset, one in enumerate(found[cut:], len(found[:cut]))]
    assert kept == expected
    assert second.to_dict() == whole.to_dict()
