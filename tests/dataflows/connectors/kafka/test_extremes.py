"""Messages that are large, without a key, or of a producer whose clock is wrong: nothing is lost, whatever they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from tests.dataflows.connectors.kafka.conftest import Stream

pytestmark = pytest.mark.xdist_group("kafka")

LARGE = {"max.message.bytes": str(12 << 20)}
ANY_TIME = {"message.timestamp.after.max.ms": str(2**63 - 1)}
"""By default, brokers refuse what is more than an hour ahead."""
TEN_MB = 10_000_000
FUTURE = 7_258_118_400_000
"""In milliseconds of Unix time: the year 2200."""
LENIENT = {"dead_letter": {"fail_above": 1}}


def send(made: Stream, number: int, size: int = 0, **more: Any) -> None:
    """Append a message of about `size` bytes, as a producer whose limits allow it."""
    settings = {"bootstrap.servers": made.kafka.bootstrap, "message.max.bytes": 12 << 20, "linger.ms": 2}
    producer = Producer(settings)
    value = json.dumps({"id": number, "name": "x" * size}).encode()
    failed: list[str] = []
    producer.produce(
        made.topic, value, on_delivery=lambda error, _: failed.append(str(error)) if error else None, **more
    )
    assert producer.flush(60) == 0
    assert not failed, failed


def test_a_message_of_ten_megabytes_goes_where_the_brokers_allow_it(stream: Callable[..., Stream]) -> None:
    """And becomes a dead letter, whole, where they do not; what is before and behind it is written."""
    made, small = stream(into="kafka", config=LARGE), stream(into="kafka", config=LARGE)
    made.kafka.create(made.target, 1, LARGE)
    for one in (made, small):
        send(one, 0)
        send(one, 1, TEN_MB)
        send(one, 2)
    made.taken(3)
    assert [len(one["name"]) for one in made.messages()] == [0, TEN_MB, 0]
    small.taken(2, errors=LENIENT)
    assert small.ids() == [0, 2]
    assert small.letters
    query = "SELECT code, length(values ->> 'name') FROM ops.dead_letters WHERE pipeline = %s"
    with psycopg.connect(small.letters) as session:
        assert session.execute(query, (small.uid,)).fetchall() == [("message_too_large", TEN_MB)]


@pytest.mark.chaos
def test_a_message_of_ten_megabytes_goes_into_a_table(stream: Callable[..., Stream]) -> None:
    made = stream(config=LARGE)
    for number, size in enumerate((0, TEN_MB, 0)):
        send(made, number, size)
    made.taken(3)
    assert made.rows(f"SELECT id, length(name) FROM {made.target} ORDER BY id") == [(0, 0), (1, TEN_MB), (2, 0)]


def test_messages_without_a_key_and_of_a_clock_of_the_future_are_rows_like_others(
    stream: Callable[..., Stream],
) -> None:
    made = stream(into="kafka", config=ANY_TIME)
    send(made, 0, key=b"k", timestamp=FUTURE)
    send(made, 1)
    send(made, 2, timestamp=1)
    fields = [{"target": "id", "from": "id"}, {"target": "k", "from": "_key"}, {"target": "at", "from": "_timestamp"}]
    sink = {"connection": "lake", "object": made.target, "write": "append", "key": ["k"]}
    made.taken(3, sink=sink, mapping={"fields": fields})
    assert [(one["id"], one["k"], one["at"][:4]) for one in made.messages() if one["id"] != 1] == [
        (0, "k", "2200"),
        (2, None, "1970"),
    ]
    assert [one.key() for one in made.kafka.read(made.target)] == [b"k", None, None]
    assert made.positions()[f"{made.topic}/0"]["offset"] == 3
    send(made, 3)
    made.taken(4, "r2", sink=sink, mapping={"fields": fields})
    assert made.ids() == [0, 1, 2, 3], "where a stream stands does not depend on times"
