"""Shards read in this process: resharding, pages, limits, and positions that no longer stand on what is there."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from dataflows.connectors.contract import ReadOrder
from dataflows.connectors.kinesis import reader, tails
from dataflows.connectors.kinesis.packed import MAGIC, parts_of
from dataflows.connectors.kinesis.positions import Position
from dataflows.data.splits import Split
from penstock.clock import now
from penstock.errors import AccessDenied, MissingTable, PenstockError, Refused, Unreachable
from tests.dataflows.connectors.kinesis.conftest import FIRST, Read, Shards

pytestmark = pytest.mark.xdist_group("kinesis")

THROTTLE = {"__type": "ProvisionedThroughputExceededException", "message": "Rate exceeded for shard"}
PACKED = (
    b'\xf3\x89\x9a\xc2\n\x05key-a\n\x05key-b\x12\x015\x1a\r\x08\x00\x1a\t{"id": 1}\x1a\r\x08\x01\x1a\t{"id": 2}'
    b'\x1a\x0f\x08\x00\x10\x00\x1a\t{"id": 3}\x12\x00\x97\x85f\x96\xa3\xe7M\xdb\xf2\xbfLo\xad\x0f'
)
"""Made by the package aws_kinesis_agg 1.2.3."""
ARROW = {"text": pa.string(), "bigint": pa.int64()}
SECOND, THIRD = "shardId-000000000001", "shardId-000000000002"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "READ_SECONDS", 0.01)
    monkeypatch.setattr(tails, "PAUSE_SECONDS", 0.01)


def test_positions_are_behind_the_last_record_of_each_shard(shards: Callable[..., Shards]) -> None:
    made = shards(2)
    made.send(1, 2, shard=FIRST)
    made.send(3, shard=SECOND)
    first = made.drained(made.begin())
    assert sorted(first.rows) == [(1, FIRST), (2, FIRST), (3, SECOND)]
    at = {name: Position.parse(text) for name, text in first.positions.items()}
    assert sorted(at) == [f"{made.stream}/{FIRST}", f"{made.stream}/{SECOND}"]
    assert all(int(one.sequence or 0) > 2**128 for one in at.values())
    assert {str(Position.parse(text)) for text in first.positions.values()} == set(first.positions.values())
    made.send(4, shard=SECOND)
    assert made.drained(first.positions).rows == [(4, SECOND)]


def test_a_child_is_read_after_its_parents(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(*range(30))
    made.split()
    made.send(30, 31, shard=SECOND)
    made.send(32, shard=THIRD)
    made.kinesis.merge(made.stream, SECOND, THIRD)
    made.send(33)
    read = made.drained(made.begin(), rows=7)
    assert [one for one in read.ids if one not in {30, 31, 32}] == [*range(30), 33]
    assert sorted(read.ids) == list(range(34))
    assert read.ids[-1] == 33
    assert read.ended == ["00", "01", "02"]


def test_shards_that_are_split_and_merged_while_they_are_read(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(*range(5))

    def split() -> None:
        made.split()
        made.send(5, 6, shard=SECOND)

    def merge() -> None:
        made.kinesis.merge(made.stream, SECOND, THIRD)
        made.send(7, 8)

    steps = [split, merge]
    ids: list[int] = []
    positions = made.begin()
    for _ in range(3):
        read = made.drained(positions, between=lambda _: steps.pop(0)() if steps else None)
        ids, positions = ids + read.ids, read.positions
    assert ids == list(range(9))


def test_closed_shards_without_records_are_ended(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.split()
    made.split(SECOND)
    made.send(1)
    made.send(2, shard=THIRD)
    read = made.drained(made.begin())
    assert (sorted(read.ids), read.ended) == ([1, 2], ["00", "01"])
    assert made.drained(read.positions).splits == 0, "an end is committed once"


def test_a_shard_that_ends_behind_its_last_record_is_ended(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(1)
    read = made.drained(made.begin())
    made.split()
    made.send(2)
    rest = made.drained(read.positions)
    assert (rest.ids, rest.ended) == ([2], ["00"])


def test_latest_reads_nothing_older_even_of_closed_shards(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(1)
    made.split()
    made.send(2)
    time.sleep(1.1)
    begins = made.begin("latest")
    made.send(3, shard=SECOND)
    read = made.drained(begins)
    assert read.ids == [3]
    made.split(SECOND)
    made.send(4, shard="shardId-000000000003")
    assert made.drained(read.positions).ids == [4], "a child that was not there begins with its first record"


def test_a_time_is_kept_to_the_millisecond(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(1)
    time.sleep(0.02)
    at = now()
    time.sleep(0.02)
    made.send(2)
    assert made.drained(made.begin(at)).ids == [2]
    with pytest.raises(Refused, match="has not come yet"):
        made.begin(at + timedelta(minutes=5))
    assert made.drained(made.begin(datetime(2020, 1, 1, tzinfo=UTC))).ids == [1, 2]


def test_parents_that_the_retention_had_deleted_hold_nothing_up(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.split()
    made.send(1)
    made.kinesis.ask(do="expire", stream=made.stream, shard=FIRST)
    read = made.drained(made.begin())
    assert read.ids == [1]


def test_a_shard_that_was_deleted_before_its_end_is_refused(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(1)
    begins = made.begin()
    made.split()
    made.kinesis.ask(do="expire", stream=made.stream, shard=FIRST)
    with pytest.raises(Refused, match=r"00 was deleted by the stream's retention before it was read .* --reset"):
        made.begin(known=begins)


def test_an_ended_shard_may_be_deleted(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(1)
    made.split()
    read = made.drained(made.begin())
    made.kinesis.ask(do="expire", stream=made.stream, shard=FIRST)
    made.send(2)
    assert made.drained(read.positions).ids == [2]


@pytest.mark.parametrize("gone", [False, True])
def test_what_the_retention_has_passed_over_is_refused_only_if_it_is_gone(
    shards: Callable[..., Shards], *, gone: bool
) -> None:
    made = shards()
    made.send(1)
    read = made.drained(made.begin())
    made.send(2, 3)
    old = made.changed(read.positions, seen=int((now() - timedelta(hours=25)).timestamp() * 1000))
    if not gone:
        assert made.drained(old).ids == [2, 3]
        return
    made.kinesis.ask(do="trim", stream=made.stream, shard=FIRST, keep=1)
    with pytest.raises(Refused, match=r"keeps records for 24 hours: what came to it from then to .* was deleted"):
        made.drained(old)
    assert made.drained(read.positions).ids == [3], "what was seen a moment ago cannot have been deleted"


def test_a_place_where_nothing_comes_is_confirmed_now_and_then(
    shards: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shards()
    begins = made.begin()
    seen = int((now() - timedelta(hours=2)).timestamp() * 1000)
    read = made.drained(made.changed(begins, seen=seen))
    assert (read.ids, read.splits) == ([], 1)
    [at] = map(Position.parse, read.positions.values())
    assert at.seen > seen
    assert at.sequence is None


def test_another_stream_of_the_same_name_is_refused(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(1)
    read = made.drained(made.begin())
    made.kinesis.client.delete_stream(StreamName=made.stream)
    made.kinesis.create(made.stream)
    with pytest.raises(Refused, match=r"the stream was deleted and made again: events-.* lost"):
        made.begin(known=read.positions)
    made.send(2)
    anew = made.source().restarted(read.positions, "earliest")
    assert "of another stream of this name" in anew.shifts[0]
    assert made.drained(anew.positions).ids == [2]


def test_a_stream_that_is_made_again_while_it_is_read_is_refused(
    shards: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "DESCRIBE_SECONDS", 1.0)  # at moto, nothing fails in between
    made = shards()
    made.send(1)

    def again(_: Read) -> None:
        made.kinesis.client.delete_stream(StreamName=made.stream)
        made.kinesis.create(made.stream)
        made.send(*range(10, 13))
        time.sleep(1.0)

    with pytest.raises(Refused, match="made again"):
        made.drained(made.begin(), between=again, draining=False)


def test_a_stream_that_is_deleted_while_it_is_read_is_refused(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(1)

    def gone(_: Read) -> None:
        made.kinesis.client.delete_stream(StreamName=made.stream)

    with pytest.raises(Refused, match="deleted while it was read"):
        made.drained(made.begin(), between=gone, draining=False)


@pytest.mark.parametrize(
    ("action", "answer", "times"),
    [
        ("GetRecords", THROTTLE, 4),
        ("GetShardIterator", THROTTLE, 3),
        ("GetRecords", {"__type": "ExpiredIteratorException", "message": "Iterator expired"}, 2),
        ("GetRecords", "empty", 6),
        ("ListShards", {"__type": "LimitExceededException", "message": "Rate exceeded"}, 3),
        ("DescribeStreamSummary", {"__type": "LimitExceededException", "message": "Rate exceeded"}, 3),
    ],
    ids=["reads", "iterators", "expired", "empty", "listing", "describing"],
)
def test_answers_that_only_mean_to_go_on_lose_nothing(
    shards: Callable[..., Shards], action: str, answer: Any, times: int
) -> None:
    made = shards()
    made.send(*range(20))
    begins = made.begin()
    first = True

    def fault(_: Read | None) -> None:
        nonlocal first
        if first:
            made.kinesis.ask(do="fault", action=action, answer=answer, times=times)
            made.send(*range(20, 30))
        first = False

    try:
        read = made.drained(begins, rows=8, between=fault)
    finally:
        made.kinesis.ask(do="well")
    rest = made.drained(read.positions)
    assert read.ids + rest.ids == list(range(30))


def test_records_that_a_library_has_packed_are_taken_apart(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(0)
    made.kinesis.send(made.stream, PACKED)
    made.send(4)
    read = made.drained(made.begin(), rows=2)
    assert read.ids == [0, 1, 2, 3, 4]
    assert read.splits < 5, "what was packed into one stays together"
    assert [(one.key, one.data) for one in parts_of(PACKED) or ()] == [
        ("key-a", b'{"id": 1}'), ("key-b", b'{"id": 2}'), ("key-a", b'{"id": 3}'),
    ]  # fmt: skip


def test_what_is_not_packed_is_a_record() -> None:
    for at in range(len(PACKED)):
        assert parts_of(PACKED[:at]) is None
        assert parts_of(PACKED[:at] + b"?" + PACKED[at + 1 :]) is None
        if 0 < at < len(PACKED) - 20:  # a whole message that is cut, with the digest of what is left
            packed = PACKED[4:-16][:at]
            found = parts_of(MAGIC + packed + hashlib.md5(packed, usedforsecurity=False).digest())
            assert found is None or len(found) < 3


def test_rights_that_are_missing_are_named_all_at_once(shards: Callable[..., Shards]) -> None:
    made = shards()
    for action in ("ListShards", "GetRecords"):
        what = f"User: arn:aws:iam::1:user/x is not authorized to perform: kinesis:{action} on resource: r"
        made.kinesis.ask(do="fault", action=action, answer={"__type": "AccessDeniedException", "Message": what})
    with pytest.raises(AccessDenied, match=r"may not kinesis:ListShards, kinesis:GetRecords; allow it"):
        made.source().describe()
    made.kinesis.ask(do="well")


def test_errors_say_what_is_wrong(shards: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch) -> None:
    made = shards()
    other = Shards(made.kinesis, made.folder, number=made.number * 10 + 10_000)
    with pytest.raises(MissingTable, match=f"no such stream in eu-central-1, got '{other.stream}'"):
        other.source().describe()
    unknown = {"__type": "UnrecognizedClientException", "message": "The security token is invalid"}
    made.kinesis.ask(do="fault", action="DescribeStreamSummary", answer=unknown)
    with pytest.raises(AccessDenied, match=r"does not accept these credentials .*`access_key`"):
        made.source().describe()
    made.kinesis.ask(do="well")
    with pytest.raises(Unreachable, match=r"nothing answers at http://127.0.0.1:1; check `region` and `endpoint`"):
        made.source(endpoint="http://127.0.0.1:1").describe()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(AccessDenied, match="no credentials"):
        made.source(access_key=None, secret_key=None).describe()


def test_a_connection_is_what_its_file_says(shards: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with closing(shards().source(endpoint=None)) as source:
        assert source._client._client.meta.endpoint_url == "https://kinesis.eu-central-1.amazonaws.com"


def test_columns_are_inferred_from_records_of_all_shards(shards: Callable[..., Shards]) -> None:
    made = shards(2)
    source = made.source(None)
    with pytest.raises(PenstockError, match="no message to infer"):
        source.describe()
    made.send(1, shard=FIRST)
    made.kinesis.send(made.stream, b'{"name": "x"}', shard=SECOND)
    names = [(one.name, one.type) for one in source.describe().columns if not one.hidden]
    assert names == [("id", "bigint"), ("name", "text")]


AVRO = {"type": "record", "name": "r", "fields": [{"name": "id", "type": "long"}]}


@pytest.mark.parametrize(
    ("form", "value", "column", "read"),
    [
        ({"type": "csv", "columns": {"id": "bigint", "name": "text"}}, b"7,x", "name", "x"),
        ({"type": "raw"}, b"as it is", "value", "as it is"),
        ({"type": "avro", "schema": AVRO}, b"\x0e", "id", 7),
        (None, PACKED, "id", 1),
    ],
    ids=["csv", "raw", "avro", "packed"],
)
def test_records_have_the_formats_of_messages(
    shards: Callable[..., Shards], form: Any, value: bytes, column: str, read: Any
) -> None:
    made = shards()
    made.kinesis.send(made.stream, value)
    source = made.source(form)
    [kind] = [one.type for one in source.describe().columns if one.name == column]
    order = ReadOrder(source.describe(), [column], None, pa.schema([(column, ARROW[kind])]), 8, lambda: None)
    first, _ = source.reader(order).read("00", Split(1))
    assert isinstance(first.data, pa.RecordBatch)
    assert first.data.column(column)[0].as_py() == read
    with pytest.raises(Refused, match="registry"):
        made.source({"type": "avro"}).describe()


def test_a_preview_shows_records_of_the_last_minutes(shards: Callable[..., Shards]) -> None:
    made = shards(2)
    made.send(*range(5), shard=FIRST)
    made.send(*range(5, 10), shard=SECOND)
    source = made.source()
    schema = pa.schema(
        [("id", pa.int64()), *((name, pa.string()) for name in ("_key", "_stream", "_shard", "_sequence"))]
    )
    order = ReadOrder(source.describe(), schema.names, None, schema, 8, lambda: None)
    first, _ = source.reader(order).read("00", Split(1))
    assert isinstance(first.data, pa.RecordBatch)
    assert sorted(first.data.column("id").to_pylist()) == [*range(4), *range(5, 9)]
    assert set(first.data.column("_stream").to_pylist()) == {made.stream}
    assert all(int(one) > 2**128 for one in first.data.column("_sequence").to_pylist())


def test_without_its_library_the_way_to_get_it_is_named(
    shards: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.config", None)
    with pytest.raises(Refused, match=r"need botocore; install it: pip install 'penstock\[kinesis\]'"):
        shards().source().describe()


def test_a_stream_begins_anew_where_it_is_told_to(shards: Callable[..., Shards]) -> None:
    made = shards(2)
    made.send(1, 2, 3, shard=FIRST)
    made.send(4, shard=SECOND)
    read = made.drained(made.begin())
    source = made.source()
    anew = source.restarted(read.positions, "earliest")
    assert "begins at its first record, and stood behind record 4959" in anew.shifts[0]
    assert len(anew.shifts) == 2
    assert sorted(made.drained(anew.positions).ids) == [1, 2, 3, 4]
    found = made.kinesis.client

    def sequence_of(shard: str, at: int) -> str:
        place = found.get_shard_iterator(StreamName=made.stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
        return str(found.get_records(ShardIterator=place["ShardIterator"])["Records"][at]["SequenceNumber"])

    sequence = sequence_of(FIRST, 1)
    assert made.drained(source.restarted(read.positions, {"1": sequence_of(SECOND, 0)}).positions).ids == []
    for name in ("0", FIRST):
        given = source.restarted(read.positions, {name: sequence})
        assert len(given.shifts) == 1
        assert made.drained(given.positions).ids == [3]
    with pytest.raises(Refused, match="there is no such shard, got '7'"):
        source.restarted(read.positions, {"7": sequence})
    answer = {"__type": "InvalidArgumentException", "message": "did not come from this stream"}
    made.kinesis.ask(do="fault", action="GetShardIterator", answer=answer)
    with pytest.raises(Refused, match="has no such record, got '12'"):
        source.restarted(read.positions, {"0": "12"})
    made.kinesis.ask(do="well")


def test_the_lag_is_a_time_and_a_child_that_waits_has_one(shards: Callable[..., Shards]) -> None:
    made = shards()
    made.send(1, 2)
    made.split()
    made.send(3)
    seen: list[dict[str, int]] = []

    def between(read: Read) -> None:
        assert made.reading is not None
        behind = made.reading.behind(read.positions)
        seen.append({name[-2:]: behind[name] for name in sorted(behind)})

    assert made.source().behind(made.begin()) == {}, "nothing was read"
    read = made.drained(made.begin(), rows=1, between=between)
    assert read.ids == [1, 2, 3]
    assert min(seen[0]["01"], seen[0]["02"]) > 0, "windows must wait for them"
    assert seen[-1]["00"] == 0
    assert made.source().lag_unit == "milliseconds"


def test_two_limits_are_kept(shards: Callable[..., Shards], monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard answers five reads a second to all its readers together."""
    monkeypatch.setattr(tails, "READ_SECONDS", 0.22)
    made = shards()
    made.kinesis.ask(do="calls")
    begin = time.monotonic()
    made.send(*range(10))
    read = made.drained(made.begin(), rows=2, again=False)
    assert read.ids == list(range(10))
    calls = made.kinesis.ask(do="calls")
    assert calls.count("GetRecords") <= 5 * (time.monotonic() - begin) + 4
