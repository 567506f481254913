"""What is MySQL's own: the fence alone, merges, engines, writers that are waited for, errors in one line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataflows.chunks import Chunk
from dataflows.connectors import Owner, Place, WriterOrder
from dataflows.mysql.connector import MysqlConnector
from dataflows.mysql.target import MysqlTarget
from dataflows.sinks.state import Claim, Counters, RunRow
from dataflows.splits import Split
from dataflows.tables import Column
from penstock.errors import Fenced
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink
from tests.dataflows.conftest import Launchers, launchers
from tests.dataflows.mysql.conftest import MysqlServer, mariadb, new_schema

__all__ = ["launchers", "mariadb", "new_schema"]
_numbers = count(1)
COLUMNS = (Column("id", "bigint", nullable=False), Column("name", "text"))


@dataclass
class Shop:
    """A database, and pipelines within it from ``source`` to ``sink``."""

    server: MysqlServer
    database: str
    folder: Path
    launchers: Launchers
    number: int = field(default_factory=lambda: next(_numbers))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.server.query(query, self.database)

    def script(self, *statements: str) -> None:
        for statement in statements:
            self.rows(statement)

    def settings(self, **changes: Any) -> dict[str, Any]:
        return self.server.connection(self.database, **changes)

    def place(self, name: str, **changes: Any) -> Place:
        return Place("items", "shop", parse_connection("shop", self.settings(**changes)), name, self.server.home)

    def target(self, write: str = "append", generation: int = 0, uid: str = "u1", **sink: Any) -> MysqlTarget:
        spec = Sink.parse({"connection": "shop", "object": "sink", "write": write, **sink})
        return MysqlConnector.target(self.place("sink"), Owner(uid, "source", spec, generation, 2.0))

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-a000-{self.number:012d}"

    def task(self, run: str, write: str, cursor: str | None = None, **sink: Any) -> dict[str, Any]:
        source = {"connection": "shop", "object": "source"} | ({"cursor": {"field": cursor}} if cursor else {})
        return {
            "run": run, "attempt": 1, "uid": self.uid, "connections": {"shop": self.settings()},
            "pipeline": {
                "apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "items"},
                "spec": {"source": source, "sink": {"connection": "shop", "object": "sink", "write": write, **sink}},
            },
            "result": str(self.folder / f"{next(_numbers)}.json"), "progress": None, "split_rows": 2,
            "secrets": str(self.server.home),
        }  # fmt: skip

    def run(self, run: str, write: str, failpoint: str | None = None, **sink: Any) -> dict[str, Any]:
        return self.launchers.run(self.task(run, write, **sink), failpoint)

    def completed(self, run: str, write: str, **sink: Any) -> dict[str, Any]:
        found = self.run(run, write, **sink)
        assert found["status"] == "completed", found["error"]
        return found

    def error(self, run: str, write: str, **sink: Any) -> dict[str, Any]:
        found = self.run(run, write, **sink)
        assert found["status"] == "failed", found
        return dict(found["error"])


@pytest.fixture
def shop(mariadb: MysqlServer, new_schema: Callable[[], str], tmp_path: Path, launchers: Launchers) -> Shop:
    return Shop(mariadb, new_schema(), tmp_path, launchers)


def chunks(*rows: tuple[int, str]) -> list[Chunk]:
    batch = pa.RecordBatch.from_pydict(
        {"id": pa.array([one for one, _ in rows], pa.int64()), "name": pa.array([two for _, two in rows], pa.string())}
    )
    size = len(rows)
    return [Chunk("00", 0, 0, batch, size, read=size), Chunk("00", 0, 1, None, size, last=True, read=size)]


def test_the_fence_alone_keeps_an_older_generation_out(shop: Shop) -> None:
    """Nobody ends the older writer's session here; a commit with the current generation is the control."""
    with closing(shop.target()) as target:
        target.make(COLUMNS)
        target.state.make()
        claim = target.state.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        with target.state.owned(claim.generation):
            target.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), (Split(0), Split(1)))
        for generation, done in ((claim.generation - 1, False), (claim.generation, True)):
            told: list[Counters] = []
            order = WriterOrder("sink", COLUMNS, True, "00", "r1", generation, lambda: None, told.append)  # noqa: FBT003
            with closing(target.writer(order)) as writer:
                writer.open()
                first, marker = chunks((1, "a"), (2, "b"))
                writer.write(first)
                if done:
                    writer.write(marker)
                else:
                    with pytest.raises(Fenced):
                        writer.write(marker)
            assert (shop.rows("SELECT count(*) FROM sink")[0][0], len(told)) == ((2, 1) if done else (0, 0))


def test_a_split_is_committed_once(shop: Shop) -> None:
    with closing(shop.target()) as target:
        target.make(COLUMNS)
        target.state.make()
        claim = target.state.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        with target.state.owned(claim.generation):
            target.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), (Split(0),))
        order = WriterOrder("sink", COLUMNS, True, "00", "r1", claim.generation, lambda: None, lambda told: None)  # noqa: FBT003, ARG005
        with closing(target.writer(order)) as writer:
            writer.open()
            for piece in chunks((1, "a")):
                writer.write(piece)
            first, marker = chunks((1, "a"))
            writer.write(first)
            with pytest.raises(Fenced):
                writer.write(marker)
        assert shop.rows("SELECT * FROM sink") == [(1, "a")]
        assert target.state.counters().rows_out == 1
