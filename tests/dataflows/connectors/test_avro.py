"""Messages of Avro: each type exactly or refused by name, poison that spoils no other, and schemas that change."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.formats.avro_schema import AvroSchema
from dataflows.connectors.formats.avro_writer import AvroWriter, cannot_be_avro, record_schema
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.formats.decoding import decoder_of
from dataflows.connectors.formats.message_contract import About, MessageFormat
from dataflows.connectors.formats.message_formats import message_format
from dataflows.connectors.formats.messages import topic_columns
from dataflows.connectors.kafka import registry as registry_module
from dataflows.connectors.kafka.registry import Registry
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import AccessDenied, PenstockError, Refused, SchemaMismatch, Unavailable, Unreachable
from penstock.models.connection import KafkaConnection
from penstock.models.formats import AvroFormat
from tests.dataflows.connectors.registry import FakeRegistry, registry


def record(*fields: Any, name: str = "r", **more: Any) -> dict[str, Any]:
    """Return the schema of a record; a field is a name and a type, and perhaps a default."""
    keys = ("name", "type", "default")
    return {"type": "record", "name": name, "fields": [dict(zip(keys, one, strict=False)) for one in fields], **more}


def written(schema: Any, value: dict[str, Any], frame: int | None = None) -> bytes:
    """Return a message as the library writes it by itself, with logical types."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(json.dumps(schema))), value)
    return (b"" if frame is None else b"\0" + frame.to_bytes(4, "big")) + stream.getvalue()


def place(url: str | None = None, **more: Any) -> Place:
    settings: dict[str, Any] = {"type": "kafka", "bootstrap": "none"}
    if url is not None:
        settings["registry"] = {"url": url, **more}
    return Place("orders", "bus", KafkaConnection.parse(settings), "events", secrets=more.get("secrets"))


def made(
    schema: Any = None, *, at: Place | None = None, said: Callable[[str], None] = lambda _: None, **form: Any
) -> MessageFormat:
    """Return a format of messages with a schema, or of framed ones."""
    parsed = AvroFormat.parse({"type": "avro", **({} if schema is None else {"schema": schema}), **form})
    where = at or place()
    about = About("orders: spec.source.format", "topic events", said, lambda: ["events"], lambda: Registry.of(where))
    return message_format(parsed, about)


def read(form: MessageFormat, values: Sequence[bytes | None], columns: Sequence[Column] | None = None) -> Rows:
    """Decode messages, the offset of each its place, to all columns, or to these."""
    sent = [Message(topic="events", partition=3, offset=at, value=value) for at, value in enumerate(values)]
    known = topic_columns(tuple(columns) if columns is not None else form.columns(lambda: sent)[0])
    wanted = [one for one in known if not one.hidden and one.unreadable is None]
    schema = pa.schema([(one.name, arrow_type(parse_type(one.type))) for one in wanted])
    order = ReadOrder(Table("events", "topic", known), [one.name for one in wanted], None, schema, 1000, lambda: None)
    return decoder_of(order, form, "here")(sent)


def reasons(rows: Rows) -> list[tuple[int, str, str]]:
    return [(one.values["_offset"], one.code, one.reason.partition(": ")[2]) for one in rows.refused]


def logical(base: str, kind: str, /, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": kind, **more}


INNER = record(
    ("x", "float"), ("y", ["null", logical("bytes", "decimal", precision=40, scale=2)]), ("z", "bytes"),
    ("at", logical("long", "timestamp-millis")), ("day", logical("int", "date")), name="inner",
)  # fmt: skip
EVERY = record(
    ("boolean", "boolean"), ("int", "int"), ("long", "long"), ("float", "float"), ("double", "double"),
    ("bytes", "bytes"), ("string", "string"), ("fixed", {"type": "fixed", "name": "f3", "size": 3}),
    ("enum", {"type": "enum", "name": "colour", "symbols": ["RED", "BLUE"]}),
    ("decimal", logical("bytes", "decimal", precision=10, scale=3)),
    ("fixed_decimal", logical("fixed", "decimal", name="f8", size=8, precision=18, scale=2)),
    ("wide_decimal", logical("bytes", "decimal", precision=60, scale=20)),
    ("uuid", logical("string", "uuid")), ("date", logical("int", "date")),
    ("time_millis", logical("int", "time-millis")), ("time_micros", logical("long", "time-micros")),
    ("millis", logical("long", "timestamp-millis")), ("micros", logical("long", "timestamp-micros")),
    ("local_millis", logical("long", "local-timestamp-millis")),
    ("local_micros", logical("long", "local-timestamp-micros")), ("odd", logical("long", "unheard-of")),
    ("maybe", ["null", "string"]), ("last_null", ["int", "null"]), ("inner", INNER),
    ("list", {"type": "array", "items": ["null", "inner"]}), ("map", {"type": "map", "values": "long"}),
)  # fmt: skip
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
INNER_VALUE = {
    "x": 0.1,
    "y": Decimal("-12345678901234567890123456789012345678.90"),
    "z": b"\0\xff",
    "at": AT,
    "day": AT,
}
EVERY_VALUE = {
    "boolean": True, "int": -(2**31), "long": 2**63 - 1, "float": 0.5, "double": -1e300, "bytes": b"\0\x80",
    "string": "grüße", "fixed": b"abc", "enum": "BLUE", "decimal": Decimal("-1234567.891"),
    "fixed_decimal": Decimal("-0.01"), "wide_decimal": Decimal("9" * 40 + "." + "1" * 20),
    "uuid": uuid.UUID(int=7), "date": date(1, 1, 1), "time_millis": time(23, 59, 59, 999000),
    "time_micros": time(0, 0, 0, 1), "millis": AT, "micros": AT + timedelta(microseconds=1),
    "local_millis": AT.replace(tzinfo=None), "local_micros": datetime(9999, 12, 31, 23, 59, 59, 999999),
    "odd": 5, "maybe": None, "last_null": 3, "inner": INNER_VALUE, "list": [None, INNER_VALUE], "map": {"a": 2**60},
}  # fmt: skip


def test_each_type_of_another_producer_is_read_exactly() -> None:
    rows = read(made(EVERY), [written(EVERY, EVERY_VALUE)])
    assert rows.refused == ()
    (row,) = rows.batch.to_pylist()
    inner = (
        '{"x":0.1,"y":-12345678901234567890123456789012345678.90,"z":"\\\\x00ff",'
        '"at":"2026-01-02T03:04:05.678000+00:00","day":"2026-01-02"}'
    )
    expected = EVERY_VALUE | {
        "wide_decimal": "9" * 40 + "." + "1" * 20, "uuid": str(uuid.UUID(int=7)),
        "inner": inner, "list": f"[null,{inner}]", "map": '{"a":1152921504606846976}',
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    types = {one.name: one.type for one in made(EVERY).columns(list)[0]}
    assert types["decimal"] == "numeric(10,3)"
    assert types["wide_decimal"] == "numeric(60,20)"
    assert types["local_micros"] == "timestamp without time zone"
    assert types["enum"] == "text"
    assert types["inner"] == types["list"] == types["map"] == "json"


TYPES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(width=32, allow_nan=False),
    "double precision": st.floats(allow_nan=False),
    "numeric(12,3)": st.decimals(-(10**8), 10**8, places=3),
    "numeric(38,38)": st.decimals(0, 0, places=38),
    "numeric(38,0)": st.integers(-(10**38) + 1, 10**38 - 1).map(Decimal),
    "numeric": st.sampled_from(["NaN", "1e400", "0.1"]),
    "numeric(60,20)": st.just("9" * 40 + ".5"),
    "text": st.text(),
    "character varying(40)": st.text(max_size=40),
    "bpchar": st.text(),
    "json": st.sampled_from(['{"a": 1}', "[]"]),
    "jsonb": st.sampled_from(['{"a": 1}', "[]"]),
    "uuid": st.uuids().map(str),
    "interval": st.just("1 day"),
    "integer[]": st.just("{1,NULL}"),
    "bytea": st.binary(),
    "date": st.dates(),
    "time without time zone": st.times(),
    "timestamp without time zone": st.datetimes(),
    "timestamp with time zone": st.datetimes(timezones=st.just(UTC)),
}
COLUMNS = [Column(f"c{at}", kind) for at, kind in enumerate(TYPES)]
ROWS = st.lists(
    st.fixed_dictionaries({f"c{at}": st.none() | some for at, some in enumerate(TYPES.values())}), max_size=4
)


@given(ROWS)
def test_what_the_sink_writes_the_source_reads_in_every_type(rows: list[dict[str, Any]]) -> None:
    schema = record_schema("orders-1", COLUMNS)
    batch = pa.RecordBatch.from_pylist(
        rows, pa.schema([(one.name, arrow_type(parse_type(one.type))) for one in COLUMNS])
    )
    form = made(schema)
    found = read(form, AvroWriter(schema, "here")(batch))
    assert found.refused == ()
    assert found.batch.equals(batch)
    assert [(one.name, one.type) for one in form.columns(list)[0]] == [(one.name, one.type) for one in COLUMNS]


def test_what_avro_cannot_have_is_named_before_anything_is_written() -> None:
    assert cannot_be_avro(Column("order id", "text")) == (
        "`order id` is no name of a field in Avro, which has letters, digits and _ only"
    )
    assert cannot_be_avro(Column("a", "hstore")) == "`a` of type hstore cannot be written as Avro"
    assert cannot_be_avro(Column("a", "bytea")) is None


TWO = record(("id", "int"), ("kind", {"type": "enum", "name": "e", "symbols": ["A", "B"]}), ("on", "boolean"))
POISON = [
    b"", b"\x02", b"\x02\x00", b"\x02\x06\x01", b"\x02\x01\x01", b"\x02\x00\x07", b"\x02\x00\x01\x00",
    b"\xff\xff\xff\xff\xff\x7f\x00\x01", b"\x82\x00\x00\x01", b'{"id": 1}',
]  # fmt: skip


def test_poison_is_set_aside_and_costs_no_other_message() -> None:
    good = written(TWO, {"id": 1, "kind": "B", "on": True})
    rows = read(made(TWO), [good, *POISON, good])
    assert rows.batch.to_pylist() == [{"id": 1, "kind": "B", "on": True}] * 2
    assert [at for at, _, _ in reasons(rows)] == list(range(1, len(POISON) + 1))
    assert {code for _, code, _ in reasons(rows)} == {"malformed", "not_of_type"}
    assert reasons(rows)[6][2] == "it has 1 bytes more than a record of the schema"


@given(st.binary(max_size=24))
def test_any_bytes_are_one_record_or_refused(data: bytes) -> None:
    schema = record(("a", ["null", "string"]), ("b", {"type": "array", "items": "long"}), ("c", "double"))
    rows = read(made(schema), [data, written(schema, {"a": "x", "b": [1], "c": 0.5})])
    assert rows.batch.num_rows + len(rows.refused) == 2
    assert rows.batch.num_rows >= 1


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        (logical("bytes", "decimal", precision=4, scale=2), b"\x06\x01\x86\xa0", "has more than 4 digits"),
        (logical("int", "date"), b"\xfe\xff\xff\xff\x0f", "is none of the years 1 to 9999"),
        (logical("long", "timestamp-micros"), b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", "is none of the years"),
        (logical("long", "timestamp-nanos"), b"\x02", "has nanoseconds, which no column keeps"),
        (logical("int", "time-millis"), b"\x01", "is no time of a day"),
        (logical("string", "uuid"), b"\x02x", "is not a UUID"),
        ({"type": "array", "items": "double"}, b"\x02\0\0\0\0\0\0\xf8\x7f\0", "is NaN or infinity, which JSON cannot"),
    ],
)
def test_a_value_that_no_column_keeps_is_a_dead_letter(kind: Any, value: bytes, why: str) -> None:
    rows = read(made(record(("a", kind))), [value])
    assert rows.batch.num_rows == 0
    assert reasons(rows)[0][:2] == (0, "not_of_type")
    assert why in reasons(rows)[0][2]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (["int", "string"], "`a` is a union of int and string, which no column keeps exactly"),
        (logical("fixed", "duration", name="d", size=12), "`a` is a duration, which no column keeps exactly"),
        (record(("b", ["null", "int", "string"]), name="s"), "`a` has a field `b`, which is a union of int and string"),
    ],
)
def test_a_type_that_no_column_keeps_is_named_only_if_it_is_read(kind: Any, why: str) -> None:
    (id_, odd), _ = made(record(("id", "int"), ("a", kind))).columns(list)
    assert (id_.name, id_.unreadable) == ("id", None)
    assert odd.unreadable is not None
    assert why in odd.unreadable


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"type": "enum", "name": "e", "symbols": ["A"]}, "the schema is not the schema of a record"),
        (record(("a", "nothing")), "the schema is no schema of Avro: nothing"),
        (record(("a", None)), "the schema is no schema of Avro"),
        (record(("a", {"type": "array", "items": "null"})), "has an array whose items have no bytes"),
    ],
)
def test_a_schema_that_is_none_is_refused_by_name(schema: Any, what: str) -> None:
    with pytest.raises(SchemaMismatch, match=what) as refused:
        made(schema)
    assert str(refused.value).startswith("orders: spec.source.format.schema: ")


def test_a_schema_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.avsc").write_text(json.dumps(TWO))
    good = written(TWO, {"id": 1, "kind": "A", "on": False})
    assert read(made(str(tmp_path / "a.avsc")), [good]).batch["id"].to_pylist() == [1]
    with pytest.raises(Refused, match="cannot be read: No such file"):
        made(str(tmp_path / "b.avsc"))
    with pytest.raises(Refused, match="messages with a `schema` have no `subject`"):
        made(TWO, subject="a")
    with pytest.raises(Refused, match="there is no registry"):
        made()


def test_a_record_may_contain_itself() -> None:
    tree = record(("id", "int"), ("left", ["null", "tree"]), name="tree")
    rows = read(made(tree), [written(tree, {"id": 1, "left": {"id": 2, "left": None}})])
    assert rows.batch.to_pylist() == [{"id": 1, "left": '{"id":2,"left":null}'}]


# -- with a registry --


@pytest.fixture
def schemas(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.setattr(registry_module, "PAUSE_SECONDS", 0.01)
    with registry() as one:
        yield one


FIRST = record(("id", "int"), ("name", "string"))


def test_framed_messages_are_read_by_the_schema_that_each_names(schemas: FakeRegistry) -> None:
    old = schemas.add("events-value", FIRST)
    new = schemas.add("events-value", record(("id", "long"), ("name", ["null", "string"]), ("size", "int", 7)))
    said: list[str] = []
    form = made(at=place(schemas.url), said=said.append)
    first, second = FIRST, json.loads(schemas.schemas[new]["schema"])
    sent = [
        written(first, {"id": 1, "name": "a"}, old), written(second, {"id": 2**40, "name": None, "size": 1}, new),
        written(first, {"id": 3, "name": "c"}, old), written(first, {"id": 4, "name": "d"}, 99), b"\x01\0\0\0\1", b"{}",
    ]  # fmt: skip
    rows = read(form, sent)
    assert rows.batch.to_pylist() == [
        {"id": 1, "name": "a", "size": 7}, {"id": 2**40, "name": None, "size": 1}, {"id": 3, "name": "c", "size": 7},
    ]  # fmt: skip
    frame = "it does not begin with a byte 0 and the id of a schema"
    assert reasons(rows) == [
        (3, "unknown_schema", "the registry has no schema 99"), (4, "malformed", frame), (5, "malformed", frame),
    ]  # fmt: skip
    asked = list(schemas.asked)
    read(form, sent)
    assert schemas.asked == asked, "each schema is asked for once"
    assert asked.count(f"GET /schemas/ids/{old}") == 1
    assert said == []


def test_a_schema_that_grows_interrupts_nothing(schemas: FakeRegistry) -> None:
    old = schemas.add("events-value", FIRST)
    said: list[str] = []
    form = made(at=place(schemas.url), said=said.append)
    columns, _ = form.columns(list)
    grown = record(("extra", ["null", "int"], None), ("id", "int"), ("name", "string"))
    changed = record(("id", "string"), ("name", "string"))
    new, wrong = schemas.add("events-value", grown), schemas.add("other-value", changed)
    sent = [
        written(FIRST, {"id": 1, "name": "a"}, old), written(grown, {"extra": 5, "id": 2, "name": "b"}, new),
        written(changed, {"id": "3", "name": "c"}, wrong), written(grown, {"extra": 5, "id": 4, "name": "d"}, new),
    ]  # fmt: skip
    rows = read(form, sent, columns)
    assert rows.batch.to_pydict() == {"id": [1, 2, 4], "name": ["a", "b", "d"]}
    assert reasons(rows) == [
        (2, "not_of_type", f"`id` of schema {wrong} is text, which a column of integer does not keep")
    ]
    assert [one.partition(":")[0] for one in said] == [f"field `extra` of schema {new} is no column yet"]


def test_columns_come_from_the_newest_messages_if_there_is_no_subject(schemas: FakeRegistry) -> None:
    number = schemas.add("com.example.Order", FIRST)
    sent = [written(FIRST, {"id": 1, "name": "a"}, number), b"junk"]
    assert read(made(at=place(schemas.url)), sent).batch.num_rows == 1
    assert read(made(at=place(schemas.url), subject="com.example.Order"), sent).batch.num_rows == 1
    with pytest.raises(SchemaMismatch, match="the registry has no such subject"):
        read(made(at=place(schemas.url), subject="com.example.Orders"), sent)
    with pytest.raises(SchemaMismatch, match="no message begins with the id of a schema"):
        read(made(at=place(schemas.url)), [b"junk"])


def test_an_id_that_a_follower_does_not_know_yet_is_asked_for_again(schemas: FakeRegistry) -> None:
    number = schemas.add("events-value", FIRST)
    form = made(at=place(schemas.url), subject="events-value")
    schemas.late = 2
    session = Registry.of(place(schemas.url))
    assert session is not None
    assert isinstance(session.by_id(number), AvroSchema)
    assert read(form, [written(FIRST, {"id": 1, "name": "a"}, number)]).batch.num_rows == 1


def test_other_schemas_and_references(schemas: FakeRegistry) -> None:
    proto = schemas.add("proto-value", 'syntax = "proto3";', schemaType="PROTOBUF")
    inner = record(("x", "int"), name="inner", namespace="com.example")
    schemas.add("inner", inner)
    outer = record(("id", "int"), ("in", "com.example.inner"), name="outer")
    number = schemas.add("events-value", outer, references=[{"name": "inner", "subject": "inner", "version": 1}])
    lost = schemas.add("lost", record(("a", "gone")), references=[{"name": "gone", "subject": "gone", "version": 1}])
    whole = record(("id", "int"), ("in", inner), name="outer")
    sent = [
        written(whole, {"id": 1, "in": {"x": 2}}, number),
        b"\0" + proto.to_bytes(4, "big"),
        lost.to_bytes(5, "big"),
    ]
    rows = read(made(at=place(schemas.url)), sent)
    assert rows.batch.to_pylist() == [{"id": 1, "in": '{"x":2}'}]
    assert reasons(rows) == [
        (1, "unknown_schema", f"schema {proto} is one of PROTOBUF, not of Avro"),
        (2, "unknown_schema", "it refers to gone, version 1, which is missing"),
    ]


@pytest.mark.parametrize(
    ("status", "error", "transient"),
    [(500, Unavailable, True), (503, Unavailable, True), (302, Unavailable, True), (401, AccessDenied, False)],
)
def test_a_registry_that_is_out_of_order_loses_no_message(
    schemas: FakeRegistry, status: int, error: type[PenstockError], transient: bool
) -> None:
    number = schemas.add("events-value", FIRST)
    form = made(at=place(schemas.url))
    columns, _ = form.columns(list)
    known, new = written(FIRST, {"id": 1, "name": "a"}, number), written(FIRST, {"id": 1, "name": "a"}, number + 1)
    schemas.status = status
    assert read(form, [known], columns).batch.num_rows == 1, "what is known needs no registry"
    with pytest.raises(error, match=str(status)) as raised:
        read(form, [known, new], columns)
    assert raised.value.transient is transient


def test_a_registry_that_is_away_and_one_with_a_login(schemas: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    schemas.add("events-value", FIRST)
    schemas.login = "app:s3cret"
    monkeypatch.setenv("PENSTOCK_SECRET_REGISTRY", "s3cret")
    at = place(schemas.url, username="app", password="${env:PENSTOCK_SECRET_REGISTRY}")
    assert len(made(at=at).columns(list)[0]) == 2
    with pytest.raises(AccessDenied, match="401: Unauthorized") as denied:
        made(at=place(schemas.url, username="other")).columns(list)
    assert "s3cret" not in str(denied.value)
    with pytest.raises(Unreachable, match="the schema registry does not answer") as away:
        made(at=place("http://127.0.0.1:9")).columns(list)
    assert away.value.transient


def test_a_schema_that_the_registry_does_not_take_is_refused(schemas: FakeRegistry) -> None:
    session = Registry.of(place(schemas.url))
    assert session is not None
    first = session.register("refuse-value", json.dumps(record_schema("a", [Column("id", "bigint")])))
    assert isinstance(session.by_id(first), AvroSchema)
    with pytest.raises(Refused, match="409: incompatible with an earlier schema"):
        session.register("refuse-value", json.dumps(record_schema("a", [Column("id", "text")])))
