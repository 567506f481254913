"""Search: its results, their order, and filters."""

from __future__ import annotations

from contextlib import closing

import pytest

from catalog.store import MetadataStore
from catalog.words import words
from penstock.errors import Unavailable
from penstock.models import DatasetRef, Field, Schema
from penstock.postgres import connect
from penstock.records.execution import SchemaObserved
from tests.catalog.conftest import START

SHELF: list[tuple[str, str, str, list[str], str | None, tuple[str, ...]]] = [
    ("shop", "sales.orders", "table", ["order_id", "placedAt"], "what people bought", ("gold",)),
    ("shop", "sales.order_items", "table", ["order_id", "price"], None, ()),
    ("shop", "public.kunden", "view", ["Straße", "orders_count"], "Kundenstamm für Köln", ("pii",)),
    ("lake", "events/clickStream", "files", ["userId", "HTTPStatus"], "a line for each order clicked", ("pii", "gold")),
    ("bus", "payments", "topic", ["amount"], None, ()),
]  # fmt: skip


@pytest.fixture
def shelf(store: MetadataStore) -> MetadataStore:
    for offset, (connection, name, kind, columns, description, tags) in enumerate(SHELF):
        schema = Schema(fields=tuple(Field(name=column, type="text") for column in columns))
        ref = DatasetRef(connection=connection, object=name)
        observed = SchemaObserved(dataset=ref, schema_=schema, kind=kind, description=description, tags=tags)
        store.put_dataset(observed, at=START, offset=offset)
    return store


def found(store: MetadataStore, query: str, **filters: object) -> list[str]:
    return [hit.dataset.object for hit in store.search(query, **filters)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("ord", ["sales.orders", "sales.order_items", "public.kunden", "events/clickStream"]),
        ("items", ["sales.order_items"]),
        ("order_items", ["sales.order_items"]),
        ("orderItems", []),
        ("sales.orders", ["sales.orders"]),
        ("stream", ["events/clickStream"]),
        ("clickstream", ["events/clickStream"]),
        ("ClickStream", ["events/clickStream"]),
        ("koln", ["public.kunden"]),
        ("KÖLN", ["public.kunden"]),
        ("strasse", ["public.kunden"]),
        ("placed", ["sales.orders"]),
        ("http status", ["events/clickStream"]),
        ("gold", ["events/clickStream", "sales.orders"]),
        ("bought order", ["sales.orders"]),
        ("bought click", []),
        ("rders", []),
    ],
)
def test_search_finds_names_columns_descriptions_and_tags(shelf: MetadataStore, query: str, names: list[str]) -> None:
    assert sorted(found(shelf, query)) == sorted(names)


def test_names_rank_above_columns_above_descriptions(shelf: MetadataStore) -> None:
    assert found(shelf, "order")[-2:] == ["public.kunden", "events/clickStream"]
    assert set(found(shelf, "order")[:2]) == {"sales.orders", "sales.order_items"}
    ranks = [hit.rank for hit in shelf.search("order")]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[1] > ranks[2] > ranks[3] > 0


def test_filters_narrow_the_search(shelf: MetadataStore) -> None:
    assert found(shelf, "order", kind="view") == ["public.kunden"]
    assert found(shelf, "order", tag="gold") == ["sales.orders", "events/clickStream"]
    assert found(shelf, "order", connection="lake") == ["events/clickStream"]
    assert found(shelf, "order", connection="lake", tag="pii", kind="files") == ["events/clickStream"]
    assert found(shelf, "order", connection="bus") == []
    assert len(found(shelf, "order", limit=2)) == 2


def test_without_words_the_filters_alone_decide(shelf: MetadataStore) -> None:
    assert found(shelf, " !& ", tag="pii") == ["events/clickStream", "public.kunden"]
    assert len(found(shelf, "")) == len(SHELF)


@pytest.mark.parametrize("query", ["'", "a & b | !c", "x:*", "\\", "ord:A", "<->", "\x00", "%", "ord" * 500])
def test_a_query_is_words_and_never_syntax(shelf: MetadataStore, query: str) -> None:
    shelf.search(query)
    shelf.search(query, fuzzy=True)


def test_fuzzy_search_finds_misspelt_names(shelf: MetadataStore) -> None:
    assert found(shelf, "paymnets") == []
    assert found(shelf, "paymnets", fuzzy=True) == ["payments"]
    assert found(shelf, "custommer", fuzzy=True) == []
    assert found(shelf, "oders", fuzzy=True)[0] == "sales.orders"


def test_without_pg_trgm_only_fuzzy_search_is_missing(shelf: MetadataStore, catalog: str) -> None:
    with closing(connect(catalog, "tests")) as session:
        session.execute("DROP EXTENSION pg_trgm")
    assert found(shelf, "payments") == ["payments"]
    with pytest.raises(Unavailable, match="pg_trgm"):
        shelf.search("paymnets", fuzzy=True)


def test_a_new_schema_changes_search_results(shelf: MetadataStore) -> None:
    ref = DatasetRef(connection="bus", object="payments")
    schema = Schema(fields=(Field(name="currency", type="text"),))
    shelf.put_dataset(SchemaObserved(dataset=ref, schema_=schema), at=START, offset=99)
    assert found(shelf, "currency") == ["payments"]
    assert found(shelf, "amount") == []


def test_identifiers_are_split() -> None:
    assert words("sales.orderItems_v2") == ["sales", "orderitems", "order", "items", "v2"]
    assert words("HTTPStatus", None, "Ünïcode") == ["httpstatus", "http", "status", "unicode"]
    assert words("--- !") == []
