"""A stream of changes, a set of them and a batch under load while their tables are altered again and again."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
import pytest

from penstock import postgres
from penstock.topics.embedded import EmbeddedServer
from tests.agents.control_plane import pipeline, pipeline_set
from tests.dataflows.flows.installation import Installation, until

pytestmark = pytest.mark.xdist_group("cdc")

PIPELINES = {"one": "one", "all/s.a": "a", "all/s.b": "b", "batch": "batch"}
"""The table of each."""
RETRY = {"retry": {"base": "200ms", "max": "2s"}}
RULES = {"additive": "apply", "lost": "pause", "renames": "pause", "types": "pause"}
HARMLESS = (
    "ADD {c} int",
    "ADD {c} text DEFAULT 'of old rows'",
    "ADD {c} numeric(10,2) NOT NULL DEFAULT 1.50",
    "ADD {c} timestamptz DEFAULT now()",
    "ADD {c} jsonb DEFAULT '{{}}', ADD {c}_b boolean",
    "ALTER name SET STATISTICS {n}",
    "ALTER name SET DEFAULT 'n{n}'",
    "ADD CONSTRAINT {c} CHECK (id > -1000)",
    "SET (fillfactor = {n})",
)
PATIENCE = 120.0


@dataclass
class Shop:
    """Tables in schema `s`, their copies in schema `t`, and writers that go on until they are stopped."""

    installation: Installation
    dsn: str
    session: psycopg.Connection[Any]
    chance: random.Random
    ended: threading.Event = field(default_factory=threading.Event)
    writes: threading.Lock = field(default_factory=threading.Lock)
    """Held while nothing is written."""
    written: int = 0

    def write(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as session:
            while not self.ended.wait(0.01):
                with self.writes:
                    self.write_once(session)

    def write_once(self, session: psycopg.Connection[Any]) -> None:
        for table in PIPELINES.values():
            session.execute(f"INSERT INTO s.{table} (name) SELECT 'n' || g FROM generate_series(1, 5) g".encode())
            session.execute(f"UPDATE s.{table} SET name = name || '.' WHERE id % 50 = {self.written % 50}".encode())
            session.execute(f"DELETE FROM s.{table} WHERE id % 97 = {self.written % 97}".encode())
        self.written += 1

    def alter(self, table: str, text: str) -> None:
        self.session.execute(f"ALTER TABLE s.{table} {text}".encode())

    def statuses(self) -> dict[str, str]:
        found = {one.key: "active" for one in self.installation.of("pipeline.created")}
        found |= {one.key: one.payload["status"] for one in self.installation.of("pipeline.status_changed")}
        return {name: status for name, status in found.items() if name in PIPELINES}

    def is_paused(self, name: str) -> bool:
        return self.statuses()[name] == "paused"

    def failed(self) -> list[Any]:
        ended = [one.payload for one in self.installation.of("run.finished")]
        return [(one["run"]["pipeline"], one["error"]) for one in ended if one["run"]["status"] == "failed"]

    def await_same(self, *names: str) -> None:
        """Wait until both sides of these are equal, in the source's columns; a batch runs again."""

        def same(table: str) -> bool:
            columns = "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
            columns += f"WHERE attrelid = 's.{table}'::regclass AND attnum > 0 AND NOT attisdropped"
            (listed,) = self.session.execute(columns.encode()).fetchone() or ("",)
            sides = [f"SELECT ROW({listed})::text FROM {schema}.{table}" for schema in "st"]
            source, target = sides
            both = f"({source} EXCEPT ALL {target}) UNION ALL ({target} EXCEPT ALL {source})"
            try:
                return self.session.execute(both.encode()).fetchone() is None
            except psycopg.errors.UndefinedColumn:  # it has not been told of the column yet
                return False

        for name in names:
            until(partial(same, PIPELINES[name]), f"both sides of {name} to be equal", PATIENCE)

    def run_batch(self) -> None:
        before = len([one for one in self.installation.of("run.finished") if one.payload["run"]["pipeline"] == "batch"])
        id_ = self.installation.send("run.start", pipeline="batch")
        until(lambda: id_ in self.installation.answers(), "the answer", PATIENCE)

        def ended() -> bool:
            runs = [one for one in self.installation.of("run.finished") if one.payload["run"]["pipeline"] == "batch"]
            return len(runs) > before

        until(ended, "the batch", PATIENCE)


@pytest.fixture
def shop(installation: Installation, logical: EmbeddedServer) -> Iterator[Shop]:
    logical.create_database("altered")
    dsn = logical.dsn("altered")
    columns = "id serial PRIMARY KEY, name text, note text DEFAULT 'note'"
    with postgres.connect(dsn, "tests") as session:
        session.execute("CREATE SCHEMA s; CREATE SCHEMA t; SET lock_timeout = '20s'")
        for table in PIPELINES.values():
            session.execute(f"CREATE TABLE s.{table} ({columns})".encode())
            session.execute(f"INSERT INTO s.{table} (name) SELECT 'n' || g FROM generate_series(1, 500) g".encode())
        made = Shop(installation, dsn, session, random.Random(7))
        installation.start("control", "projector", "scheduler")
        installation.start("worker")
        for connection in ("shop", "house"):
            installation.done("connection.put", name=connection, connection={"type": "postgres", "dsn": dsn})
        merged = {"write": "merge", "key": ["id"]}
        one, batch = pipeline("one"), pipeline("batch")
        one["spec"] = {
            "mode": "stream", "schema": RULES, "errors": RETRY, "source": {"connection": "shop", "object": "s.one"},
            "sink": {"connection": "house", "object": "t.one", **merged},
        }  # fmt: skip
        batch["spec"] = {
            "schema": RULES, "errors": RETRY, "source": {"connection": "shop", "object": "s.batch"},
            "sink": {"connection": "house", "object": "t.batch", "write": "replace"},
        }  # fmt: skip
        all_ = pipeline_set(
            "all",
            "s.a",
            "s.b",
            sink={"object": "t.{table}", "write": "merge", "key": "auto"},
            mode="stream",
            schema=RULES,
        )
        for document in (one, batch, all_):
            installation.done("pipeline.apply", pipeline=document)
        writer = threading.Thread(target=made.write)
        writer.start()
        yield made
        made.ended.set()
        writer.join()
        for name in ("one", "batch", "all"):
            installation.done("pipeline.delete", name=name)
        slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        until(lambda: session.execute(slots.encode()).fetchone() == (0,), "the slots to be dropped", PATIENCE)


def altered(shop: Shop, alters: int) -> None:
    """Alter the tables; harmless changes stop nothing, then each breaking one pauses exactly what it touches."""
    shop.run_batch()
    for number in range(alters):
        table = shop.chance.choice([*PIPELINES.values()])
        shop.alter(table, shop.chance.choice(HARMLESS).format(c=f"c{number}", n=50 + number % 50))
        shop.ended.wait(shop.chance.uniform(0, 0.6))
        if number % 10 == 9:
            shop.run_batch()
    with shop.writes:
        shop.run_batch()
        shop.await_same(*PIPELINES)
    assert shop.failed() == []
    assert shop.statuses() == dict.fromkeys(PIPELINES, "active")
    paused: set[str] = set()
    for name, table in PIPELINES.items():
        shop.alter(table, "RENAME note TO remark")
        if name == "batch":
            shop.run_batch()
        until(partial(shop.is_paused, name), f"{name} to be paused", PATIENCE)
        paused.add(name)
        assert shop.statuses() == {one: "paused" if one in paused else "active" for one in PIPELINES}
    for name, table in PIPELINES.items():
        shop.alter(table, "RENAME remark TO note")
        shop.installation.done("pipeline.resume", name=name)
        if name != "batch":
            shop.installation.done("run.start", pipeline=name, begin={"from": "earliest", "reset": True})
    with shop.writes:
        shop.run_batch()
        shop.await_same(*PIPELINES)
    assert shop.statuses() == dict.fromkeys(PIPELINES, "active")


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_fifty_harmless_changes_stop_nothing_and_breaking_ones_pause_what_they_touch(shop: Shop) -> None:
    altered(shop, 50)
