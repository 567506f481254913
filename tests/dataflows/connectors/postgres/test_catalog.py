"""What PostgreSQL's own catalog says of a database: odd names, every kind of object, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataflows.connectors.cataloguing import Choice, Found
from dataflows.connectors.contract import Place
from dataflows.connectors.postgres.catalog import PostgresCatalog
from dataflows.connectors.postgres.connector import PostgresConnector
from dataflows.connectors.source_catalog import found_objects
from dataflows.work import discover
from dataflows.work.profile import profiled
from penstock.errors import PenstockError
from penstock.models.connection import parse_connection
from penstock.models.domain import ForeignKey
from tests.dataflows.listings import discovered, outline

SHOP = """
CREATE SCHEMA "Odd Schema"; CREATE SCHEMA "dot.ted"; CREATE SCHEMA hidden;
CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN email AS text NOT NULL CHECK (VALUE LIKE '%@%');
CREATE TABLE "Odd Schema"."Kunden Ä" ("select" int PRIMARY KEY, "a ""b"" c" text UNIQUE, "日本" mood,
    p pair, e email, l text[]);
CREATE TABLE "dot.ted".t (id int);
CREATE TABLE hidden.t (id int);
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, line int, price numeric(15,2) DEFAULT 0,
    total numeric GENERATED ALWAYS AS (price * 2) STORED, customer int NOT NULL REFERENCES "Odd Schema"."Kunden Ä",
    note text, PRIMARY KEY (id, line));
CREATE UNIQUE INDEX ON orders (lower(note)); CREATE UNIQUE INDEX partial ON orders (note) WHERE price > 0;
COMMENT ON TABLE orders IS 'What was ordered'; COMMENT ON COLUMN orders.note IS 'free text';
CREATE TABLE lines (nr bigint, line int, FOREIGN KEY (nr, line) REFERENCES orders);
CREATE TABLE days (day date, n int) PARTITION BY RANGE (day);
CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (n);
CREATE TABLE days_1_1 PARTITION OF days_1 FOR VALUES IN (1); CREATE TABLE days_1_2 PARTITION OF days_1 DEFAULT;
CREATE VIEW recent AS SELECT id, price FROM orders; CREATE MATERIALIZED VIEW summed AS SELECT sum(price) FROM orders;
CREATE TABLE nothing (); CREATE TABLE _penstock_positions (x int); CREATE TEMP TABLE temporary (x int);
"""


@pytest.fixture
def shop(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(SHOP)
        yield session


@contextmanager
def opened(dsn: str) -> Iterator[PostgresCatalog]:
    settings = parse_connection("shop", {"type": "postgres", "dsn": dsn})
    with closing(PostgresConnector.catalog(Place("discovery", "shop", settings, "", secrets=Path("/")))) as found:
        yield found


def described(catalog: PostgresCatalog, dsn: str, *tables: str) -> list[Found]:
    place = Place("discovery", "shop", parse_connection("shop", {"type": "postgres", "dsn": dsn}), "")
    pages = found_objects(PostgresConnector, place, catalog, Choice(tables or ("*",)))
    return [one for page in pages for one in page]


def found(dsn: str, *tables: str, except_: tuple[str, ...] = ()) -> Mapping[str, Found]:
    return discovered({"type": "postgres", "dsn": dsn}, *tables, except_=except_).objects


def test_every_kind_of_object_is_described(shop: psycopg.Connection, database: str) -> None:
    shop.execute("INSERT INTO days SELECT date '2026-01-05', g % 3 FROM generate_series(1, 2345) g; ANALYZE")
    all_ = found(database)
    for name, one in all_.items():
        if name != "public.nothing":
            assert one.schema.outline == outline({"type": "postgres", "dsn": database}, name), "a run sees the same"
    assert {name: one.kind for name, one in all_.items()} == {
        "Odd Schema.Kunden Ä": "table", "hidden.t": "table", "public.days": "table", "public.lines": "table",
        "public.nothing": "table", "public.orders": "table", "public.recent": "view",
        "public.summed": "materialized view",
    }  # fmt: skip
    odd = all_["Odd Schema.Kunden Ä"].schema
    assert [(one.name, one.type, one.nullable) for one in odd.fields] == [
        ("select", "integer", False), ('a "b" c', "text", True), ("日本", "mood", True), ("p", "pair", True),
        ("e", "email", False), ("l", "text[]", True),
    ]  # fmt: skip
    orders = all_["public.orders"]
    assert (orders.description, orders.schema.key) == ("What was ordered", ("id", "line"))
    assert [one.description for one in orders.schema.fields][-1] == "free text"
    assert {one.name: (one.columns, one.unique) for one in orders.profile.indexes} == {
        "orders_pkey": (("id", "line"), True), "orders_lower_idx": (("lower(note)",), True),
        "partial": (("note",), False),
    }  # fmt: skip
    assert orders.schema.foreign == (
        ForeignKey(columns=("customer",), object="Odd Schema.Kunden Ä", references=("select",)),
    )
    assert [one.default for one in orders.schema.fields] == [
        "GENERATED ALWAYS AS IDENTITY", None, "0", "GENERATED ALWAYS AS ((price * (2)::numeric))", None, None,
    ]  # fmt: skip
    (line,) = all_["public.lines"].schema.foreign or ()
    assert (line.object, line.references) == ("public.orders", ("id", "line"))
    assert (orders.schema.unique, all_["Odd Schema.Kunden Ä"].schema.unique) == (None, (('a "b" c',),))
    days = all_["public.days"].profile
    assert days.partitions
    assert (days.partitions.by, days.partitions.count, days.rows) == ("RANGE (day)", 2, 2300)
    assert all_["public.nothing"].schema.fields == ()


def test_names_are_chosen_by_pattern_before_anything_is_read(shop: psycopg.Connection, database: str) -> None:
    assert set(found(database, "public.[lo]*", "hidden.*", except_=("*.lines",))) == {"hidden.t", "public.orders"}


def test_1600_columns_and_more_tables_than_a_page(
    shop: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.execute("CREATE TABLE wide (" + ", ".join(f"c{number} smallint" for number in range(1600)) + ")")
    monkeypatch.setattr("dataflows.connectors.postgres.catalog.PAGE_TABLES", 2)
    place = Place("discovery", "shop", parse_connection("shop", {"type": "postgres", "dsn": database}), "")
    with opened(database) as catalog:
        pages = [list(page) for page in found_objects(PostgresConnector, place, catalog, Choice())]
    assert [len(page) for page in pages] == [2, 2, 2, 2, 1]
    assert max(len(one.schema.fields) for page in pages for one in page) == 1600


def test_a_user_that_may_only_select_sees_what_it_may_read_and_nothing_is_written(
    shop: psycopg.Connection, database: str
) -> None:
    shop.execute("CREATE ROLE reader LOGIN; GRANT SELECT ON orders TO reader; GRANT SELECT (day) ON days TO reader")
    marks = "SELECT pg_snapshot_xmax(pg_current_snapshot())"
    try:
        before = shop.execute(marks).fetchone()
        with opened(f"{database} user=reader") as catalog:
            names = [one.object for one in described(catalog, f"{database} user=reader")]
            assert names == ["public.days", "public.orders"]
            assert len(catalog.present) == 7
            assert catalog.notes == ["tables and views left out, as this user may not SELECT them: 7"]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                catalog._session.execute("DELETE FROM orders")
        assert shop.execute(marks).fetchone() == before, "no transaction has changed anything"
    finally:
        shop.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_a_table_that_another_session_alters_holds_up_nothing(
    shop: psycopg.Connection, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.transaction(), opened(database) as catalog:
        shop.execute("ALTER TABLE orders ADD more int")
        names = [one.object for one in described(catalog, database, "public.o*", "public.l*")]
        assert names == ["public.lines"]
        assert catalog.present == ["public.orders"]
        again = described(catalog, database, "public.lines")
        assert [one.object for one in again] == ["public.lines"]
        assert catalog.notes == ["locked by another session, and shown as before: public.orders"]
    sample = discover._Look.sample

    def locked(*what: Any) -> None:
        with shop.transaction():
            shop.execute("LOCK TABLE orders, lines, days")
            sample(*what)

    monkeypatch.setattr(discover._Look, "sample", locked)
    monkeypatch.setattr(discover, "stop_on_signal", lambda _: None)
    order = {"id": "d", "connection": "shop", "sample_rows": 9, "tables": ["public.*s"]}
    connections = {"shop": {"type": "postgres", "dsn": database}}
    assert discover.run_task({"discovery": order, "connections": connections, "result": str(tmp_path / "result")}) == 0
    result = json.loads((tmp_path / "result").read_text())
    why = "it is locked, or gone since it was described"
    assert (result["notes"], result["present"]) == ([f"could not be sampled: public.days: {why}; and 2 more"], [])


PEOPLE = """
CREATE TABLE people (id int PRIMARY KEY, mail text, country text, note text);
INSERT INTO people SELECT g, 'p' || g || '@example.org', (ARRAY['DE', 'FR', 'US'])[1 + g % 3],
    CASE WHEN g % 2 = 0 THEN 'x' END FROM generate_series(1, 600) g;
CREATE VIEW half AS SELECT 1 / (id - 1) AS x FROM people;
"""


def test_the_server_s_statistics_are_read_and_only_what_has_none_is_sampled(
    shop: psycopg.Connection, database: str
) -> None:
    shop.execute(PEOPLE)
    shop.execute("CREATE TABLE copied AS SELECT * FROM people; ANALYZE people")
    with opened(database) as catalog:
        pages = described(catalog, database, "public.people", "public.copied", "public.half")
        known = {one.object: one.statistics for one in pages}
        assert known["public.copied"] == {}
        sampled = {one.object: one for one in pages if not one.statistics}
        with pytest.raises(PenstockError):  # a view that fails
            catalog.sample(sampled["public.half"], 500, lambda: None)
        copied = catalog.sample(sampled["public.copied"], 500, lambda: None).statistics
    for found in (known["public.people"], copied):
        assert found["note"].nulls == pytest.approx(0.5, abs=0.01)
        assert found["mail"].distinct == -1
        assert {value for value, _ in found["country"].top} == {"DE", "FR", "US"}
        assert "@example.org" in found["mail"].bounds[0]


def test_fields_of_documents_are_seen_in_a_sample_also_of_a_table_with_statistics(
    shop: psycopg.Connection, database: str
) -> None:
    shop.execute(
        'CREATE TABLE docs (id int PRIMARY KEY, doc jsonb, "o %dd" json);'
        "INSERT INTO docs SELECT g, jsonb_build_object('a', g, 'to', jsonb_build_object('city', repeat('x', 300))), "
        "CASE WHEN g = 1 THEN '{\"b\": true}'::json END FROM generate_series(1, 1200) g; ANALYZE docs"
    )
    with opened(database) as catalog:
        (docs,) = described(catalog, database, "public.docs")
        assert docs.statistics
        found = catalog.sample(docs, 5000, lambda: None)
    assert found.statistics == docs.statistics, "the server's own are better"
    _, doc, odd = found.schema.fields
    assert [(one.name, one.type) for one in doc.fields or ()] == [("a", "bigint"), ("to", "json")]
    assert [one.name for one in (doc.fields or ())[1].fields or ()] == ["city"]
    assert [(one.name, one.type) for one in odd.fields or ()] == [("b", "boolean")]
    assert found.well_seen == {"doc": ((), ("to",))}


def test_features_of_a_column_contain_no_value(shop: psycopg.Connection, database: str) -> None:
    shop.execute(PEOPLE + "ANALYZE people")
    (people,) = found(database, "public.people").values()
    profile, values = profiled(people)
    columns = {one.name: one for one in profile.columns}
    assert columns["mail"].tags["email"] > 0.95
    assert columns["mail"].personal
    assert (columns["country"].distinct, columns["note"].nulls) == (3, 0.5)
    assert "example" not in profile.to_json()
    assert values["country"]["top"][0][0] in {"DE", "FR", "US"}
    assert values["mail"]["shapes"] == [["a9@a.a", 1.0]]
