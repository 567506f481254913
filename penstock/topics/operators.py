"""The Bytewax source and sink over any topic log.

Bytewax asks a partition for its next batch on the one thread that also runs the logic, so nothing here may block: a
daemon thread follows the log into a bounded queue, and the flow empties that queue at each turn. Emptying it whole
matters: with one small batch a turn, each decision of a flow under load costs an fsync of its own.

Positions never come from Bytewax's recovery (`snapshot` is None): the caller gives them, from wherever they were kept
together with what was made of the messages.
"""

from __future__ import annotations

import contextlib
import queue
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

_READ: Final = 1000
_DRAIN: Final = 2000
_QUEUED: Final = 8
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
    `__cause__` of the error that Bytewax raises.
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
    ) -> None:
        self._open_log, self._topic, self._start = open_log, topic, start
        self._stop_at_end, self._stop, self._wakeup = stop_at_end, stop or threading.Event(), wakeup

    def list_parts(self) -> list[str]:
        """The partitions' names, zero-padded: Bytewax sorts them as text."""
        return _names(self._topic)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Followed:  # noqa: ARG002 - Bytewax's
        """Start following one partition."""
        part = int(for_part)
        start = self._start if isinstance(self._start, int) else self._start.get(part, 0)
        tail = _Tail(self._open_log, self._topic, part, start, stop_at_end=self._stop_at_end, wakeup=self._wakeup)
        return _Followed(tail, self._stop, self._wakeup)


class _Tail(threading.Thread):
    """Reads one partition into a bounded queue, whose being full is the backpressure. None in it marks the end."""

    def __init__(
        self,
        open_log: Callable[[], TopicLog],
        topic: Topic,
        part: int,
        start: int,
        *,
        stop_at_end: bool,
        wakeup: Wakeup | None,
    ) -> None:
        super().__init__(name=f"tail-{topic.name}-{part}", daemon=True)
        self.fetched: queue.Queue[list[Stored] | None] = queue.Queue(_QUEUED)
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._open_log, self._topic, self._part = open_log, topic, part
        self._start_at, self._stop_at_end, self._wakeup = start, stop_at_end, wakeup
        self.start()

    def run(self) -> None:
        try:
            with self._open_log() as log:
                self._follow(log)
        except BaseException as error:  # noqa: BLE001 - handed to the flow's thread, which raises it
            self.error = error

    def _follow(self, log: TopicLog) -> None:
        at = self._start_at
        upto = log.end(self._topic, self._part) if self._stop_at_end else None
        while not self.ended.is_set() and (upto is None or at < upto):
            limit = _READ if upto is None else min(_READ, upto - at)
            batch = log.read(self._topic, self._part, at, limit)
            if batch:
                self._put(batch)
                at = batch[-1].offset + 1
            else:
                log.wait(self._topic, self._part, at, _SLICE)
        self._put(None)

    def _put(self, batch: list[Stored] | None) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(queue.Full):
                self.fetched.put(batch, timeout=_SLICE)
                if self._wakeup:
                    self._wakeup.touch()
                return


class _Followed(StatefulSourcePartition[Stored, None]):
    def __init__(self, tail: _Tail, stop: threading.Event, wakeup: Wakeup | None) -> None:
        self._tail, self._stop, self._wakeup = tail, stop, wakeup
        self._over = False
        self._last = time.monotonic()
        self._awake: datetime | None = None

    def next_batch(self) -> list[Stored]:
        """Everything fetched, about 2000 messages at most; never waits, but for a `Wakeup` that all sources share."""
        if self._over or self._stop.is_set():
            self._tail.ended.set()
            raise StopIteration
        drained = self._drain()
        if not drained and not self._over and self._wakeup and not self._wakeup.hot:
            self._wakeup.sleep()
            drained = self._drain()
        if drained:
            self._last = time.monotonic()
        self._awake = None if drained or self._over else self._later()
        return drained

    def _later(self) -> datetime:
        """When to look again, now that nothing was there; raises what ended the tail."""
        if self._tail.error is not None and self._tail.fetched.empty():
            raise self._tail.error
        return now() + (AWAKE_HOT if time.monotonic() - self._last < HOT else AWAKE_IDLE)

    def _drain(self) -> list[Stored]:
        drained: list[Stored] = []
        with contextlib.suppress(queue.Empty):
            while not self._over and len(drained) <= _DRAIN - _READ:
                batch = self._tail.fetched.get_nowait()
                self._over = batch is None
                drained += batch or []
        return drained

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
