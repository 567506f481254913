"""Messages of Avro as a format: the columns of a given schema, or of those that a registry has for the topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dataflows.connectors.formats.avro_schema import AvroField, AvroSchema
from dataflows.connectors.formats.avro_values import AvroValues, frame_of
from dataflows.connectors.formats.message_contract import About, Subjects
from dataflows.connectors.formats.messages import Message
from dataflows.data.tables import Column
from dataflows.data.types import fits, parse_type
from penstock.errors import Refused, SchemaMismatch
from penstock.models.formats import AvroFormat

__all__ = ["AvroMessages", "avro_messages"]


def avro_messages(form: AvroFormat, about: About) -> AvroMessages:
    """Return messages with the schema that is given, or framed ones.

    Raises:
        Refused: there is neither a schema nor a registry.
        SchemaMismatch: the schema is none.
    """
    given = _given(form, about.setting)
    registry = about.registry() if given is None else None
    if given is None and registry is None:
        hint = "write `registry: {url: …}` to the connection, or give the `schema` of messages that are not framed"
        raise Refused("there is no registry that has the messages' schemas", where=about.setting, hint=hint)
    return AvroMessages(about, given, registry, form.subject)


def _given(form: AvroFormat, setting: str) -> AvroSchema | None:
    where = f"{setting}.schema"
    if form.schema_ is None:
        return None
    if form.subject is not None:
        hint = "leave one of both out"
        raise Refused("messages with a `schema` have no `subject` in a registry", where=where, hint=hint)
    if not isinstance(form.schema_, str):
        return _parsed(form.schema_, where)
    try:
        return _parsed(Path(form.schema_).read_text(), where)
    except (OSError, UnicodeDecodeError) as error:
        what = f"the schema's file cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}"
        hint = "name a file that the process which runs can read"
        raise Refused(what, where=where, value=form.schema_, hint=hint) from None


def _parsed(text: str | Mapping[str, object], where: str) -> AvroSchema:
    try:
        return AvroSchema.parse(text, "the schema")
    except SchemaMismatch as error:
        raise SchemaMismatch(error.what, where=where, hint=error.hint) from None


@dataclass
class AvroMessages:
    """Records of the schema `given`, or framed ones; `subject` is that of the columns, if not those of the topics."""

    about: About
    given: AvroSchema | None
    registry: Subjects | None
    subject: str | None

    @cached_property
    def _latest(self) -> list[AvroSchema]:
        """The newest schemas of the subjects that exist."""
        if self.given is not None:
            return [self.given]
        assert self.registry is not None  # noqa: S101 - one of both is given
        subjects = [self.subject] if self.subject else [f"{name}-value" for name in self.about.names()]
        found = [self.registry.latest(one) for one in subjects]
        if self.subject and found == [None]:
            hint = "write the name of one, or leave `subject` out"
            raise SchemaMismatch(
                "the registry has no such subject", where=self.about.where, value=self.subject, hint=hint
            )
        return [one for one in found if one is not None]

    def columns(self, sample: Callable[[], Sequence[Message]]) -> tuple[tuple[Column, ...], str | None]:
        """Return the columns of the newest schemas; without any, those of the schemas of the newest messages."""
        return self._union(self._latest or self._of_messages(sample())), None

    def values(self, wanted: Mapping[str, Column], columns: Sequence[Column]) -> AvroValues:
        """Return a reader of the `wanted` columns."""
        known = frozenset(one.name for one in columns if not one.hidden)
        reader: dict[str, AvroField] = {name: one for schema in self._latest for name, one in schema.fields.items()}
        return AvroValues(wanted, known, reader, self.about.noticed, self.given, self.registry)

    def _of_messages(self, messages: Iterable[Message]) -> list[AvroSchema]:
        assert self.registry is not None  # noqa: S101 - a given schema is the newest
        framed = (number for one in messages if (number := frame_of(one.value() or b"")) is not None)
        found = [self.registry.by_id(number) for number in dict.fromkeys(framed)]
        if not (schemas := [one for one in found if not isinstance(one, str)]):
            why = next((one for one in found if isinstance(one, str)), "no message begins with the id of a schema")
            hint = (
                "name the `subject` of their schema in `format`, or give the `schema` of messages that are not framed"
            )
            raise SchemaMismatch(
                f"there is no schema to take the columns from: {why}", where=self.about.where, hint=hint
            )
        return schemas

    def _union(self, schemas: Sequence[AvroSchema]) -> tuple[Column, ...]:
        """Return the columns of all schemas, each of a type that keeps the values of each."""
        found: dict[str, Column] = {}
        for one in (one.column for schema in schemas for one in schema.fields.values()):
            other = found.get(one.name, one)
            first, second = parse_type(other.type), parse_type(one.type)
            if not (fits(first, second) or fits(second, first)):
                what = f"`{one.name}` is {other.type} in one schema and {one.type} in another"
                raise SchemaMismatch(
                    what, where=self.about.where, hint="name one `subject` in `format`, or read them apart"
                )
            found[one.name] = one if fits(first, second) else other
        return tuple(found.values())
