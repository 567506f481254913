"""Lineage by column, from the documents of pipelines: every step, both directions, circles, whole objects."""

from __future__ import annotations

from typing import Any

import pytest

from catalog.lineage import Node, edges
from catalog.store import MetadataStore
from penstock.errors import NotFound
from penstock.models import DatasetRef, Field, Pipeline, Schema
from penstock.records.execution import SchemaObserved
from tests.catalog.conftest import START, Fact

COLUMNS = ("id", "first", "last", "Amount")


def document(source: str, sink: str, name: str = "p", **spec: Any) -> dict[str, Any]:
    ends = {"source": {"connection": "a", "object": source}, "sink": {"connection": "b", "object": sink}}
    metadata = {"name": name, "owner": "ann"}
    return {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": metadata, "spec": ends | spec}


def flows(columns: tuple[str, ...] | None = COLUMNS, **spec: Any) -> dict[str | None, list[str]]:
    """Return the origins of each column of the sink."""
    found: dict[str | None, list[str]] = {}
    for edge in edges(Pipeline.parse(document("t", "u", **spec)), columns):
        found.setdefault(edge.target.column, []).append(str(edge.source).removeprefix("a:t."))
    return found


def test_without_a_mapping_each_column_is_its_own() -> None:
    assert flows() == {name: [name] for name in COLUMNS}


def test_a_mapping_says_where_columns_come_from() -> None:
    fields = [
        {"target": "key", "from": "id"},
        {"target": "name", "sql": "first || ' ' || LAST"},
        {"target": "total", "sql": 'round("Amount" * 2, 1)'},
        {"target": "one", "sql": "1"},
    ]
    expected = {"key": ["id"], "name": ["first", "last"], "total": ["Amount"]}
    assert flows(mapping={"fields": fields}) == expected
    assert flows(None, mapping={"fields": fields}) == expected


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        ({"rename": {"id": "key"}}, {"id": None, "key": ["id"]}),
        ({"select": ["id"]}, {"first": None, "last": None, "Amount": None}),
        ({"cast": {"id": "text"}}, {}),
        ({"mask": {"first": "hash"}}, {}),
        ({"filter": "id > 1"}, {}),
        ({"set": {"id": "first || last"}}, {"id": ["first", "last"]}),
        ({"set": {"new": "id + 1"}}, {"new": ["id"]}),
        ({"set": {"id": "first"}, "when": "last = 'x'"}, {"id": ["first", "id"]}),
        ({"python": {"call": "m:f", "columns": {"new": "text"}}}, {"new": sorted(COLUMNS)}),
        (
            {"lookup": {"connection": "c", "object": "rates", "on": {"id": "id"}, "take": {"rate": "value"}}},
            {"rate": ["c:rates.value"]},
        ),
    ],
    ids=lambda one: next(iter(one), None) if isinstance(one, dict) else None,
)
def test_steps_move_and_make_columns(step: dict[str, Any], changed: dict[str, list[str] | None]) -> None:
    expected = {name: [name] for name in COLUMNS} | changed
    assert flows(transforms=[{"name": "s", **step}]) == {name: one for name, one in expected.items() if one is not None}


def test_unknown_columns_connect_whole_objects() -> None:
    assert flows(None) == {None: ["a:t"]}


@pytest.fixture
def chain(store: MetadataStore, fact: Fact) -> MetadataStore:
    """a:t -> b:u, whose copy a:u -> b:v, and back: b:v is also read as a:t's source by a circle."""
    for offset, (connection, name) in enumerate((("a", "t"), ("a", "u"))):
        schema = Schema(fields=(Field(name="id", type="bigint"), Field(name="x", type="text")))
        ref = DatasetRef(connection=connection, object=name)
        store.put_dataset(SchemaObserved(dataset=ref, schema_=schema), at=START, offset=offset)
    documents = [document("t", "u", "first"), document("u", "v", "second"), document("u", "t", "third")]
    for one in documents:
        one["spec"]["sink"]["connection"] = "a"
    for offset, one in enumerate(documents, 10):
        name = one["metadata"]["name"]
        store.write([(offset, fact("pipeline.created", {"name": name, "uid": name, "version": 1, "pipeline": one}))])
    return store


def reached(store: MetadataStore, name: str, column: str | None, *, up: bool, depth: int) -> list[tuple[int, str, str]]:
    begin = Node(DatasetRef(connection="a", object=name), column)
    steps = store.lineage(begin, up=up, depth=depth)
    return sorted((step.depth, str(step.edge.source), str(step.edge.target)) for step in steps)


def test_lineage_is_followed_both_ways_nearest_first(chain: MetadataStore) -> None:
    assert reached(chain, "v", "x", up=True, depth=1) == [(1, "a:u.x", "a:v.x")]
    assert reached(chain, "v", "x", up=True, depth=2) == [(1, "a:u.x", "a:v.x"), (2, "a:t.x", "a:u.x")]
    assert reached(chain, "t", "x", up=False, depth=1) == [(1, "a:t.x", "a:u.x")]
    assert len(reached(chain, "t", None, up=False, depth=1)) == 2


def test_a_circle_ends(chain: MetadataStore) -> None:
    steps = reached(chain, "t", "x", up=False, depth=50)
    assert steps == [(1, "a:t.x", "a:u.x"), (2, "a:u.x", "a:t.x"), (2, "a:u.x", "a:v.x")]


def test_a_column_that_is_not_there_is_named(chain: MetadataStore) -> None:
    with pytest.raises(NotFound, match="no such column"):
        reached(chain, "t", "y", up=True, depth=1)


def test_a_lookup_is_read_by_the_pipeline_that_looks_up(chain: MetadataStore, fact: Fact) -> None:
    lookup = {"connection": "c", "object": "rates", "on": {"id": "id"}, "take": {"rate": "value"}}
    one = document("t", "w", "fourth", transforms=[{"name": "s", "lookup": lookup}])
    chain.write([(20, fact("pipeline.created", {"name": "fourth", "uid": "4", "version": 1, "pipeline": one}))])
    (step,) = chain.lineage(Node(DatasetRef(connection="c", object="rates"), "value"), up=False, depth=1)
    assert (step.edge.pipeline, str(step.edge.target)) == ("fourth", "b:w.rate")
