"""A whole database, PostgreSQL to PostgreSQL, in a running `penstock up` against dlt's `sql_database`.

``python -m benchmarks.many [--tables 100] [--rows 1000] [--times 3] [--json] [--readme]``: many small tables, as a
pipeline each and as one set, and 20 tables of 300,000 rows as a set. ``--members 5000`` measures a large set of tiny
tables instead. Every table is replaced, on one embedded server that writes to disk as by default. The ways take turns,
and the median of each counts. Penstock's time is from the start of `penstock run` to the end of the last run, with `up`
running as in production; dlt's is that of its process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables of one schema that are loaded together."""

    schema: str
    count: int
    rows: int
    """Rows of each."""
    backend: str
    """dlt's fastest one for this size, and its loader; None for its default."""
    loader: str | None = None

    @property
    def names(self) -> list[str]:
        return [f"t{number:03}" for number in range(self.count)]

    @property
    def all_rows(self) -> int:
        return self.count * self.rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="many", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000, help="rows of each table")
    parser.add_argument("--large-tables", type=int, default=20)
    parser.add_argument("--large-rows", type=int, default=300_000, help="rows of each large table")
    parser.add_argument("--members", type=int, default=0, help="tables of one row of a large set")
    parser.add_argument("--times", type=int, default=3, help="turns of each")
    parser.add_argument("--only", choices=WAYS, nargs="*", default=WAYS, help="leave out the others")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    small = Tables("public", options.tables, options.rows, "pyarrow")
    large = Tables("large", options.large_tables, options.large_rows, "connectorx", "parquet")
    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp") as name:
        if options.members:
            sys.stdout.write(f"{json.dumps(of_members(Path(name), options.members))}\n")
            return 0
        found = measured(Path(name), small, large, options.times, options.only)
    show(small, large, found, as_json=options.json)
    if options.readme:
        write_table("many", table_lines(small, large, found))
    return 0


Found = dict[str, list[Measured]]
"""Measurements of each way."""
WAYS: Final = ("pipelines", "set", "dlt", "set_large", "dlt_large")


def measured(folder: Path, small: Tables, large: Tables, times: int, only: Sequence[str] = WAYS) -> Found:
    """Measure each way `times` times; those of one size in turns."""
    project = folder / "project"
    sizes = [small, *([large] if {"set_large", "dlt_large"} & {*only} else [])]
    make_project(project, fill=lambda server: fill(server, sizes))
    if {"dlt", "dlt_large"} & {*only}:
        ready()
    found: Found = {name: [] for name in WAYS if name in only}
    with installation(project) as (client, root):
        apply(client, small.names if "pipelines" in only else [])
        for tables in sizes:
            apply_set(client, tables.schema)
        bench = _Bench(client, root, folder)
        for tables in (
            small,
            large,
        ):  # one size after the other: the server still writes out what a large load has left
            names = [name for name in found if name.endswith("large") == (tables is large)]
            for name in names * times:
                found[name].append(bench.measure(name, tables))
                sys.stderr.write(f"{name}: {found[name][-1]}\n")
    return found


def fill(server: EmbeddedServer, sizes: Sequence[Tables]) -> None:
    """Create and fill the tables, each with a key and a few columns of common types."""
    with psycopg.connect(server.dsn(SHOP), autocommit=True) as session:
        session.execute("SET synchronous_commit = off")
        for tables in sizes:
            session.execute(f"CREATE SCHEMA IF NOT EXISTS {tables.schema}")
            for name in tables.names:
                _fill_table(session, f"{tables.schema}.{name}", tables.rows)
        session.execute("ANALYZE")


def _fill_table(session: psycopg.Connection[Any], name: str, rows: int) -> None:
    session.execute(
        f"CREATE TABLE {name} (id bigint PRIMARY KEY, name text NOT NULL, price numeric(12,2), quantity integer, "
        "placed_at timestamptz)"
    )
    session.execute(
        f"INSERT INTO {name} SELECT n, 'name ' || n, n * 1.01, n %% 7, timestamptz '2026-01-01 00:00Z' + "
        "n * interval '1 minute' FROM generate_series(1, %s) n",
        [rows],
    )


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


def apply(client: Client, tables: Sequence[str]) -> None:
    """Apply the connections, and a pipeline for each table."""
    server = client.site.server
    if server is None:
        message = "the project was made on the embedded server"
        raise AssertionError(message)
    for name, database in (("shop", SHOP), ("warehouse", WAREHOUSE)):
        payload = {"name": name, "connection": {"type": "postgres", "dsn": server.dsn(database)}}
        client.ask("connection.put", name, payload)
    for table in tables:
        pipeline = made(table, {"object": f"public.{table}"}, f"public.{table}")
        client.ask("pipeline.apply", table, {"pipeline": pipeline})


def apply_set(client: Client, schema: str) -> None:
    """Apply a set of the tables of a schema, and wait for its members."""
    name = f"set-{schema}"
    pipeline = made(name, {"objects": [f"{schema}.t*"]}, f"set_{schema}.{{table}}")
    client.ask("pipeline.apply", name, {"pipeline": pipeline})
    while not client.store.set_entry(name).listed:
        time.sleep(POLL_SECONDS)


def of_members(folder: Path, count: int) -> dict[str, Any]:
    """Measure a large set of tiny tables: until its members are there, until `status` shows them, and each run."""
    project, tables = folder / "project", Tables("public", count, 1, "")
    make_project(project, fill=lambda server: fill(server, [tables]))
    with installation(project) as (client, root):
        apply(client, [])
        begin = time.perf_counter()
        apply_set(client, tables.schema)
        applied = time.perf_counter() - begin
        program = str(Path(sys.executable).parent / "penstock")
        shown = [timed([[program, "--project", str(project), "status", "set-public"]]) for _ in range(3)]
        run = _Bench(client, root, folder).measure("set", tables)
    return {
        "members": count,
        "apply_seconds": round(applied, 2),
        "status_seconds": round(median(shown), 2),
        "run_ms_per_member": round(run.seconds / count * 1000, 1),
        "run_cpu_ms_per_member": round(run.cpu / count * 1000, 1),
    }


def made(name: str, source: dict[str, Any], target: str) -> dict[str, Any]:
    """Return a pipeline, or a set, that replaces its targets."""
    return {
        "metadata": {"name": name},
        "spec": {
            "source": {"connection": "shop", **source},
            "sink": {"connection": "warehouse", "object": target, "write": "replace"},
        },
    }


@dataclass(frozen=True, slots=True)
class _Bench:
    """A running installation, and a folder for dlt."""

    client: Client
    root: int
    folder: Path

    def measure(self, way: str, tables: Tables) -> Measured:
        """Measure one load of all the tables, and check that every row has arrived."""
        if way.startswith("dlt"):
            found, schema = self._by_dlt(tables), f"by_dlt_{tables.schema}"
        elif way == "pipelines":
            found, schema = self._by_penstock(["--select", "t*"], tables), "public"
        else:
            found, schema = self._by_penstock([f"set-{tables.schema}"], tables), f"set_{tables.schema}"
        self._check(schema, tables)
        return found

    def _by_penstock(self, chosen: list[str], tables: Tables) -> Measured:
        """Measure runs of pipelines; the CPU is that of Penstock's processes, without the server's."""
        client, root = self.client, self.root
        with closing(psycopg.connect(client.site.catalog_dsn, autocommit=True)) as session:
            before, begin = ended(session), time.perf_counter()
            spent = {pid: cpu({pid}) for pid in ours(client, root)}
            command = [str(Path(sys.executable).parent / "penstock"), "--project", str(client.site.settings.project)]
            asked = timed([[*command, "run", *chosen]])
            while ended(session) < before + tables.count:
                if time.perf_counter() - begin > PATIENCE:
                    left = before + tables.count - ended(session)
                    sys.exit(f"{left} runs have not ended after {PATIENCE:g} s")
                time.sleep(POLL_SECONDS)
            seconds = time.perf_counter() - begin
            used = asked.cpu + sum(cpu({pid}) - spent.get(pid, 0.0) for pid in ours(client, root))
            failed = session.execute("SELECT count(*) FROM catalog.runs WHERE status <> 'completed'").fetchone()
        if failed != (0,):
            sys.exit(f"{failed} runs failed")
        return Measured(seconds, used, 0.0)

    def _by_dlt(self, tables: Tables) -> Measured:
        """Measure a copy of all tables by dlt."""
        assert self.client.site.server is not None
        source, target = (self.client.site.server.dsn(name) for name in (SHOP, WAREHOUSE))
        command, environment = whole_database(source, target, self.folder, tables.schema, tables.backend, tables.loader)
        return timed([command], environment=environment)

    def _check(self, schema: str, tables: Tables) -> None:
        """Exit with an error unless every row has arrived."""
        assert self.client.site.server is not None
        with psycopg.connect(self.client.site.server.dsn(WAREHOUSE), autocommit=True) as session:
            counts = [session.execute(f"SELECT count(*) FROM {schema}.{name}").fetchone() for name in tables.names]
        if (rows := sum(one[0] for one in counts if one)) != tables.all_rows:
            sys.exit(f"{schema} has {rows} rows, not {tables.all_rows}")


def ours(client: Client, root: int) -> set[int]:
    """Return the processes of `penstock up`, without the server's."""
    return tree(root) - tree(server_of(client.site.catalog_dsn))


def ended(session: psycopg.Connection[Any]) -> int:
    """Return the number of runs that have ended."""
    query = "SELECT count(*) FROM catalog.runs WHERE status NOT IN ('queued', 'running')"
    row = session.execute(query).fetchone()
    return int(row[0]) if row else 0


def table_lines(small: Tables, large: Tables, found: Found) -> list[str]:
    """Return the lines of the README's table."""
    lines = ["| PostgreSQL to PostgreSQL, each table replaced | seconds | of dlt's | CPU s |", "|---|---|---|---|"]
    for name, runs in found.items():
        tables, peer = (large, "dlt_large") if name.endswith("large") else (small, "dlt")
        size = f"{tables.count} tables of {tables.rows:,} rows"
        how = {
            "pipelines": f"Penstock, {tables.count} pipelines of a running `penstock up`",
            "dlt": f"dlt {VERSION}, `sql_database`, one process",
        }.get(name.removesuffix("_large"), "Penstock, one set of a running `penstock up`")
        part = ratio(found, name, peer)
        used = statistics.median(one.cpu for one in runs)
        shown = "not measured" if part is None else f"{part:.2f}"
        lines.append(f"| {size}: {how} | {median(runs):.1f} | {shown} | {used:.1f} |")
    times = max(map(len, found.values()))
    return [*lines, "", f"Median of {times}, without the CPU of the server. {machine()}."]


def median(runs: list[Measured]) -> float:
    """Seconds."""
    return statistics.median(one.seconds for one in runs)


def ratio(found: Found, name: str, peer: str) -> float | None:
    """Return the time of one way as a part of another's; None if one was left out."""
    return round(median(found[name]) / median(found[peer]), 3) if {name, peer} <= {*found} else None


def show(small: Tables, large: Tables, found: Found, *, as_json: bool) -> None:
    """Print the measurements, and the JSON line."""
    for name, runs in found.items():
        tables = large if name.endswith("large") else small
        used = statistics.median(one.cpu for one in runs)
        size = f"{tables.count} tables of {tables.rows} rows"
        sys.stdout.write(f"{name:12}{size:28}{median(runs):9.2f} s{used:9.2f} s of CPU\n")
    if as_json:
        sys.stdout.write(f"{json.dumps(figures(small, large, found))}\n")


def figures(small: Tables, large: Tables, found: Found) -> dict[str, Any]:
    """Return what the line of JSON says."""
    seconds = {name: round(median(runs), 2) for name, runs in found.items()}
    return {
        "tables": small.count,
        "rows": small.rows,
        "ratio_to_dlt": ratio(found, "pipelines", "dlt"),
        "seconds": seconds.get("pipelines"),
        "set_ratio_to_dlt": ratio(found, "set", "dlt"),
        "set_seconds": seconds.get("set"),
        "large_tables": large.count,
        "large_rows": large.rows,
        "set_large_ratio_to_dlt": ratio(found, "set_large", "dlt_large"),
        "set_large_seconds": seconds.get("set_large"),
        "runs": {name: [asdict(one) for one in runs] for name, runs in found.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
