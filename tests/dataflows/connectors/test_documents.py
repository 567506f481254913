"""The fields of JSON documents."""

from __future__ import annotations

import json

from dataflows.connectors.formats.documents import parts_of, well_seen
from penstock.models.domain import Field


def test_fields_of_documents_are_inferred_from_some_of_them() -> None:
    documents = [
        {"id": 1, "at": 1.5, "to": {"city": "x", "zip": None}, "lines": [{"sku": "a"}, {"sku": "b", "n": 2}]},
        {"id": 2, "at": 2, "ok": True, "mixed": 1},
        {"mixed": "x"},
    ]
    texts = [json.dumps(one) for one in documents]
    assert parts_of([*texts, None, "{", "[1, 2]", '"text"']) == (
        Field(name="at", type="double precision"),
        Field(name="id", type="bigint"),
        Field(name="lines", type="json", fields=(Field(name="n", type="bigint"), Field(name="sku", type="text"))),
        Field(name="mixed", type="json"),
        Field(name="ok", type="boolean"),
        Field(name="to", type="json", fields=(Field(name="city", type="text"), Field(name="zip", type="text"))),
    )


def test_what_has_no_fields_has_none_and_neither_has_a_map_or_an_abyss() -> None:
    assert parts_of(["1", "[]", "{}", None]) is None
    assert parts_of([json.dumps({f"key {number}": 1}) for number in range(101)]) is None
    deep = json.loads('{"a":' * 40 + "1" + "}" * 40)
    levels, found = 0, parts_of([json.dumps(deep)])
    while found:
        levels, found = levels + 1, found[0].fields
    assert levels == 5
    assert parts_of([json.dumps({"": 1, "x" * 129: 2})]) is None


def test_a_place_is_well_seen_in_a_thousand_documents() -> None:
    texts = [
        json.dumps({"to": {"city": "x"}, "lines": [{"n": 1}, {"n": 2}]} if n % 2 else {"a": 1}) for n in range(1000)
    ]
    assert sorted(well_seen([*texts, None, "{"])) == [(), ("lines",)]
    assert well_seen(texts[:999]) == ()
    assert well_seen([*texts, json.dumps({f"key {number}": 1 for number in range(100)})]) == (), "it is a map"
