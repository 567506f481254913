"""Foreign keys of a PostgreSQL sink, which order the first loads of a set."""

from __future__ import annotations

from penstock import postgres
from tests.dataflows.listings import before

TABLES = """
CREATE SCHEMA w;
CREATE TABLE w.customers (id bigint PRIMARY KEY, best bigint);
CREATE TABLE w."odd.Name" (id bigint PRIMARY KEY, customer bigint REFERENCES w.customers);
ALTER TABLE w."odd.Name" ADD up bigint REFERENCES w."odd.Name";
CREATE TABLE w.lines (id bigint, item bigint REFERENCES w."odd.Name", whose bigint REFERENCES w.customers)
  PARTITION BY HASH (id);
CREATE TABLE w.lines_0 PARTITION OF w.lines FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE public.apart (id bigint REFERENCES w.customers);
"""
TARGETS = ("w.customers", "w.odd.Name", "w.lines", "apart")


def test_foreign_keys_that_a_sink_enforces(database: str) -> None:
    sink = {"type": "postgres", "dsn": database}
    with postgres.connect(database, "tests") as session:
        session.execute(TABLES.encode())
        odd = ["w.customers", "w.odd.Name"]
        assert before(sink, *TARGETS) == {"w.odd.Name": odd, "w.lines": odd, "apart": ["w.customers"]}
        assert before(sink, "w.lines", "w.customers") == {"w.lines": ["w.customers"]}, "the others are not in the set"
        session.execute("ALTER TABLE public.apart DISABLE TRIGGER ALL; DROP TABLE w.lines")
        assert before(sink, *TARGETS) == {"w.odd.Name": odd}, "keys with disabled triggers are not enforced"
