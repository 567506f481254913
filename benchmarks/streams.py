"""Apache Kafka to PostgreSQL: a stream with a cast, a filter and a mask, against the limit, Quix Streams and Bytewax.

``python -m benchmarks.streams [--events 1000000] [--times 3] [--json] [--readme]``. Events of about 200 bytes of JSON
wait in eight partitions of one broker; each way reads all of them into a table of its own, in turns, and the median
counts. The stream is a run as a worker starts it, with its process ready, that drains the topic. Then events are sent
at half of its rate, and the time from each event to its commit is taken once the first seconds are over: a session
polls the positions that the sink keeps, which move in the transaction of the rows.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psycopg
from confluent_kafka import Producer

from benchmarks.parts.measure import Measured, timed
from benchmarks.parts.readme import machine, write_table
from benchmarks.parts.tables import served
from benchmarks.peers.streams import BYTEWAX, COLUMNS, LIMIT, QUIX, QUIX_VERSION, order_of, quix_python
from tests.kafka import KafkaServer

PARTITIONS: Final = 8
READY_SECONDS: Final = 1.5
POLL_SECONDS: Final = 0.004
WARM_SECONDS: Final = 3
LATENCY_SECONDS: Final = 20
LINGER: Final = "50ms"
SHARE: Final = 4
"""The row-wise peers read one fourth of the events: all of them would take too long."""
TOPICS: Final = {"events": 1, "few": SHARE}
FIELDS: Final = {"id": "bigint", "email": "text", "amount": "text", "kind": "text", "at": "timestamptz", "note": "text"}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="streams", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=3, help="turns of each way")
    parser.add_argument("--alone", action="store_true", help="without Quix Streams and Bytewax")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    with served() as dsn, served_kafka() as kafka:
        bench = Bench(kafka, dsn, options.events)
        found = bench.measured(options.times, alone=options.alone)
        late = bench.latencies(round(options.events / median(found["penstock"]) / 2))
    show(options.events, found, late, as_json=options.json)
    if options.readme:
        write_table("streams", table_lines(options.events, found, late))
    return 0


@contextmanager
def served_kafka() -> Iterator[KafkaServer]:
    """Start a broker with the heap that Kafka has by default."""
    home = Path(tempfile.mkdtemp(prefix="pen-", dir="/tmp"))
    server = KafkaServer(home)
    server.make()
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(home)


def event(number: int, chance: random.Random) -> bytes:
    """Return an event of about 200 bytes; one in ten is to be filtered."""
    return json.dumps(
        {
            "id": number,
            "email": f"customer-{chance.randrange(10**6)}@example.org",
            "amount": f"{chance.randrange(10**7) / 100:.2f}",
            "kind": chance.choice(
                ("order", "order", "click", "view", "view", "view", "refund", "cart", "cart", "ping")
            ),
            "at": f"2026-01-{1 + number % 28:02d}T{number % 24:02d}:{number % 60:02d}:00+00:00",
            "note": "x" * 40,
        },
        separators=(",", ":"),
    ).encode()


class Bench:
    """A broker, a server, and the ways from one to the other."""

    def __init__(self, kafka: KafkaServer, dsn: str, events: int, topics: Mapping[str, int] = TOPICS) -> None:
        """Fill each of `topics` with its share of the events."""
        self.kafka, self.dsn, self.events = kafka, dsn, events
        self.session = psycopg.connect(dsn, autocommit=True)
        self.kept = {topic: self.fill(topic, events // share) for topic, share in topics.items()}

    def fill(self, topic: str, events: int, partitions: int = PARTITIONS) -> int:
        """Create a topic with so many events; return how many of them are not filtered."""
        self.kafka.create(topic, partitions)
        chance, kept = random.Random(1), 0
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "linger.ms": 50, "batch.size": 1 << 20})
        for number in range(events):
            value = event(number, chance)
            kept += b'"ping"' not in value
            producer.produce(topic, value, partition=number % partitions)
            if number % 10_000 == 0:
                producer.poll(0)
                while len(producer) > 50_000:
                    producer.poll(0.05)
        producer.flush()
        return kept

    def measured(self, times: int, *, alone: bool) -> dict[str, list[Measured]]:
        """Measure each way `times` times, in turns; the peers' seconds are those for all events."""
        ways = {"limit": self.by_limit, "penstock": self.by_penstock}
        if not alone:
            ways |= {"quix": self.by_quix, "bytewax": self.by_bytewax}
        found: dict[str, list[Measured]] = {name: [] for name in ways}
        for turn in range(times):
            for name, way in ways.items():
                if turn == 0 or name in {"limit", "penstock"}:
                    found[name].append(way(turn))
        return found

    def _table(self, name: str, columns: str = COLUMNS) -> str:
        self.session.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} ({columns})")
        self.session.execute("CHECKPOINT")
        return name

    def check(self, table: str, events: int) -> None:
        """End the program if the table has other rows than so many events."""
        row = self.session.execute(f"SELECT count(*), count(DISTINCT id) FROM {table}").fetchone()
        if row != (events, events):
            sys.exit(f"{table} has {row} rows of {events}")

    def by_limit(self, _: int) -> Measured:
        """Measure the limit."""
        table = self._table("by_limit", COLUMNS.replace("numeric(12,2)", "text"))
        command = order_of(LIMIT, sys.executable, **self._order("events", table, self.events))
        found = timed([command])
        self.check(table, self.events)
        return found

    def by_quix(self, _: int) -> Measured:
        """Measure Quix Streams, on a part of the events."""
        return self._by_peer(QUIX, quix_python(), "by_quix")

    def by_bytewax(self, _: int) -> Measured:
        """Measure Bytewax with its own source, row by row, on a part of the events."""
        return self._by_peer(BYTEWAX, sys.executable, "by_bytewax")

    def _by_peer(self, program: str, python: str, table: str) -> Measured:
        one = timed([order_of(program, python, **self._order("few", self._table(table), self.events // SHARE))])
        self.check(table, self.kept["few"])
        return Measured(one.seconds * SHARE, one.cpu * SHARE, one.peak_mb)

    def _order(self, topic: str, table: str, events: int) -> dict[str, Any]:
        here = {"bootstrap": self.kafka.bootstrap, "dsn": self.dsn}
        return here | {
            "topic": topic,
            "table": table,
            "partitions": PARTITIONS,
            "events": events,
            "kept": self.kept[topic],
        }

    def by_penstock(self, turn: int) -> Measured:
        """Measure a run of the stream that drains the topic; its process is ready, as a worker keeps one."""
        self.session.execute("DROP TABLE IF EXISTS by_penstock")
        self.session.execute("CHECKPOINT")
        with tempfile.TemporaryDirectory(prefix="pen-") as folder:
            task = self.task("events", "by_penstock", Path(folder), f"turn-{turn}")
            Path(task["drain"]).touch()
            found = timed([command()], json.dumps(task).encode() + b"\n", ready=READY_SECONDS)
        self.check("by_penstock", self.kept["events"])
        return found

    def task(self, topic: str, table: str, folder: Path, run: str, **limits: Any) -> dict[str, Any]:
        """Return the task of a run of the stream."""
        spec = {
            "mode": "stream",
            "source": {"connection": "bus", "object": topic, "format": {"type": "jsonl", "columns": FIELDS}},
            "transforms": [
                {"name": "amounts", "cast": {"amount": "numeric(12,2)"}},
                {"name": "real", "filter": "kind <> 'ping'"},
                {"name": "hidden", "mask": {"email": "sha256"}},
            ],
            "sink": {"connection": "lake", "object": f"public.{table}", "write": "append"},
            "limits": limits,
        }
        pipeline = {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "events"}, "spec": spec}
        lake = {"type": "postgres", "dsn": self.dsn}
        return {
            "run": run,
            "attempt": 1,
            "uid": str(uuid.uuid4()),
            "pipeline": pipeline,
            "connections": {"bus": {"type": "kafka", "bootstrap": self.kafka.bootstrap}, "lake": lake},
            "result": str(folder / "result.json"),
            "drain": str(folder / "drain"),
        }

    def latencies(self, rate: int) -> list[float]:
        """Return the seconds from each event to its commit, sorted, while `rate` events a second are sent."""
        self.kafka.create("live", PARTITIONS)
        with tempfile.TemporaryDirectory(prefix="pen-") as folder:
            task = self.task("live", "live", Path(folder), "live", linger=LINGER)
            process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            assert process.stdin is not None
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.close()
            sent: list[list[float]] = [[] for _ in range(PARTITIONS)]
            watch = threading.Thread(target=self._send, args=(rate, sent))
            self._await_positions(task["uid"])
            watch.start()
            late = self._watch(task["uid"], sent, watch)
            Path(task["drain"]).touch()
            process.wait(60)
        return sorted(late)

    def _await_positions(self, uid: str) -> None:
        end = time.monotonic() + 60
        exists = "SELECT to_regclass('public._penstock_offsets') IS NOT NULL"
        while self.session.execute(exists).fetchone() != (True,) or not self._positions(uid):
            if time.monotonic() > end:
                sys.exit("the stream does not begin")
            time.sleep(0.05)

    def _positions(self, uid: str) -> dict[int, int]:
        query = "SELECT part, position FROM _penstock_offsets WHERE pipeline = %s"
        rows = self.session.execute(query, [uid]).fetchall()
        return {int(part.rpartition("/")[2]): int(json.loads(position)["offset"]) for part, position in rows}

    def _send(self, rate: int, sent: list[list[float]]) -> None:
        """Send at a steady rate; note when each event of each partition was handed to the client."""
        chance = random.Random(2)
        values = [event(number, chance) for number in range(10_000)]
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "linger.ms": 5})
        begin, number = time.perf_counter(), 0
        while (passed := time.perf_counter() - begin) < WARM_SECONDS + LATENCY_SECONDS:
            while number < rate * passed:
                part = number % PARTITIONS
                sent[part].append(time.perf_counter())
                producer.produce("live", values[number % len(values)], partition=part)
                number += 1
            producer.poll(0)
            time.sleep(0.002)
        producer.flush()

    def _watch(self, uid: str, sent: list[list[float]], sending: threading.Thread) -> list[float]:
        late: list[float] = []
        warm = time.perf_counter() + WARM_SECONDS
        seen = dict.fromkeys(range(PARTITIONS), 0)
        while sending.is_alive() or any(seen[part] < len(sent[part]) for part in seen):
            found = self._positions(uid)
            at = time.perf_counter()
            for part, offset in found.items():
                late += [at - one for one in sent[part][seen[part] : offset] if one >= warm]
                seen[part] = max(seen[part], offset)
            time.sleep(POLL_SECONDS)
        return late


def command() -> list[str]:
    """Return the command of a process that takes runs, ready for the next one."""
    return [sys.executable, "-m", "dataflows.runs", "--ready"]


def median(found: list[Measured]) -> float:
    """Return the median of the seconds."""
    return statistics.median(one.seconds for one in found)


def table_lines(events: int, found: dict[str, list[Measured]], late: list[float]) -> list[str]:
    """Return the lines of the README's table."""
    names = {
        "limit": "the limit: librdkafka, pyarrow's JSON, one binary COPY; no steps, no positions",
        "penstock": "Penstock: cast, filter, mask, positions committed with the rows",
        "quix": f"Quix Streams {QUIX_VERSION}, COPY for each of its batches, of {events // SHARE:,} events",
        "bytewax": f"Bytewax 0.21.1, its own KafkaSource, row by row, of {events // SHARE:,} events",
    }
    lines = [
        f"| {events:,} events of 200 bytes, Kafka to PostgreSQL | events/s | of the limit | events per CPU s |",
        "|---|---|---|---|",
    ]
    limit = median(found["limit"])
    for name, runs in found.items():
        used = statistics.median(one.cpu for one in runs)
        share = f"{limit / median(runs):.2f}"
        lines.append(f"| {names[name]} | {events / median(runs):,.0f} | {share} | {events / used:,.0f} |")
    rate = events / median(found["penstock"]) / 2
    half, most = (f"{percentile(late, share) * 1000:.0f} ms" for share in (0.5, 0.99))
    told = (
        f"At half of that rate ({rate:,.0f}/s, linger {LINGER}) an event is committed after {half}, 99 % after {most}."
    )
    return [*lines, "", told, "", f"{machine()}."]


def percentile(late: list[float], share: float) -> float:
    """Return the value that this share of the sorted ones does not exceed."""
    return late[min(len(late) - 1, int(share * len(late)))]


def show(events: int, found: dict[str, list[Measured]], late: list[float], *, as_json: bool) -> None:
    """Print the table, and with `as_json` one line of JSON."""
    sys.stdout.write("\n".join(table_lines(events, found, late)) + "\n")
    if as_json:
        ours = median(found["penstock"])
        used = statistics.median(one.cpu for one in found["penstock"])
        figures: dict[str, Any] = {
            "ratio_to_limit": round(median(found["limit"]) / ours, 3),
            "events_per_cpu_second": round(events / used),
            "p50_ms": round(percentile(late, 0.5) * 1000, 1),
            "p99_ms": round(percentile(late, 0.99) * 1000, 1),
        }
        figures |= {
            f"ratio_to_{name}": round(median(found[name]) / ours, 2) for name in ("quix", "bytewax") if name in found
        }
        runs = {name: [asdict(one) for one in each] for name, each in found.items()}
        sys.stdout.write(json.dumps(figures | {"events": events, "runs": runs}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
