"""What quiet streams cost: pipelines from Apache Kafka to PostgreSQL whose topics get no events, in one `penstock up`.

``python -m benchmarks.quiet [--streams 1,10,100] [--seconds 30] [--json] [--readme]``. Each pipeline has a topic of its
own, has written one event, and then waits. Memory is what the kernel counts for each process in proportion to how many
share a page (PSS); CPU is that of all processes of `penstock up` without the servers': control plane, worker, streams.
At the end each topic gets one event, and the time until it is committed is taken: quiet streams must wake at once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from confluent_kafka import Producer

from api.client import Client
from api.starter import make_project
from benchmarks.commands import cpu, parent_of, server_of, tree
from benchmarks.many import installation, ours
from benchmarks.parts.readme import machine, write_table
from benchmarks.streams import served_kafka
from penstock.topics.embedded import EmbeddedServer
from tests.kafka import KafkaServer

PARTITIONS: Final = 4
SETTLE_SECONDS: Final = 30.0
"""Until what was started is over: a session kept for another run, a first look at each topic."""
PATIENCE: Final = 600.0
POLL_SECONDS: Final = 0.002
LINGER: Final = "50ms"
COLUMNS: Final = (
    "quiet streams in one `penstock up`", "memory (PSS)", "each more", "CPU of one core", "each more",
    "from an event to its commit",
)  # fmt: skip
WOKEN: Final = 20
"""Streams that are woken at the end."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What so many streams cost all processes of `penstock up`, in MB and percent of one core."""

    streams: int
    processes: int
    pss_mb: float
    percent: float
    servers_percent: float
    """CPU of the database servers of catalog and sink; the broker is not counted."""
    wake_ms: tuple[float, float]
    """Median and longest time from an event, sent to a quiet stream, to its commit."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="quiet", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", default="1,10,100", help="numbers of pipelines")
    parser.add_argument("--seconds", type=float, default=30, help="time over which CPU is measured")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    counts = sorted(int(one) for one in options.streams.split(","))
    with served_kafka() as kafka, sink(max(counts)) as dsn, project() as folder:
        found = measured(folder, kafka, dsn, counts, options.seconds)
    show(found, as_json=options.json)
    if options.readme:
        write_table("quiet", table_lines(found))
    return 0


@contextmanager
def sink(streams: int) -> Iterator[str]:
    """Start a server with connections for so many streams; yield the DSN of its database."""
    home = Path(tempfile.mkdtemp(prefix="pen-", dir="/tmp"))
    server = EmbeddedServer(home, configuration={"max_connections": str(50 + 4 * streams)})
    server.acquire()
    try:
        yield server.dsn("postgres")
    finally:
        server.stop()
        server.release()
        shutil.rmtree(home)


@contextmanager
def project() -> Iterator[Path]:
    """Make a project without pipelines; yield its folder."""
    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp") as name:
        folder = Path(name) / "project"
        make_project(folder, fill=lambda _: None, pipelines={})
        yield folder


def measured(folder: Path, kafka: KafkaServer, dsn: str, counts: list[int], seconds: float) -> list[Cost]:
    """Start streams up to each of the numbers, and measure what they cost."""
    found: list[Cost] = []
    with installation(folder) as (client, root), psycopg.connect(dsn, autocommit=True) as session:
        connections = {"bus": {"type": "kafka", "bootstrap": kafka.bootstrap}, "lake": {"type": "postgres", "dsn": dsn}}
        for name, connection in connections.items():
            client.ask("connection.put", name, {"name": name, "connection": connection})
        bench = Bench(kafka, client, session)
        for count in counts:
            bench.start(count)
            time.sleep(SETTLE_SECONDS)
            found.append(bench.cost(root, seconds))
    return found


class Bench:
    """An installation, and the streams that run in it."""

    def __init__(self, kafka: KafkaServer, client: Client, session: psycopg.Connection[Any]) -> None:
        self.kafka, self.client, self.session = kafka, client, session
        self.producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 0})
        self.sent: dict[str, int] = {}
        """Number of events of each topic."""

    def start(self, count: int) -> None:
        """Start more streams, up to `count`, and let each write an event."""
        for number in range(len(self.sent), count):
            name = f"quiet{number:03}"
            self.kafka.create(name, PARTITIONS)
            self.client.ask("pipeline.apply", name, {"pipeline": pipeline(name)})
            self.send(name)
        for name in self.sent:
            self.await_events(name, 0.1)

    def send(self, name: str) -> None:
        """Send an event to a topic."""
        self.sent[name] = self.sent.get(name, 0) + 1
        event = {"id": self.sent[name], "amount": "1.50", "kind": "order", "at": "2026-01-01T00:00:00+00:00"}
        self.producer.produce(name, json.dumps(event).encode(), partition=0)
        self.producer.flush()

    def await_events(self, name: str, poll: float) -> None:
        """Wait until all events of a topic are committed."""
        end = time.monotonic() + PATIENCE
        while self._written(name) < self.sent[name]:
            if time.monotonic() > end:
                sys.exit(f"the events of {name} do not arrive")
            time.sleep(poll)

    def _written(self, name: str) -> int:
        with suppress(psycopg.errors.UndefinedTable):
            row = self.session.execute(f"SELECT count(*) FROM {name}").fetchone()
            return int(row[0]) if row else 0
        return 0

    def cost(self, root: int, seconds: float) -> Cost:
        """Measure for so many seconds, then wake streams one by one."""
        pids, servers = ours(self.client, root), self._servers()
        before, begin = (cpu(pids), cpu(servers)), time.monotonic()
        time.sleep(seconds)
        used, passed = (cpu(pids) - before[0], cpu(servers) - before[1]), time.monotonic() - begin
        percent, of_servers = (100 * one / passed for one in used)
        return Cost(len(self.sent), len(pids), sum(map(pss, pids)), percent, of_servers, self._wake())

    def _servers(self) -> set[int]:
        catalog = server_of(self.client.site.catalog_dsn)
        return tree(catalog, parent_of(self.session.info.backend_pid))

    def _wake(self) -> tuple[float, float]:
        """Return the milliseconds until an event of a quiet stream is committed: median and longest."""
        late = []
        for name in sorted(self.sent)[-WOKEN:]:
            begin = time.perf_counter()
            self.send(name)
            self.await_events(name, POLL_SECONDS)
            late.append(1000 * (time.perf_counter() - begin))
        return statistics.median(late), max(late)


def pss(pid: int) -> float:
    """Return the proportional share of memory of a process, in MB."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0]) / 1024
    return 0.0


def pipeline(name: str) -> dict[str, Any]:
    """Return a stream from a topic to a table, both of that name."""
    columns = {"id": "bigint", "amount": "text", "kind": "text", "at": "timestamptz"}
    return {
        "metadata": {"name": name},
        "spec": {
            "mode": "stream",
            "source": {"connection": "bus", "object": name, "format": {"type": "jsonl", "columns": columns}},
            "transforms": [
                {"name": "amounts", "cast": {"amount": "numeric(12,2)"}},
                {"name": "real", "filter": "kind <> 'ping'"},
            ],
            "sink": {"connection": "lake", "object": f"public.{name}", "write": "append"},
            "limits": {"linger": LINGER},
        },
    }


def table_lines(found: list[Cost]) -> list[str]:
    """Return the lines of the README's table."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|---|---|---|---|---|---|",
    ]
    first = found[0]
    for one in found:
        more = one.streams - first.streams
        each = (
            (f"{(one.pss_mb - first.pss_mb) / more:.1f} MB", f"{(one.percent - first.percent) / more:.2f} %")
            if more
            else ("", "")
        )
        wake = f"{one.wake_ms[0]:.0f} ms, {one.wake_ms[1]:.0f} ms at most"
        lines.append(f"| {one.streams} | {one.pss_mb:,.0f} MB | {each[0]} | {one.percent:.1f} % | {each[1]} | {wake} |")
    return [*lines, "", f"All processes of `penstock up`, without the servers'; linger {LINGER}. {machine()}."]


def show(found: list[Cost], *, as_json: bool) -> None:
    """Print the table, and with `as_json` one line of JSON."""
    sys.stdout.write("\n".join(table_lines(found)) + "\n")
    if as_json:
        sys.stdout.write(json.dumps({"costs": [asdict(one) for one in found]}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
