"""What a change keeps working, the rules of datasets, and the pipelines that a change touches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.compatibility import Conflict, Level, conflict, judged, overall
from catalog.evolution import Change, compare
from catalog.impact import Touched, touched, uses
from penstock.models.domain import Compatibility, DatasetRef, Field, ForeignKey, Schema
from penstock.models.pipeline import Pipeline
from tests.agents.control_plane import pipeline
from tests.catalog.test_evolution import ORDERS, schema, schemas

OTHER = ForeignKey(columns=("id",), object="public.customers", references=("id",))


def field(type_: str = "text", **more: Any) -> Field:
    return Field(name="x", type=type_, **more)


@pytest.mark.parametrize(
    ("change", "level", "reason"),
    [
        (Change("added", ("x",), None, field(), 1), "full", "rows of before have NULL"),
        (Change("added", ("x",), None, field(nullable=False, default="0"), 1), "full", "of before have its default"),
        (Change("added", ("x",), None, field(nullable=False), 1), "forward", "have no value for it"),
        (Change("removed", ("x",), field()), "breaking", "its values have no place"),
        (Change("renamed", ("x",), "y", "x", confidence=0.9), "breaking", "it was called `y`"),
        (Change("retyped", ("x",), "integer", "bigint"), "backward", "integer does not store numbers above 2147483647"),
        (Change("retyped", ("x",), "numeric(12,2)", "numeric(10,2)"), "forward", "more than 8 digits before the point"),
        (Change("retyped", ("x",), "varchar", "text"), "full", "store the same values"),
        (Change("retyped", ("x",), "text", "integer"), "breaking", "not each of its values is one"),
        (Change("nullability", ("x",), before=False, after=True), "backward", "may be NULL now"),
        (Change("nullability", ("x",), before=True, after=False), "forward", "rows of before may have NULL"),
        (Change("default", ("x",), "0", "1"), "full", "rows to come"),
        (Change("comment", ("x",), None, "why"), "full", "changes no row"),
        (Change("reordered", (), ("a", "x"), ("x", "a")), "full", "by their names"),
        (Change("key", (), ("a",), ("a", "x")), "backward", "allows more rows"),
        (Change("key", (), ("a", "x"), ("a",)), "forward", "stricter"),
        (Change("key", (), ("a", "x"), ("x", "a")), "full", "another order"),
        (Change("key", (), ("a",), ("x",)), "breaking", "(a) -> (x)"),
        (Change("key", (), (), ("x",)), "forward", "stricter"),
        (Change("unique", (), None, ("x",)), "forward", "(x) is unique now"),
        (Change("unique", (), ("x",), None), "backward", "no longer unique"),
        (Change("foreign", (), None, OTHER), "forward", "refers to public.customers now"),
        (Change("foreign", (), OTHER, None), "backward", "no longer refers"),
    ],
)  # fmt: skip
def test_each_kind_of_change_is_judged_with_its_reason(change: Change, level: Level, reason: str) -> None:
    found = judged(change)
    assert found.level == level
    assert reason in found.reason


@settings(max_examples=40)
@given(old=schemas(), new=schemas())
def test_forward_is_backward_the_other_way_round(old: Schema, new: Schema) -> None:
    """As far as single changes go: a lost column is breaking in both directions, so additions are left out."""
    other = {"forward": "backward", "backward": "forward"}
    apart = {"added", "removed", "renamed"}
    there = [one for one in compare(old, new) if one.kind not in apart and len(one.path) < 2]
    back = [one for one in compare(new, old) if one.kind not in apart and len(one.path) < 2]
    if {one.kind for one in compare(old, new)} & apart:
        return
    levels = sorted(judged(one).level for one in there)
    assert levels == sorted(other.get(level, level) for level in (judged(one).level for one in back))


def test_changes_together_keep_what_each_of_them_keeps() -> None:
    assert overall([]) == "full"
    assert overall(["full", "backward"]) == "backward"
    assert overall(["forward", "backward"]) == "breaking"
    assert overall(["full", "breaking"]) == "breaking"


FIRST = schema("id integer", "total numeric(10,2)")
SECOND = schema("id bigint", "total numeric(10,2)", "note text")
THIRD = schema("id bigint", "total numeric(12,2)", "note text")


@pytest.mark.parametrize(
    ("rule", "new", "found"),
    [
        ("none", schema("other text"), None),
        ("backward", THIRD, None),
        ("backward_transitive", THIRD, None),
        ("forward", THIRD, ("total", 2)),
        ("full", THIRD, ("total", 2)),
        ("full", SECOND, None),
        ("full_transitive", SECOND, ("id", 1)),
        ("forward", schema("id integer", "total numeric(10,2)", "note text"), None),
        ("backward", schema("id integer", "total numeric(10,2)", "note text"), ("id", 2)),
        ("backward", schema("id bigint", "total numeric(10,2)"), ("note", 2)),
        ("backward_transitive", schema("id bigint", "total numeric(10,2)"), ("note", 2)),
        ("backward_transitive", schema("total numeric(10,2)", "note text"), ("id", 1)),
    ],
)
def test_a_rule_names_path_reason_and_the_first_version_in_conflict(
    rule: Compatibility, new: Schema, found: tuple[str, int] | None
) -> None:
    verdict = conflict(rule, [(1, FIRST), (2, SECOND)], new)
    assert (verdict and (verdict.path, verdict.version)) == found
    if verdict is not None:
        assert verdict.reason
        assert f"not {rule} compatible with version {verdict.version}" in str(verdict)


@settings(max_examples=40)
@given(versions=st.lists(schemas(), min_size=1, max_size=3), new=schemas())
def test_a_transitive_rule_allows_no_more_than_the_rule_and_none_allows_all(
    versions: list[Schema], new: Schema
) -> None:
    numbered = list(enumerate(versions, 1))
    for rule in ("backward", "forward", "full"):
        last: Conflict | None = conflict(rule, numbered, new)
        every = conflict(f"{rule}_transitive", numbered, new)  # type: ignore[arg-type]
        assert last is None or every is not None
        if every is not None:
            assert conflict(rule, numbered[every.version - 1 : every.version], new) is not None
    assert conflict("none", numbered, new) is None


SHOP, SALES = (
    DatasetRef(connection="shop", object="public.orders"),
    DatasetRef(connection="warehouse", object="sales.orders"),
)


def used(name: str = "orders", **spec: Any) -> Any:
    document = pipeline(name)
    ends = {"source": {"connection": "shop", "object": "public.orders"},
            "sink": {"connection": "warehouse", "object": "sales.orders", "write": "replace"}}  # fmt: skip
    document["spec"] = ends | spec
    return uses(Pipeline.parse(document))


def test_a_pipeline_is_touched_by_changes_of_what_it_reads_and_writes() -> None:
    every = used("every")
    mapped = used("mapped", mapping={"fields": [{"target": "sum", "sql": "total * 2"}, {"target": "id", "from": "id"}]})
    chosen = used("chosen", transforms=[
        {"name": "r", "rename": {"phone": "tel"}}, {"name": "f", "filter": "note <> 'x'"},
        {"name": "s", "select": ["id", "tel"]},
    ])  # fmt: skip
    assert mapped.reads == {"total", "id"}
    assert mapped.writes == {"sum", "id"}
    assert (chosen.reads, chosen.writes) == ({"phone", "note", "id"}, {"id", "tel"})
    assert (every.reads, every.writes) == (None, None)
    all_of_them = (every, mapped, chosen)

    def names(dataset: DatasetRef, change: Change) -> list[str]:
        return [one.pipeline for one in touched(dataset, change, all_of_them)]

    assert names(SHOP, Change("added", ("weight",), None, field(), 5)) == ["every"]
    assert names(SHOP, Change("removed", ("total",), field())) == ["every", "mapped"]
    assert names(SHOP, Change("renamed", ("telephone",), "phone", "telephone")) == ["every", "chosen"]
    assert names(SHOP, Change("retyped", ("note",), "text", "xml")) == ["every", "chosen"]
    assert names(SHOP, Change("comment", ("total",), None, "x")) == []
    assert names(SALES, Change("removed", ("tel",), field())) == ["every", "chosen"]
    assert names(SALES, Change("added", ("y",), None, field(), 9)) == []
    assert names(SALES, Change("added", ("y",), None, field(nullable=False), 9)) == ["every", "mapped", "chosen"]
    other = DatasetRef(connection="shop", object="public.other")
    assert names(other, Change("removed", ("total",), field())) == []
    assert touched(SALES, Change("removed", ("sum",), field()), [mapped]) == (Touched("mapped", "writes"),)


def test_the_cursor_and_the_key_of_a_pipeline_are_used_too() -> None:
    one = used(
        source={"connection": "shop", "object": "public.orders", "cursor": {"field": "placed_at"}},
        sink={"connection": "warehouse", "object": "sales.orders", "write": "merge", "key": ["id"]},
        mapping={"fields": [{"target": "id", "from": "id"}]},
    )
    assert one.reads == {"id", "placed_at"}
    changed = compare(ORDERS, ORDERS.model_copy(update={"key": ()}))
    assert [touched(SALES, change, [one]) for change in changed] == [(Touched("orders", "writes"),)]
