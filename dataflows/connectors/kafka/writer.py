"""Write the splits of one slot as messages: the rows and the mark or the positions in one transaction each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import Place, WriterOrder
from dataflows.connectors.isolation import Attempt, RowRefused
from dataflows.connectors.kafka.client import QUEUED_KILOBYTES
from dataflows.connectors.kafka.live import live_keys
from dataflows.connectors.kafka.state import KafkaState
from dataflows.connectors.kafka.transactions import Transactions, transactional_id
from dataflows.connectors.message_rows import EMPTIED, Encoder
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters

__all__ = ["KafkaSink"]

BATCH_BYTES: Final = 1_000_000
"""Bytes of messages that are sent at once."""


@dataclass(slots=True)
class KafkaSink:
    """Session of one slot."""

    topic: str
    state: KafkaState
    order: WriterOrder
    encode: Encoder
    transactions: Transactions
    _rows: int = field(default=0, init=False)

    @classmethod
    @contextmanager
    def open(
        cls, place: Place, state: Callable[[], KafkaState], order: WriterOrder, encode: Encoder
    ) -> Iterator[KafkaSink]:
        """Take over the slot's transactional id, and look after it whether the generation is still the latest.

        Raises:
            Fenced: a newer run took over.
        """
        with closing(state()) as kept:
            kept.read()
            kept.check_generation(order.generation)  # so that a late writer seldom ends the transactions of the newest
            name = transactional_id(kept.uid, order.slot)
            sizes = {
                "message.max.bytes": max(encode.most.bytes, BATCH_BYTES),
                "batch.size": min(encode.most.bytes, BATCH_BYTES),
                "queue.buffering.max.kbytes": max(
                    QUEUED_KILOBYTES, 2 * encode.most.bytes // 1024
                ),  # else none would fit
            }
            with closing(Transactions.begun(place, name, kept.where, order.check, **sizes)) as transactions:
                kept.read()
                kept.check_generation(order.generation)
                kept.check_there()
                yield cls(place.object, kept, order, encode, transactions)

    def begin(self, split: int, data: Any, /) -> None:
        self._rows = 0

    def put(self, data: Any) -> None:
        self.order.check()
        messages = self.encode(data)
        with self.state.fenced_by(self.order.generation):
            for message in messages:
                if message == EMPTIED and self.encode.keyed:
                    self._empty()
                else:
                    key, value = message
                    self.transactions.send(self.topic, value, key)
            self.transactions.poll()
        self._rows += len(messages)

    def _empty(self) -> None:
        """Delete all rows that the topic has, by a message without a value for each key."""
        for key in live_keys(self.state.place, self.order.check):
            self.transactions.send(self.topic, None, key)

    def idle(self) -> None:
        with self.state.fenced_by(self.order.generation):
            self.transactions.poll()

    def commit(self, split: OpenSplit) -> Counters:
        order, state = self.order, self.state
        state.check_there()
        with state.fenced_by(order.generation):
            self.transactions.flush()
            split.reached("copied")
            counted = split.counted(self._rows)
            changes = state.step(order.run, order.slot, split.number, counted, split.moves)
            split.reached("before_fence")
            state.send(self.transactions, changes)
            self.transactions.commit()
        split.reached("sent")
        state.apply(changes)
        return counted

    @contextmanager
    def trial(self) -> Iterator[Attempt]:
        """Encode without sending: what a message may be is known before."""

        def attempt(batch: pa.RecordBatch) -> RowRefused | None:
            try:
                self.encode(batch)
            except RowRefused as error:
                return error
            return None

        yield attempt
