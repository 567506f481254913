"""Messages as rows: their values, what else is known of each, and what cannot be read, each in its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Message

from dataflows.connectors.formats import decoding
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.formats.decoding import Decoder
from dataflows.connectors.formats.json_values import JsonValues, sampled_columns
from dataflows.connectors.formats.messages import (
    BUILT,
    HIDDEN,
    in_turns,
    place_of,
    shown_bytes,
    times_of,
    turn_of,
    turns_of,
)
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import BadData, SchemaMismatch

COLUMNS = (Column("id", "bigint"), Column("name", "text"))
EVERYTHING = tuple(one.name for one in HIDDEN)


def message(value: bytes | None, offset: int = 0, key: bytes | None = None, **more: Any) -> Message:
    return Message(topic="events", partition=3, offset=offset, key=key, value=value, **more)


def decoder(*hidden: str, columns: Sequence[Column] = COLUMNS, declared: bool = False) -> tuple[Decoder, list[str]]:
    """Return a decoder of `columns` and some hidden ones, and where it says what it has noticed."""
    names = {one.name for one in columns}
    every = (*columns, *(one for one in HIDDEN if one.name not in names))
    wanted = (*columns, *(one for one in HIDDEN if one.name in hidden))
    schema = pa.schema([(one.name, arrow_type(parse_type(one.type))) for one in wanted])
    said: list[str] = []
    values = JsonValues({one.name: one for one in columns}, every, None if declared else columns, said.append)
    return Decoder(schema, {one: BUILT[one] for one in hidden if one not in names}, values, "here"), said


def reasons(rows: Rows) -> list[tuple[str, int, str]]:
    return [(one.code, one.values["_offset"], one.reason) for one in rows.refused]


def test_everything_known_of_a_message_can_be_a_column() -> None:
    read, _ = decoder(*EVERYTHING)
    at = int(datetime(2026, 1, 2, 3, 4, 5, 678000, UTC).timestamp() * 1000)
    sent = [
        message(b'{"id": 1}', 7, b"k", headers=[("a", b"1"), ("b", None)], timestamp=(TIMESTAMP_CREATE_TIME, at)),
        message(None, 8, timestamp=(TIMESTAMP_NOT_AVAILABLE, -1)),
    ]
    rows = read(sent)
    assert rows.refused == ()
    first, second = rows.batch.to_pylist()
    assert first == {
        "id": 1, "name": None, "_key": "k", "_topic": "events", "_partition": 3, "_offset": 7,
        "_timestamp": datetime(2026, 1, 2, 3, 4, 5, 678000, UTC), "_headers": '[["a", "1"], ["b", null]]',
        "_deleted": False,
    }  # fmt: skip
    assert second == dict.fromkeys(first) | {"_topic": "events", "_partition": 3, "_offset": 8, "_deleted": True}


def test_what_cannot_be_read_is_refused_in_its_place() -> None:
    read, _ = decoder("_offset")
    values = [b'{"id": 1}', b"no", None, b'{"id": 2}', b'{"id": "x"}', b" \n", b"{\n", b'{\n"id":\n3}', b'{"id": 4} {}']
    rows = read([message(value, 10 + at, b"\xff") for at, value in enumerate(values)])
    assert rows.batch.to_pydict() == {"id": [1, 2, 3], "name": [None] * 3, "_offset": [10, 13, 17]}
    assert [(code, offset) for code, offset, _ in reasons(rows)] == [
        ("malformed", 11), ("tombstone", 12), ("not_of_type", 14), ("malformed", 15), ("malformed", 16),
        ("malformed", 18),
    ]  # fmt: skip
    assert rows.refused[0].reason.startswith("offset 11 of partition 3: ")
    assert rows.refused[1].values == {
        "_raw": None, "_key": "\\xff", "_topic": "events", "_partition": 3, "_offset": 12,
    }  # fmt: skip
    assert rows.refused[0].values["_raw"] == "no"


def test_a_message_is_not_longer_than_a_value_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_VALUE_BYTES", 1 << 20)
    fits = b'{"id": 1}'.ljust(1 << 20)
    rows = decoder()[0]([message(fits, 1), message(fits + b" ", 2), message(b'{"id": 5}', 3)])
    assert rows.batch["id"].to_pylist() == [1, 5]
    assert reasons(rows) == [("too_long", 2, "offset 2 of partition 3: the message is longer than 1 MiB")]


@pytest.mark.parametrize(("hidden", "wrong"), [((), []), (("_key",), [1]), (("_headers",), [2]), (EVERYTHING, [1, 2])])
def test_keys_and_headers_that_are_no_text_are_refused_where_they_are_read(
    hidden: tuple[str, ...], wrong: list[int]
) -> None:
    sent = [
        message(b'{"id": 0}', 0),
        message(b'{"id": 1}', 1, b"\xff"),
        message(b'{"id": 2}', 2, headers=[("a", b"x"), ("b", b"\xff")]),
    ]
    rows = decoder(*hidden)[0](sent)
    assert [(code, offset) for code, offset, _ in reasons(rows)] == [("not_text", offset) for offset in wrong]
    assert rows.batch["id"].to_pylist() == [one for one in range(3) if one not in wrong]


def test_a_column_of_no_sampled_message_is_noticed_once_and_not_read() -> None:
    read, said = decoder()
    assert read([message(b'{"id": 1, "name": "a"}')]).batch["id"].to_pylist() == [1]
    assert said == []
    for _ in range(2):
        rows = read([message(b'{"id": 2, "size": 3, "colour": "red"}'), message(b'{"id": 3}')])
        assert (rows.batch["id"].to_pylist(), rows.refused) == ([2, 3], ())
    read([message(b'{"weight": 1}')])
    assert [re.findall("`(.*?)`", one) for one in said] == [["colour"], ["size"], ["weight"]]


@pytest.mark.parametrize("declared", [True, False])
def test_a_number_in_quotes_is_one_only_in_a_declared_column(declared: bool) -> None:
    read, _ = decoder(declared=declared)
    for value in (b'{"id": "5"}', b'{"id": "5", "new": 1}'):
        rows = read([message(value)])
        assert (rows.batch["id"].to_pylist(), len(rows.refused)) == (([5], 0) if declared else ([], 1))
    assert place_of(message(b"", 7)) == (3, 7)


def test_undeclared_columns_are_not_read_and_not_noticed() -> None:
    read, said = decoder(declared=True)
    assert read([message(b'{"id": 1, "size": 3}')]).batch["id"].to_pylist() == [1]
    assert said == []


def test_a_column_of_the_values_has_its_name_before_what_is_known_beside_them() -> None:
    read, _ = decoder("_offset", columns=(Column("id", "bigint"), Column("_key", "text")))
    rows = read([message(b'{"id": 1, "_key": "own"}', 5, b"\xff")])
    assert rows.batch.to_pylist() == [{"id": 1, "_key": "own", "_offset": 5}]


def test_columns_are_inferred_from_messages_of_which_half_are_objects() -> None:
    half = [message(b'{"id": 1}'), message(b"no"), message(b'{"name": "a", "id": 2}'), message(b"[]"), message(None)]
    assert sampled_columns(half, "here") == (Column("id", "bigint"), Column("name", "text"))
    with pytest.raises(BadData, match="3 of 5 messages are not JSON objects"):
        sampled_columns([*half, message(b"1")], "here")
    for nothing, said in (([], "no message"), ([message(None)], "no message"), ([message(b"{}")], "no columns")):
        with pytest.raises(SchemaMismatch, match=said):
            sampled_columns(nothing, "here")


@pytest.mark.parametrize("at", [1_800_000_000_000_000, 1_800_000_000_000_000_000, -62_135_596_800_001])
def test_a_time_that_no_date_has_is_a_dead_letter_where_it_is_read(at: int) -> None:
    sent = [message(b'{"id": 1}', 7, timestamp=(TIMESTAMP_CREATE_TIME, at)), message(b'{"id": 2}', 8)]
    rows = decoder("_timestamp")[0](sent)
    assert rows.batch.column("id").to_pylist() == [2]
    assert reasons(rows) == [
        ("not_of_type", 7, f"offset 7 of partition 3: its time, {at} ms, is none of the years 1 to 9999")
    ]
    assert decoder()[0](sent).batch.column("id").to_pylist() == [1, 2]
    assert times_of([*sent, message(b"{}", 9, timestamp=(TIMESTAMP_CREATE_TIME, 5000))]) == (5, 5)
    assert times_of([*sent[:1], message(b"{}", timestamp=(TIMESTAMP_NOT_AVAILABLE, -1))]) is None
    both = [message(b"{}", timestamp=(TIMESTAMP_CREATE_TIME, one)) for one in (7000, 5000, 6000)]
    assert times_of(both) == (5, 7)


def test_messages_that_are_read_once_more_come_in_the_order_in_which_they_came() -> None:
    came = [("a/0", 3), ("b/1", 0), ("a/0", 4), ("a/0", 6), ("a/1", 1), ("b/1", 1)]

    def sent(places: Sequence[tuple[str, int]]) -> list[Message]:
        return [Message(topic=name[0], partition=int(name[2]), offset=offset) for name, offset in places]

    turns = turns_of(sent(came))
    assert turns == (("a/0", 4), ("b/1", 1), ("a/0", 7), ("a/1", 2), ("b/1", 2))
    for gone in (None, ("a/0", 3), ("a/0", 6), ("b/1", 0)):
        left = [one for one in came if one != gone]
        again = in_turns(sent(sorted(left)), turns)
        assert [turn_of(one) for one in again] == left
    beyond = sent([*came, ("c/0", 5), ("a/1", 9)])
    assert [turn_of(one) for one in in_turns(beyond, turns)] == [*came, ("a/1", 9), ("c/0", 5)]


def test_bytes_that_are_no_text_are_shown_in_hexadecimal() -> None:
    found = [shown_bytes(one) for one in (None, b"", "é".encode(), b"a\0", b"\xff\x01")]
    assert found == [None, "", "é", "\\x6100", "\\xff01"]
