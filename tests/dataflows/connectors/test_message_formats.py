"""Formats of messages besides JSON: what each value becomes, and that one that cannot be read spoils no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors.contract import ReadOrder
from dataflows.connectors.formats.contract import Rows, format_of
from dataflows.connectors.formats.decoding import decoder_of
from dataflows.connectors.formats.message_contract import About, MessageFormat
from dataflows.connectors.formats.message_formats import message_format
from dataflows.connectors.formats.messages import topic_columns
from dataflows.data.tables import Table
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import Refused
from penstock.models.formats import CsvFormat, JsonlFormat, ParquetFormat, RawFormat

TWO = CsvFormat(type="csv", columns={"id": "bigint", "name": "text"})


def made(form: Any) -> MessageFormat:
    return message_format(form, About("orders: spec.source.format", "topic events", lambda _: None))


def read(form: MessageFormat, values: Sequence[bytes | None], *hidden: str, keys: Mapping[int, bytes] = {}) -> Rows:
    """Decode messages, the offset of each its place, with all columns and some hidden ones."""
    sent = [
        Message(topic="events", partition=3, offset=at, key=keys.get(at), value=value)
        for at, value in enumerate(values)
    ]
    columns = topic_columns(form.columns(lambda: sent)[0])
    wanted = [one for one in columns if not one.hidden or one.name in hidden]
    schema = pa.schema([(one.name, arrow_type(parse_type(one.type))) for one in wanted])
    order = ReadOrder(Table("events", "topic", columns), [one.name for one in wanted], None, schema, 1000, lambda: None)
    return decoder_of(order, form, "here")(sent)


def reasons(rows: Rows) -> list[tuple[int, str, str]]:
    return [(one.values["_offset"], one.code, one.reason.partition(": ")[2]) for one in rows.refused]


def test_raw_values_are_one_column_of_text_or_bytes() -> None:
    values = [b"plain", "grüße".encode(), b"", b"\xff\x00", None]
    as_text = read(made(RawFormat(type="raw")), values, "_offset", "_deleted")
    assert as_text.batch.to_pydict() == {
        "value": ["plain", "grüße", "", None], "_offset": [0, 1, 2, 4], "_deleted": [False, False, False, True],
    }  # fmt: skip
    assert reasons(as_text) == [(3, "not_text", "it is not text in UTF-8: read it as bytes")]
    assert as_text.refused[0].values["_raw"] == "\\xff00"
    as_bytes = read(made(RawFormat.parse({"type": "raw", "as": "bytes", "column": "body"})), values)
    assert as_bytes.batch["body"].to_pylist() == values[:4]
    assert reasons(as_bytes) == [(4, "tombstone", "the message has no value")]
    assert read(made(RawFormat.parse({"type": "raw", "column": "_key"})), [b"x"], keys={0: b"y"}).batch.to_pydict() == {
        "_key": ["x"]
    }


def test_a_record_of_csv_that_cannot_be_read_spoils_no_other() -> None:
    values = [
        b"1,a", b'2,"b', b'3,c"', b"x,d", b"5", b"6,f,g", b"7,h\n8,i", b"", b'9,"j\nk"\r\n', b'10,"l"m', b"11,\xff",
        b'12,"n ""o"""', b"\xef\xbb\xbf13,p\n", None, b'14,"quoted, comma"', b"15,", b'16,""',
    ]  # fmt: skip
    rows = read(made(TWO), values, "_offset", "_deleted")
    assert rows.batch.select(["id", "name", "_offset"]).to_pylist() == [
        {"id": 1, "name": "a", "_offset": 0}, {"id": 3, "name": 'c"', "_offset": 2},
        {"id": 9, "name": "j\nk", "_offset": 8}, {"id": 12, "name": 'n "o"', "_offset": 11},
        {"id": 13, "name": "p", "_offset": 12}, {"id": None, "name": None, "_offset": 13},
        {"id": 14, "name": "quoted, comma", "_offset": 14}, {"id": 15, "name": None, "_offset": 15},
        {"id": 16, "name": "", "_offset": 16},
    ]  # fmt: skip
    assert rows.batch["_deleted"].to_pylist() == [one == 5 for one in range(9)]
    assert reasons(rows) == [
        (1, "malformed", "a quote is not closed"), (3, "not_of_type", "`id` is not of type bigint"),
        (4, "malformed", "it has 1 values instead of 2"), (5, "malformed", "it has 3 values instead of 2"),
        (6, "malformed", "it has 2 records instead of one"), (7, "malformed", "it is empty"),
        (9, "malformed", "there is text after a closing quote"), (10, "malformed", "it is not in utf-8"),
    ]  # fmt: skip
    assert [one.values["_raw"] for one in rows.refused][:2] == ['2,"b', "x,d"]


def test_csv_has_the_settings_of_files() -> None:
    form = CsvFormat(
        type="csv", columns={"id": "bigint", "name": "text"}, delimiter=";", escape="\\", null_values=("", "-"),
        encoding="utf-16",
    )  # fmt: skip
    values = ["1;a", '2;"b\\"c"', "3;-", "4;ü"]
    rows = read(made(form), [one.encode("utf-16") for one in values])
    assert rows.batch.to_pydict() == {"id": [1, 2, 3, 4], "name": ["a", 'b"c', None, "ü"]}
    assert rows.refused == ()


@given(st.lists(st.text(st.sampled_from('1,a"\n\r\\ '), max_size=8), max_size=12))
def test_each_csv_message_is_read_as_if_it_were_alone(texts: list[str]) -> None:
    values = [one.encode() for one in texts]
    together = read(made(TWO), values, "_offset")
    alone = [read(made(TWO), [one]) for one in values]
    assert together.batch.drop_columns(["_offset"]).to_pylist() == [
        row for one in alone for row in one.batch.to_pylist()
    ]
    assert together.batch["_offset"].to_pylist() == [at for at, one in enumerate(alone) if one.batch.num_rows]
    assert [why for _, *why in reasons(together)] == [list(why) for one in alone for _, *why in reasons(one)]
    assert together.batch.num_rows + len(together.refused) == len(values)


@pytest.mark.parametrize(
    ("form", "what"),
    [
        (CsvFormat(type="csv"), "messages of CSV do not name their columns"),
        (CsvFormat(type="csv", header=True, columns={"id": "bigint"}), "messages have no header"),
        (JsonlFormat(type="jsonl", compression="gzip"), "messages have no `compression` of their own"),
        (ParquetFormat(type="parquet"), "messages cannot be read as parquet"),
    ],
)
def test_settings_that_messages_do_not_have_are_refused(form: Any, what: str) -> None:
    with pytest.raises(Refused, match=what):
        made(form)


def test_files_cannot_be_raw() -> None:
    with pytest.raises(Refused, match="only messages of topics can be read as raw"):
        format_of("a.txt", RawFormat(type="raw"), "here")
