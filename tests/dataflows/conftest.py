# ruff: noqa: E501 - tables of statements, one a line; what is parametrized comes by position
"""Fixtures to start many launchers, and copies whose target can be compared with its source."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataflows.connectors.sql.names import shadow_prefix

PROGRAM = Path(__file__).parent / "programs" / "launchers.py"


@dataclass
class Launchers:
    """Starts launchers and waits for them; kills the remaining ones at the end."""

    process: subprocess.Popen[str]
    alive: set[int] = field(default_factory=set)
    peaks: dict[int, int] = field(default_factory=dict)
    """Peak resident memory of each launcher that has ended, in kB."""

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def start(self, task: dict[str, Any], failpoint: str | None = None, without: tuple[str, ...] = ()) -> int:
        pid = int(self._ask({"start": task, "failpoint": failpoint, "without": without})["pid"])
        self.alive.add(pid)
        return pid

    def suite(
        self, arguments: Sequence[str], folder: Path, path: Sequence[str] = (), **environment: str
    ) -> tuple[int, str]:
        """Run the conformance suite in `folder`; return its exit code and its output.

        It runs in a process forked from one that has loaded all connectors, and pytest without other plug-ins.
        """
        output = folder / "output"
        more = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment}
        words = ["-p", "dataflows.connectors.conformance", "-p", "no:cacheprovider", "-W", "error", "-rA", *arguments]
        order = {
            "suite": words, "folder": str(folder), "environment": more, "path": list(path), "output": str(output),
        }  # fmt: skip
        pid = int(self._ask(order)["pid"])
        self.alive.add(pid)
        return self.wait(pid, 150)["code"], output.read_text()

    def wait(self, pid: int, seconds: float = 60) -> dict[str, Any]:
        answer = self._ask({"wait": pid, "seconds": seconds})
        if "code" in answer:
            self.alive.discard(pid)
            self.peaks[pid] = answer.pop("peak")
        return answer

    def run(self, task: dict[str, Any], failpoint: str | None = None, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run to the end and return the result file; `killed` is the signal that ended the run instead."""
        code = self.wait(self.start(task, failpoint, without))["code"]
        return {"killed": -code} if code < 0 else result(task)

    def stopped(self, task: dict[str, Any], point: str, without: tuple[str, ...] = ()) -> int:
        """Start a run that stops at a failpoint, and wait until it has reached it."""
        pid = self.start(task, f"{point}=stop", without)
        assert self.wait(pid) == {"stopped": True}, point
        return pid

    def woken(self, pid: int, task: dict[str, Any]) -> dict[str, Any]:
        """Resume a stopped run; return its result."""
        os.kill(pid, signal.SIGCONT)
        return self.ended(pid, task)

    def ended(self, pid: int, task: dict[str, Any]) -> dict[str, Any]:
        """Wait for a started run; return its result."""
        assert self.wait(pid)["code"] in {0, 1}
        return dict(json.loads(Path(task["result"]).read_text()))

    def close(self) -> None:
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()
        self.process.wait()


def result(task: dict[str, Any]) -> dict[str, Any]:
    """Return the result file of a task, and delete it."""
    path = Path(task["result"])
    try:
        return dict(json.loads(path.read_text()))
    finally:
        path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def launchers() -> Iterator[Launchers]:
    root = str(Path(__file__).parents[2])
    made = subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root, "POLARS_MAX_THREADS": "1"},
    )
    launchers = Launchers(made)
    yield launchers
    launchers.close()


_numbers = count(1)


def task_of(
    run: str, uid: str, connections: dict[str, Any], spec: dict[str, Any], folder: Path, **more: Any
) -> dict[str, Any]:
    """Return the task of a run of pipeline `items`, with a result file of its own in `folder`."""
    return {
        "run": run,
        "attempt": 1,
        "uid": uid,
        "connections": connections,
        "pipeline": {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "items"}, "spec": spec},
        "result": str(folder / f"{next(_numbers)}.json"),
        "progress": None,
        **more,
    }


def source_of(write: str) -> dict[str, Any]:
    """Return the source ``public.items``, with a cursor for `append`."""
    cursor = {"cursor": {"field": "id", "ordered": True}} if write == "append" else {}
    return {"connection": "shop", "object": "public.items"} | cursor


@dataclass
class Copy:
    """Pipeline that copies ``public.items``, and the tasks of its runs."""

    session: psycopg.Connection[Any]
    dsn: str
    folder: Path
    write: str
    arrow: bool
    split_rows: int
    workers: int = 1
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def target(self) -> str:
        return f"w.t{self.number}"

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-8000-{self.number:012d}"

    def task(self, run: str, **changes: Any) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "source": source_of(self.write),
            "sink": {"connection": "lake", "object": self.target, "write": self.write},
            "limits": {"workers": self.workers},
        }
        if self.arrow:
            spec["mapping"] = {
                "fields": [
                    {"target": "id", "from": "id"},
                    {"target": "name", "sql": "upper(name)"},
                    {"target": "price", "from": "price"},
                    {"target": "at", "from": "at"},
                ]
            }
        postgres = {"type": "postgres", "dsn": self.dsn}
        connections = {"shop": postgres, "lake": postgres}
        return task_of(run, self.uid, connections, spec, self.folder, split_rows=self.split_rows) | changes

    @property
    def expected(self) -> str:
        return f"SELECT id, {'upper(name)' if self.arrow else 'name'} AS name, price, at FROM public.items"

    def differences(self) -> dict[str, int]:
        """Return the numbers of rows lost, and duplicated (or foreign), in the target."""
        have = f"SELECT id, name, price, at FROM {self.target}"
        query = "SELECT (SELECT count(*) FROM ({} EXCEPT ALL {}) x), (SELECT count(*) FROM ({} EXCEPT ALL {}) y)"
        row = self.session.execute(query.format(self.expected, have, have, self.expected)).fetchone()
        assert row
        return {"lost": row[0], "doubled": row[1]}

    def value(self, query: str) -> Any:
        row = self.session.execute(query).fetchone()
        return row and row[0]

    def add(self, rows: int) -> None:
        self.session.execute(
            "INSERT INTO items (name, price) SELECT 'more ' || g, g FROM generate_series(1, %s) g", (rows,)
        )

    def leftovers(self) -> int:
        """Return the number of shadow tables and planned splits that are left."""
        prefix = shadow_prefix(self.uid)
        shadows = self.value(f"SELECT count(*) FROM pg_class WHERE relkind = 'r' AND starts_with(relname, '{prefix}')")
        return int(shadows) + int(self.value(f"SELECT count(*) FROM w._penstock_splits WHERE pipeline = '{self.uid}'"))


@pytest.fixture(scope="module")
def items(new_database: Callable[[], str]) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """Create a database with a table of 600 items, with NULLs and empty texts, and an empty schema for targets."""
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(
            "CREATE TABLE items (id bigserial PRIMARY KEY, name text, price numeric(12,2), at timestamptz DEFAULT now())"
        )
        session.execute(
            "INSERT INTO items (name, price, at) SELECT CASE g %% 7 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'item ' || g END, "
            "CASE WHEN g %% 5 > 0 THEN g * 1.01 END, timestamptz '2024-01-01' + g * interval '1 second' FROM generate_series(1, %s) g",
            (600,),
        )
        session.execute("ANALYZE items")
        session.execute("CREATE SCHEMA w")
        yield session, dsn


@pytest.fixture
def copy(items: tuple[psycopg.Connection[Any], str], tmp_path: Path) -> Callable[..., Copy]:
    """Make a copy pipeline with a target of its own."""

    def make(write: str, *, arrow: bool = False, split_rows: int = 200, workers: int = 1) -> Copy:
        session, dsn = items
        made = Copy(session, dsn, tmp_path, write, arrow, split_rows, workers)
        session.execute(f"CREATE TABLE {made.target} (id bigint, name text, price numeric(12,2), at timestamptz)")
        return made

    return make
