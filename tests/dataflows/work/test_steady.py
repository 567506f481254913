"""What a sample shows of a schema, next to what is known of it."""

from __future__ import annotations

import pytest

from dataflows.work.steady import steady, steady_profile
from penstock.models.domain import Field, Schema
from penstock.models.profiles import ColumnProfile, DatasetProfile


def schema(**types: str) -> Schema:
    return Schema(fields=tuple(Field(name=name, type=kind) for name, kind in types.items()))


def profile(**nulls: float | None) -> DatasetProfile:
    return DatasetProfile(columns=tuple(ColumnProfile(name=name, nulls=share) for name, share in nulls.items()))


KNOWN = schema(id="bigint", note="text")


@pytest.mark.parametrize(
    ("nulls", "rows", "there"),
    [(0.0, 2, False), (0.0, 1, True), (0.5, 11, False), (0.5, 8, True), (0.99, 1000, True), (0.98, 1000, False),
     (1.0, 10**6, True), (None, 10**6, True), (0.0, None, False)],
)  # fmt: skip
def test_a_field_that_no_sampled_row_has_is_gone_if_that_is_no_chance(
    nulls: float | None, rows: int | None, there: bool
) -> None:
    found = steady(KNOWN, profile(note=nulls), schema(id="bigint"), rows)
    assert [one.name for one in found.fields] == (["id", "note"] if there else ["id"])
    kept = steady_profile(profile(note=nulls), DatasetProfile(), {one.name for one in found.fields} - {"id"})
    assert [one.name for one in kept.columns] == (["note"] if there else []), "what is known of it stays with it"


def test_new_fields_come_last_and_the_others_keep_their_order() -> None:
    seen = schema(new="text", note="text", id="bigint")
    assert [one.name for one in steady(KNOWN, profile(), seen, 9).fields] == ["id", "note", "new"]
    assert steady(KNOWN, profile(), seen, None) == seen, "of declared columns the order is a fact"


@pytest.mark.parametrize(
    ("known", "seen", "type_"),
    [("double precision", "bigint", "double precision"), ("bigint", "double precision", "double precision"),
     ("numeric(38,9)", "bigint", "numeric(38,9)"), ("bigint", "text", "text"), ("text", "bigint", "bigint"),
     ("numeric(5,2)", "bigint", "bigint"), ("double precision", "numeric(30,0)", "numeric(30,0)"),
     ("timestamp without time zone", "date", "timestamp without time zone"), ("json", "text", "text")],
)  # fmt: skip
def test_a_type_that_stores_what_was_seen_stays(known: str, seen: str, type_: str) -> None:
    assert steady(schema(x=known), profile(), schema(x=seen), 9).fields[0].type == type_
    declared = DatasetProfile(format="parquet")
    assert steady(schema(x=known), declared, schema(x=seen), 32).fields[0].type == seen, "a file declares its types"


def document(*names: str, inner: tuple[str, ...] = ()) -> Schema:
    parts = [Field(name=name, type="bigint") for name in names]
    parts += (
        [Field(name="to", type="json", fields=tuple(Field(name=one, type="text") for one in inner))] if inner else []
    )
    return Schema(fields=(Field(name="doc", type="jsonb", fields=tuple(parts)),))


def test_a_field_that_no_document_of_many_has_is_gone() -> None:
    known = document("a", "b", inner=("city", "zip"))
    seen = document("a", inner=("city",))
    for rows in (9, None):
        assert steady(known, profile(), seen, rows) == known, "few documents were looked into"
        assert steady(known, profile(), seen, rows, {"doc": [[]]}) == document("a", inner=("city", "zip"))
        assert steady(known, profile(), seen, rows, {"doc": [[], ["to"]]}) == seen
    (doc,) = steady(known, profile(), document(), None, {"doc": [[]]}).fields
    assert doc.fields is None


def test_fields_of_a_document_stay_and_grow() -> None:
    parts = (Field(name="a", type="bigint"),)
    known = Schema(fields=(Field(name="doc", type="json", fields=parts),))
    for rows in (9, None):
        assert steady(known, profile(), schema(doc="json"), rows) == known, "nobody has looked into it this time"
    seen = Schema(fields=(Field(name="doc", type="json", fields=(Field(name="b", type="text"),)),))
    (doc,) = steady(known, profile(), seen, 9).fields
    assert [one.name for one in doc.fields or ()] == ["a", "b"]
