"""A stream as a sink: a record for each row, each at least once, and the state of its pipelines in DynamoDB."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from dataflows.connectors.contract import Method, Owner, Place, PublishOrder, WriterOrder
from dataflows.connectors.kinesis.client import Kinesis
from dataflows.connectors.kinesis.shards import described
from dataflows.connectors.kinesis.state import KinesisState
from dataflows.connectors.kinesis.writer import CHANCE_BYTES, KinesisSink, Records
from dataflows.connectors.message_rows import (
    Encoder,
    Most,
    SentRows,
    check_columns,
    check_format,
    record_writer,
    schema_text,
    written,
)
from dataflows.connectors.publication import publishing
from dataflows.connectors.writing import SplitWriter
from dataflows.data.tables import Column, Table
from penstock.errors import MissingTable, Refused
from penstock.failpoints import failpoint

__all__ = ["KinesisTarget"]

MOST: Final = Most(1 << 20, 2 * CHANCE_BYTES, "leave a column out: Kinesis takes no more")
"""With the key that a row without one gets, which counts."""


@dataclass(slots=True)
class KinesisTarget(SentRows):
    """A stream, which has to be there."""

    place: Place
    owner: Owner
    state: KinesisState
    form = None

    @classmethod
    def open(cls, place: Place, owner: Owner) -> KinesisTarget:
        """Open the stream; does not connect yet.

        Raises:
            Refused: records cannot be written so.
        """
        where, sink = f"{place.where}: stream {place.object}", f"{place.pipeline}: spec.sink"
        if owner.write.write != "append" or owner.reloads:
            what = (
                "a stream cannot be loaded again" if owner.reloads else f"no stream is written by `{owner.write.write}`"
            )
            raise Refused(what, where=f"{sink}.write", hint="write: append, the only way in which streams change")
        check_format(place.format, f"{sink}.format")
        return cls(place, owner, KinesisState(place, owner.uid, owner.source, where))

    @property
    def where(self) -> str:
        """Location that errors of this stream name."""
        return self.state.where

    def describe(self) -> Table | None:
        """Return its columns as the first run has stored them; None before it.

        Raises:
            MissingTable: there is no such stream: how many shards it needs is its owner's to say.
        """
        with closing(Kinesis(self.place)) as client:
            described(client)
        columns = self.state.columns()
        return None if columns is None else Table(self.place.object, "stream", tuple(Column(**one) for one in columns))

    def check(self, table: Table | None, columns: tuple[Column, ...]) -> Method | None:
        check_columns(self.place, self.owner.write, table.columns if table is not None else columns, self.where)
        return None

    def make(self, columns: tuple[Column, ...]) -> None:
        """Store the columns; the stream is there."""
        if self.state.columns() is None:
            self.state.store_columns([asdict(Column(one.name, one.type, one.nullable)) for one in columns])

    def add_columns(self, columns: tuple[Column, ...]) -> None:
        self.state.add_columns(columns)

    def create_statements(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the schema of the records, for `plan`; none for JSON."""
        return schema_text(self.place, columns)

    def writer(self, order: WriterOrder) -> SplitWriter:
        write = self.owner.write
        values = record_writer(self.place, written(write, order.columns), self.where)
        records = Records(Encoder(write.key, MOST, self.where, values))
        state = partial(KinesisState, self.place, self.owner.uid, self.owner.source, self.where, order.check)
        return SplitWriter(order, self.where, partial(KinesisSink.open, self.place, state, order, records))

    def publish(self, order: PublishOrder) -> dict[str, Any]:
        with publishing(self.state, order, self.where) as outcome:
            pass
        failpoint("publish.done")
        return outcome.result

    def drop(self, *, table: bool) -> None:
        self.state.drop()
        if table:
            with closing(Kinesis(self.place)) as client:
                try:
                    client.call("delete_stream", {"StreamName": self.place.object})
                except MissingTable:
                    return

    def close(self) -> None:
        self.state.close()
