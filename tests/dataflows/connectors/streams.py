"""A stream into a table of its own on PostgreSQL, run by launchers; its source is for those who use it to say."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.dataflows.conftest import Launchers, task_of
from tests.dataflows.connectors.conftest import MISSING, Rows

__all__ = ["WAIT", "StreamIn"]

WAIT = 30.0
_numbers = count(1)


@dataclass
class StreamIn:
    """Stream into a table in the database `dsn`; `letters` is the catalog that keeps its dead letters."""

    session: psycopg.Connection[Any]
    dsn: str
    launchers: Launchers
    letters: str
    folder: Path
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def connection(self) -> dict[str, Any]:
        """The connection of its source."""
        raise NotImplementedError

    @property
    def object(self) -> str:
        """What it reads there."""
        raise NotImplementedError

    @property
    def target(self) -> str:
        return f"public.t{self.number}"

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-a000-{self.number:012d}"

    def task(self, run: str = "r1", attempt: int = 1, **changes: Any) -> dict[str, Any]:
        """Return the task of a run; `changes` replace parts of the pipeline's spec."""
        spec: dict[str, Any] = {
            "mode": "stream",
            "source": {"connection": "bus", "object": self.object},
            "sink": {"connection": "lake", "object": self.target, "write": "append"},
            "limits": {"linger": "20ms"},
        }
        connections = {"bus": self.connection, "lake": {"type": "postgres", "dsn": self.dsn}}
        return task_of(run, self.uid, connections, spec | changes, self.folder, attempt=attempt) | {
            "secrets": str(self.folder),
            "letters": self.letters,
            "drain": str(self.folder / "drain"),
        }

    def rows(self, query: str) -> Rows:
        done = self.session.execute(query.encode())
        return done.fetchall() if done.description else []

    def ids(self) -> list[int]:
        """Return the ids in the target, in the order in which they were written."""
        try:
            return [row[0] for row in self.rows(f"SELECT id FROM {self.target} ORDER BY ctid")]
        except MISSING:
            return []

    def until(self, rows: int) -> None:
        """Wait until the target has so many rows."""
        end = time.monotonic() + WAIT
        while len(self.ids()) < rows:
            assert time.monotonic() < end, f"{len(self.ids())} of {rows} rows"
            time.sleep(0.02)

    def stop(self, pid: int, task: dict[str, Any]) -> dict[str, Any]:
        """Ask a run to stop; return its result."""
        os.kill(pid, signal.SIGTERM)
        return self.launchers.ended(pid, task)

    def drained(self, run: str = "r1", cut: str | None = None, **changes: Any) -> dict[str, Any]:
        """Run until everything is read, or until the failpoint `cut`; return the result."""
        task = self.task(run, **changes)
        Path(task["drain"]).touch()
        try:
            return self.launchers.run(task, cut)
        finally:
            Path(task["drain"]).unlink()

    def dead(self) -> int:
        """Return the number of the pipeline's dead letters."""
        with psycopg.connect(self.letters) as session:
            query = "SELECT count(*) FROM ops.dead_letters WHERE pipeline = %s"
            return int(session.execute(query, (self.uid,)).fetchall()[0][0])

    def positions(self) -> dict[str, dict[str, Any]]:
        """Return the positions at the sink, by partition."""
        rows = self.rows(f"SELECT part, position FROM _penstock_offsets WHERE pipeline = '{self.uid}' ORDER BY part")
        return {part: json.loads(position) for part, position in rows}
