"""The catalog: searches over a million entries, a projector that catches up, a discovery of many tables.

``python -m benchmarks.catalog [--only search|project|discover] [--entries 1000000] [--tables 5000] [--json]``. The
catalog is on the embedded server as it is by default, and it and the searching process share the machine. In the
discovery each table has eight columns, some rows and the server's own statistics, which are read too; it is the
command's: over log, worker and projection. The second one finds nothing new.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from api.client import Client, connected
from benchmarks.parts.projecting import RECORDS, projected_per_s
from benchmarks.parts.readme import machine, write_table
from benchmarks.parts.searching import MIX, fill_entries, searched_ms
from catalog.entries import DiscoveryEntry
from dataflows.process.site import Site
from penstock import postgres
from penstock.records import records_of
from penstock.settings import Settings, load
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.table import CONTROL

PATIENCE: Final = 600.0
PROJECTED: Final = 10_000
"""Tables whose records are projected."""
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


def searched(entries: int) -> dict[str, Any]:
    """Measure searches on an embedded server of its own."""
    with tempfile.TemporaryDirectory() as folder, Site(_settings(Path(folder))) as site:
        begin = time.perf_counter()
        fill_entries(site.catalog_dsn, entries)
        filled = time.perf_counter() - begin
        took = searched_ms(site.catalog_dsn, entries)
    return {
        "entries": entries,
        "search_p50_ms": round(statistics.median(took), 1),
        "search_p95_ms": round(took[len(took) * 95 // 100], 1),
        "search_max_ms": round(took[-1], 1),
        "fill_s": round(filled),
    }


def projected(tables: int) -> dict[str, Any]:
    """Measure a projector on an embedded server of its own."""
    with tempfile.TemporaryDirectory() as folder, Site(_settings(Path(folder))) as site:
        return {"project_per_s": round(projected_per_s(site, tables))}


def _settings(home: Path) -> Settings:
    (home / "penstock.toml").write_text("")
    return load(home)


def discoveries(tables: int) -> dict[str, Any]:
    """Measure discoveries of a server of its own."""
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
    parser.add_argument("--only", choices=["search", "project", "discover"])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--tables", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "search": lambda: searched(options.entries),
        "project": lambda: projected(PROJECTED),
        "discover": lambda: discoveries(options.tables),
    }
    found = dict[str, Any]()
    for name, measure in parts.items():
        if options.only in {None, name}:
            found |= measure()
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name:<20}{value:>10}\n")
    if options.readme and options.only is None:
        write_table("catalog", _table(found))


def _table(found: dict[str, Any]) -> list[str]:
    entries, tables = found["entries"], found["tables"]
    rows = (
        (f"a search over {entries:,} entries, p50 / p95", f"{found['search_p50_ms']} / {found['search_p95_ms']} ms"),
        ("records of datasets and pipelines that a projector catches up with", f"{found['project_per_s']:,} /s"),
        (f"a discovery of {tables:,} tables", f"{found[f'discover_{tables}_s']} s"),
        ("the same, to the first table", f"{found['first_s']} s"),
        ("the same again, without news", f"{found['again_s']} s"),
    )
    lines = [f"| {what} | {figure} |" for what, figure in rows]
    about = f"{machine()}. Queries: {MIX}. Records: {RECORDS}."
    return ["| the catalog | |", "|---|---:|", *lines, "", about]


if __name__ == "__main__":
    main()
