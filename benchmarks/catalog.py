"""A discovery of a database with many tables: seconds to its end and to its first results, and the memory it takes.

``python -m benchmarks.catalog [--tables 5000] [--json]``. Each table has eight columns, some rows and the server's own
statistics, which are read too. The discovery is the command's: over log, worker and projection. The second one finds
nothing new.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from api.client import Client, connected
from catalog.entries import DiscoveryEntry
from penstock import postgres
from penstock.records import records_of
from penstock.settings import load
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.table import CONTROL

PATIENCE: Final = 600.0
TABLE: Final = """
CREATE TABLE t{n:05} (id bigint PRIMARY KEY, customer_id int NOT NULL, email text UNIQUE, placed_at timestamptz
  DEFAULT now(), amount numeric(15,2), currency character(3), status text, note text);
COMMENT ON TABLE t{n:05} IS 'number {n}'; CREATE INDEX ON t{n:05} (customer_id, placed_at);
INSERT INTO t{n:05} SELECT g, g % 7, 'p' || g || '@example.org', now(), g * 1.5, 'EUR', 'new', NULL
FROM generate_series(1, 20) g"""


def fill(dsn: str, tables: int) -> None:
    """Make the tables, and the server's statistics of them."""
    with postgres.connect(dsn, "benchmark") as session:
        for begin in range(0, tables, 100):
            session.execute("; ".join(TABLE.format(n=n) for n in range(begin, min(tables, begin + 100))))
        session.execute("ANALYZE")


class Memory(threading.Thread):
    """The largest resident memory of any process of Penstock below this one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.name().startswith("python"):
                        self.most = max(self.most, process.memory_info().rss)


@contextmanager
def project(dsn: str, home: Path) -> Iterator[Client]:
    """A project with one connection, and what a discovery needs running."""
    (home / "penstock.toml").write_text("")
    with connected(load(home), worker=True) as client:
        client.ask("connection.put", "shop", {"name": "shop", "connection": {"type": "postgres", "dsn": dsn}})
        yield client


def discovered(client: Client) -> tuple[DiscoveryEntry, float, float]:
    """Discover; return the entry, and the seconds to the first object on the log and to the end in the catalog."""
    at, begin, first = client.log.end(CONTROL, 0), time.perf_counter(), 0.0
    id_ = str((client.ask("discovery.start", "shop", {"connection": "shop"}).result or {})["discovery"])
    while time.perf_counter() - begin < PATIENCE:
        for offset, record in records_of(client.log.read(CONTROL, 0, at, 2000)):
            at = offset + 1
            if record.type == "schema.observed" and not first:
                first = time.perf_counter() - begin
        entry = client.store.discovery(id_)
        if entry.status != "running":
            return entry, first, time.perf_counter() - begin
        time.sleep(0.02)
    message = f"the discovery did not end within {PATIENCE:g} s"
    raise TimeoutError(message)


def measured(tables: int) -> dict[str, Any]:
    """Measure on a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder) / "source", configuration={"fsync": "off", "autovacuum": "off"})
        server.acquire()
        try:
            dsn, home = server.dsn("postgres"), Path(folder) / "project"
            home.mkdir()
            fill(dsn, tables)
            with project(dsn, home) as client:
                memory = Memory()
                memory.start()
                entry, first, seconds = discovered(client)
                memory.ended.set()
                again, _, repeated = discovered(client)
        finally:
            server.remove()
    for one in (entry, again):
        if one.status != "completed" or (one.found or {})["objects"] != tables:
            message = f"the discovery is {one.status}: {one.error or one.found}"
            raise RuntimeError(message)
    return {
        "tables": tables,
        f"discover_{tables}_s": round(seconds, 2),
        "first_s": round(first, 2),
        "again_s": round(repeated, 2),
        "memory_mb": round(memory.most / 1e6),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--readme", action="store_true", help="it has no table there")
    options = parser.parse_args()
    found = measured(options.tables)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name:<20}{value:>10}\n")


if __name__ == "__main__":
    main()
