"""A stream as a source: its columns, the positions of its shards, and whether they still stand on what is there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import ClassVar, Final

from dataflows.connectors.contract import Place, ReadOrder, SplitReader
from dataflows.connectors.formats.decoding import Decoder, decoder_of
from dataflows.connectors.formats.message_contract import About, MessageFormat, logged
from dataflows.connectors.formats.message_formats import message_format
from dataflows.connectors.formats.messages import topic_columns
from dataflows.connectors.kinesis.client import Kinesis, code_of
from dataflows.connectors.kinesis.positions import Position, part_name, shard_number, shard_of
from dataflows.connectors.kinesis.reader import KinesisReader
from dataflows.connectors.kinesis.record import BUILT, HIDDEN, Record, place_shown
from dataflows.connectors.kinesis.shards import Stream, beginnings, check_positions, check_rights, described
from dataflows.connectors.kinesis.tails import Tail, iterator
from dataflows.connectors.newest import NewestReader, OnlyStreams
from dataflows.connectors.streaming import Beginning, Restarted, StreamOrder
from dataflows.data.tables import Table
from penstock.clock import now
from penstock.errors import Refused

__all__ = ["KinesisSource"]

SAMPLE_SECONDS: Final = 5.0
SAMPLED_SHARDS: Final = 16
SAMPLED_MILLISECONDS: Final = 600_000
PAGE_SECONDS: Final = 0.22
"""Seconds between two reads of a shard, which answers five a second."""
HANGING_SECONDS: Final = 5.0
"""A shard that has not answered for so long is shown as behind by that time."""
_SEQUENCES: Final = "write shards and the sequence numbers behind which to go on, such as 0=4959…,1=4960…"


@dataclass
class KinesisSource(OnlyStreams):
    """One stream."""

    _named: ClassVar[str] = "a stream of Kinesis"
    _parts: ClassVar[str] = "shard"

    place: Place
    form: None = field(default=None, init=False)
    _table: Table | None = field(default=None, init=False)
    _tails: dict[str, Tail] = field(default_factory=dict, init=False)
    """The shards that a reader of this source reads."""

    @property
    def _where(self) -> str:
        return f"{self.place.where}: stream {self.place.object}"

    @cached_property
    def _client(self) -> Kinesis:
        return Kinesis(self.place)

    @cached_property
    def _form(self) -> MessageFormat:
        setting = f"{self.place.pipeline}: spec.source.format"
        return message_format(self.place.format, About(setting, self._where, logged(self._where)))

    def describe(self) -> Table:
        if self._table is None:
            form = self._form
            check_rights(self._client)
            described(self._client)
            columns, types_from = form.columns(self.sampled)
            self._table = Table(self.place.object, "stream", topic_columns(columns, HIDDEN), types_from=types_from)
        return self._table

    def newest(self, count: int) -> Sequence[Record]:
        return self._sample(described(self._client), count)

    def extent(self) -> tuple[None, int]:
        return None, sum(not one.closed for one in described(self._client).shards.values())

    def _sample(self, stream: Stream, count: int) -> list[Record]:
        """Return about `count` records, in equal parts of each shard: of the last minutes, or the first."""
        shards = sorted(stream.shards.values(), key=lambda one: (one.closed, one.id))[:SAMPLED_SHARDS]
        share, end = -(-count // max(1, len(shards))), time.monotonic() + SAMPLE_SECONDS
        recent = Position(stream.created, stream.moment, at=stream.moment - SAMPLED_MILLISECONDS)
        for begin in (recent, Position(stream.created, stream.moment)):
            found = [one for shard in shards for one in self._first(shard.id, begin, share, end)]
            if found:
                return found
        return []

    def _first(self, shard: str, begin: Position, count: int, end: float) -> list[Record]:
        """Return the first records of a shard behind a position; pages may be empty although more is behind them."""
        found: list[Record] = []
        with self._client.translated():
            place: str | None = iterator(self._client, shard, begin)
        while place is not None and len(found) < count:
            answer = self._client.call("get_records", {"ShardIterator": place, "Limit": count - len(found)})
            for one in answer["Records"]:
                found += Record.of(self.place.object, shard, one).unpacked()
            place = answer.get("NextShardIterator")
            if not answer.get("MillisBehindLatest") or time.monotonic() > end:
                break
            time.sleep(PAGE_SECONDS)
        return found

    # -- as a stream --

    def beginnings(self, known: Mapping[str, str], begin: Beginning) -> Mapping[str, str]:
        stream = described(self._client)
        check_positions({name: Position.parse(text) for name, text in known.items()}, stream, self._where)
        return beginnings(stream, known, self._time_of(begin, stream))

    def _time_of(self, begin: Beginning, stream: Stream) -> int | None:
        """Return the time at which shards begin, in milliseconds; None for their first record.

        Raises:
            Refused: it has not come yet.
        """
        if begin == "earliest":
            return None
        if begin == "latest":
            return stream.moment
        assert isinstance(begin, datetime)  # noqa: S101 - there are no others
        if begin > now():
            where = f"{self.place.pipeline}: spec.source.from"
            raise Refused("this time has not come yet", where=where, value=begin.isoformat(), hint="write `latest`")
        return min(int(begin.timestamp() * 1000), stream.moment + 999)

    def restarted(self, known: Mapping[str, str], begin: Beginning | Mapping[str, str]) -> Restarted:
        stream = described(self._client)
        stands = {name: Position.parse(text) for name, text in known.items()}
        same = {name: at for name, at in stands.items() if at.stream == stream.created}
        if isinstance(begin, Mapping):
            begins = {name: str(at) for name, at in same.items() if shard_of(name) in stream.shards}
            begins |= beginnings(stream, begins, None)
            begins |= self._given(begin, stream)
        else:
            begins = dict(beginnings(stream, (), self._time_of(begin, stream)))
        shifts = [f"{name} {_shift(stands[name], text)}" for name, text in begins.items() if name in stands]
        return Restarted(begins, [one for one in shifts if not one.endswith(" ")])

    def _given(self, given: Mapping[str, str], stream: Stream) -> dict[str, str]:
        """Return the positions behind the records that a user names.

        Raises:
            Refused: there is no such shard or record.
        """
        found = {}
        for name, sequence in given.items():
            at = int(name) if name.isdigit() else -1
            shard = next((one for one in stream.shards if one == name or shard_number(one) == at), None)
            if shard is None:
                raise Refused("there is no such shard", where=self._where, value=name, hint=_SEQUENCES)
            begin = Position(stream.created, stream.moment, sequence=sequence)
            try:
                iterator(self._client, shard, begin)
            except Exception as error:  # noqa: BLE001 - those of a library that is loaded late
                if code_of(error) in {"InvalidArgumentException", "ValidationException"}:
                    what = f"{shard} has no such record"
                    raise Refused(what, where=self._where, value=sequence, hint=_SEQUENCES) from None
                raise self._client.error_of(error) from None
            found[part_name(stream.name, shard)] = str(begin)
        return found

    @property
    def lag_unit(self) -> str:
        return "milliseconds"

    def behind(self, positions: Mapping[str, str]) -> Mapping[str, int]:
        """Return by how much time each shard is behind, as its reads have said: asking would cost others reads.

        A shard that waits for its parents, or was not asked yet, is behind by the time since it was begun.
        """
        found = {}
        moment, at = int(now().timestamp() * 1000), time.monotonic()
        for name, text in positions.items():
            position, tail = Position.parse(text), self._tails.get(shard_of(name))
            if position.ended:
                found[name] = 0
            elif tail is not None:
                silent = max(0.0, at - tail.answered - HANGING_SECONDS)
                same = tail.lag is not None and position.sequence == tail.fetched.sequence
                late = 0 if same else max(1, moment - position.seen)
                found[name] = max(tail.lag or 0, late, int(1000 * silent) if tail.lag is not None else 0)
        return found

    def stream(self, order: StreamOrder) -> KinesisReader:
        return KinesisReader(order, self._decoder(order.read), self._client, self._tails)

    def _decoder(self, read: ReadOrder) -> Decoder:
        return decoder_of(read, self._form, self._where, BUILT, place_shown)

    # -- for previews; runs are streams --

    def reader(self, order: ReadOrder) -> SplitReader:
        return NewestReader(order, self._decoder(order), self.newest)

    def close(self) -> None:
        if (client := self.__dict__.pop("_client", None)) is not None:
            client.close()


def _shift(stands: Position, begins: str) -> str:
    """Say where a shard begins that stands somewhere else; empty if it goes on there."""
    begin = Position.parse(begins)
    if begin == stands:
        return ""
    if begin.sequence is not None:
        place = f"behind record {begin.sequence}"
    elif begin.at is not None:
        place = f"at {datetime.fromtimestamp(begin.at / 1000, UTC).isoformat()}"
    else:
        place = "at its first record"
    stood = (
        "at its end"
        if stands.ended
        else "at its beginning"
        if stands.sequence is None
        else f"behind record {stands.sequence}"
    )
    other = "" if begin.stream == stands.stream else " of another stream of this name"
    return f"begins {place}, and stood {stood}{other}"
