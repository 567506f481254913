"""The keys that a compacted topic has: all that were committed, also behind what others have left open."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer

from dataflows.connectors.kafka import live
from dataflows.connectors.kafka.ledger import STATE_TOPIC
from dataflows.connectors.kafka.state import KafkaState
from penstock.errors import Refused, Unavailable
from tests.dataflows.connectors.kafka.conftest import Stream

pytestmark = pytest.mark.xdist_group("kafka")
SECONDS = 60


def transaction(made: Stream, name: str, **messages: str | None) -> Any:
    """Return a producer whose transaction with these messages is open."""
    found = Producer({"bootstrap.servers": made.kafka.bootstrap, "transactional.id": f"{made.target}-{name}"})
    found.init_transactions(SECONDS)
    found.begin_transaction()
    for key, value in messages.items():
        found.produce(made.target, value, key)
    assert found.flush(SECONDS) == 0
    return found


def test_keys_behind_a_transaction_that_is_open_are_not_missed(
    stream: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stream(into="kafka")
    made.kafka.create(made.target, 1, {"cleanup.policy": "compact"})
    place = replace(made.place, object=made.target)
    opened = transaction(made, "open", other="1")
    transaction(made, "done", a="1", b="2", c=None).commit_transaction(SECONDS)
    with monkeypatch.context() as patched:
        patched.setattr(live, "WAIT_SECONDS", 0.0)
        with pytest.raises(Unavailable, match="another program's transaction is open"):
            live.live_keys(place, lambda: None)
    ending = threading.Timer(0.5, opened.abort_transaction, (SECONDS,))
    ending.start()
    assert sorted(live.live_keys(place, lambda: None)) == [b"a", b"b"]
    ending.join()


def test_records_without_a_topic_are_refused_by_name(stream: Callable[..., Stream]) -> None:
    made = stream(into="kafka")
    with closing(KafkaState(made.place, made.uid, made.topic, "tests")) as state:
        state.make()
        run = {"source": made.topic, "number": 1, "row": {}}
        made.kafka.send(
            STATE_TOPIC,
            json.dumps(run).encode(),
            key=state._ledger.key(("run", "r1")),
            partition=state._ledger.partition,
        )
        with pytest.raises(Refused, match="an older version"):
            state.positions()
        with pytest.raises(Refused, match="an older version"):
            state.claim(("00",), "r2")
        state.drop()
        state.positions()
