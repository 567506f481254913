"""A place where faults are made for real: a database, folders, servers, and the table of the faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg import conninfo

from tests.dataflows.conftest import Launchers, task_of

if TYPE_CHECKING:
    from tests.mariadb import MysqlServer
    from tests.s3 import S3Server

__all__ = ["CURSOR", "FAULTS", "NOWHERE", "Bench", "Fault", "Outcome", "fault", "pg", "role"]

Outcome = tuple[dict[str, Any], dict[str, Any]]
"""The error that a run has reported, and its task."""
NOWHERE: Final = "postgresql://me@127.0.0.1:1/nothing"


@dataclass
class Bench:
    """A database with a table `items`, folders, and servers that are started when a fault needs them."""

    dsn: str
    folder: Path
    launchers: Launchers
    request: pytest.FixtureRequest
    diagnosis: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
    """Diagnoses an error of a task at once, while its fault lasts."""
    session: psycopg.Connection[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.session = psycopg.connect(self.dsn, autocommit=True)
        self.session.execute(
            "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric, born text);"
            "INSERT INTO items VALUES (1, 'one', 1.5, '2026-01-31'), (2, 'a longer name', 70000, '2026-02-30');"
            "CREATE SCHEMA w"
        )

    @property
    def mysql(self) -> MysqlServer:
        server: MysqlServer = self.request.getfixturevalue("mariadb")
        return server

    @property
    def s3(self) -> S3Server:
        server: S3Server = self.request.getfixturevalue("s3")
        return server

    def as_user(self, user: str, **more: str) -> str:
        """Return the DSN for another role."""
        return conninfo.make_conninfo(self.dsn, user=user, **more)

    def task(
        self, source: dict[str, Any] | None = None, sink: dict[str, Any] | None = None, **spec: Any
    ) -> dict[str, Any]:
        """Return the task of a run from `items` to ``w.items``, or between other connections."""
        here = {"type": "postgres", "dsn": self.dsn}
        ends = [
            {"object": object_, **({} if one is None else one)}
            for object_, one in (("public.items", source), ("w.items", sink))
        ]
        connections = {name: one.pop("is", here) for name, one in zip(("shop", "lake"), ends, strict=True)}
        parts = {
            "source": {"connection": "shop", **ends[0]},
            "sink": {"connection": "lake", "write": "replace", **ends[1]},
            "errors": {"retry": {"attempts": 1}},
            **spec,
        }
        return task_of("r1", "00000000-0000-4000-8000-000000000009", connections, parts, self.folder)

    def failed(self, task: dict[str, Any], failpoint: str | None = None) -> Outcome:
        """Run a task that has to fail."""
        found = self.launchers.run(task, failpoint)
        assert found["status"] == "failed", found
        return dict(found["error"]), task

    def fails(self, *statements: str, **changes: Any) -> Outcome:
        """Execute statements, and run the task with these changes."""
        for statement in statements:
            self.session.execute(statement)
        return self.failed(self.task(**changes))

    def target(self, columns: str, *, write: str = "append", **spec: Any) -> Outcome:
        """Run into a table of these columns."""
        sink = {"write": write} | ({"key": ["id"]} if write == "merge" else {})
        return self.fails(f"CREATE TABLE w.items ({columns})", sink=sink, **({"source": CURSOR} | spec))

    def close(self) -> None:
        self.session.close()


CURSOR: Final = {"cursor": {"field": "id", "ordered": True}}


@dataclass(frozen=True)
class Fault:
    """One kind of fault. `named` are words of its diagnosis; `slow` ones need other servers, or time."""

    name: str
    kind: str
    named: tuple[str, ...]
    make: Callable[[Bench], Outcome]
    slow: bool = False


FAULTS: Final[list[Fault]] = []


def fault(name: str, kind: str, *named: str, slow: bool = False) -> Callable[[Callable[[Bench], Outcome]], None]:
    """Add a fault to the table."""
    return lambda make: FAULTS.append(Fault(name, kind, named, make, slow))


def pg(**more: str) -> dict[str, Any]:
    return {"is": {"type": "postgres", **more}}


@contextmanager
def role(bench: Bench, name: str, options: str = "LOGIN") -> Iterator[None]:
    """A role of the server, with the rights to read and write here."""
    bench.session.execute(f"CREATE ROLE {name} {options}")
    bench.session.execute(f"GRANT ALL ON SCHEMA public, w TO {name}; GRANT SELECT ON items TO {name}")
    try:
        yield
    finally:
        bench.session.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
