"""Search: its results, their order, and filters."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from catalog.database import driver_of, engine
from catalog.projection import changes
from catalog.queries import Filters
from catalog.reasons import Reason
from catalog.results import results
from catalog.rows import fold
from catalog.store import MetadataStore
from catalog.words import plain, words
from penstock.errors import UsageError
from penstock.models import DatasetRef, Field, Schema
from penstock.records import Record
from penstock.records.execution import SchemaObserved
from tests.catalog.conftest import START, Fact

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


def found(store: MetadataStore, query: str, *, fuzzy: bool = False, limit: int = 20, **filters: Any) -> list[str]:
    """Search; return the names of what matches, and nothing that is only spelt alike unless that is asked for."""
    result = store.search(query, Filters(**filters), fuzzy=fuzzy, limit=limit)
    return [] if result.approximate else [hit.dataset.object for hit in result.hits]


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
    ranks = [hit.rank for hit in shelf.search("order").hits]
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
    assert sorted(found(shelf, " !& ", tag="pii")) == ["events/clickStream", "public.kunden"]
    assert len(found(shelf, "")) == len(SHELF)


@pytest.mark.parametrize("query", ["'", "a & b | !c", "x:*", "\\", "ord:A", "<->", "\x00", "%", "ord" * 500])
def test_a_query_is_words_and_never_syntax(shelf: MetadataStore, query: str) -> None:
    shelf.search(query)
    shelf.search(query, fuzzy=True)
    shelf.search("", Filters(column=query, column_type=query, tag=query, kind=query, connection=query, owner=query))


def test_words_that_are_spelt_alike_are_found_if_asked_for_or_if_nothing_matches(shelf: MetadataStore) -> None:
    assert found(shelf, "paymnets") == []
    guessed = shelf.search("paymnets")
    assert ([hit.dataset.object for hit in guessed.hits], guessed.approximate) == (["payments"], True)
    assert [hit.approximate for hit in guessed.hits] == [True]
    assert guessed.hits[0].reasons == (Reason("name", "payments", ("paymnets",), exact=False),)
    assert found(shelf, "paymnets", fuzzy=True) == ["payments"]
    assert not shelf.search("xyzzyqq").hits
    assert found(shelf, "oders", fuzzy=True)[0] == "sales.orders"


def test_asked_for_or_not_an_exact_match_is_no_approximate_one(shelf: MetadataStore) -> None:
    result = shelf.search("payments", fuzzy=True)
    assert ([hit.approximate for hit in result.hits], result.approximate) == ([False], False)
    assert not shelf.search("orders").approximate


def test_the_exact_name_comes_first(shelf: MetadataStore) -> None:
    for name in ("sales.orders", "orders", "ORDERS"):
        assert found(shelf, name)[0] == "sales.orders"
    assert found(shelf, "clickstream")[0] == "events/clickStream"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('"order items"', ["sales.order_items"]),
        ('"items order"', []),
        ('"order id"', ["sales.orders", "sales.order_items"]),
        ('"id placed"', []),
        ('"each order clicked"', ["events/clickStream"]),
        ("order -items", ["sales.orders", "public.kunden", "events/clickStream"]),
        ('order -"order items" -kunden', ["sales.orders", "events/clickStream"]),
        ("-order -orders", ["payments"]),
        ('"order"', ["sales.orders", "sales.order_items", "events/clickStream"]),
        ("or", []),
        ("id", ["sales.orders", "sales.order_items", "events/clickStream"]),
    ],
)
def test_phrases_and_exclusions(shelf: MetadataStore, query: str, names: list[str]) -> None:
    assert sorted(found(shelf, query)) == sorted(names)


def test_columns_and_types_are_those_of_one_column(shelf: MetadataStore) -> None:
    ref = DatasetRef(connection="bus", object="bills")
    fields = (Field(name="Amount", type="numeric(9,2)"), Field(name="day", type="date"))
    shelf.put_dataset(SchemaObserved(dataset=ref, schema_=Schema(fields=fields)), at=START, offset=99)
    assert found(shelf, "", column="amount") == ["bills", "payments"]
    assert found(shelf, "", column="amount", column_type="numeric") == ["bills"]
    assert found(shelf, "", column="amount", column_type="NUMERIC(9,2)") == ["bills"]
    assert found(shelf, "", column="amount", column_type="numeric(9,3)") == []
    assert found(shelf, "", column="amount", column_type="date") == []
    assert found(shelf, "", column="amoun") == []
    assert found(shelf, "", column_type="date") == ["bills"]
    assert found(shelf, "", column_type="dat") == []


def test_owners_and_news(shelf: MetadataStore, fact: Fact) -> None:
    spec = {"source": {"connection": "shop", "object": "sales.orders"}, "sink": {"connection": "lake", "object": "raw"}}
    document = {"metadata": {"name": "p", "owner": "ann"}, "spec": spec}
    created = {"name": "p", "uid": "u", "version": 1, "pipeline": document}
    shelf.write([(50, fact("pipeline.created", created, key="p", minute=60))])
    assert sorted(found(shelf, "", owner="ann")) == ["raw", "sales.orders"]
    assert found(shelf, "order", owner="ann") == ["sales.orders"]
    assert found(shelf, "", owner="bob") == []
    assert found(shelf, "", updated_since=START + timedelta(minutes=1)) == ["raw"]
    assert len(found(shelf, "", updated_since=START)) == len(SHELF) + 1


def test_facets_and_totals_count_all_matches(shelf: MetadataStore) -> None:
    result = shelf.search("order", limit=1)
    assert (result.total, result.exact, len(result.hits)) == (4, True, 1)
    assert result.facets == {
        "connection": {"shop": 3, "lake": 1},
        "kind": {"table": 2, "files": 1, "view": 1},
        "tag": {"gold": 2, "pii": 2},
    }


def test_each_hit_says_why(shelf: MetadataStore) -> None:
    why = {hit.dataset.object: hit.reasons for hit in shelf.search("order").hits}
    assert why["sales.order_items"][:2] == (
        Reason("name", "sales.order_items", ("order",)),
        Reason("column", "order_id", ("order",)),
    )
    assert why["public.kunden"] == (Reason("column", "orders_count", ("order",)),)
    assert why["events/clickStream"] == (Reason("comment", "a line for each order clicked", ("order",)),)
    (hit,) = shelf.search("koln").hits
    assert hit.reasons == (Reason("comment", "Kundenstamm für Köln", ("koln",)),)
    assert shelf.search("gold").hits[0].reasons == (Reason("tag", "gold", ("gold",)),)


def test_a_long_comment_is_shortened_around_what_was_found(store: MetadataStore) -> None:
    text = "nothing " * 50 + "here is Zebra " + "more " * 50
    observed = SchemaObserved(
        dataset=DatasetRef(connection="a", object="b"), schema_=Schema(fields=()), description=text
    )
    store.put_dataset(observed, at=START, offset=1)
    (hit,) = store.search("zebra").hits
    assert "Zebra" in hit.reasons[0].text
    assert len(hit.reasons[0].text) < 100


@pytest.mark.parametrize("after", ["x", "~", "WzFd", "bm9uZQ"])
def test_a_cursor_of_something_else_is_refused(shelf: MetadataStore, after: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        shelf.search("order", after=after)


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


# --- the property, against a plain filter over a list

VOCABULARY = ("order", "orders", "ordering", "id", "item", "it", "mail", "e", "Über", "uber", "naïve")
TEXT = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=3)
NAME = TEXT.map("_".join)
FIELDS = st.lists(
    st.tuples(NAME, st.sampled_from(("text", "numeric(9,2)", "numeric"))), max_size=3, unique_by=lambda f: f[0]
)
ENTRY = st.fixed_dictionaries(
    {
        "connection": st.sampled_from(("a", "b")),
        "object": st.tuples(st.sampled_from(("s.", "")), NAME).map("".join),
        "kind": st.sampled_from(("table", "view")),
        "fields": FIELDS,
        "description": st.none() | TEXT.map(" ".join),
        "tags": st.lists(st.sampled_from(("gold", "pii")), max_size=2, unique=True),
    }
)
TERM = st.tuples(st.booleans(), st.booleans(), TEXT)
"""Is it excluded, is it a phrase, its words; without quotation marks only the first."""
FILTERS = st.fixed_dictionaries(
    {
        "kind": st.none() | st.just("view"),
        "tag": st.none() | st.just("pii"),
        "connection": st.none() | st.just("a"),
        "column": st.none() | st.sampled_from(("id", "ORDER")),
        "column_type": st.none() | st.sampled_from(("numeric", "numeric(9,2)", "text")),
    }
)
Term = tuple[bool, bool, list[str]]


def typed(terms: list[Term]) -> str:
    return " ".join(
        ("-" if excluded else "") + (f'"{" ".join(wanted)}"' if phrase else wanted[0])
        for excluded, phrase, wanted in terms
    )


def has(one: dict[str, Any], wanted: list[str], *, whole: bool) -> bool:
    texts = [one["object"], *(name for name, _ in one["fields"]), one["description"], *one["tags"]]
    groups = [words(text) for text in texts]
    if not whole and len(wanted[0]) >= 3:
        return any(word.startswith(wanted[0]) for group in groups for word in group)
    return any(group[at : at + len(wanted)] == wanted for group in groups for at in range(len(group)))


def is_match(one: dict[str, Any], terms: list[Term], filters: dict[str, Any]) -> bool:
    """The definition of a match."""
    for excluded, phrase, texts in terms:
        wanted = words(*(texts if phrase else texts[:1]))
        if has(one, wanted, whole=excluded or phrase) == excluded:
            return False
    name, type_ = filters["column"], filters["column_type"]
    columns = [
        field
        for field in one["fields"]
        if (name is None or plain(field[0]) == plain(name))
        and (type_ is None or type_ in {field[1], field[1].partition("(")[0]})
    ]
    return (
        (bool(columns) or (name is None and type_ is None))
        and (filters["tag"] is None or filters["tag"] in one["tags"])
        and all(filters[key] in {None, one[key]} for key in ("kind", "connection"))
    )


@pytest.fixture
def session(catalog: str) -> Iterator[Connection]:
    source = engine(catalog, pool_size=1)
    with source.begin() as opened:
        yield opened
    source.dispose()


@given(
    ranked=st.sampled_from((5000, 4, -1)),
    entries=st.lists(ENTRY, max_size=12, unique_by=lambda one: (one["connection"], one["object"])),
    terms=st.lists(TERM, max_size=3),
    filters=FILTERS,
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_property_16_search_returns_only_matching_entries_and_all_of_them(
    session: Connection, ranked: int, entries: list[dict[str, Any]], terms: list[Term], filters: dict[str, Any]
) -> None:
    """Whether all matches are ranked, some of them, or none: then they come by id."""
    for table in ("datasets", "search_entries", "words", "schema_versions"):
        session.exec_driver_sql(f"DELETE FROM catalog.{table}")
    fold(driver_of(session), [(at, one) for at, entry in enumerate(entries) for one in changes(at, observed(entry))])
    got, after = list[tuple[str, str]](), None
    while True:
        page = results(session, typed(terms), Filters(**filters), fuzzy=False, limit=3, after=after, ranked=ranked)
        got += [] if page.approximate else [(hit.dataset.connection, hit.dataset.object) for hit in page.hits]
        after = None if page.approximate else page.after
        if after is None:
            break
    expected = [(one["connection"], one["object"]) for one in entries if is_match(one, terms, filters)]
    assert sorted(got) == sorted(expected)


def observed(entry: dict[str, Any]) -> Record:
    fields = tuple(Field(name=name, type=type_) for name, type_ in entry["fields"])
    ref = DatasetRef(connection=entry["connection"], object=entry["object"])
    about = {name: entry[name] for name in ("kind", "description", "tags")}
    body = SchemaObserved(dataset=ref, schema_=Schema(fields=fields), **about)
    return Record(type="schema.observed", key=str(ref), at=START, actor="tests", payload=body.to_dict())
