"""Many small tables, PostgreSQL to PostgreSQL: 100 pipelines of a running `penstock up` against dlt's `sql_database`.

``python -m benchmarks.many [--tables 100] [--rows 1000] [--times 3] [--json] [--readme]``. Every table is replaced, on
one embedded server that writes to disk as by default. The two take turns, and the median of each counts. Penstock's
time is from the start of `penstock run --all` to the end of the last run, with `up` running as in production; dlt's is
that of its process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psycopg

from api.client import UP, Client
from api.starter import SHOP, WAREHOUSE, make_project
from benchmarks.commands import cpu, server_of, tree, up
from benchmarks.parts.measure import Measured, timed
from benchmarks.parts.readme import machine, write_table
from benchmarks.peers.dlt import VERSION, ready, whole_database
from dataflows.process.site import Site
from penstock.settings import load
from penstock.topics.embedded import EmbeddedServer

POLL_SECONDS: Final = 0.02
PATIENCE: Final = 600.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="many", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000, help="rows of each table")
    parser.add_argument("--times", type=int, default=3, help="turns of each")
    parser.add_argument("--alone", action="store_true", help="without dlt")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp") as name:
        found = measured(Path(name), options.tables, options.rows, options.times, alone=options.alone)
    show(options.tables, options.rows, found, as_json=options.json)
    if options.readme:
        write_table("many", table_lines(options.tables, options.rows, found))
    return 0


def measured(folder: Path, tables: int, rows: int, times: int, *, alone: bool) -> dict[str, list[Measured]]:
    """Measure each tool `times` times, in turns."""
    project = folder / "project"
    make_project(project, fill=lambda server: fill(server, tables, rows))
    found: dict[str, list[Measured]] = {name: [] for name in (("penstock",) if alone else ("penstock", "dlt"))}
    if not alone:
        ready()
    with installation(project) as (client, root):
        apply(client, tables)
        for _ in range(times):
            if not alone:
                found["dlt"].append(by_dlt(client.site, folder, tables * rows))
            found["penstock"].append(by_penstock(client, root, tables, tables * rows))
    return found


def fill(server: EmbeddedServer, tables: int, rows: int) -> None:
    """Create and fill the tables, each with a key and a few columns of common types."""
    with psycopg.connect(server.dsn(SHOP), autocommit=True) as session:
        for number in range(tables):
            session.execute(
                f"CREATE TABLE t{number:03} (id bigint PRIMARY KEY, name text NOT NULL, price numeric(12,2), "
                "quantity integer, placed_at timestamptz)"
            )
            session.execute(
                f"INSERT INTO t{number:03} SELECT n, 'name ' || n, n * 1.01, n %% 7, timestamptz '2026-01-01 00:00Z' + "
                "n * interval '1 minute' FROM generate_series(1, %s) n",
                [rows],
            )
        session.execute("ANALYZE")


@contextmanager
def installation(project: Path) -> Iterator[tuple[Client, int]]:
    """Run `penstock up`; yield a client of it, and its process id."""
    settings = load(project)
    with (
        up(project) as root,
        Site(settings) as site,
        site.open_log("client") as log,
        closing(Client(site, log)) as client,
    ):
        while not log.holder(UP) or not any(worker.status == "joined" for worker in client.store.workers()):
            time.sleep(0.1)
        yield client, root


def apply(client: Client, tables: int) -> None:
    """Apply the connections and a pipeline for each table."""
    server = client.site.server
    if server is None:
        message = "the project was made on the embedded server"
        raise AssertionError(message)
    for name, database in (("shop", SHOP), ("warehouse", WAREHOUSE)):
        payload = {"name": name, "connection": {"type": "postgres", "dsn": server.dsn(database)}}
        client.ask("connection.put", name, payload)
    for number in range(tables):
        client.ask("pipeline.apply", f"t{number:03}", {"pipeline": pipeline(f"t{number:03}")})


def pipeline(table: str) -> dict[str, Any]:
    """Return a pipeline that replaces a table."""
    return {
        "metadata": {"name": table},
        "spec": {
            "source": {"connection": "shop", "object": f"public.{table}"},
            "sink": {"connection": "warehouse", "object": f"public.{table}", "write": "replace"},
        },
    }


def by_penstock(client: Client, root: int, tables: int, rows: int) -> Measured:
    """Measure a run of all pipelines; the CPU is that of Penstock's processes, without the server's."""
    with closing(psycopg.connect(client.site.catalog_dsn, autocommit=True)) as session:
        before, begin = ended(session), time.perf_counter()
        spent = {pid: cpu({pid}) for pid in ours(client, root)}
        command = [str(Path(sys.executable).parent / "penstock"), "--project", str(client.site.settings.project)]
        asked = timed([[*command, "run", "--all"]])
        while ended(session) < before + tables:
            if time.perf_counter() - begin > PATIENCE:
                sys.exit(f"{before + tables - ended(session)} runs have not ended after {PATIENCE:g} s")
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - begin
        used = asked.cpu + sum(cpu({pid}) - spent.get(pid, 0.0) for pid in ours(client, root))
        failed = session.execute("SELECT count(*) FROM catalog.runs WHERE status <> 'completed'").fetchone()
    if failed != (0,):
        sys.exit(f"{failed} runs failed")
    check(client.site, "public", rows)
    return Measured(seconds, used, 0.0)


def ours(client: Client, root: int) -> set[int]:
    """Return the processes of `penstock up`, without the server's."""
    return tree(root) - tree(server_of(client.site.catalog_dsn))


def ended(session: psycopg.Connection[Any]) -> int:
    """Return the number of runs that have ended."""
    query = "SELECT count(*) FROM catalog.runs WHERE status NOT IN ('queued', 'running')"
    row = session.execute(query).fetchone()
    return int(row[0]) if row else 0


def by_dlt(site: Site, folder: Path, rows: int) -> Measured:
    """Measure a copy of all tables by dlt."""
    if site.server is None:
        message = "the project was made on the embedded server"
        raise AssertionError(message)
    command, environment = whole_database(site.server.dsn(SHOP), site.server.dsn(WAREHOUSE), folder)
    found = timed([command], environment=environment)
    check(site, "by_dlt", rows)
    return found


def check(site: Site, schema: str, rows: int) -> None:
    """Exit with an error unless every row has arrived."""
    assert site.server is not None
    with psycopg.connect(site.server.dsn(WAREHOUSE), autocommit=True) as session:
        names = session.execute(
            r"SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_name ~ '^t\d+$'",
            [schema],
        ).fetchall()
        found = sum(
            (session.execute(f"SELECT count(*) FROM {schema}.{name}").fetchone() or (0,))[0] for (name,) in names
        )
    if found != rows:
        sys.exit(f"{schema} has {found} rows, not {rows}")


def table_lines(tables: int, rows: int, found: dict[str, list[Measured]]) -> list[str]:
    """Return the lines of the README's table."""
    lines = [
        f"| {tables} tables of {rows:,} rows, PostgreSQL to PostgreSQL, each replaced | seconds | of dlt's | CPU s |",
        "|---|---|---|---|",
    ]
    names = {
        "penstock": f"Penstock, {tables} pipelines of a running `penstock up`",
        "dlt": f"dlt {VERSION}, `sql_database`, one process",
    }
    dlt = median(found["dlt"]) if "dlt" in found else None
    for name, runs in found.items():
        part = "not measured" if dlt is None else f"{median(runs) / dlt:.2f}"
        used = statistics.median(one.cpu for one in runs)
        lines.append(f"| {names[name]} | {median(runs):.1f} | {part} | {used:.1f} |")
    return [*lines, "", f"Median of {len(found['penstock'])}, without the CPU of the server. {machine()}."]


def median(runs: list[Measured]) -> float:
    """Seconds."""
    return statistics.median(one.seconds for one in runs)


def show(tables: int, rows: int, found: dict[str, list[Measured]], *, as_json: bool) -> None:
    """Print the table, and the JSON line."""
    sys.stdout.write(f"{tables} tables of {rows} rows, median of {len(found['penstock'])}\n")
    for name, runs in found.items():
        used = statistics.median(one.cpu for one in runs)
        sys.stdout.write(f"{name:12}{median(runs):9.2f} s{used:9.2f} s of CPU\n")
    if as_json:
        ratio = round(median(found["penstock"]) / median(found["dlt"]), 3) if "dlt" in found else None
        raw = {name: [asdict(one) for one in runs] for name, runs in found.items()}
        line = {"tables": tables, "rows": rows, "ratio_to_dlt": ratio, "seconds": round(median(found["penstock"]), 2)}
        sys.stdout.write(f"{json.dumps(line | {'runs': raw})}\n")


if __name__ == "__main__":
    sys.exit(main())
