"""A server whose changes can be read, and streams of the changes of a table of its own to a table of its own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.topics.embedded import EmbeddedServer
from tests.dataflows.conftest import Launchers, task_of

WAIT = 30.0
COLUMNS = "id int PRIMARY KEY, name text, price numeric(12,2), at timestamptz DEFAULT now(), body text"
_numbers = count(1)


@dataclass
class Changes:
    """Stream of the changes of `source` to `target`, in the same database."""

    launchers: Launchers
    session: psycopg.Connection[Any]
    dsn: str
    letters: str | None
    folder: Path
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def source(self) -> str:
        return f"public.s{self.number}"

    @property
    def target(self) -> str:
        return f"w.t{self.number}"

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-a000-{self.number:012d}"

    def task(self, run: str = "r1", attempt: int = 1, **changes: Any) -> dict[str, Any]:
        """Return the task of a run; `changes` replace parts of the pipeline's spec."""
        spec: dict[str, Any] = {
            "mode": "stream",
            "source": {"connection": "shop", "object": self.source},
            "sink": {"connection": "lake", "object": self.target, "write": "merge", "key": ["id"]},
            "limits": {"linger": "20ms"},
        }
        postgres = {"type": "postgres", "dsn": self.dsn}
        task = task_of(
            run, self.uid, {"shop": postgres, "lake": postgres}, spec | changes, self.folder, attempt=attempt
        )
        return task | ({"letters": self.letters} if self.letters else {})

    def do(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own; ``{s}`` is the source's table."""
        for one in statements:
            self.session.execute(one.replace("{s}", self.source).replace("{t}", self.target))

    def value(self, query: str) -> Any:
        row = self.session.execute(query.replace("{s}", self.source).replace("{t}", self.target)).fetchone()
        return row and row[0]

    def differences(self, columns: str = "*") -> int:
        """Return how many rows are in one table and not in the other."""
        if self.value("SELECT to_regclass('{t}')") is None:
            return -1
        one, other = (f"SELECT {columns} FROM {table}" for table in (self.source, self.target))
        differing = f"({one} EXCEPT ALL {other}) UNION ALL ({other} EXCEPT ALL {one})"
        try:
            return int(self.value(f"SELECT count(*) FROM ({differing}) x"))
        except psycopg.errors.SyntaxError:  # one of them has more columns
            return -1

    def until(self, query: str) -> None:
        """Wait until a query is true."""
        end = time.monotonic() + WAIT
        while not self.value(query):
            assert time.monotonic() < end, query
            time.sleep(0.02)

    def until_same(self, columns: str = "*") -> None:
        """Wait until both tables have the same rows."""
        end = time.monotonic() + WAIT
        while (found := self.differences(columns)) != 0:
            assert time.monotonic() < end, f"{found} rows differ"
            time.sleep(0.02)

    def stop(self, pid: int, task: dict[str, Any]) -> dict[str, Any]:
        """Ask a run to stop; return its result."""
        os.kill(pid, signal.SIGTERM)
        return self.launchers.ended(pid, task)

    def followed(self, run: str = "r1", attempt: int = 1, **changes: Any) -> dict[str, Any]:
        """Run until both tables have the same rows, then stop; return the result."""
        task = self.task(run, attempt, **changes)
        pid = self.launchers.start(task)
        self.until_same()
        return self.stop(pid, task)

    def position(self) -> dict[str, Any]:
        """Return the position at the sink."""
        query = f"SELECT position FROM w._penstock_offsets WHERE pipeline = '{self.uid}'"
        return dict(json.loads(self.value(query)))

    def slots(self) -> list[str]:
        """Return the pipeline's slots."""
        from dataflows.connectors.postgres.cdc.names import slot_prefix

        rows = self.session.execute("SELECT slot_name FROM pg_replication_slots ORDER BY 1").fetchall()
        return [name for (name,) in rows if name.startswith(slot_prefix(self.uid))]


@pytest.fixture(scope="module")
def shop(logical: EmbeddedServer) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """A database with an empty schema for targets."""
    name = f"shop_{next(_numbers)}"
    with psycopg.connect(logical.dsn("postgres"), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
    dsn = logical.dsn(name)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CREATE SCHEMA w")
        yield session, dsn


@pytest.fixture(scope="module")
def letters(new_catalog: Callable[[], str]) -> str:
    """A catalog that keeps dead letters."""
    return new_catalog()


@pytest.fixture
def changes(
    launchers: Launchers, shop: tuple[psycopg.Connection[Any], str], letters: str, tmp_path: Path
) -> Iterator[Callable[..., Changes]]:
    """Make a stream, with its table; its slots are dropped at the end."""
    made: list[Changes] = []

    def make(columns: str = COLUMNS, rows: int = 100) -> Changes:
        one = Changes(launchers, *shop, letters, tmp_path)
        made.append(one)
        one.do(f"CREATE TABLE {{s}} ({columns})")
        if rows:
            one.do(
                "INSERT INTO {s} (id, name, price, body) SELECT g, CASE g % 7 WHEN 0 THEN NULL WHEN 1 THEN '' "
                f"ELSE 'item, \"' || g || '\"' END, g * 1.01, repeat('x', g % 5) FROM generate_series(1, {rows}) g"
            )
        return one

    yield make
    for one in made:
        for name in one.slots():
            one.session.execute(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s", (name,)
            )
            one.session.execute("SELECT pg_drop_replication_slot(%s)", (name,))
