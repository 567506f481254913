"""Reader of a stream of Kinesis: records in the order of each shard, in splits that end by themselves.

A shard is read once the end of each of its parents was passed on in an earlier split; since splits are committed in
order, a record of a key never comes to the sink before one that was put earlier.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from dataflows.connectors.formats.decoding import Decoder
from dataflows.connectors.formats.messages import in_turns, times_of, turn_of, turns_of
from dataflows.connectors.kinesis.client import PARALLEL, Kinesis
from dataflows.connectors.kinesis.positions import START_OVER, Position, part_name, shard_of
from dataflows.connectors.kinesis.record import Record
from dataflows.connectors.kinesis.shards import (
    Shard,
    Stream,
    beginnings,
    check_positions,
    described,
    is_readable,
    listed,
)
from dataflows.connectors.kinesis.tails import Page, Tail
from dataflows.connectors.reading import chunks
from dataflows.connectors.streaming import StreamOrder
from dataflows.connectors.waiting import run_checked
from dataflows.data.chunks import Chunk
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import BadData, MissingTable, Refused, Unreachable

__all__ = ["KinesisReader"]

POLL_SECONDS: Final = 0.1
"""Seconds between two looks at whether the flow has ended."""
SPLIT_BYTES: Final = 16 << 20
FETCHED_BYTES: Final = 16 << 20
"""No more is asked for while so much is waiting; what is on its way then is at most 10 MB a request."""
AT_ONCE: Final = 4
"""Shards that are asked at once."""
LOOK_SECONDS: Final = 1.0
"""Seconds between two looks at the stream's shards."""
DESCRIBE_SECONDS: Final = 5.0
"""Seconds between two descriptions of the stream: they are few for all streams of an account together.

A stream that is deleted is away for seconds, even if it is made again at once; then requests fail, and it is described.
"""
WRITTEN_SECONDS: Final = 0.01
"""Seconds between two looks at whether the last splits of a drained stream are written."""
AGAIN_SECONDS: Final = 60.0
"""Longest wait for a record that was read before."""
FOR_EVER: Final = 2**62


@dataclass
class KinesisReader:
    """Reads one slot; `tails` are the shards being read, which the lag is taken from."""

    order: StreamOrder
    decoder: Decoder
    client: Kinesis
    tails: dict[str, Tail] = field(default_factory=dict)
    splits: dict[int, Split] = field(default_factory=dict, init=False)
    _stands: dict[str, Position] = field(default_factory=dict, init=False)
    """The position of each shard after the last split that was passed on."""
    _asked: dict[Future[Page], Tail] = field(default_factory=dict, init=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)
    _stream: Stream | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)
    _described: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _drain: tuple[float, int, frozenset[str]] | None = field(default=None, init=False)
    """When the reader was asked to drain, on the monotonic and on the server's clock, and the shards of then."""

    def chunks(self) -> Iterator[Chunk]:
        self._pool = ThreadPoolExecutor(PARALLEL, "kinesis")
        self._stands = {shard_of(name): Position.parse(text) for name, text in self.order.positions.items()}
        self._look()
        number = self.order.first
        while not self._is_drained():
            self.order.read.check()
            records = self._gathered()
            moves = self._moves()
            if not moves:
                self._look_around()
                continue
            split = Split(number, moves=moves, times=times_of(records), turns=turns_of(records))
            self._look_around()
            with self._lock:
                self.splits[number] = split
            yield from chunks(self.order.slot, split, iter((self.decoder(records),) if records else ()))
            self._passed(split)
            number += 1
        while self.splits:
            self.order.read.check()
            time.sleep(WRITTEN_SECONDS)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        return chunks(slot, split, iter((self.decoder(self._again(split)),) if split.turns else ()))

    def committed(self, number: int) -> None:
        with self._lock:
            for one in [one for one in self.splits if one <= number]:
                del self.splits[one]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    @property
    def _live(self) -> ThreadPoolExecutor:
        if self._pool is None:
            message = "the reader is not open"
            raise AssertionError(message)
        return self._pool

    # -- the stream and its shards --

    def _look(self, *, describe: bool = False) -> Stream:
        """Look at the stream's shards, begin those that are new, and now and then describe the stream itself.

        Raises:
            Refused: it is another one than that of the positions, or has lost a shard.
        """
        client, known = self.client, self._stream
        if known is None or describe or time.monotonic() - self._described >= DESCRIBE_SECONDS:
            look, self._described = partial(described, client), time.monotonic()
        else:
            look = partial(listed, client, known)
        try:
            stream = run_checked(self._live, self.order.read.check, look)
        except MissingTable as error:
            what = "the stream was deleted while it was read"
            raise Refused(what, where=client.where, hint=START_OVER) from error
        self._looked, self._stream = time.monotonic(), stream
        self.order.moved()
        stands = {part_name(stream.name, shard): at for shard, at in self._stands.items()}
        check_positions(stands, stream, client.where)
        if begins := beginnings(stream, stands, None):
            self.order.begin(begins)
            self._stands |= {shard_of(name): Position.parse(text) for name, text in begins.items()}
        for shard in stream.shards.keys() - self.tails.keys():
            self.tails[shard] = Tail(client, shard, self._stands[shard], stream.retention)
        for tail in self.tails.values():
            tail.learn(stream.moment, stream.retention)
        return stream

    def _look_around(self) -> None:
        """Look at the stream now and then, and before a split is passed on if it was not done a moment ago."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._look()

    def _passed(self, split: Split) -> None:
        """Learn that a split was passed on; where shards ended, others begin."""
        for move in split.moves:
            self._stands[shard_of(move.partition)] = Position.parse(move.end)
        if any(self._stands[shard_of(move.partition)].ended for move in split.moves):
            self._look()

    def _readable(self) -> list[Tail]:
        """Return the shards to ask now, those first that were asked longest ago."""
        stream, at = self._stream, time.monotonic()
        assert stream is not None  # noqa: S101 - the first look is before all else
        gone = Shard("", (), closed=True)
        busy = {tail.shard for tail in self._asked.values()}
        found = [
            tail
            for tail in self.tails.values()
            if not (tail.over or tail.records or tail.due > at or tail.shard in busy)
            and is_readable(stream.shards.get(tail.shard, gone), stream, self._stands)
        ]
        return sorted(found, key=lambda one: one.due)

    # -- records --

    def _gathered(self) -> list[Record]:
        """Return the records of a split: what arrives within the linger after the first, up to its size."""
        limit = self.order.read.batch_rows
        self._fetch(POLL_SECONDS)
        found = self._drawn(limit, SPLIT_BYTES)
        if not found:
            return []
        end, size = time.monotonic() + self.order.linger, _size(found)
        while len(found) < limit and size < SPLIT_BYTES:
            left = end - time.monotonic()
            self._fetch(max(0.0, min(left, POLL_SECONDS)))
            more = self._drawn(limit - len(found), SPLIT_BYTES - size)
            found += more
            size += _size(more)
            self.order.read.check()
            if left <= 0:
                break
        return found

    def _fetch(self, seconds: float) -> None:
        """Ask the shards that may be asked, and take what they answer within so many seconds."""
        waiting = sum(len(one.data) for tail in self.tails.values() for one in tail.records)
        if waiting < FETCHED_BYTES:
            for tail in self._readable()[: AT_ONCE - len(self._asked)]:
                self._asked[self._live.submit(tail.fetch, self.order.read.batch_rows)] = tail
        if not self._asked:
            time.sleep(min(seconds, POLL_SECONDS) if not waiting else 0)
            return
        done, _ = wait(self._asked, 0 if waiting else seconds, FIRST_COMPLETED)
        for one in done:
            tail = self._asked.pop(one)
            if (error := one.exception()) is None:
                tail.take(one.result())
            else:
                self._failed(tail, error)
            self.order.moved()

    def _failed(self, tail: Tail, error: BaseException) -> None:
        """Take the error of a request; if the shard is gone, find out why first."""
        if not isinstance(error, Exception):
            raise error
        with tail.client.translated():
            try:
                tail.fail(error)
            except Exception as found:
                refused = tail.client.error_of(found) if not isinstance(found, Refused) else found
                if isinstance(refused, MissingTable | Refused) and self._pool is not None:
                    self._look(describe=True)
                raise

    def _drawn(self, count: int, size: int) -> list[Record]:
        """Return records that were fetched, and move the positions of their shards behind them."""
        found: list[Record] = []
        for tail in self.tails.values():
            more = tail.drawn(count - len(found), size)
            size -= _size(more)
            found += more
        return found

    def _moves(self) -> tuple[Move, ...]:
        """Return the move of each shard since the last split."""
        return tuple(
            Move(part_name(self.client.stream, shard), str(self._stands[shard]), str(tail.at))
            for shard, tail in sorted(self.tails.items())
            if tail.at != self._stands[shard]
        )

    def _is_drained(self) -> bool:
        """True if the reader was asked to drain, and has passed on what each shard had at that moment."""
        if not self.order.draining():
            return False
        if self._drain is None:
            asked = time.monotonic()
            stream = self._look()
            self._drain = asked, stream.moment + 1000, frozenset(stream.shards)
        asked, moment, shards = self._drain
        return all(
            at.ended or (self.tails[shard].tip > asked and at == self.tails[shard].fetched) or _is_past(at, moment)
            for shard, at in self._stands.items()
            if shard in shards
        )

    def _again(self, split: Split) -> list[Record]:
        """Return the records of a split that was read before, in the same order.

        Raises:
            Unreachable: they do not come.
            BadData: they are not there any more.
        """
        found: list[Record] = []
        with ThreadPoolExecutor(1, "kinesis") as pool:
            for move in split.moves:
                start, end = Position.parse(move.start), Position.parse(move.end)
                if end.sequence is not None and end.sequence != start.sequence:
                    tail = Tail(self.client, shard_of(move.partition), start, FOR_EVER)
                    found += self._until(tail, int(end.sequence), pool)
        if not {(part, end - 1) for part, end in split.turns} <= set(map(turn_of, found)):
            raise BadData("records were deleted while they were written", where=self.client.where)
        return in_turns(found, split.turns)

    def _until(self, tail: Tail, last: int, pool: ThreadPoolExecutor) -> list[Record]:
        deadline = time.monotonic() + AGAIN_SECONDS
        while tail.fetched.sequence is None or int(tail.fetched.sequence) < last:
            if tail.over:
                raise BadData(f"records of {tail.shard} were deleted while they were written", where=tail.client.where)
            if time.monotonic() > deadline:
                raise Unreachable("records that were read before do not come again", where=tail.client.where)
            time.sleep(max(0.0, min(tail.due - time.monotonic(), POLL_SECONDS)))
            if tail.due <= time.monotonic():
                try:
                    tail.take(run_checked(pool, self.order.read.check, partial(tail.fetch, self.order.read.batch_rows)))
                except Exception as error:  # noqa: BLE001 - the tail knows which pass
                    self._failed(tail, error)
            self.order.read.check()
            self.order.moved()
        return [one for one in tail.records if int(one.sequence) <= last]


def _is_past(at: Position, moment: int) -> bool:
    """True for a position behind a record that arrived after a moment."""
    return at.sequence is not None and at.seen > moment


def _size(records: list[Record]) -> int:
    return sum(len(one.data) for one in records)
