"""Rows of dead letters are made again exactly as the source sent them, or stay and say why."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from catalog.redrives import Sent
from dataflows.connectors.contract import ReadOrder
from dataflows.data.display import json_of, rows_of
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from dataflows.runs.letter_source import Fix, Restored, restored
from dataflows.transforms.steps import Resources
from penstock.errors import MissingColumn, SchemaMismatch
from penstock.models.letters import LetterFix

VALUES: dict[str, list[Any]] = {
    "bigint": [9007199254740993, -(2**63), None], "smallint": [-7, 0, None], "boolean": [True, False, None],
    "double precision": [0.1, 1e300, None], "numeric(38,9)": [Decimal("12345678901234567890123456789.123456789"), None],
    "numeric": ["1e400", "0.10", None], "text": ['ä\n\t\\"', "", "null", "7", None], "bytea": [b"\x00\xff", b"", None],
    "date": [date(2024, 2, 29), date(1, 1, 1), None], "time": [time(23, 59, 59, 999999), None],
    "timestamp": [datetime(2024, 2, 29, 1, 2, 3, 456789), None],
    "timestamp with time zone": [datetime(2024, 2, 29, 1, 2, 3, 456789, UTC), None],
    "jsonb": ['{"a": [1.10, null]}', None], "uuid": ["123e4567-e89b-12d3-a456-426614174000", None],
}  # fmt: skip


def order_of(**columns: str) -> ReadOrder:
    table = Table("items", "r", tuple(Column(name, kind) for name, kind in columns.items()))
    schema = pa.schema([pa.field(name, arrow_type(parse_type(kind))) for name, kind in columns.items()])
    return ReadOrder(table, list(columns), None, schema, 1000, lambda: None)


def sent(*rows: dict[str, Any]) -> list[Sent]:
    return [Sent("low", "check", "check `low` failed", row) for row in rows]


def fixed(order: ReadOrder, rows: list[Sent], where: str | None = None, **values: str) -> Restored:
    return restored(rows, order, Fix.of(LetterFix(set=values, where=where), order, Resources()))


@pytest.mark.parametrize("kind", VALUES)
def test_values_of_each_type_come_back_exactly(kind: str) -> None:
    order = order_of(a=kind)
    assert order.schema is not None
    batch = pa.RecordBatch.from_arrays([pa.array(VALUES[kind], order.schema.field("a").type)], schema=order.schema)
    found = restored(sent(*(json.loads(json_of(row)) for row in rows_of(batch))), order, None)
    assert (found.batch, found.stays) == (batch, {})


def test_a_value_that_is_not_known_keeps_its_letter_unless_it_is_set() -> None:
    order = order_of(id="integer", name="text")
    rows = sent(
        {"id": 1, "name": "***"},
        {"id": "x", "name": "b"},
        {"name": "c"},
        {"id": 4, "name": "a␀b"},
        {"id": 5, "name": "ok"},
    )
    found = restored(rows, order, None)
    assert {row: why for row, (_, _, why) in found.stays.items()} == {
        0: "the letter shows `name` masked: set it",
        1: "`id` is no integer: set it",
        2: "the letter has no value of `id`: set it",
        3: "`name` contains a character with code 0, shown as ␀: set it",
    }
    assert fixed(order, rows, name="replace(name, '␀', '')").stays.keys() == {1, 2}
    assert fixed(order, rows, id="7").stays.keys() == {0, 3}
    both = fixed(order, rows, id="coalesce(id, 7)", name="coalesce(name, 'none')")
    assert both.stays == {}
    assert both.batch.to_pydict() == {"id": [1, 7, 7, 4, 5], "name": ["none", "b", "c", "a␀b", "ok"]}


def test_a_fix_is_for_the_rows_where_its_condition_is_true_and_others_are_left() -> None:
    order = order_of(id="integer", price="numeric(12,2)")
    rows = sent(*({"id": id_, "price": f"{id_}.50"} for id_ in range(4)), {"id": None, "price": "1.00"})
    found = fixed(order, rows, "id > 1", price="CAST(price * 2 AS numeric(12,2))")
    assert found.left == {0, 1, 4}
    assert found.stays[0] == ("low", "check", "check `low` failed")
    assert found.batch.column("price").to_pylist()[2:4] == [Decimal("5.00"), Decimal("7.00")]
    found = fixed(order, rows, id="CAST(6 / id AS integer)")
    assert {row: step for row, (step, _, _) in found.stays.items()} == {0: "fix"}
    assert found.batch.column("id").to_pylist()[1:4] == [6, 3, 2]


def test_a_fix_that_does_not_fit_is_refused_by_name() -> None:
    order, rows = order_of(id="integer", name="text"), sent({"id": 1, "name": "a"})
    with pytest.raises(MissingColumn, match="did you mean `name`"):
        fixed(order, rows, nam="'b'")
    with pytest.raises(SchemaMismatch, match="id"):
        fixed(order, rows, id="'b'")
