"""A topic as a sink: a message for each row, and the state of its pipelines in a topic of its own.

Readers see the rows of a split once its transaction is committed, if they read with `isolation.level=read_committed`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.cimpl import NewTopic

from dataflows.connectors.contract import Method, Owner, Place, PublishOrder, WriterOrder
from dataflows.connectors.kafka.client import SECONDS, admin, found_topic, missing_rights, settings_of, translated
from dataflows.connectors.kafka.ledger import STATE_TOPIC, create_topic
from dataflows.connectors.kafka.rows import Encoder
from dataflows.connectors.kafka.state import KafkaState
from dataflows.connectors.kafka.writer import KafkaSink
from dataflows.connectors.publication import publishing
from dataflows.connectors.writing import SplitWriter
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import Refused, SchemaMismatch
from penstock.failpoints import failpoint
from penstock.models.formats import AvroFormat, Format, JsonlFormat

__all__ = ["KafkaTarget"]

DEFAULT_MOST: Final = 1_048_588
"""Kafka's own limit of a message, in bytes."""
CLIENT_MOST: Final = 1_000_000_000
"""The client's own limit."""


@dataclass(slots=True)
class KafkaTarget:
    """A topic."""

    place: Place
    owner: Owner
    state: KafkaState
    form = None
    _admin: Any = None

    @classmethod
    def open(cls, place: Place, owner: Owner) -> KafkaTarget:
        """Open the topic; does not connect yet.

        Raises:
            Refused: messages cannot be written so.
        """
        where = f"{place.where}: topic {place.object}"
        sink = f"{place.pipeline}: spec.sink"
        if owner.write.write != "append" or owner.reloads:
            what = (
                "a topic cannot be loaded again" if owner.reloads else f"no topic is written by `{owner.write.write}`"
            )
            raise Refused(what, where=f"{sink}.write", hint="write: append, the only way in which topics change")
        _check_format(place.format, f"{sink}.format")
        if place.object == STATE_TOPIC:
            raise Refused("pipelines keep their state there", where=f"{sink}.object", hint="name another topic")
        return cls(place, owner, KafkaState(place, owner.uid, owner.source, where))

    @property
    def where(self) -> str:
        """Location that errors of this topic name."""
        return self.state.where

    @property
    def _client(self) -> Any:
        self._admin = self._admin or admin(self.place)
        return self._admin

    def describe(self) -> Table | None:
        with translated(self.where, self.place.object):
            if found_topic(self._client, self.place.object) is None:
                return None
        columns = self.state.columns()
        if columns is None:
            return None
        return Table(self.place.object, "topic", tuple(Column(**one) for one in columns))

    def check(self, table: Table | None, columns: tuple[Column, ...]) -> Method | None:
        there = table.columns if table is not None else columns
        if isinstance(self.place.format, AvroFormat):
            self._check_avro(there)
        for one in there if self.place.format is None or isinstance(self.place.format, JsonlFormat) else ():
            kind = arrow_type(parse_type(one.type))
            if kind is None or pa.types.is_binary(kind) or pa.types.is_nested(kind):
                what = f"`{one.name}` of type {one.type} cannot be written as JSON"
                raise SchemaMismatch(what, where=self.where, hint="convert it to text, or leave it out")
        missing = [name for name in self.owner.write.key if name not in {one.name for one in there}]
        if missing:
            what, where = f"there is no column `{missing[0]}`", f"{self.place.pipeline}: spec.sink.key"
            raise SchemaMismatch(what, where=where, hint="name a column of the rows")
        return None

    def missing_grants(self, *, grows: bool) -> list[tuple[str, str]]:
        """Return what this user may not do with the topic, or with that of the state, and what allows it.

        Without a topic's settings, a row that is too large for it would fail the run again and again.
        """
        both = (AclOperation.DESCRIBE_CONFIGS, AclOperation.WRITE)
        needed = {self.place.object: both, STATE_TOPIC: (*both, AclOperation.READ)}
        user = self.place.settings.security.username or "ANONYMOUS"
        return [
            (
                f"the brokers do not let {user} {right.name.lower().replace('_', ' ')} topic {topic}",
                f"kafka-acls --add --allow-principal User:{user} --topic {topic} --operation {_spelled(right)}",
            )
            for topic, rights in needed.items()
            for right in missing_rights(self._client, topic, rights, self.where)
        ]

    def make(self, columns: tuple[Column, ...]) -> None:
        """Create the topic if it is missing, with as many partitions and replicas as the brokers give by default."""
        create_topic(self._client, NewTopic(self.place.object, -1, -1), self.where)
        if self.state.columns() is None:
            self.state.store_columns([asdict(Column(one.name, one.type, one.nullable)) for one in columns])

    def add_columns(self, columns: tuple[Column, ...]) -> None:
        known = self.state.columns() or []
        names = {one["name"] for one in known}
        new = [asdict(Column(one.name, one.type)) for one in columns if one.name not in names]
        self.state.store_columns([*known, *new])

    def create_load_table(self, run: str, generation: int) -> str:
        failpoint("prepare.shadow_made")
        return self.load_table(run)

    def load_table(self, run: str) -> str:
        return self.place.object

    def can_go_on(self, run: str) -> bool:
        return True

    def abandon(self, run: str) -> None:
        """Do nothing: messages stay."""

    def finishing(self, columns: tuple[Column, ...]) -> Callable[[pa.RecordBatch], pa.RecordBatch] | None:
        return None

    def writer(self, order: WriterOrder) -> SplitWriter:
        most = int(settings_of(self._client, self.place.object).get("max.message.bytes", DEFAULT_MOST))
        most = min(most, CLIENT_MOST)
        encode = Encoder(self.owner.write.key, most, self.where, self._records(order.columns))
        state = partial(KafkaState, self.place, self.owner.uid, self.owner.source, self.where, order.check)
        return SplitWriter(order, self.where, partial(KafkaSink.open, self.place, state, order, encode))

    def _check_avro(self, columns: Sequence[Column]) -> None:
        """Refuse columns that Avro cannot have, and keys that are no text.

        Raises:
            SchemaMismatch: by name.
        """
        from dataflows.connectors.formats.avro_writer import cannot_be_avro

        for one in columns:
            why = cannot_be_avro(one)
            if why is None and one.name in self.owner.write.key and parse_type(one.type).name == "bytea":
                why = f"`{one.name}` of type bytea cannot be part of the key, which is text"
            if why is not None:
                raise SchemaMismatch(why, where=self.where, hint="rename or convert it, or leave it out")

    def _records(self, columns: Sequence[Column]) -> Callable[[pa.RecordBatch], Sequence[bytes]] | None:
        """Return the writer of records of Avro, their schema registered if there is a registry; None for JSON.

        Raises:
            Refused: the registry does not take the schema.
        """
        form = self.place.format
        if not isinstance(form, AvroFormat):
            return None
        from dataflows.connectors.formats.avro_writer import AvroWriter, framed_by, record_schema
        from dataflows.connectors.kafka.registry import Registry

        schema = record_schema(self.place.object, columns)
        registry = Registry.of(self.place)
        if registry is None:
            return AvroWriter(schema, self.where)
        number = registry.register(form.subject or f"{self.place.object}-value", json.dumps(schema))
        return AvroWriter(schema, self.where, framed_by(number))

    def create_statements(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the schema of the messages, for `plan`; none for JSON."""
        if not isinstance(self.place.format, AvroFormat):
            return ()
        from dataflows.connectors.formats.avro_writer import record_schema

        return (json.dumps(record_schema(self.place.object, columns)),)

    def publish(self, order: PublishOrder) -> dict[str, Any]:
        with publishing(self.state, order, self.where) as outcome:
            pass
        failpoint("publish.done")
        return outcome.result

    def drop(self, *, table: bool) -> None:
        self.state.drop()
        if table:
            with translated(self.where, self.place.object):
                if found_topic(self._client, self.place.object) is not None:
                    self._client.delete_topics([self.place.object])[self.place.object].result(SECONDS)

    def close(self) -> None:
        self.state.close()
        self._admin = None


def _check_format(form: Format | None, where: str) -> None:
    """Refuse formats in which messages are not written.

    Raises:
        Refused: by name.
    """
    if isinstance(form, AvroFormat) and form.schema_ is not None:
        what = "a sink makes the schema of its columns"
        raise Refused(what, where=f"{where}.schema", hint="leave it out; `penstock plan` prints it")
    if form is not None and not isinstance(form, AvroFormat | JsonlFormat):
        what = f"messages cannot be written as {form.type}"
        raise Refused(what, where=where, hint="write type: avro or jsonl, or leave it out")


def _spelled(right: AclOperation) -> str:
    return "".join(part.capitalize() for part in right.name.split("_"))
