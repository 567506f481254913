"""Changes of schemas: all are found, none is invented, and what was found makes the new schema of the old one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.evolution import Change, apply, compare
from catalog.moves import Candidate, likeliest
from catalog.rules import Ruled, accepted
from penstock.errors import MissingColumn
from penstock.models.domain import Field, ForeignKey, Schema
from tests.strategies import models

TYPES = ["integer", "bigint", "text", "character varying(20)", "numeric(10,2)", "date", "jsonb", "struct"]
NAMES = ["id", "order_id", "total", "placed_at", "note", "city", "country", "phone", "email", "state", "e.mail"]


def fields(depth: int = 1) -> st.SearchStrategy[Field]:
    parts = st.lists(fields(depth - 1), max_size=3, unique_by=lambda one: one.name) if depth else st.just([])
    return st.builds(
        Field,
        name=st.sampled_from(NAMES),
        type=st.sampled_from(TYPES),
        nullable=st.booleans(),
        default=st.sampled_from([None, "0", "now()"]),
        description=st.sampled_from([None, "what", "why"]),
        fields=parts.map(tuple),
    )


@st.composite
def schemas(draw: st.DrawFn, least: int = 0) -> Schema:
    found = draw(st.lists(fields(), min_size=least, max_size=6, unique_by=lambda one: one.name))
    return draw(constrained([*found]))


def constrained(found: list[Field]) -> st.SearchStrategy[Schema]:
    """Schemas of these fields, with keys over them."""
    names = [one.name for one in found]
    some = st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=2).map(tuple) if names else st.just(())
    foreign = st.builds(ForeignKey, columns=some, object=st.sampled_from(["a", "b"]), references=st.just(("id",)))
    keys = st.lists(some, max_size=2).map(tuple) if names else st.just(())
    others = st.lists(foreign, max_size=2).map(tuple) if names else st.just(())
    return st.builds(Schema, fields=st.just(tuple(found)), key=some | st.just(()), unique=keys, foreign=others)


def facts(schema: Schema) -> dict[tuple[Any, ...], Any]:
    """Everything that a schema says, one fact a line: the plain oracle."""
    found: dict[tuple[Any, ...], Any] = {("key",): schema.key}
    found |= {("unique", one): True for one in schema.unique or ()}
    found |= {("foreign", str(one)): True for one in schema.foreign or ()}

    def walk(at: tuple[str, ...], parts: tuple[Field, ...]) -> None:
        for one in parts:
            path = (*at, one.name)
            found[("field", path)] = True
            said = {"type": one.type, "nullable": one.nullable, "default": one.default, "comment": one.description}
            found.update({(name, path): value for name, value in said.items()})
            walk(path, one.fields or ())

    walk((), schema.fields)
    return found


def orders(schema: Schema) -> dict[tuple[str, ...], list[str]]:
    """The names at each level."""
    found: dict[tuple[str, ...], list[str]] = {}

    def walk(at: tuple[str, ...], parts: tuple[Field, ...]) -> None:
        found[at] = [one.name for one in parts]
        for one in parts:
            walk((*at, one.name), one.fields or ())

    walk((), schema.fields)
    return found


ATTRIBUTES = {"retyped": "type", "nullability": "nullable", "default": "default", "comment": "comment"}


def differences(old: Schema, new: Schema) -> set[tuple[Any, ...]]:
    """What differs, by facts alone: fields by their names (of a new or lost one nothing below it), and constraints."""
    before, after = facts(old), facts(new)
    found: set[tuple[Any, ...]] = set()
    for fact in before.keys() | after.keys():
        if before.get(fact) == after.get(fact):
            continue
        where = fact[1] if len(fact) > 1 else ()
        known = [
            ("field", where[:depth]) in before and ("field", where[:depth]) in after for depth in range(1, len(where))
        ]
        if fact[0] == "field" and all(known):
            found.add(("removed" if fact in before else "added", where))
        elif fact[0] in ATTRIBUTES.values() and all(known) and ("field", where) in before and ("field", where) in after:
            found.add((fact[0], where, before[fact], after[fact]))
        elif fact[0] in {"unique", "foreign"}:
            found.add((fact[0], where, fact in before))
        elif fact[0] == "key":
            found.add(("key", before[fact], after[fact]))
    for at, names in orders(old).items():
        others = orders(new).get(at)
        if others is not None and all(("field", at[:depth]) in after for depth in range(1, len(at) + 1)):
            kept = [name for name in names if name in others]
            if kept != [name for name in others if name in names]:
                found.add(("reordered", at))
    return found


def stated(changes: tuple[Change, ...]) -> set[tuple[Any, ...]]:
    """What the changes say, in the oracle's words."""
    found: set[tuple[Any, ...]] = set()
    for one in changes:
        match one.kind:
            case "added" | "removed" | "reordered":
                found.add((one.kind, one.path))
            case "key":
                found.add(("key", one.before, one.after))
            case "unique":
                found.add(("unique", one.after or one.before, one.after is None))
            case "foreign":
                found.add(("foreign", str(one.after or one.before), one.after is None))
            case _:
                found.add((ATTRIBUTES[one.kind], one.path, one.before, one.after))
    return found


@settings(max_examples=60)
@given(old=schemas(), new=schemas())
def test_property_04_change_detection_finds_all_modifications(old: Schema, new: Schema) -> None:
    """Between any two schemas: nothing missed, nothing invented, and the changes make the one of the other."""
    changes = compare(old, new)
    assert apply(old, changes) == new
    assert (not changes) == (old == new)
    plain = compare(old, new, above=2.0)  # no rename is that likely: each is a field lost and one added
    assert stated(plain) == differences(old, new)
    assert len(plain) == len(stated(plain))
    assert apply(old, plain) == new


@settings(max_examples=30)
@given(old=models(Schema), new=models(Schema))
def test_changes_between_any_two_schemas_make_the_one_of_the_other(old: Schema, new: Schema) -> None:
    assert apply(old, compare(old, new)) == new
    assert compare(old, old) == ()


EDITS = st.sampled_from(["add", "remove", "rename", "type", "nullable", "default", "comment", "move"])


@settings(max_examples=60)
@given(data=st.data(), old=schemas(least=1))
def test_property_04_generated_edits_are_found_one_by_one(data: st.DataObject, old: Schema) -> None:
    """Of edits made one after another, each to its own column, each is in what is found, and nothing else."""
    columns = {one.name: one for one in old.fields}
    order, expected = list(columns), set[tuple[Any, ...]]()
    named: dict[str, str] = {}
    added = 0
    moved = False
    for name in data.draw(st.lists(st.sampled_from(order), unique=True)):
        field, edit = columns[name], data.draw(EDITS)
        at = order.index(name)
        match edit:
            case "add":
                added += 1
                order.insert(at, f"wholly new {added} 0123456789")
                columns[order[at]] = Field(name=order[at], type="xml")
                expected.add(("added", (order[at],)))
            case "remove":
                order.remove(name)
                expected.add(("removed", (name,)))
            case "rename":
                order[at] = named[name] = f"{name}_renamed" if len(name) > 3 else f"{name}_"
                columns[order[at]] = field.model_copy(update={"name": order[at]})
                expected.add(("renamed", name, order[at]))
            case "move":
                order.remove(name)
                order.append(name)
                moved = True
            case _:
                attribute, value = {
                    "type": ("type", f"other {field.type}"),
                    "nullable": ("nullable", not field.nullable),
                    "default": ("default", f"1 + {field.default}"),
                    "comment": ("description", f"not {field.description}"),
                }[edit]
                columns[name] = field.model_copy(update={attribute: value})
                said = attribute.replace("description", "comment")
                expected.add((said, (name,), getattr(field, attribute), value))
    new = Schema(fields=tuple(columns[name] for name in order))
    bare = Schema(fields=old.fields)
    changes = compare(bare, new)
    assert apply(bare, changes) == new
    found = {("renamed", one.before, one.after) for one in changes if one.kind == "renamed"}
    found |= stated(tuple(one for one in changes if one.kind not in {"renamed", "reordered"}))
    lost = {one for one in expected - found if one[0] == "renamed"}  # where a lost column fits as well, it may be taken
    assert not lost or {"removed"} & {one[0] for one in expected}
    if not {"removed"} & {one[0] for one in expected}:
        assert found == expected
    if not moved:
        assert not [one for one in changes if one.kind == "reordered"]


def schema(*columns: str, **more: Any) -> Schema:
    """A schema of columns such as ``total numeric(10,2)``."""
    made = [Field(name=one.partition(" ")[0], type=one.partition(" ")[2] or "text") for one in columns]
    return Schema(fields=tuple(made), **more)


ORDERS = schema("id bigint", "total numeric(10,2)", "placed_at timestamp", "phone text", "note text", key=("id",))


def renamed(old: Schema, new: Schema, likeness: Mapping[Any, float] | None = None) -> dict[str, Any]:
    return {one.before: (one.after, one.confidence) for one in compare(old, new, likeness) if one.kind == "renamed"}


def test_a_renamed_column_takes_its_keys_along() -> None:
    more = {"unique": (("phone",),), "foreign": (ForeignKey(columns=("id",), object="x", references=("id",)),)}
    new = schema("order_id bigint", "total numeric(10,2)", "placed_at timestamp", "phone_number text", "note text",
                 key=("order_id",), unique=(("phone_number",),),
                 foreign=(ForeignKey(columns=("order_id",), object="x", references=("id",)),))  # fmt: skip
    changes = compare(ORDERS.model_copy(update=more), new)
    assert [one.kind for one in changes] == ["renamed", "renamed"]
    assert [(one.before, one.after) for one in changes] == [("id", "order_id"), ("phone", "phone_number")]
    assert all(0.75 <= one.confidence < 1 for one in changes)


def test_a_lost_column_and_an_unlike_new_one_are_no_rename() -> None:
    new = schema("id bigint", "total numeric(10,2)", "placed_at timestamp", "note text", "weight double precision",
                 key=("id",))  # fmt: skip
    assert [one.kind for one in compare(ORDERS, new)] == ["removed", "added"]


def test_likeness_of_values_finds_a_rename_that_the_name_does_not_show() -> None:
    new = schema("id bigint", "total numeric(10,2)", "placed_at timestamp", "contact text", "note text", key=("id",))
    assert renamed(ORDERS, new) == {}
    found = renamed(ORDERS, new, {(("phone",), ("contact",)): 1.0})
    assert found.keys() == {"phone"}
    assert found["phone"][1] > 0.75
    other = schema("id bigint", "total numeric(10,2)", "placed_at timestamp", "phones text", "note text", key=("id",))
    assert renamed(ORDERS, other)["phone"][1] > 0.9
    assert renamed(ORDERS, other, {(("phone",), ("phones",)): 0.0}) == {}


def test_two_new_columns_that_are_as_like_make_a_rename_less_certain() -> None:
    old, one = schema("a int", "phone text"), schema("a int", "phone_1 text")
    two = schema("a int", "phone_1 text", "phone_2 text")
    (_, sure), (_, less) = renamed(old, one)["phone"], renamed(old, two).get("phone", ("", 0.0))
    assert less < sure


def test_parts_of_documents_are_compared_by_their_paths() -> None:
    def with_parts(*parts: Field) -> Schema:
        return Schema(fields=(Field(name="address", type="jsonb", fields=parts),))

    old = with_parts(Field(name="city", type="text"), Field(name="zip", type="integer"))
    new = with_parts(Field(name="zip", type="text"), Field(name="town", type="text", nullable=False))
    changes = [one.to_dict() for one in compare(old, new)]
    assert changes == [
        {"kind": "removed", "path": "address.city", "before": {"name": "city", "type": "text", "nullable": True},
         "after": None},
        {"kind": "retyped", "path": "address.zip", "before": "integer", "after": "text"},
        {"kind": "added", "path": "address.town", "before": None,
         "after": {"name": "town", "type": "text", "nullable": False}, "position": 2},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        Change("removed", ("gone",), Field(name="gone", type="text")),
        Change("renamed", ("x",), "gone", "x"),
        Change("retyped", ("gone",), "text", "xml"),
        Change("added", ("gone", "x"), None, Field(name="x", type="text"), 0),
        Change("reordered", (), ("gone",), ("gone",)),
    ],
    ids=lambda one: one.kind,
)
def test_changes_of_another_schema_are_refused(change: Change) -> None:
    with pytest.raises(MissingColumn, match="gone"):
        apply(ORDERS, [change])


def test_hundreds_of_renamed_columns_are_found_in_reasonable_time() -> None:
    old = schema(*(f"column_{index:04}_{index * 7919 % 1000:03} integer" for index in range(800)))
    new = Schema(fields=tuple(one.model_copy(update={"name": f"{one.name}x"}) for one in old.fields))
    changes = compare(old, new)
    assert apply(old, changes) == new
    assert len([one for one in changes if one.kind == "renamed"]) > 750


def test_what_breaks_a_rule_is_never_what_the_next_version_is_compared_with() -> None:
    whole = schema("id integer", "note text")
    less, more = schema("id integer"), schema("id bigint", "note text")
    found = accepted("backward", [(1, whole)], [(2, less), (3, more), (4, less)])
    assert [number for number, _ in found] == [1, 3]
    versions = [(1, whole), (2, less)]
    broken = Ruled("backward", versions, accepted("backward", versions[:1], versions[1:])).conflict(less)
    assert (broken.path, broken.version) == ("note", 1) if broken else False
    assert Ruled("backward", versions, accepted("backward", versions, [])).conflict(less) is None
    assert Ruled("backward", [], ()).conflict(less) is None


def test_a_moved_table_is_recognised_by_its_columns_and_its_name() -> None:
    def found(*candidates: Candidate) -> tuple[str, float]:
        return likeliest("public.orders", ORDERS.fields, candidates) or ("", 0.0)

    moved, other = (
        Candidate("crm.orders", ORDERS.fields),
        Candidate("public.wares", schema("id bigint", "w real").fields),
    )
    assert found(other, moved) == ("crm.orders", 0.99)
    renamed_too = Candidate("public.orders_2", ORDERS.fields[:-1])
    assert found(other, renamed_too)[0] == "public.orders_2"
    assert 0.75 < found(renamed_too)[1] < 0.99
    assert found(other)[1] < 0.75
    assert found(moved, Candidate("old.orders", ORDERS.fields))[1] == 0.84, "either may be the one"
    assert found() == ("", 0.0)
