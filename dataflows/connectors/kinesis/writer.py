"""Write the splits of one slot as records: the rows first, then the mark or the positions."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from dataflows.connectors.contract import Place, WriterOrder
from dataflows.connectors.isolation import Attempt, RowRefused
from dataflows.connectors.kinesis.client import Kinesis
from dataflows.connectors.kinesis.outbox import Outbox, Outgoing
from dataflows.connectors.kinesis.state import KinesisState
from dataflows.connectors.message_rows import Encoder
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters

__all__ = ["CHANCE_BYTES", "KinesisSink", "Records"]

CHANCE_BYTES: Final = 8
"""Random bytes of the key of a row without one; it is written with two digits for each."""
MOST_KEY: Final = 256
"""Characters of a partition key."""


@dataclass(frozen=True, slots=True)
class Records:
    """Encodes batches as records; rows without a key get one by chance, so that they are spread."""

    encode: Encoder

    def __call__(self, batch: pa.RecordBatch) -> list[Outgoing]:
        """Return a record for each row.

        Raises:
            RowRefused: a row that no record can be.
        """
        return [
            Outgoing(secrets.token_hex(CHANCE_BYTES), value or b"", ordered=False)
            if key is None
            else Outgoing(self._checked(key), value or b"", ordered=True)
            for key, value in self.encode(batch)
        ]

    def _checked(self, key: bytes) -> str:
        text = key.decode()
        if not 1 <= len(text) <= MOST_KEY:
            what = f"a partition key of {len(text)} characters: Kinesis takes 1 to {MOST_KEY}"
            raise RowRefused(what, where=self.encode.where, hint="choose another `key`", state="partition_key")
        return text


@dataclass(slots=True)
class KinesisSink:
    """Session of one slot."""

    state: KinesisState
    order: WriterOrder
    records: Records
    outbox: Outbox
    _rows: int = field(default=0, init=False)

    @classmethod
    @contextmanager
    def open(
        cls, place: Place, state: Callable[[], KinesisState], order: WriterOrder, records: Records
    ) -> Iterator[KinesisSink]:
        """Open the session.

        Raises:
            Fenced: a newer run took over.
        """
        with closing(state()) as kept, closing(Kinesis(place)) as client:
            kept.refresh()
            kept.check_generation(order.generation)
            yield cls(kept, order, records, Outbox(client, order.check, lambda: kept.fence(order.generation)))

    def begin(self, split: int, data: Any, /) -> None:
        self.outbox.drop()
        self._rows = 0

    def put(self, data: Any) -> None:
        self.order.check()
        records = self.records(data)
        for one in records:
            self.outbox.add(one)
        self._rows += len(records)

    def idle(self) -> None:
        """Do nothing: there is no session that could be lost."""

    def commit(self, split: OpenSplit) -> Counters:
        order = self.order
        self.outbox.flush()
        split.reached("copied")
        counted = split.counted(self._rows)
        changes = self.state.step(order.run, order.slot, split.number, counted, split.moves)
        split.reached("before_fence")
        self.state.save(changes, order.generation)
        split.reached("sent")
        self.state.apply(changes)
        return counted

    @contextmanager
    def trial(self) -> Iterator[Attempt]:
        """Encode without sending: what a record may be is known before."""

        def attempt(batch: pa.RecordBatch) -> RowRefused | None:
            try:
                self.records(batch)
            except RowRefused as error:
                return error
            return None

        yield attempt
