"""A split's records are in the stream before its mark, and what is left of another one is never sent."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.kinesis import writer as module
from dataflows.connectors.kinesis.outbox import Outbox
from dataflows.connectors.kinesis.writer import CHANCE_BYTES, MOST_KEY, KinesisSink, Records
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters
from dataflows.data.positions import Move
from penstock.errors import Fenced, PenstockError

MOVES = (Move("t/0", "1", "2"),)


def encoded(batch: pa.RecordBatch) -> list[tuple[bytes | None, bytes | None]]:
    """Encode rows by their key; one whose number is 0 is a deletion."""
    return [
        (None if row["key"] is None else row["key"].encode(), str(row["n"]).encode() if row["n"] else None)
        for row in batch.to_pylist()
    ]


encoded.where = "items"  # type: ignore[attr-defined]
RECORDS = Records(cast("Any", encoded))


def rows(*pairs: tuple[str | None, int]) -> pa.RecordBatch:
    return pa.record_batch({"key": [one for one, _ in pairs], "n": [n for _, n in pairs]})


def test_rows_with_a_key_are_in_order_and_others_are_spread_by_chance() -> None:
    first, second, kept, deleted = RECORDS(rows((None, 1), (None, 0), ("a", 1), ("a", 0)))
    assert (first.data, first.ordered, second.data, second.ordered) == (b"1", False, b"", False)
    assert len(first.key) == len(second.key) == 2 * CHANCE_BYTES
    assert first.key != second.key
    assert [(one.key, one.data, one.ordered) for one in (kept, deleted)] == [("a", b"1", True), ("a", b"", True)]
    for key in ("", "é" * (MOST_KEY + 1)):
        with pytest.raises(RowRefused, match=f"of {len(key)} characters: Kinesis takes 1 to 256") as found:
            RECORDS(rows((key, 1)))
        assert found.value.state == "partition_key"
    assert [len(one.key) for one in RECORDS(rows(("x", 1), ("é" * MOST_KEY, 1)))] == [1, MOST_KEY]


class Log:
    """The stream and the state of a sink: keeps what is done to both, in order."""

    stream, where = "s", "a stream"

    def __init__(self) -> None:
        self.done: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.done.append((name, *given))

    def step(self, *given: Any) -> tuple[Any, ...]:
        return given

    def call(self, _name: str, parameters: dict[str, Any], _check: object) -> dict[str, Any]:
        self.done.append(("sent", [json.loads(one["Data"]) for one in parameters["Records"]]))
        return {"Records": [{"SequenceNumber": str(at)} for at, _ in enumerate(parameters["Records"])]}


def sink(log: Log, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "Kinesis", lambda _: log)
    checks: list[None] = []
    order = SimpleNamespace(run="r1", slot="00", generation=7, check=lambda: checks.append(None), checks=checks)
    return KinesisSink.open(cast("Any", "place"), cast("Any", lambda: log), cast("Any", order), RECORDS)


def test_a_split_is_sent_before_its_mark_and_counted_without_what_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataflows.connectors.kinesis.outbox.FENCE_SECONDS", 1e9)
    log = Log()
    with sink(log, monkeypatch) as one:
        assert log.done == [("refresh",), ("check_generation", 7)]
        log.done.clear()
        one.begin(0, None)
        one.put(rows(("lost", 9)))
        one.begin(1, None)
        one.put(rows(("a", 1), ("b", 2)))
        one.put(rows((None, 3)))
        assert len(one.order.checks) == 3
        with pytest.raises(PenstockError, match="does not add up"):
            one.commit(OpenSplit(1, "items", rows=2, read=2))
        assert log.done == [("fence", 7), ("sent", [1, 2, 3])]
        log.done.clear()
        one.begin(1, None)
        one.put(rows(("a", 1), (None, 3)))
        counted = one.commit(OpenSplit(1, "items", rows=2, read=4, dead=1, bytes=5, moves=MOVES))
        assert counted == Counters(4, 2, 1, 1, 5)
        change = ("r1", "00", 1, counted, MOVES)
        assert log.done == [("sent", [1, 3]), ("save", change, 7), ("apply", change)]
        with one.trial() as attempt:
            assert attempt(rows(("a", 1))) is None
            refused = attempt(rows(("a", 1), ("", 1)))
        assert isinstance(refused, RowRefused)
        log.done.clear()
    assert log.done == [("close",), ("close",)]


def test_a_sink_of_an_older_generation_never_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()

    def fenced(_: int) -> None:
        raise Fenced("newer", where="here")

    monkeypatch.setattr(log, "check_generation", fenced, raising=False)
    with pytest.raises(Fenced), sink(log, monkeypatch):
        pytest.fail("it must not open")
    assert log.done == [("refresh",), ("close",), ("close",)]


def test_the_fence_is_looked_at_by_the_sinks_own_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    with sink(log, monkeypatch) as one:
        assert isinstance(one.outbox, Outbox)
        log.done.clear()
        one.outbox.fence()
    assert log.done[0] == ("fence", 7)
