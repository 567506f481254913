"""The mapping of a source's columns to a target's: what is read, what passes undecoded, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import pytest

from dataflows.data.changes import CHANGE, COMMITTED
from dataflows.data.tables import Column, Table
from dataflows.transforms.chain import Chain
from dataflows.transforms.mapping import BoundMapping, FieldSpec, Rules, bind, output_columns, plan_rules
from penstock.errors import MissingColumn, PenstockError, SchemaMismatch
from penstock.models.transforms import TransformStep, Validation

SOURCE = Table(
    "public.items",
    "r",
    (
        Column("id", "bigint", nullable=False, default=True, generated=True),
        Column("name", "text"),
        Column("price", "numeric(12,2)"),
        Column("doc", "jsonb"),
        Column("_modified", "timestamp with time zone", hidden=True),
        Column("lost", "bytea", unreadable="`lost` cannot be read"),
    ),
)
READ = tuple(FieldSpec(name, name, path=f"spec.mapping.fields[{at}]") for at, name in enumerate(("id", "name")))
TARGET = Table("w.items", "r", (Column("id", "bigint"), Column("name", "text")))


def steps(*written: dict[str, Any]) -> tuple[TransformStep, ...]:
    return tuple(TransformStep.parse({"name": f"s{at}"} | one) for at, one in enumerate(written))


def bound(rules: Rules = Rules(READ), target: Table = TARGET, **given: Any) -> BoundMapping:  # noqa: B008 - immutable
    return bind(rules, SOURCE, target, "orders", **given)


def refused(rules: Rules, target: Table = TARGET, **given: Any) -> PenstockError:
    with pytest.raises(PenstockError) as found:
        bound(rules, target, **given)
    return found.value


def test_columns_of_the_same_types_pass_undecoded() -> None:
    mapping = bound()
    assert (mapping.targets, mapping.reads, mapping.columns) == (("id", "name"), ("id", "name"), TARGET.columns)
    assert (mapping.raw, mapping.schema, mapping.chain, mapping.decode_reason) == (True, None, None, None)
    assert (mapping.unchanged("name"), mapping.unchanged("price")) == ("name", None)
    assert not mapping.as_text
    renamed = bound(Rules((FieldSpec("name", "id"),)), Table("w.t", "r", (Column("name", "bigint"),)))
    assert (renamed.targets, renamed.reads, renamed.unchanged("id")) == (("name",), ("id",), "name")


@pytest.mark.parametrize(
    ("rules", "columns", "undecoded", "why"),
    [
        (Rules(READ), {}, False, "source and sink are different systems"),
        (Rules(READ, nul="strip"), {}, True, "there are steps or checks"),
        (Rules(READ, steps({"filter": "id > 1"})), {}, True, "there are steps or checks"),
        (Rules(READ, validation=Validation.parse({"not_null": ["id"]})), {}, True, "there are steps or checks"),
        (Rules(READ, validation=Validation.parse({"checks": {"c": "id > 1"}})), {}, True, "there are steps or checks"),
        (Rules((FieldSpec("id", sql="id + 1"),)), {}, True, "`id` is an expression"),
        (Rules(READ), {"id": "numeric(20,0)"}, True, "`id` is numeric(20,0), its source bigint"),
    ],
)
def test_values_are_decoded_for_a_reason(rules: Rules, columns: dict[str, str], undecoded: bool, why: str) -> None:
    target = replace(TARGET, columns=tuple(replace(c, type=columns.get(c.name, c.type)) for c in TARGET.columns))
    mapping = bound(rules, target, undecoded=undecoded)
    assert (mapping.raw, mapping.decode_reason, mapping.as_text) == (False, why, False)
    assert isinstance(mapping.chain, Chain)
    assert mapping.schema is not None
    assert tuple(mapping.schema.names) == mapping.reads


def test_only_what_is_needed_is_read_in_the_sources_order() -> None:
    fields = (FieldSpec("name", "name"), FieldSpec("id", sql="CAST(price AS bigint)"))
    mapping = bound(Rules(fields))
    assert (mapping.targets, mapping.reads) == (("name", "id"), ("name", "price"))
    assert mapping.lineage == {"name": (("name",), ()), "id": (("price",), ("mapping",))}
    constant = bound(Rules((FieldSpec("id", sql="CAST(1 AS bigint)"),)))
    assert constant.reads == ("id",), "rows have to be counted"


def test_a_table_that_is_made_has_the_columns_and_not_what_the_server_made_of_them() -> None:
    rules = Rules(READ, carried=frozenset({"name"}), validation=Validation.parse({"not_null": ["name"]}))
    (column,) = output_columns(rules, SOURCE, "orders")
    assert column == Column("id", "bigint", nullable=False)
    (column,) = output_columns(replace(rules, carried=frozenset({"id"})), SOURCE, "orders")
    assert column == Column("name", "text", nullable=False)
    first, second = output_columns(replace(rules, carried=frozenset()), SOURCE, "orders")
    assert (first.name, second.name, second.nullable) == ("id", "name", False)
    computed = output_columns(Rules((FieldSpec("n", sql="CAST(id AS integer)"),)), SOURCE, "orders")
    assert computed == (Column("n", "integer"),)
    every = Table("public.items", "r", SOURCE.columns[:-1])
    assert [one.name for one in output_columns(Rules(), every, "orders")] == ["id", "name", "price", "doc"]


def test_what_the_target_lacks_is_refused_unless_it_is_left_out_carried_or_filled() -> None:
    fields = (*READ, FieldSpec("price", "price", path="spec.mapping.fields[2]"))
    error = refused(Rules(fields))
    assert (error.where, error.value) == ("orders: spec.mapping.fields[2].target", "price")
    assert "`schema: {additive: apply}` adds it" in (error.hint or "")
    assert "did you mean `name`" in str(refused(Rules((FieldSpec("nam", "name"),))))
    assert bound(Rules(fields, left_out=True)).targets == ("id", "name")
    carried = bound(Rules(fields, left_out=True, carried=frozenset({"price"})))
    assert [(one.name, one.type) for one in carried.columns][2:] == [("price", "numeric(12,2)")]
    late = replace(TARGET, columns=(*TARGET.columns, Column("at", "date", nullable=False)))
    error = refused(Rules(READ), late)
    assert "needs values for `at`" in error.what
    assert bound(Rules(READ, filled=frozenset({"at"})), late).targets == ("id", "name")
    for column in (Column("at", "date"), Column("at", "date", nullable=False, default=True)):
        assert bound(Rules(READ), replace(late, columns=(*TARGET.columns, column))).targets == ("id", "name")
    made = replace(TARGET, columns=(Column("id", "bigint", nullable=False, generated=True), TARGET.columns[1]))
    assert "is computed by the server" in refused(Rules(READ), made).what
    assert bound(Rules(READ[1:]), made).targets == ("name",)


def test_what_the_source_lacks_or_cannot_show_is_refused() -> None:
    error = refused(Rules((FieldSpec("id", "idd", path="spec.mapping.fields[0]"),)))
    assert (type(error), error.where, error.hint) == (
        MissingColumn, "orders: spec.mapping.fields[0].from", "did you mean `id`?",
    )  # fmt: skip
    assert "public.items has id, name, price, doc" in (refused(Rules((FieldSpec("id", "zzzz"),))).hint or "")
    for fields in ((FieldSpec("id", "lost"),), (FieldSpec("id", sql="length(lost)"),)):
        with pytest.raises(PenstockError, match="lost"):
            bound(Rules(fields))
    wide = Table("wide", "r", tuple(Column(f"c{at:02}", "bigint") for at in range(13)))
    for count, ends in ((12, "c11"), (13, "c11 …")):
        with pytest.raises(MissingColumn) as found:
            bind(Rules((FieldSpec("id", "zzzz"),)), replace(wide, columns=wide.columns[:count]), TARGET, "orders")
        assert (found.value.hint or "").endswith(ends)


def test_a_type_that_does_not_fit_is_refused_where_it_stands() -> None:
    error = refused(Rules((FieldSpec("id", "name", path="spec.mapping.fields[0]"),)))
    assert (type(error), error.where) == (SchemaMismatch, "orders: spec.mapping.fields[0]")
    assert error.hint == "map it by sql, CAST(… AS bigint)"
    error = refused(Rules((FieldSpec("id", sql="name || 'x'"),)))
    assert error.hint == "write sql: CAST(… AS bigint)"
    error = refused(Rules(READ, steps({"rename": {"name": "id2"}})))
    assert error.where == "orders: spec.transforms"
    other = Table("w.t", "r", (Column("id", "hstore"),))
    error = refused(Rules((FieldSpec("id", "id"),)), other, undecoded=False)
    assert "hstore" in error.what


def test_changes_travel_with_the_rows_in_columns_of_their_own() -> None:
    source = replace(SOURCE, columns=(*SOURCE.columns[:2], Column(CHANGE, "text", hidden=True)))
    source = replace(source, columns=(*source.columns, Column(COMMITTED, "timestamp with time zone", hidden=True)))
    rules = Rules(changes=True, carried=frozenset({CHANGE}))
    for fields in (None, READ):
        mapping = bind(replace(rules, fields=fields), source, TARGET, "orders", undecoded=False)
        assert mapping.targets == ("id", "name", CHANGE)
        assert isinstance(mapping.chain, Chain)
        assert mapping.chain.change == CHANGE
    both = replace(rules, carried=frozenset({CHANGE, COMMITTED}))
    assert bind(both, source, TARGET, "orders", undecoded=False).targets == ("id", "name", COMMITTED, CHANGE)
    plain = bind(Rules(READ), source, TARGET, "orders", undecoded=False)
    assert cast("Chain", plain.chain).change is None


def test_text_is_cleaned_and_documents_as_what_they_are() -> None:
    target = Table("w.t", "r", (Column("name", "text"), Column("doc", "jsonb")))
    fields = (FieldSpec("name", "name"), FieldSpec("doc", "doc"))
    mapping = bound(Rules(fields, nul="replace", no_nul=True, repeats=frozenset({"json"})), target)
    chain = cast("Chain", mapping.chain)
    assert chain.cleaning is not None
    assert (chain.cleaning.nul, chain.cleaning.documents) == ("replace", frozenset({"doc"}))
    assert (chain.no_nul, chain.repeats, chain.masked) == (True, frozenset({"json"}), frozenset())
    assert cast("Chain", bound(Rules(fields), target, undecoded=False).chain).cleaning is None
    batch = pa.record_batch({"name": ["a\0"], "doc": ['{"k":"\\u0000"}']}, schema=mapping.schema)
    out, dead, _ = chain.apply(batch)
    assert (out.to_pylist(), dead) == ([{"name": "a\ufffd", "doc": '{"k":"\ufffd"}'}], None)


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        ({}, []),
        ({"no_nul": True}, [(0, "nul"), (1, "nul")]),
        ({"repeats": frozenset({"jsonb", "text"})}, [(2, "repeated_name")]),
        ({"repeats": frozenset({"text"})}, []),
    ],
)
def test_what_the_target_would_not_keep_is_refused_row_by_row(
    given: dict[str, Any], codes: list[tuple[int, str]]
) -> None:
    target = Table("w.t", "r", (Column("name", "text"), Column("doc", "jsonb")))
    fields, twice = (FieldSpec("name", "name"), FieldSpec("doc", "doc")), '{"k":1,"k":2}'
    mapping = bound(Rules(fields, **given), target, undecoded=False)
    rows = {"name": ["a\0", "a", "a", twice], "doc": ["{}", '{"k":"\\u0000"}', twice, "{}"]}
    out, dead, _ = cast("Chain", mapping.chain).apply(pa.record_batch(rows, schema=mapping.schema))
    found = [] if dead is None else [(one["row"], one["code"]) for one in dead.to_pylist()]
    assert (sorted(found), out.num_rows) == (codes, 4 - len(codes))


def test_a_plan_says_which_columns_are_passed_on_unchanged() -> None:
    rules = Rules(READ, steps({"rename": {"name": "who"}}, {"set": {"n": "id + 1", "both": "who || id"}}))
    plan = plan_rules(rules, SOURCE, "orders", resources=cast("Any", None))
    assert [plan.origin(name) for name in ("id", "who", "n", "both")] == ["id", "name", None, None]
    assert (plan.unchanged("name"), plan.unchanged("price")) == ("who", None)
    assert plan.paths == {}, "places in the mapping are those of columns before the steps"
    assert plan_rules(Rules(READ), SOURCE, "o", cast("Any", None)).paths == {one.target: one.path for one in READ}


@pytest.mark.parametrize(
    ("rules", "names", "plain"),
    [
        (Rules(), False, True),
        (Rules(READ), True, True),
        (Rules(steps=steps({"select": ["id"]})), True, False),
        (Rules(steps=steps({"filter": "id > 1"})), False, False),
        (Rules(nul="strip"), False, False),
    ],
)
def test_rules_name_the_columns_to_read_by_fields_or_by_a_selection(rules: Rules, names: bool, plain: bool) -> None:
    assert (rules.names_columns, rules.plain) == (names, plain)
