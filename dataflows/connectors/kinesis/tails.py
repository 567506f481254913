"""One shard on its way to the reader: its iterator, the records that were fetched, and when it may be asked again.

An iterator expires after five minutes and is made again from the position. A page without records is not the end: more
may be behind it; the end is a page that names no next iterator.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dataflows.connectors.kinesis.client import THROTTLED, Kinesis, code_of, milliseconds
from dataflows.connectors.kinesis.positions import START_OVER, Position
from dataflows.connectors.kinesis.record import Record
from penstock.errors import BadData, Refused

__all__ = ["Page", "Tail", "iterator"]

READ_SECONDS: Final = 0.22
"""Seconds between two reads of a shard, which answers five a second."""
IDLE_SECONDS: Final = 1.0
"""The same once nothing has come for a while, so that others can read it, too."""
PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 10.0
MOST_RECORDS: Final = 10_000
"""Records of one page, at most."""
FRESH_SHARE: Final = 24
"""A place where nothing comes is confirmed after this part of the stream's retention."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer of a shard; `next` is None at its end, `lag` milliseconds remain behind it."""

    records: Sequence[Record]
    next: str | None
    lag: int
    moment: int
    asked: float
    """The monotonic time at which it was asked for."""


@dataclass
class Tail:
    """A shard being read: `at` is the position of what was taken from here, `fetched` that of what was fetched."""

    client: Kinesis
    shard: str
    at: Position
    retention: int
    fetched: Position = field(init=False)
    records: deque[Record] = field(default_factory=deque, init=False)
    iterator: str | None = field(default=None, init=False)
    over: bool = field(default=False, init=False)
    """True once the last page of the closed shard was fetched."""
    lag: int | None = field(default=None, init=False)
    answered: float = field(default_factory=time.monotonic, init=False)
    tip: float = field(default=-1.0, init=False)
    """When it was asked for the last page that had nothing, and behind which nothing was, on the monotonic clock."""
    due: float = field(default=0.0, init=False)
    _pause: float = field(default=0.0, init=False)
    _gap: float = field(default=READ_SECONDS, init=False)
    _since: int = field(default=0, init=False)
    """The time at which it begins if it was never read: the client cuts it to seconds when it asks for it."""
    _moment: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.fetched = self.at
        self.over = self.at.ended
        self._since = self.at.at or 0 if self.at.sequence is None else 0

    # -- in a thread --

    def fetch(self, count: int) -> Page:
        """Ask for the next records; may be called from any thread, once at a time.

        Raises:
            Refused: what comes next was deleted by the retention.
        """
        asked = time.monotonic()
        if self._is_stale():
            self._check_kept()
            self.iterator = None
        if self.iterator is None:
            self.iterator = iterator(self.client, self.shard, self.fetched)
        answer = self.client.ask("get_records", ShardIterator=self.iterator, Limit=min(count, MOST_RECORDS))
        records = [Record.of(self.client.stream, self.shard, one) for one in answer["Records"]]
        return Page(
            records, answer.get("NextShardIterator"), answer.get("MillisBehindLatest") or 0, milliseconds(answer), asked
        )

    def _is_stale(self) -> bool:
        """True if what came after the position may have been deleted."""
        return self.fetched.seen + self.retention < self._moment

    def _check_kept(self) -> None:
        """Refuse to go on if the record at the position is gone, and what came after it may be gone, too."""
        if self.fetched.sequence is not None:
            asked = {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": self.fetched.sequence}
            place = self.client.ask("get_shard_iterator", StreamName=self.client.stream, ShardId=self.shard, **asked)
            found = self.client.ask("get_records", ShardIterator=place["ShardIterator"], Limit=1)["Records"]
            if found and found[0]["SequenceNumber"] == self.fetched.sequence:
                return
        since, until = (
            datetime.fromtimestamp(one / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
            for one in (self.fetched.seen, self._moment - self.retention)
        )
        hours = self.retention // 3_600_000
        what = (
            f"{self.shard} was read up to {since} UTC, and the stream keeps records for {hours} hours: "
            f"what came to it from then to {until} was deleted before it was read"
        )
        raise Refused(what, where=self.client.where, hint=START_OVER)

    # -- in the reader's thread --

    def learn(self, moment: int, retention: int | None = None) -> None:
        """Learn the server's time, and for how long it keeps records now."""
        self._moment = max(self._moment, moment)
        self.retention = self.retention if retention is None else retention

    def take(self, page: Page) -> None:
        """Keep the records of a page.

        Raises:
            BadData: a record came out of order.
        """
        for one in page.records:
            if self.fetched.sequence is not None and int(one.sequence) <= int(self.fetched.sequence):
                what = f"record {one.sequence} of {self.shard} came after {self.fetched.sequence}"
                raise BadData(what, where=self.client.where, hint=START_OVER)
            if one.time >= self._since:
                self.records.extend(one.unpacked())
            self.fetched = self.fetched.behind(one.sequence, one.time)
        self.iterator, self.lag, self.over = page.next, page.lag, page.next is None
        self.answered, self._pause = time.monotonic(), 0.0
        self.learn(page.moment)
        if page.lag == 0 and not page.records:  # a page cut by a limit may say 0, too
            self.tip = page.asked
        if not page.records and page.moment - page.lag - self.fetched.seen > self.retention // FRESH_SHARE:
            self.fetched = self.fetched.seen_until(page.moment - page.lag)
        idle = not page.records and page.lag == 0
        self.due = page.asked + (min(IDLE_SECONDS, 1.5 * self._gap) if idle else READ_SECONDS)
        self._gap = self.due - page.asked

    def fail(self, error: Exception) -> None:
        """Take an error in place of a page; those that pass by themselves only make it wait.

        Raises:
            PenstockError: the others.
        """
        code = code_of(error)
        self.answered = time.monotonic()
        if code == "ExpiredIteratorException":
            self.iterator = None
        elif code in THROTTLED:
            self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause or PAUSE_SECONDS)
            self.due = time.monotonic() + self._pause
        else:
            raise error

    def drawn(self, count: int, size: int) -> list[Record]:
        """Return the next records, about so many and about so many bytes, and move the position behind them.

        Those that were packed into one have one sequence number, and so stay together.
        """
        found: list[Record] = []
        while self.records and (
            (len(found) < count and size > 0) or (found and self.records[0].sequence == found[-1].sequence)
        ):
            found.append(self.records.popleft())
            size -= len(found[-1].data)
        if not self.records:
            self.at = self.fetched.at_end() if self.over else self.fetched
        elif found:
            self.at = self.at.behind(found[-1].sequence, found[-1].time)
        return found


def iterator(client: Kinesis, shard: str, at: Position) -> str:
    """Return an iterator that begins at a position."""
    asked: Mapping[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
    if at.sequence is not None:
        asked = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": at.sequence}
    elif at.at is not None:
        asked = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": at.at / 1000}
    answer = client.ask("get_shard_iterator", StreamName=client.stream, ShardId=shard, **asked)
    return str(answer["ShardIterator"])
