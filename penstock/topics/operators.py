"""The Bytewax source and sink over any topic log.

Bytewax asks a partition for its next batch on the one thread that also runs the logic, so nothing here may block: a
daemon thread reads ahead, and again when the flow has taken what was read. So what comes while the flow is busy comes
together: with one small batch a turn, each decision of a flow under load would cost an fsync of its own.

Positions never come from Bytewax's recovery (`snapshot` is None): the caller gives them, from wherever they were kept
together with what was made of the messages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from penstock.clock import now
from penstock.topics.log import Message, Stored, TopicLog
from penstock.topics.partitioner import partition_of
from penstock.topics.table import Topic

__all__ = ["TopicSink", "TopicSource", "Wakeup"]

_READ: Final = 2000
_OWN: Final = 64
"""Appends of its own that a process holds for those of its sources that are not so far yet."""
_SLICE: Final = 0.1
"""Seconds after which a tail looks who wants what."""

HOT: Final = 2.0
"""Seconds after the last message in which a source without a `Wakeup` is looked at each millisecond."""
IDLE: Final = 0.1
"""Seconds that a flow which shares a `Wakeup` sleeps at most, when none of its topics has anything."""
BUSY: Final = 0.02
"""Seconds after something came in for which such a flow does not sleep: what came is still on its way through it."""
NAP: Final = 0.005
"""Seconds of the first sleep, which each further one doubles: what is in the flow even so waits no longer than that."""
AWAKE_HOT: Final = timedelta(milliseconds=1)
AWAKE_IDLE: Final = timedelta(milliseconds=50)


class Wakeup:
    """Shared by all topic sources of one flow: one tail for each partition of the log, and sleep when there is nothing.

    Bytewax's own loop turns once a millisecond whatever its sources say, and that alone costs about 3 % of a core. A
    source that has nothing may instead wait here, on the flow's thread: what comes in for any of them ends the wait.
    Only for flows whose sources are all of these and read one log, and whose timers may be late by `IDLE`.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._naps = 0
        self._busy = 0.0
        self._error: BaseException | None = None
        self._tails: dict[tuple[str, int], _Tail] = {}

    def tail(self, topic: Topic, part: int, make: Callable[[], _Tail]) -> _Tail:
        """The tail that all of the flow's sources of one partition share."""
        place = (topic.name, part)
        if place not in self._tails or self._tails[place].over:
            self._tails[place] = make()
        return self._tails[place]

    def fail(self, error: BaseException) -> None:
        """End the flow with the error of a thread that works for it."""
        self._error = error
        self.touch()

    def check(self) -> None:
        """Raise that error, if there is one."""
        if self._error is not None:
            raise self._error

    def touch(self, *, haste: bool = True) -> None:
        """Something came in; with `haste` the flow does not sleep before that has gone through it."""
        self._naps = 0
        if haste:
            self._busy = time.monotonic() + BUSY
        self._event.set()

    def append(self, log: TopicLog, topic: Topic, part: int, messages: Sequence[Message]) -> None:
        """Append; what follows the partition in this process has them at once, without a look at the log."""
        tail = self._tails.get((topic.name, part))
        if tail is None or tail.over:
            log.append(topic, messages, partition=part)
        else:
            tail.append(log, messages)

    def rest(self) -> None:
        """A source has nothing: wait for something to come in, `IDLE` at most, unless the flow is busy."""
        if time.monotonic() > self._busy:
            self._event.wait(min(IDLE, NAP * 2 ** min(self._naps, 10)))
            self._event.clear()
            self._naps += 1


class TopicSource(FixedPartitionedSource[Stored, None]):
    """Follow a topic: items are `Stored`, in order within a partition, each partition one of Bytewax's.

    `open_log` gives each partition a log of its own, closed at the end. `start` is the first offset wanted, one for
    all partitions or one for each. The flow ends at what was the end when it began with `stop_at_end`, else once
    `stop` is set; what was fetched but not yet handed on is then let go. An error of the log ends the flow: it is the
    `__cause__` of the error that Bytewax raises. With `linger` the tail waits so many seconds after each batch: for
    flows to which fewer and larger batches matter more than haste, where no other source shares the tail.
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


class _Slot:
    """What one source has yet to take, and where it reads on. The tail fills it when some source has taken what it had:
    so what comes while the flow is busy comes together, and batches are as large as the load asks for.
    """

    def __init__(self, at: int, linger: float, *, to_end: bool) -> None:
        self.at, self.linger, self.to_end = at, linger, to_end
        self.upto: int | None = None
        self.batch: list[Stored] = []

    @property
    def over(self) -> bool:
        """Whether nothing more is wanted."""
        return self.upto is not None and self.at >= self.upto

    def put(self, batch: list[Stored]) -> None:
        """Add what follows."""
        if self.upto is not None:
            batch = [one for one in batch if one.offset < self.upto]
        self.batch += batch
        self.at = self.batch[-1].offset + 1


class _Tail(threading.Thread):
    """Reads one partition for the sources that follow it. Those that are equally far share each read, and what it gave.

    It begins with the first that follows, and ends when the last has left.
    """

    def __init__(self, open_log: Callable[[], TopicLog], topic: Topic, part: int, wakeup: Wakeup | None) -> None:
        super().__init__(name=f"tail-{topic.name}-{part}", daemon=True)
        self.over = False
        self.error: BaseException | None = None
        self._open_log, self._topic, self._part, self._wakeup = open_log, topic, part, wakeup
        self._changed = threading.Condition()
        self._slots: list[_Slot] = []
        self._own: dict[int, list[Stored]] = {}
        self._appending = False

    def follow(self, at: int, linger: float, *, to_end: bool) -> _Slot:
        """A slot that is filled from offset `at` on."""
        slot = _Slot(at, linger, to_end=to_end)
        with self._changed:
            self._slots.append(slot)
            self._changed.notify()
        if self.ident is None:
            self.start()
        return slot

    def leave(self, slot: _Slot) -> None:
        """Nobody takes from `slot` any more."""
        with self._changed:
            if slot in self._slots:
                self._slots.remove(slot)
            self.over = not self._slots
            self._changed.notify()

    def take(self, slot: _Slot) -> list[Stored]:
        """What is in `slot`, [] if nothing is."""
        if not slot.batch:
            return []
        with self._changed:
            batch, slot.batch = slot.batch, []
            self._changed.notify()
        return batch

    def append(self, log: TopicLog, messages: Sequence[Message]) -> None:
        """Append to what is read here, and hand it on, now that it is durable. Nothing is read meanwhile.

        Those who are not so far yet read what is before, and then get it too.
        """
        self._appending = True
        try:
            ((_, first), *_) = log.append(self._topic, messages, partition=self._part)
            own = [Stored(self._topic, self._part, at, message) for at, message in enumerate(messages, first)]
            with self._changed:
                self._own[first] = own
                if len(self._own) > _OWN:
                    del self._own[min(self._own)]
                self._put(first, own)
        finally:
            with self._changed:
                self._appending = False
                self._changed.notify()
        if self._wakeup:
            self._wakeup.touch()

    def run(self) -> None:
        try:
            with self._open_log() as log:
                while not self.over:
                    self._turn(log)
        except BaseException as error:  # noqa: BLE001 - handed to the flow's thread, which raises it
            self.error = error
            if self._wakeup:
                self._wakeup.touch()

    def _turn(self, log: TopicLog) -> None:
        hungry = self._hungry()
        for slot in hungry:
            if slot.to_end and slot.upto is None:
                slot.upto = log.end(self._topic, self._part)
        places = sorted({slot.at for slot in hungry if not slot.over})
        found = [at for at in places if self._fill(log, at)]
        if found:
            linger = min(slot.linger for slot in self._slots or hungry)
            if self._wakeup:
                self._wakeup.touch(haste=not linger)
            time.sleep(linger)
        elif places:
            log.wait(self._topic, self._part, places[-1], _SLICE)

    def _hungry(self) -> list[_Slot]:
        """Who wants more; waits a moment where nobody does."""
        with self._changed:
            self._changed.wait_for(lambda: self.over or self._wanted(), _SLICE)
            return self._wanted()

    def _wanted(self) -> list[_Slot]:
        return [] if self._appending else [slot for slot in self._slots if not slot.batch and not slot.over]

    def _fill(self, log: TopicLog, at: int) -> bool:
        """Give what follows `at` to all who are there; whether there was something."""
        batch = self._own.get(at, [])
        if not batch and log.wait(self._topic, self._part, at, 0):
            batch = log.read(self._topic, self._part, at, _READ)
        with self._changed:
            self._put(at, batch)
        return bool(batch)

    def _put(self, at: int, batch: list[Stored]) -> None:
        """Give `batch` to all who are there and have not very much yet."""
        for slot in self._slots if batch else ():
            if slot.at == at and len(slot.batch) < _READ:
                slot.put(batch)
        earliest = min((slot.at for slot in self._slots), default=0)
        for first in [first for first in self._own if first < earliest]:
            del self._own[first]


class _Followed(StatefulSourcePartition[Stored, None]):
    def __init__(self, source: TopicSource, tail: _Tail, slot: _Slot) -> None:
        self._tail, self._slot, self._stop, self._wakeup = tail, slot, source.stop, source.wakeup
        self._last = time.monotonic()
        self._awake: datetime | None = None

    def next_batch(self) -> list[Stored]:
        """Everything fetched, some 1000 messages at most; never waits, but for a `Wakeup` that all sources share."""
        if self._wakeup:
            self._wakeup.check()
        if self._stop.is_set():
            raise StopIteration
        over = self._slot.over
        fetched = self._tail.take(self._slot)
        if over and not fetched:
            raise StopIteration
        if not fetched and self._wakeup:
            self._wakeup.rest()
            fetched = self._tail.take(self._slot)
        if fetched:
            self._last = time.monotonic()
        self._awake = None if fetched else self._later()
        return fetched

    def _later(self) -> datetime:
        """When to look again, now that nothing was there; raises what ended the tail."""
        if self._tail.error is not None:
            raise self._tail.error
        return now() + (AWAKE_HOT if self._wakeup or time.monotonic() - self._last < HOT else AWAKE_IDLE)

    def next_awake(self) -> datetime | None:
        """When to look again; asked by Bytewax after each `next_batch` only."""
        return self._awake

    def snapshot(self) -> None:
        """Nothing: positions are not Bytewax's business here."""

    def close(self) -> None:
        """Let the tail end, unless others follow it."""
        self._tail.leave(self._slot)


class TopicSink(FixedPartitionedSink[Sequence[Message], None]):
    """Append to a topic. An item is (key, messages), and its messages are ONE append, to the key's partition.

    All items that come together are one append too, in their order, so that what was decided in one turn costs one
    fsync. `open_log` gives each partition the log that it appends to, closed at the flow's end. With `wakeup`, the
    flow's own sources have what was appended at once.
    """

    def __init__(self, open_log: Callable[[], TopicLog], topic: Topic, wakeup: Wakeup | None = None) -> None:
        self._open_log, self._topic, self._wakeup = open_log, topic, wakeup or Wakeup()

    def list_parts(self) -> list[str]:
        """As the source's, so that Bytewax keeps partition and slot together."""
        return _names(self._topic)

    def part_fn(self, item_key: str) -> int:
        """The key's partition, as the log itself would choose it."""
        return partition_of(item_key.encode(), self._topic.partitions)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Appended:
        """Open the log for one partition."""
        return _Appended(self._open_log(), self._topic, int(for_part), self._wakeup)


class _Appended(StatefulSinkPartition[Sequence[Message], None]):
    def __init__(self, log: TopicLog, topic: Topic, part: int, wakeup: Wakeup) -> None:
        self._log, self._topic, self._part, self._wakeup = log, topic, part, wakeup

    def write_batch(self, values: list[Sequence[Message]]) -> None:
        """One append for all of them."""
        messages = [message for item in values for message in item]
        if messages:
            self._wakeup.append(self._log, self._topic, self._part, messages)

    def snapshot(self) -> None:
        """Nothing, as in the source."""

    def close(self) -> None:
        """Close the log; nothing is appended here, for this is called after an error too."""
        self._log.close()


def _names(topic: Topic) -> list[str]:
    return [f"{part:04d}" for part in range(topic.partitions)]
