"""Streams of Kinesis as sinks: each row at least once, the last copies of each key in order, and the fence."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.kinesis import table
from dataflows.connectors.kinesis.outbox import Outgoing, unsent
from dataflows.connectors.kinesis.state import KinesisState
from dataflows.connectors.kinesis.table import Conflict, StateTable
from dataflows.connectors.kinesis.target import KinesisTarget
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.counters import Counters
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import Fenced, MissingTable, Refused, Unavailable
from penstock.models.connection import KinesisConnection
from penstock.models.pipeline import Sink
from tests.dataflows.connectors.kinesis.conftest import WAIT, Shards

pytestmark = pytest.mark.xdist_group("kinesis")

FIELDS = [{"target": "id", "from": "id"}, {"target": "k", "from": "_key"}]
KILLS = ("commit.mid_copy", "commit.copied", "commit.before_fence", "commit.sent")
SPLITS = 5
"""Changes of a transaction in the test of plans with more."""
LENIENT = {"dead_letter": {"fail_above": 1}}


@dataclass
class Through:
    """A stream of Kinesis that is read and written to another one, `out`."""

    made: Shards

    @property
    def out(self) -> str:
        return f"{self.made.stream}-out"

    def task(self, run: str = "r1", attempt: int = 1, **changes: Any) -> dict[str, Any]:
        sink = {"connection": "bus", "object": self.out, "write": "append", "key": ["k"]}
        spec = {"sink": sink, "mapping": {"fields": FIELDS}} | changes
        return self.made.task(run, attempt, **spec)

    def taken(self) -> list[tuple[int, str]]:
        """Return number and key of each record of `out`, shard by shard, in order."""
        client, found = self.made.kinesis.client, []
        for shard in self.made.kinesis.shards(self.out):
            asked = {"StreamName": self.out, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
            place = client.get_shard_iterator(**asked)["ShardIterator"]
            while place is not None:
                page = client.get_records(ShardIterator=place)
                found += [(json.loads(one["Data"])["id"], one["PartitionKey"]) for one in page["Records"]]
                place = page.get("NextShardIterator") if page["Records"] else None
        return found

    def until(self, numbers: set[int], records: int) -> None:
        """Wait until all these numbers are there, and so many records."""
        end = time.monotonic() + WAIT
        while True:
            taken = [one for one, _ in self.taken()]
            if numbers <= set(taken) and len(taken) >= records:
                return
            assert time.monotonic() < end, (sorted(numbers.difference(taken)), len(taken))
            time.sleep(0.05)

    def stopped(self, task: dict[str, Any], numbers: set[int], records: int = 0) -> dict[str, Any]:
        """Run until all these numbers are there, and so many records, then stop; return the result."""
        assert self.made.launchers is not None
        pid = self.made.launchers.start(task)
        self.until(numbers, records)
        os.kill(pid, signal.SIGTERM)
        return self.made.launchers.ended(pid, task)

    def last(self) -> dict[str, list[int]]:
        """Return the numbers of each key by the place of their last copy."""
        found: dict[str, dict[int, None]] = {}
        for number, key in self.taken():
            numbers = found.setdefault(key, {})
            numbers.pop(number, None)
            numbers[number] = None
        return {key: list(numbers) for key, numbers in found.items()}

    def query(self) -> dict[str, Any]:
        """Return the records of the state, as they are."""
        with closing(state_of(self)) as state:
            state.refresh()
            return {json.dumps(key): value for key, value in state.records.items()}


def state_of(through: Through) -> KinesisState:
    settings = KinesisConnection.model_validate(through.made.kinesis.connection(through.made.folder))
    place = Place("items", "bus", settings, through.out, through.made.folder)
    return KinesisState(place, through.made.uid, through.made.stream, "tests")


@pytest.fixture
def through(stream: Callable[..., Shards]) -> Callable[..., Through]:
    def make(shards: int = 2) -> Through:
        found = Through(stream())
        found.made.kinesis.create(found.out, shards)
        return found

    return make


def test_kills_lose_nothing_and_double_only_what_was_sent_and_not_saved(through: Callable[..., Through]) -> None:
    made = through()
    assert made.made.launchers is not None
    sent = 0
    for attempt, point in enumerate(KILLS, 1):
        for key in ("a", "b", "c"):
            made.made.send(*range(sent, sent + 10), key=key)
            sent += 10
        before = len(made.taken())
        assert made.made.launchers.run(made.task(attempt=attempt), f"{point}=kill") == {"killed": 9}
        assert (len(made.taken()) > before) == (point in {"commit.copied", "commit.before_fence", "commit.sent"})
    ended = made.stopped(made.task(attempt=9), set(range(sent)))
    assert ended["error"]["what"] == "the run was asked to stop"
    numbers = [one for one, _ in made.taken()]
    assert sorted(set(numbers)) == list(range(sent))
    assert len(numbers) - sent <= 60 + 90, "what was sent and not saved when it was killed, at most"
    for key, kept in made.last().items():
        assert kept == [one for one in range(sent) if "abc"[one // 10 % 3] == key]


def test_a_batch_appends_what_is_new(through: Callable[..., Through]) -> None:
    made = through()
    rows = f"w.rows{made.made.number}"
    made.made.query(
        f"CREATE TABLE {rows} AS SELECT g::bigint AS id, 'key ' || g % 3 AS k FROM generate_series(1, 40) g"
    )

    def task(run: str) -> dict[str, Any]:
        source = {"connection": "lake", "object": rows, "cursor": {"field": "id", "ordered": True}}
        return made.task(run, mode="batch", source=source, limits={"batch_rows": 7}, mapping=None) | {"split_rows": 9}

    assert made.made.launchers is not None
    done = made.made.launchers.run(task("r1"))
    assert (done["status"], done["counters"]["rows_out"]) == ("completed", 40), done
    made.made.query(f"INSERT INTO {rows} VALUES (41, NULL)")
    assert made.made.launchers.run(task("r2"))["counters"]["rows_out"] == 1
    assert made.made.launchers.run(task("r2"))["counters"]["rows_out"] == 1, "the run had ended"
    assert sorted(one for one, _ in made.taken()) == list(range(1, 42))
    for key in range(3):
        assert [one for one, k in made.taken() if k == f"key {key}"] == [n for n in range(1, 41) if n % 3 == key]
    (random,) = [key for number, key in made.taken() if number == 41]
    assert len(random) == 16


def test_what_is_refused_in_part_is_sent_again_in_the_order_of_each_key(through: Callable[..., Through]) -> None:
    made = through(1)
    for key in ("a", "b", "c"):
        made.made.send(*range(ord(key) * 10, ord(key) * 10 + 5), key=key)
    made.made.kinesis.ask(do="refuse", stream=made.out, records=[[1, 7], [0], [2, 3]])
    drain = made.made.folder / "drain"
    drain.touch()
    assert made.made.launchers is not None
    assert made.made.launchers.run(made.task() | {"drain": str(drain)})["status"] == "completed"
    for key, kept in made.last().items():
        assert kept == [ord(key) * 10 + at for at in range(5)]
    taken = [one for one, _ in made.taken()]
    assert taken[:15].count(ord("c") * 10) == 1
    assert len(taken) > 15, "behind a refused record, those of its key are sent twice"


def test_only_what_follows_a_refused_record_of_its_key_is_sent_again() -> None:
    records = [Outgoing(key, b"", ordered) for key, ordered in (("a", True), ("b", True), ("a", True), ("x", False))]
    refused = {"ErrorCode": "InternalFailure"}
    numbers = [{"SequenceNumber": str(one)} for one in (5, 6, 7, 8)]
    assert unsent(records, numbers) == []
    assert unsent(records, [refused, *numbers[1:]]) == [records[0], records[2]]
    assert unsent(records, [*numbers[:3], refused]) == [records[3]]
    assert unsent(records, [numbers[2], numbers[1], numbers[0], numbers[3]]) == [records[2]], "in the wrong order"


@pytest.mark.parametrize(
    ("point", "doubled"), [("commit.mid_copy", 0), pytest.param("commit.before_fence", 40, marks=pytest.mark.chaos)]
)
def test_a_zombie_sends_nothing_after_its_next_look_at_the_fence(
    through: Callable[..., Through], point: str, doubled: int
) -> None:
    made = through()
    assert made.made.launchers is not None
    made.made.send(*range(40))
    task = made.task("r1")
    zombie = made.made.launchers.stopped(task, point)
    made.stopped(made.task("r2"), set(range(40)), 40 + doubled)
    late = made.made.launchers.woken(zombie, task)
    assert late["status"] == "fenced", late
    assert len(made.taken()) == 40 + doubled
    assert made.last()["k"] == list(range(40))


def test_what_no_record_can_be_goes_to_the_dead_letters(through: Callable[..., Through]) -> None:
    made = through()
    form = {"type": "jsonl", "columns": {"id": "bigint", "text": "text"}}
    fields = [{"target": "id", "from": "id"}, {"target": "text", "from": "text"}, {"target": "k", "from": "text"}]
    values = [b'{"id": 0, "text": "x"}', b'{"id": 1, "text": "%s"}' % (b"y" * 300), b'{"id": 2, "text": ""}']
    made.made.kinesis.send(made.made.stream, *values)
    made.made.kinesis.send(made.made.stream, b'{"id": 3, "text": "%s"}' % (b"z" * 600_000))
    made.made.kinesis.send(made.made.stream, b'{"id": 4, "text": "last"}')
    source = {"connection": "bus", "object": made.made.stream, "format": form}
    made.stopped(made.task(source=source, mapping={"fields": fields}, errors=LENIENT), {0, 4})
    assert {one for one, _ in made.taken()} == {0, 4}


def test_plan_says_that_rows_may_be_there_twice_and_writes_nothing(through: Callable[..., Through]) -> None:
    made = through()
    made.made.send(1)
    job = Job.from_task(made.task(), secrets=made.made.folder)
    with opened(job) as ends:
        found = plan(job, ends)
    assert any("at least once" in one for one in found["notes"])
    assert made.taken() == []
    missing = made.task(sink={"connection": "bus", "object": "no-such-stream", "write": "append"})
    assert made.made.launchers is not None
    assert "there is no such stream" in made.made.launchers.run(missing)["error"]["what"]


def test_rights_that_are_missing_are_named(through: Callable[..., Through]) -> None:
    made = through()
    made.made.send(1)
    denied = {"__type": "AccessDeniedException", "message": "no"}
    assert made.made.launchers is not None
    for action, right in (("PutRecords", "kinesis:PutRecords"), ("TransactWriteItems", "dynamodb:TransactWriteItems")):
        made.made.kinesis.ask(do="fault", action=action, answer=denied, times=1)
        error = made.made.launchers.run(made.task(run=right))["error"]
        assert error["what"] == f"this user may not {right}"
    made.stopped(made.task("r9"), {1})


@pytest.mark.parametrize("write", ["replace", "merge", "scd2"])
def test_other_ways_to_write_are_refused(write: str) -> None:
    place = Place("p", "bus", KinesisConnection(type="kinesis", region="eu-central-1"), "s")
    sink = Sink.model_validate({"connection": "bus", "object": "s", "write": write, "key": ("id",)})
    with pytest.raises(Refused, match=f"no stream is written by `{write}`"):
        KinesisTarget.open(place, Owner("u", "source", sink))


class Cut(Exception):
    """The process ends here."""


def test_a_plan_of_more_splits_than_one_transaction_takes(
    through: Callable[..., Through], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, write, calls = through(), StateTable.write, count()
    monkeypatch.setattr(table, "MOST_ITEMS", SPLITS)
    row = RunRow("r1", "append", "id", None, "9", Counters())
    splits = tuple(Split(number, str(number), None) for number in range(2 * SPLITS + 2))

    def cut(*args: Any, **more: Any) -> None:
        if next(calls) == 2:
            raise Cut
        write(*args, **more)

    with closing(state_of(made)) as state, closing(state_of(made)) as other:
        state.make()
        claim = state.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        with monkeypatch.context() as patched:
            patched.setattr(StateTable, "write", cut)
            with pytest.raises(Cut), state.owned(claim.generation):
                state.write_plan(row, splits)
        assert other.pending("r1") == ((), 0), "of a plan that was cut off, nothing counts"
        few = splits[: SPLITS + 2]
        with state.owned(claim.generation):
            state.write_plan(row, few)
        assert other.pending("r1") == (few, len(few)), "without what is left of the other one"
        with state.owned(claim.generation):
            state.finish("r1", "9", {"rows": 1})
        assert other.pending("r1") == ((), 0)
        assert other.loaded().position == "9"
        assert isinstance(other.claim(("00",), "r2"), Claim)
        with pytest.raises(Fenced), state.owned(claim.generation):
            state.begin({"part": "1"})
        other.drop()
        with pytest.raises(Fenced, match="deleted"):
            state.claim(("00",), "r3")
        assert list(made.query()) == ['["pipeline"]']


def test_positions_of_more_partitions_than_one_transaction_takes(
    through: Callable[..., Through], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = through()
    monkeypatch.setattr(table, "MOST_ITEMS", SPLITS)
    parts = [f"part {number:02}" for number in range(2 * SPLITS + 2)]
    with closing(state_of(made)) as state, closing(state_of(made)) as other:
        state.make()
        claim = state.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        with state.owned(claim.generation):
            state.begin(dict.fromkeys(parts, "0"))
            state.write_plan(RunRow("r1", "append", None, None, None, Counters()), ())
        assert other.positions() == dict.fromkeys(parts, "0")
        other.refresh()
        moves = [Move(one, "0", "7") for one in parts]
        other.save(other.step("r1", "00", 1, Counters(rows_in=3), moves), claim.generation)
        assert state.positions() == dict.fromkeys(parts, "7")
        assert (state.last_split(), state.counters().rows_in) == (1, 3)
        assert isinstance(state.claim(("00",), "r2"), Claim)
        with pytest.raises(Fenced):
            other.save(other.step("r1", "00", 2, Counters(), [Move(one, "7", "9") for one in parts]), claim.generation)
        assert state.positions() == dict.fromkeys(parts, "7")
        other.drop()


def test_a_table_that_was_just_created_may_be_unknown_for_a_moment(
    through: Callable[..., Through], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, ask, calls = through(), StateTable._ask, count()

    def late(self: StateTable, action: str, **parameters: Any) -> dict[str, Any]:
        if action == "describe_table" and next(calls) < 3:
            raise MissingTable("there is no such table", where="here")
        return ask(self, action, **parameters)

    monkeypatch.setattr(StateTable, "_ask", late)
    with closing(state_of(made)) as state:
        state.make()
    assert next(calls) > 3


@pytest.mark.parametrize(
    ("reasons", "waits", "conflict"),
    [
        ([], False, True),
        (["None", "ConditionalCheckFailed"], False, True),
        (["TransactionConflict", "None"], True, False),
        (["None", "ValidationError"], False, False),
        (["TransactionConflict", "ConditionalCheckFailed"], False, True),
    ],
)
def test_only_a_record_that_changed_is_a_conflict(reasons: list[str], *, waits: bool, conflict: bool) -> None:
    from botocore.exceptions import ClientError

    answer: Any = {
        "Error": {"Code": "TransactionCanceledException", "Message": "cancelled"},
        "CancellationReasons": [{"Code": one} for one in reasons],
    }
    error = ClientError(answer, "TransactWriteItems")
    assert table._may_wait(error) is waits
    place = Place("items", "bus", KinesisConnection(type="kinesis", region="eu-west-1"), "out", Path())
    found = StateTable(place, "u1", "here")._error(error)
    assert isinstance(found, Conflict if conflict else Unavailable)
