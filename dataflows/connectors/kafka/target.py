"""A topic as a sink: a message for each row, and the state of its pipelines in a topic of its own.

Readers see the rows of a split once its transaction is committed, if they read with `isolation.level=read_committed`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from shlex import quote
from typing import Any, Final

from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.cimpl import NewTopic

from dataflows.connectors.contract import Method, Owner, Place, PublishOrder, WriterOrder
from dataflows.connectors.kafka.client import SECONDS, admin, found_topic, missing_rights, settings_of, translated
from dataflows.connectors.kafka.ledger import STATE_TOPIC, create_topic
from dataflows.connectors.kafka.registry import Registry
from dataflows.connectors.kafka.state import KafkaState
from dataflows.connectors.kafka.writer import KafkaSink
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
from penstock.errors import Refused
from penstock.failpoints import failpoint
from penstock.models.formats import AvroFormat

__all__ = ["KafkaTarget"]

DEFAULT_MOST: Final = 1_048_588
"""Kafka's own limit of a message, in bytes."""
CLIENT_MOST: Final = 1_000_000_000
"""The client's own limit."""
OVERHEAD: Final = 100
"""Bytes of a message in addition to its key and value, in a batch of its own."""
_LARGER: Final = "set the topic's `max.message.bytes`, or leave a column out"


@dataclass(slots=True)
class KafkaTarget(SentRows):
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
        if owner.write.write not in {"append", "merge"} or owner.reloads:
            what = (
                "a topic cannot be loaded again" if owner.reloads else f"no topic is written by `{owner.write.write}`"
            )
            raise Refused(what, where=f"{sink}.write", hint="write: append; or merge, which replaces by `key`")
        check_format(place.format, f"{sink}.format")
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
        check_columns(self.place, self.owner.write, table.columns if table is not None else columns, self.where)
        if self.keeps_last and self._settings().get("cleanup.policy", "compact") != "compact":
            what = "its cleanup.policy is not compact: of rows that do not change, nothing would be left some day"
            hint = f"kafka-configs --alter --topic {self.place.object} --add-config cleanup.policy=compact"
            raise Refused(what, where=self.where, hint=f"{hint}; or write: append")
        return None

    @property
    def keeps_last(self) -> bool:
        return self.owner.write.write == "merge"

    def _settings(self) -> dict[str, str]:
        return settings_of(self._client, self.place.object)

    @staticmethod
    def _compacted(settings: Mapping[str, str]) -> bool:
        """True if the topic is known to keep the last message of each key, at least for a while: each needs one."""
        return "compact" in settings.get("cleanup.policy", "").split(",")

    @property
    def applies_changes(self) -> bool:
        return self.keeps_last

    def fill(self, column: Column, value: str | None) -> None:
        """Add a column that is NULL in all rows so far; messages cannot be changed.

        Raises:
            Refused: the rows have another value.
        """
        if value is not None:
            what = f"all rows have a value in `{column.name}`, which is new, and the messages so far lack it"
            hint = f"`penstock run {quote(self.place.pipeline)} --from earliest --reset` sends all rows again"
            raise Refused(what, where=self.where, hint=hint)
        if column.name not in {one["name"] for one in self.state.columns() or []}:
            self.state.add_columns((column,))

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
        config = {"cleanup.policy": "compact"} if self.keeps_last else {}
        create_topic(self._client, NewTopic(self.place.object, -1, -1, config=config), self.where)
        if self.state.columns() is None:
            self.state.store_columns([asdict(Column(one.name, one.type, one.nullable)) for one in columns])

    def add_columns(self, columns: tuple[Column, ...]) -> None:
        self.state.add_columns(columns)

    def writer(self, order: WriterOrder) -> SplitWriter:
        settings, write = self._settings(), self.owner.write
        most = min(int(settings.get("max.message.bytes", DEFAULT_MOST)), CLIENT_MOST)
        keyed = self.keeps_last or self._compacted(settings)
        records = record_writer(self.place, written(write, order.columns), self.where, self._registered())
        encode = Encoder(write.key, Most(most, OVERHEAD, _LARGER), self.where, records, keyed, write.delete)
        state = partial(KafkaState, self.place, self.owner.uid, self.owner.source, self.where, order.check)
        return SplitWriter(order, self.where, partial(KafkaSink.open, self.place, state, order, encode))

    def _registered(self) -> Callable[[dict[str, Any]], bytes] | None:
        """Return what registers a schema, and returns what its messages begin with; None without a registry.

        The registry may not take the schema, which it refuses by name.
        """
        form = self.place.format
        if not isinstance(form, AvroFormat) or (registry := Registry.of(self.place)) is None:
            return None
        from dataflows.connectors.formats.avro_writer import framed_by

        subject = form.subject or f"{self.place.object}-value"
        return lambda schema: framed_by(registry.register(subject, json.dumps(schema)))

    def create_statements(self, columns: tuple[Column, ...], key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the schema of the messages, for `plan`; none for JSON."""
        return schema_text(self.place, written(self.owner.write, columns))

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


def _spelled(right: AclOperation) -> str:
    return "".join(part.capitalize() for part in right.name.split("_"))
