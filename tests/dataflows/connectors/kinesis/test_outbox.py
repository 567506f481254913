"""What the stream has not taken, or not in order, is sent again, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataflows.connectors.kinesis import outbox as module
from dataflows.connectors.kinesis.client import Kinesis
from dataflows.connectors.kinesis.outbox import Outbox, Outgoing, unsent
from penstock.errors import Unavailable

BUSY = {"ErrorCode": "ProvisionedThroughputExceededException"}


def taken(number: int) -> dict[str, str]:
    return {"SequenceNumber": str(number)}


def records(keys: str, *, ordered: bool = True) -> list[Outgoing]:
    """Return a record of each key; its data are its place."""
    return [Outgoing(key, str(at).encode(), ordered) for at, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("keys", "answer", "again"),
    [
        ("aab", [taken(1), taken(2), taken(3)], []),
        ("aab", [BUSY, taken(2), taken(3)], [0, 1]),
        ("aab", [taken(1), BUSY, taken(3)], [1]),
        ("aaa", [taken(5), taken(4), taken(6)], [1, 2]),
        ("aa", [taken(5), taken(5)], [1]),
        ("aa", [taken(0), taken(1)], []),
        ("ab", [taken(5), taken(4)], []),
        ("aba", [BUSY, BUSY, taken(9)], [0, 1, 2]),
    ],
)
def test_from_the_first_that_is_missing_or_out_of_order_all_of_its_key_are_sent_again(
    keys: str, answer: Sequence[Mapping[str, Any]], again: list[int]
) -> None:
    given = records(keys)
    assert unsent(given, answer) == [given[at] for at in again]


def test_without_an_order_only_what_was_refused_is_sent_again() -> None:
    given = records("aaa", ordered=False)
    assert unsent(given, [taken(5), BUSY, taken(4)]) == [given[1]]


def test_an_answer_to_fewer_records_is_no_answer() -> None:
    with pytest.raises(ValueError, match="shorter"):
        unsent(records("ab"), [taken(1)])


class Stream:
    """Takes records as its answers say, and all once they are used up."""

    stream, where = "s", "a stream"

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers, self.requests, self.number = list(answers), list[str](), 0
        self.checks = self.fences = 0

    def call(self, _name: str, parameters: dict[str, Any], _check: object) -> dict[str, Any]:
        given = parameters["Records"]
        self.requests.append(",".join(one["Data"].decode() for one in given))
        self.number += len(given)
        numbers = [taken(self.number + at) for at in range(len(given))]
        return {"Records": self.answers.pop(0) if self.answers else numbers}

    def check(self) -> None:
        self.checks += 1

    def fence(self) -> None:
        self.fences += 1


def test_a_request_takes_so_many_records_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RECORDS", 3)
    stream = Stream()
    box = Outbox(cast("Kinesis", stream), stream.check, stream.fence)
    for one in records("aaaa"):
        box.add(one)
    assert stream.requests == ["0,1,2"]
    box.flush()
    box.flush()
    assert stream.requests == ["0,1,2", "3"]
    monkeypatch.setattr(module, "MOST_BYTES", 6)
    for key in ("äa", "b", "cc"):  # four bytes, two, three
        box.add(Outgoing(key, b"x", ordered=True))
    assert stream.requests[2:] == ["x,x"]
    box.drop()
    box.add(Outgoing("eeeee", b"x", ordered=True))
    box.flush()
    assert stream.requests[2:] == ["x,x", "x"]
    assert (stream.checks, stream.fences) == (4, 1), "the fence is looked at once a second"
    monkeypatch.setattr(module, "FENCE_SECONDS", -1.0)
    box.add(Outgoing("e", b"x", ordered=True))
    box.flush()
    assert stream.fences == 2


def test_each_wait_is_longer_and_the_time_limit_starts_again_with_each_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, pauses = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += 25.0

    monkeypatch.setattr(
        "dataflows.connectors.kinesis.outbox.time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    )
    stream = Stream([BUSY, BUSY], [BUSY, BUSY], [taken(1), BUSY], [BUSY], [BUSY])
    box = Outbox(cast("Kinesis", stream), stream.check, stream.fence)
    for one in records("ab"):
        box.add(one)
    box.flush()
    assert stream.requests == ["0,1", "0,1", "0,1", "1", "1", "1"]
    assert pauses == [0.1, 0.2, 0.1, 0.2, 0.4]
    stream.answers = [[BUSY] for _ in range(9)]
    box.add(records("a")[0])
    with pytest.raises(Unavailable, match="nothing for 60 s: Provisioned"):
        box.flush()
    assert pauses[5:] == [0.1, 0.2, 0.4]
