"""The shards of a stream, and which came from which: a shard is read only once its parents are read to their end.

Splitting and merging close shards and open others in their place. All records of one key are in one shard at a time, so
that this order of the shards keeps the order of each key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dataflows.connectors.kinesis.client import MAY_NOT, Kinesis, milliseconds
from dataflows.connectors.kinesis.positions import START_OVER, Position, part_name, shard_of
from penstock.errors import AccessDenied, Refused, Unavailable

__all__ = ["Shard", "Stream", "beginnings", "check_positions", "check_rights", "described", "is_readable", "listed"]

FIRST_SHARD: Final = "shardId-000000000000"


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard; `parents` are those that it came from, which the retention may have deleted by now."""

    id: str
    parents: tuple[str, ...]
    closed: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as Kinesis describes it; `created` changes if it is deleted and made again.

    `retention` and `moment`, the server's time, are in milliseconds.
    """

    name: str
    created: str
    retention: int
    moment: int
    shards: Mapping[str, Shard]


def described(client: Kinesis, check: Callable[[], None] = lambda: None) -> Stream:
    """Return the stream and all its shards as they are now.

    Raises:
        MissingTable: there is none of that name.
        AccessDenied, Unreachable, Unavailable: by name.
    """
    answer = client.call("describe_stream_summary", {"StreamName": client.stream}, check)
    found = answer["StreamDescriptionSummary"]
    if found["StreamStatus"] not in {"ACTIVE", "UPDATING"}:
        what = f"the stream is {found['StreamStatus'].lower()}"
        raise Unavailable(what, where=client.where, hint="wait until it is active")
    created = str(int(found["StreamCreationTimestamp"].timestamp() * 1000))
    stream = Stream(client.stream, created, found["RetentionPeriodHours"] * 3_600_000, milliseconds(answer), {})
    return listed(client, stream, check)


def listed(client: Kinesis, stream: Stream, check: Callable[[], None] = lambda: None) -> Stream:
    """Return the stream with the shards that it has now; the rest is as it was described.

    This may be asked far more often than a description: of those there are 20 a second for all streams of an account.

    Raises:
        MissingTable, AccessDenied, Unreachable, Unavailable: by name.
    """
    shards: dict[str, Shard] = {}
    asked, moment = {"StreamName": client.stream}, stream.moment
    while True:
        page = client.call("list_shards", asked, check)
        moment = max(moment, milliseconds(page))
        for one in page["Shards"]:
            parents = (one.get("ParentShardId"), one.get("AdjacentParentShardId"))
            closed = one["SequenceNumberRange"].get("EndingSequenceNumber") is not None
            shards[one["ShardId"]] = Shard(one["ShardId"], tuple(name for name in parents if name), closed)
        if not page.get("NextToken"):
            return replace(stream, shards=shards, moment=moment)
        asked = {"NextToken": page["NextToken"]}


def check_rights(client: Kinesis) -> None:
    """Check by trial that this user may do all that reading the stream needs.

    Raises:
        AccessDenied: with all rights that are missing.
    """
    denied: list[str] = []

    def tried(action: str, **parameters: Any) -> dict[str, Any]:
        try:
            return client.call(action, parameters)
        except AccessDenied as error:
            if not error.what.startswith(MAY_NOT):
                raise
            denied.append(error.what.removeprefix(MAY_NOT))
            return {}

    tried("describe_stream_summary", StreamName=client.stream)
    found = tried("list_shards", StreamName=client.stream, MaxResults=1).get("Shards") or [{"ShardId": FIRST_SHARD}]
    place = {"StreamName": client.stream, "ShardId": found[0]["ShardId"], "ShardIteratorType": "LATEST"}
    if iterator := tried("get_shard_iterator", **place).get("ShardIterator"):
        tried("get_records", ShardIterator=iterator, Limit=1)
    if denied:
        hint = "allow it these; docs/kinesis.md has the whole policy"
        raise AccessDenied(MAY_NOT + ", ".join(denied), where=client.where, hint=hint)


def check_positions(known: Mapping[str, Position], stream: Stream, where: str) -> None:
    """Refuse positions that do not stand on what the stream has now.

    Raises:
        Refused: the stream was made again; or its retention has deleted a shard that was not read to its end.
    """
    for name, at in known.items():
        if at.stream != stream.created:
            what = f"the stream was deleted and made again: {name} was read in another stream of this name"
            raise Refused(what, where=where, hint=f"what the old one still held is lost; {START_OVER}")
        if not at.ended and shard_of(name) not in stream.shards:
            what = f"{name} was deleted by the stream's retention before it was read to its end"
            raise Refused(what, where=where, hint=f"what it still held is lost; {START_OVER}")


def is_readable(shard: Shard, stream: Stream, known: Mapping[str, Position]) -> bool:
    """True if each parent is read to its end, or is gone; `known` are the positions by shard.

    A parent that has no position and is gone was deleted by the retention before this stream was ever read.
    """
    return all(known[parent].ended if parent in known else parent not in stream.shards for parent in shard.parents)


def beginnings(stream: Stream, known: Collection[str], at: int | None) -> dict[str, str]:
    """Return the positions of the shards that have none in `known`: at a time, or at their beginning.

    Closed shards have one, too: so they are never read later as if they were new, and what came to one in the moment
    before it was closed is not missed.
    """
    names = {part_name(stream.name, shard) for shard in stream.shards}
    return {name: str(Position(stream.created, stream.moment, at=at)) for name in sorted(names.difference(known))}
