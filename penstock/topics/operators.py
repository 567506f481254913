"""The Bytewax source and sink over any topic log.

Bytewax asks a partition for its next batch on the thread that also runs the logic, so nothing here may block long: a
daemon thread reads ahead, and again when the flow has taken what was read. What arrives while the flow is busy becomes
one batch: with a small batch each turn, each decision of a flow under load would cost an fsync of its own.

Positions never come from Bytewax's recovery (`snapshot` is None): the caller passes them, from the place where they
were stored together with the results.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from penstock.topics.log import Message, Stored, TopicLog
from penstock.topics.partitioner import partition_of
from penstock.topics.table import Topic

__all__ = ["ALWAYS", "TopicSink", "TopicSource", "Wakeup"]

ALWAYS: Final = datetime.fromtimestamp(0, UTC)
"""The `next_awake` of a source that waits for itself in `next_batch`.

Bytewax asks again when the wall clock shows `next_awake`, by default a millisecond after an empty batch. If the clock
is set back an hour in that millisecond, it asks again an hour later.
"""

X = TypeVar("X")

_READ: Final = 2000
_MAX_OWN: Final = 64
"""Appends of this process kept in memory for those of its sources that are still behind them."""
_POLL: Final = 0.1
"""Seconds between two polls of a tail at its buffers."""

MAX_SLEEP: Final = 0.1
"""The longest sleep in seconds of a flow that shares a `Wakeup`, when none of its topics has a message."""
TURNS: Final = 16
"""Times that a source without messages returns at once after a message, which is still on its way through the flow.

Four times what the longest of the flows needs; counted, because a flow that stays awake for a time spends it turning.
"""
FIRST_SLEEP: Final = 0.005
"""Seconds of the first sleep, doubled for each further one: a message still in the flow waits no longer than this."""
NAP: Final = 0.0001
"""Seconds of a sleep of a source that has no messages and shares no `Wakeup`."""


class Wakeup:
    """Shared by all topic sources of one flow: one tail for each partition of the log, and sleep when idle.

    A source without messages waits here, on the flow's thread, until a message arrives for any of them. Only for flows
    whose other sources can be late by `MAX_SLEEP`.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._sleeps = 0
        self._turns = 0
        self._error: BaseException | None = None
        self._tails: dict[tuple[str, int], _Tail] = {}

    def tail(self, topic: Topic, part: int, make: Callable[[], _Tail]) -> _Tail:
        """Return the tail that all of the flow's sources of one partition share."""
        place = (topic.name, part)
        if place not in self._tails or self._tails[place].over:
            self._tails[place] = make()
        return self._tails[place]

    def fail(self, error: BaseException) -> None:
        """End the flow with `error`, unless it ends with an earlier one already; may be called from any thread."""
        if self._error is None:
            self._error = error
        self.wake()

    @property
    def failed(self) -> bool:
        """True if something has failed: sources then end, and what is still in the flow is dropped."""
        return self._error is not None

    def guarded(self, act: Callable[[], X], otherwise: X) -> X:
        """Return the result of `act`; if it raises, or something has failed before, fail and return `otherwise`.

        For the calls that Bytewax makes: what they raise, it reports as a panic, with a backtrace of Rust.
        """
        if self._error is None:
            try:
                return act()
            except StopIteration:
                raise
            except BaseException as error:  # noqa: BLE001 - raised by `check` when the flow has ended
                self.fail(error)
        return otherwise

    def check(self) -> None:
        """Raise the error given to `fail`, if any."""
        if self._error is not None:
            raise self._error

    def wake(self, *, urgent: bool = True) -> None:
        """Wake the flow; with `urgent` it stays awake until the message has passed through it."""
        self._sleeps = 0
        if urgent:
            self._turns = TURNS
        self._event.set()

    def append(self, log: TopicLog, topic: Topic, part: int, messages: Sequence[Message]) -> None:
        """Append; sources of the partition in this process get the messages without reading them back."""
        tail = self._tails.get((topic.name, part))
        if tail is None or tail.over:
            log.append(topic, messages, partition=part)
        else:
            tail.append(log, messages)

    def sleep(self) -> None:
        """Wait for a message, `MAX_SLEEP` at most; return at once while a message is on its way through the flow."""
        if self._turns > 0:
            self._turns -= 1
            return
        self._event.wait(min(MAX_SLEEP, FIRST_SLEEP * 2 ** min(self._sleeps, 10)))
        self._event.clear()
        self._sleeps += 1


class TopicSource(FixedPartitionedSource[Stored, None]):
    """Follow a topic: items are `Stored`, in order within a partition, each partition one of Bytewax's.

    `open_log` opens a log for each partition, closed at the end. `start` is the first offset, one for all partitions
    or one for each. With `stop_at_end` the flow ends at what was the log's end when it started, else once `stop` is
    set; what was fetched but not yet passed on is then dropped. An error of the log ends the flow: `wakeup.check` then
    raises it; without `wakeup` it is the `__cause__` of the error that Bytewax raises. With `linger` the tail waits
    that many seconds after each batch, for flows that prefer fewer and larger batches to low latency; no other source
    should share such a tail.
    """

    def __init__(
        self,
        open_log: Callable[[], TopicLog],
        topic: Topic,
        start: Mapping[int, int] | int = 0,
        *,
        stop_at_end: bool = False,
        stop: threading.Event | None = None,
        wakeup: Wakeup | None = None,
        linger: float = 0.0,
    ) -> None:
        self.open_log, self.topic, self._start = open_log, topic, start
        self.stop_at_end, self.stop, self.wakeup, self.linger = stop_at_end, stop or threading.Event(), wakeup, linger

    def list_parts(self) -> list[str]:
        """The partitions' names, zero-padded: Bytewax sorts them as text."""
        return _names(self.topic)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Followed:
        """Start following one partition."""
        part = int(for_part)
        start = self._start if isinstance(self._start, int) else self._start.get(part, 0)
        make = partial(_Tail, self.open_log, self.topic, part, self.wakeup)
        tail = self.wakeup.tail(self.topic, part, make) if self.wakeup else make()
        return _Followed(self, tail, tail.follow(start, self.linger, to_end=self.stop_at_end))


class _Buffer:
    """The messages that one source has yet to take, and the next offset to read.

    The tail refills it once its source has taken all, so that batches grow with the load.
    """

    def __init__(self, at: int, linger: float, *, to_end: bool) -> None:
        self.at, self.linger, self.to_end = at, linger, to_end
        self.upto: int | None = None
        self.batch: list[Stored] = []

    @property
    def over(self) -> bool:
        """True if it is full."""
        return self.upto is not None and self.at >= self.upto

    def put(self, batch: list[Stored]) -> None:
        """Add the messages that follow."""
        if self.upto is not None:
            batch = [one for one in batch if one.offset < self.upto]
        self.batch += batch
        self.at = self.batch[-1].offset + 1


class _Tail(threading.Thread):
    """Reads one partition for the sources that follow it. Sources at the same offset share one read.

    It starts with the first follower and ends when the last one has left.
    """

    def __init__(self, open_log: Callable[[], TopicLog], topic: Topic, part: int, wakeup: Wakeup | None) -> None:
        super().__init__(name=f"tail-{topic.name}-{part}", daemon=True)
        self.over = False
        self.error: BaseException | None = None
        self._open_log, self._topic, self._part, self._wakeup = open_log, topic, part, wakeup
        self._changed = threading.Condition()
        self._buffers: list[_Buffer] = []
        self._appended: dict[int, list[Stored]] = {}
        self._appending = False

    def follow(self, at: int, linger: float, *, to_end: bool) -> _Buffer:
        """Register and return a buffer that is filled from offset `at` on."""
        buffer = _Buffer(at, linger, to_end=to_end)
        with self._changed:
            self._buffers.append(buffer)
            self._changed.notify()
        if self.ident is None:
            self.start()
        return buffer

    def leave(self, buffer: _Buffer) -> None:
        """Unregister `buffer`."""
        with self._changed:
            if buffer in self._buffers:
                self._buffers.remove(buffer)
            self.over = not self._buffers
            self._changed.notify()

    def take(self, buffer: _Buffer) -> list[Stored]:
        """Empty `buffer` and return its messages."""
        if not buffer.batch:
            return []
        with self._changed:
            batch, buffer.batch = buffer.batch, []
            self._changed.notify()
        return batch

    def append(self, log: TopicLog, messages: Sequence[Message]) -> None:
        """Append to the partition, then pass the durable messages on. Reading pauses during the append.

        Followers that are behind read what comes before, and then get these too.
        """
        self._appending = True
        try:
            ((_, first), *_) = log.append(self._topic, messages, partition=self._part)
            stored = [Stored(self._topic, self._part, at, one, log.stamp) for at, one in enumerate(messages, first)]
            with self._changed:
                self._appended[first] = stored
                if len(self._appended) > _MAX_OWN:
                    del self._appended[min(self._appended)]
                self._put(first, stored)
        finally:
            with self._changed:
                self._appending = False
                self._changed.notify()
        if self._wakeup:
            self._wakeup.wake()

    def run(self) -> None:
        try:
            with self._open_log() as log:
                while not self.over:
                    self._turn(log)
        except BaseException as error:  # noqa: BLE001 - handed to the flow's thread, which raises it
            self.error = error
            if self._wakeup:
                self._wakeup.wake()

    def _turn(self, log: TopicLog) -> None:
        demand = self._demand()
        for buffer in demand:
            if buffer.to_end and buffer.upto is None:
                buffer.upto = log.end(self._topic, self._part)
        places = sorted({buffer.at for buffer in demand if not buffer.over})
        found = [at for at in places if self._fill(log, at)]
        if found:
            linger = min(buffer.linger for buffer in self._buffers or demand)
            if self._wakeup:
                self._wakeup.wake(urgent=not linger)
            time.sleep(linger)
        elif places:
            log.wait(self._topic, self._part, places[-1], _POLL)

    def _demand(self) -> list[_Buffer]:
        """Return the buffers to fill; wait a moment if there are none."""
        with self._changed:
            self._changed.wait_for(lambda: self.over or self._wanted(), _POLL)
            return self._wanted()

    def _wanted(self) -> list[_Buffer]:
        return [] if self._appending else [buffer for buffer in self._buffers if not buffer.batch and not buffer.over]

    def _fill(self, log: TopicLog, at: int) -> bool:
        """Fill the buffers at offset `at`; True if there was something to read."""
        batch = self._appended.get(at, [])
        if not batch and log.wait(self._topic, self._part, at, 0):
            batch = log.read(self._topic, self._part, at, _READ)
        with self._changed:
            self._put(at, batch)
        return bool(batch)

    def _put(self, at: int, batch: list[Stored]) -> None:
        """Add `batch` to the buffers at offset `at` that are not full yet."""
        for buffer in self._buffers if batch else ():
            if buffer.at == at and len(buffer.batch) < _READ:
                buffer.put(batch)
        earliest = min((buffer.at for buffer in self._buffers), default=0)
        for first in [first for first in self._appended if first < earliest]:
            del self._appended[first]


class _Followed(StatefulSourcePartition[Stored, None]):
    def __init__(self, source: TopicSource, tail: _Tail, buffer: _Buffer) -> None:
        self._tail, self._slot, self._stop, self._wakeup = tail, buffer, source.stop, source.wakeup
        self._sleep = partial(time.sleep, NAP) if source.wakeup is None else source.wakeup.sleep

    def next_batch(self) -> list[Stored]:
        """Return all fetched messages, some thousands at most; if there are none, wait: see `Wakeup.sleep`."""
        if self._wakeup is None:
            return self._fetched()
        if self._wakeup.failed:
            raise StopIteration
        return self._wakeup.guarded(self._fetched, [])

    def _fetched(self) -> list[Stored]:
        if self._stop.is_set():
            raise StopIteration
        over = self._slot.over
        fetched = self._tail.take(self._slot)
        if over and not fetched:
            raise StopIteration
        if not fetched:
            self._sleep()
            fetched = self._tail.take(self._slot)
        if not fetched and self._tail.error is not None:
            raise self._tail.error
        return fetched

    def next_awake(self) -> datetime:
        return ALWAYS

    def snapshot(self) -> None:
        """Return None: Bytewax does not store positions here."""

    def close(self) -> None:
        """Leave the tail; it ends when the last source has left."""
        self._tail.leave(self._slot)


class TopicSink(FixedPartitionedSink[Sequence[Message], None]):
    """Append to a topic. An item is (key, messages); its messages are ONE append, to the key's partition.

    All items of one batch are one append too, in their order, so that the decisions of one turn cost one
    fsync. `open_log` opens the log that a partition appends to, closed at the flow's end. With `wakeup`, the
    flow's own sources get what was appended at once.
    """

    def __init__(self, open_log: Callable[[], TopicLog], topic: Topic, wakeup: Wakeup | None = None) -> None:
        self._open_log, self._topic, self._wakeup = open_log, topic, wakeup

    def list_parts(self) -> list[str]:
        """The source's names, so that Bytewax keeps source and sink of a partition together."""
        return _names(self._topic)

    def part_fn(self, item_key: str) -> int:
        """Return the key's partition, as the log itself would choose it."""
        return partition_of(item_key.encode(), self._topic.partitions)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Appended:
        """Open the log for one partition."""
        return _Appended(self._open_log(), self._topic, int(for_part), self._wakeup)


class _Appended(StatefulSinkPartition[Sequence[Message], None]):
    def __init__(self, log: TopicLog, topic: Topic, part: int, wakeup: Wakeup | None) -> None:
        self._log, self._topic, self._part, self._wakeup = log, topic, part, wakeup

    def write_batch(self, values: list[Sequence[Message]]) -> None:
        """Append all messages at once."""
        messages = [message for item in values for message in item]
        if not messages:
            return
        if self._wakeup is None:
            self._log.append(self._topic, messages, partition=self._part)
        else:
            append = partial(self._wakeup.append, self._log, self._topic, self._part, messages)
            self._wakeup.guarded(append, None)

    def snapshot(self) -> None:
        """Return None, as the source does."""

    def close(self) -> None:
        """Close the log; append nothing, because this is called after an error too."""
        self._log.close()


def _names(topic: Topic) -> list[str]:
    return [f"{part:04d}" for part in range(topic.partitions)]
