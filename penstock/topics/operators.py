"""The Bytewax source and sink over any topic log.

Bytewax asks a partition for its next batch on the one thread that also runs the logic, so nothing here may block: a
daemon thread reads one batch ahead, and the next when the flow has taken that one. So what comes while the flow is
busy comes together: with one small batch a turn, each decision of a flow under load would cost an fsync of its own.

Positions never come from Bytewax's recovery (`snapshot` is None): the caller gives them, from wherever they were kept
together with what was made of the messages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from penstock.clock import now
from penstock.topics.log import Message, Stored, TopicLog
from penstock.topics.partitioner import partition_of
from penstock.topics.table import Topic

__all__ = ["TopicSink", "TopicSource", "Wakeup"]

_READ: Final = 2000
_SLICE: Final = 0.25
"""Seconds after which the tail looks whether it should end."""

HOT: Final = 2.0
"""Seconds after the last message in which the queue is looked at each millisecond."""
IDLE: Final = 0.1
"""Seconds that a flow which shares a `Wakeup` sleeps at most, when none of its topics has anything."""
AWAKE_HOT: Final = timedelta(milliseconds=1)
AWAKE_IDLE: Final = timedelta(milliseconds=50)


class Wakeup:
    """Shared by all topic sources of one flow, so that the flow sleeps when none of them has anything.

    Bytewax's own loop turns once a millisecond whatever its sources say, and that alone costs about 3 % of a core. A
    source that has nothing may instead wait here, on the flow's thread: what comes in for any of them ends the wait.
    Only for flows whose sources are all of these, and whose timers may be late by `IDLE`.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._last = time.monotonic()
        self._error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """End the flow with the error of a thread that works for it."""
        self._error = error
        self.touch()

    def check(self) -> None:
        """Raise that error, if there is one."""
        if self._error is not None:
            raise self._error

    @property
    def hot(self) -> bool:
        """Whether something came in for any of the sources in the last `HOT` seconds."""
        return time.monotonic() - self._last < HOT

    def touch(self) -> None:
        """Something came in."""
        self._last = time.monotonic()
        self._event.set()

    def sleep(self) -> None:
        """Wait for something to come in, `IDLE` at most."""
        self._event.wait(IDLE)
        self._event.clear()


class TopicSource(FixedPartitionedSource[Stored, None]):
    """Follow a topic: items are `Stored`, in order within a partition, each partition one of Bytewax's.

    `open_log` gives each partition a log of its own, closed at the end. `start` is the first offset wanted, one for
    all partitions or one for each. The flow ends at what was the end when it began with `stop_at_end`, else once
    `stop` is set; what was fetched but not yet handed on is then let go. An error of the log ends the flow: it is the
    `__cause__` of the error that Bytewax raises. With `linger` the tail waits so many seconds after each batch: for
    flows to which fewer and larger batches matter more than haste.
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

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Followed:  # noqa: ARG002 - Bytewax's
        """Start following one partition."""
        part = int(for_part)
        start = self._start if isinstance(self._start, int) else self._start.get(part, 0)
        return _Followed(self, _Tail(self, part, start))


class _Slot:
    """One batch between the tail and the flow. The tail reads the next one when this one is taken, so that what comes
    while the flow is busy comes together: that is the backpressure, and it keeps batches as large as the load asks for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batch: list[Stored] = []

    def put(self, batch: list[Stored]) -> None:
        """Lay a batch down; the slot is empty."""
        with self._changed:
            self._batch = batch

    def take(self) -> list[Stored]:
        """What is there, [] if nothing is."""
        with self._changed:
            batch, self._batch = self._batch, []
            if batch:
                self._changed.notify()
        return batch

    def wait_until_empty(self, timeout: float) -> bool:
        """Whether the slot is empty, after `timeout` seconds at most."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._batch, timeout)


class _Tail(threading.Thread):
    """Reads one partition of a source into the slot."""

    def __init__(self, source: TopicSource, part: int, start: int) -> None:
        super().__init__(name=f"tail-{source.topic.name}-{part}", daemon=True)
        self.slot = _Slot()
        self.ended = threading.Event()
        self.over = False
        self.error: BaseException | None = None
        self._source, self._part, self._at = source, part, start
        self.start()

    def run(self) -> None:
        try:
            with self._source.open_log() as log:
                self._follow(log)
        except BaseException as error:  # noqa: BLE001 - handed to the flow's thread, which raises it
            self.error = error

    def _follow(self, log: TopicLog) -> None:
        topic, upto = self._source.topic, None
        if self._source.stop_at_end:
            upto = log.end(topic, self._part)
        while not self.ended.is_set() and (upto is None or self._at < upto):
            if self.slot.wait_until_empty(_SLICE):
                limit = _READ if upto is None else min(_READ, upto - self._at)
                self._hand_on(log, log.read(topic, self._part, self._at, limit))
        self.over = True

    def _hand_on(self, log: TopicLog, batch: list[Stored]) -> None:
        if not batch:
            log.wait(self._source.topic, self._part, self._at, _SLICE)
            return
        self._at = batch[-1].offset + 1
        self.slot.put(batch)
        if self._source.wakeup:
            self._source.wakeup.touch()
        self.ended.wait(self._source.linger)


class _Followed(StatefulSourcePartition[Stored, None]):
    def __init__(self, source: TopicSource, tail: _Tail) -> None:
        self._tail, self._stop, self._wakeup = tail, source.stop, source.wakeup
        self._over = False
        self._last = time.monotonic()
        self._awake: datetime | None = None

    def next_batch(self) -> list[Stored]:
        """Everything fetched, about 2000 messages at most; never waits, but for a `Wakeup` that all sources share."""
        if self._wakeup:
            self._wakeup.check()
        if self._over or self._stop.is_set():
            self._tail.ended.set()
            raise StopIteration
        over, fetched = self._tail.over, self._tail.slot.take()
        if not (fetched or over) and self._wakeup and not self._wakeup.hot:
            self._wakeup.sleep()
            over, fetched = self._tail.over, self._tail.slot.take()
        self._over = over and not fetched
        if fetched:
            self._last = time.monotonic()
        self._awake = None if fetched or over else self._later()
        return fetched

    def _later(self) -> datetime:
        """When to look again, now that nothing was there; raises what ended the tail."""
        if self._tail.error is not None:
            raise self._tail.error
        return now() + (AWAKE_HOT if time.monotonic() - self._last < HOT else AWAKE_IDLE)

    def next_awake(self) -> datetime | None:
        """When to look again; asked by Bytewax after each `next_batch` only."""
        return self._awake

    def snapshot(self) -> None:
        """Nothing: positions are not Bytewax's business here."""

    def close(self) -> None:
        """Let the tail end."""
        self._tail.ended.set()


class TopicSink(FixedPartitionedSink[Sequence[Message], None]):
    """Append to a topic. An item is (key, messages), and its messages are ONE append, to the key's partition.

    All items that come together are one append too, in their order, so that what was decided in one turn costs one
    fsync. `open_log` gives each partition the log that it appends to, closed at the flow's end.
    """

    def __init__(self, open_log: Callable[[], TopicLog], topic: Topic) -> None:
        self._open_log, self._topic = open_log, topic

    def list_parts(self) -> list[str]:
        """As the source's, so that Bytewax keeps partition and slot together."""
        return _names(self._topic)

    def part_fn(self, item_key: str) -> int:
        """The key's partition, as the log itself would choose it."""
        return partition_of(item_key.encode(), self._topic.partitions)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Appended:  # noqa: ARG002 - Bytewax's
        """Open the log for one partition."""
        return _Appended(self._open_log(), self._topic, int(for_part))


class _Appended(StatefulSinkPartition[Sequence[Message], None]):
    def __init__(self, log: TopicLog, topic: Topic, part: int) -> None:
        self._log, self._topic, self._part = log, topic, part

    def write_batch(self, values: list[Sequence[Message]]) -> None:
        """One append for all of them."""
        messages = [message for item in values for message in item]
        if messages:
            self._log.append(self._topic, messages, partition=self._part)

    def snapshot(self) -> None:
        """Nothing, as in the source."""

    def close(self) -> None:
        """Close the log; nothing is appended here, for this is called after an error too."""
        self._log.close()


def _names(topic: Topic) -> list[str]:
    return [f"{part:04d}" for part in range(topic.partitions)]
