"""Formats of messages: the columns that a topic has in each, and the readers of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dataflows.connectors.formats.contract import declared_columns
from dataflows.connectors.formats.csv_values import CsvValues
from dataflows.connectors.formats.json_values import JsonValues, sampled_columns
from dataflows.connectors.formats.message_contract import About, Columns, MessageFormat, Values
from dataflows.connectors.formats.messages import SAMPLE_MESSAGES, Message
from dataflows.connectors.formats.raw_values import RawValues
from dataflows.data.tables import Column
from penstock.errors import Refused
from penstock.models.formats import AvroFormat, CsvFormat, Format, JsonlFormat, RawFormat

__all__ = ["message_format"]


def message_format(form: Format | None, about: About) -> MessageFormat:
    """Return the format of the messages of topics.

    Raises:
        Refused: messages cannot be read so.
    """
    where = about.setting
    if isinstance(form, CsvFormat | JsonlFormat) and form.compression not in {None, "none"}:
        hint = "leave it out: what brokers and clients compress is decompressed by itself"
        raise Refused("messages have no `compression` of their own", where=where, hint=hint)
    match form:
        case None:
            return _Json((), about)
        case JsonlFormat():
            return _Json(declared_columns(form.columns, about.where), about)
        case RawFormat():
            return _Raw(form)
        case CsvFormat():
            return _Csv.of(form, where)
        case AvroFormat():
            from dataflows.connectors.formats.avro_messages import avro_messages

            return avro_messages(form, about)
    raise Refused(f"messages cannot be read as {form.type}", where=where, hint="write type: jsonl, csv, avro or raw")


@dataclass(frozen=True, slots=True)
class _Json:
    """One JSON object each."""

    declared: tuple[Column, ...]
    about: About

    def columns(self, sample: Callable[[], Sequence[Message]]) -> Columns:
        if self.declared:
            return self.declared, None
        types_from = f"types inferred from the newest {SAMPLE_MESSAGES} messages at most"
        return sampled_columns(sample(), self.about.where), types_from

    def values(self, wanted: Mapping[str, Column], columns: Sequence[Column]) -> Values:
        known = None if self.declared else [one for one in columns if not one.hidden]
        return JsonValues(wanted, columns, known, self.about.noticed)


@dataclass(frozen=True, slots=True)
class _Raw:
    """The whole value as one column."""

    form: RawFormat

    def columns(self, sample: Callable[[], Sequence[Message]]) -> Columns:
        return (Column(self.form.column, "bytea" if self.form.as_ == "bytes" else "text"),), None

    def values(self, wanted: Mapping[str, Column], columns: Sequence[Column]) -> Values:
        return RawValues(self.form, {*wanted} >= {self.form.column})


@dataclass(frozen=True, slots=True)
class _Csv:
    """One record of CSV each, without a header."""

    form: CsvFormat
    declared: tuple[Column, ...]

    @classmethod
    def of(cls, form: CsvFormat, where: str) -> _Csv:
        if form.header and "header" in form.model_fields_set:
            raise Refused("messages have no header", where=where, hint="leave `header` out")
        if not form.columns:
            hint = "name them in order: `format: {type: csv, columns: {id: bigint, name: text}}`"
            raise Refused("messages of CSV do not name their columns", where=where, hint=hint)
        return cls(form, declared_columns(form.columns, where))

    def columns(self, sample: Callable[[], Sequence[Message]]) -> Columns:
        return self.declared, None

    def values(self, wanted: Mapping[str, Column], columns: Sequence[Column]) -> Values:
        return CsvValues(self.form, self.declared, wanted)
