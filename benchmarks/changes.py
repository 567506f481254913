"""Change data capture, PostgreSQL to PostgreSQL: how fast a stream catches up, and how late it is under a steady load.

``python -m benchmarks.changes [--rate 20000] [--seconds 20] [--json] [--readme]``. One server is source and sink, and
writes to disk as by default. First changes pile up while the stream is stopped, and the time counts in which it
commits them all. Then multi-row statements insert, update and delete rows at a rate, and the time counts from the last
commit at the source until the target has it. Both tables must then be equal, row for row.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.commands import cpu
from benchmarks.parts.readme import machine, write_table
from penstock.topics.embedded import EmbeddedServer

CHANGES: Final = {"wal_level": "logical", "max_wal_senders": "4", "max_replication_slots": "4"}
COLUMNS: Final = "id bigint PRIMARY KEY, name text, price numeric(12,2), at timestamptz, note text"
ROWS: Final = 100_000
"""Rows that the snapshot has."""
BATCH: Final = 500
"""Rows of one statement."""
POLL_SECONDS: Final = 0.005
PATIENCE: Final = 300.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="changes", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=int, default=20_000, help="changes a second")
    parser.add_argument("--seconds", type=int, default=20, help="how long they are made")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    with served() as dsn, tempfile.TemporaryDirectory(prefix="pen-") as folder:
        found = Bench(dsn, Path(folder)).measured(options.rate, options.seconds)
    lines = table_lines(found)
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    if options.readme:
        write_table("changes", lines)
    return 0


@contextmanager
def served() -> Iterator[str]:
    """Start an embedded server whose changes can be read; yield the DSN of its database."""
    home = Path(tempfile.mkdtemp(prefix="pen-", dir="/tmp"))
    server = EmbeddedServer(home, configuration=CHANGES)
    server.acquire()
    try:
        yield server.dsn("postgres")
    finally:
        server.stop()
        server.release()
        shutil.rmtree(home)


class Bench:
    """A table, the stream that mirrors it, and the load."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn, self.folder, self.uid = dsn, folder, str(uuid.uuid4())
        self.session = psycopg.connect(dsn, autocommit=True)
        self.next = ROWS
        self.session.execute(f"CREATE TABLE source ({COLUMNS})")
        self._insert(0, ROWS)

    def measured(self, rate: int, seconds: int) -> dict[str, Any]:
        """Return the figures."""
        begun = time.perf_counter()
        process = self._start(1)
        self._until_equal(ROWS)
        first = time.perf_counter() - begun
        self._stop(process)
        changes = sum(self._round(number) for number in range(rate * seconds // (3 * BATCH)))
        process = self._start(2)
        begun, used = time.perf_counter(), cpu({process.pid})
        upto = self._written()
        self._until_at(upto)
        caught = time.perf_counter() - begun
        spent = cpu({process.pid}) - used
        late = self._steady(rate, seconds)
        self._check()
        self._stop(process)
        return {
            "snapshot_seconds": round(first, 2),
            "changes": changes,
            "changes_per_second": round(changes / caught),
            "changes_per_cpu_second": round(changes / spent),
            "rate": rate,
            "seconds_behind_at_the_end": round(late, 3),
        }

    def _round(self, number: int) -> int:
        """Insert, update and delete rows, each by one statement; return the number of changes."""
        self._insert(self.next, BATCH)
        self.next += BATCH
        low = (number * 7919) % ROWS
        updated = self.session.execute(
            "UPDATE source SET price = price + 1, note = note || '.' WHERE id >= %s AND id < %s", (low, low + BATCH)
        ).rowcount
        old = self.next - 40 * BATCH
        deleted = self.session.execute("DELETE FROM source WHERE id >= %s AND id < %s", (old, old + BATCH)).rowcount
        return BATCH + updated + deleted

    def _insert(self, first: int, count: int) -> None:
        self.session.execute(
            "INSERT INTO source SELECT n, 'name ' || n, n * 1.01, timestamptz '2026-01-01Z' + n * interval '1 s', "
            "repeat('x', 40) FROM generate_series(%s::bigint, %s) n",
            (first, first + count - 1),
        )

    def _start(self, attempt: int) -> subprocess.Popen[bytes]:
        postgres = {"type": "postgres", "dsn": self.dsn}
        spec = {
            "mode": "stream",
            "source": {"connection": "here", "object": "public.source"},
            "sink": {"connection": "here", "object": "public.target", "write": "merge", "key": ["id"]},
        }
        task = {
            "run": "bench",
            "attempt": attempt,
            "uid": self.uid,
            "pipeline": {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "mirror"}, "spec": spec},
            "connections": {"here": postgres},
            "result": str(self.folder / f"{attempt}.json"),
        }
        command = [sys.executable, "-m", "dataflows.runs", "--ready"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.close()
        return process

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.wait(60)

    def _value(self, query: str, *values: object) -> Any:
        row = self.session.execute(query.encode(), values).fetchone()
        return None if row is None else row[0]

    def _until_equal(self, rows: int) -> None:
        end = time.monotonic() + PATIENCE
        while self._value("SELECT to_regclass('target')") is None or self._value("SELECT count(*) FROM target") != rows:
            if time.monotonic() > end:
                sys.exit("the snapshot does not arrive")
            time.sleep(0.05)

    def _written(self) -> str:
        self.session.execute("CREATE TABLE IF NOT EXISTS marks (at timestamptz)")
        return str(self._value("SELECT pg_current_wal_flush_lsn()"))

    def _until_at(self, lsn: str) -> None:
        """Wait until the sink's position is behind that place of the WAL."""
        query = "SELECT (position::jsonb ->> 'lsn')::pg_lsn >= %s::pg_lsn FROM _penstock_offsets WHERE pipeline = %s"
        end = time.monotonic() + PATIENCE
        while not self._value(query, lsn, self.uid):
            if time.monotonic() > end:
                sys.exit("the stream does not catch up")
            time.sleep(POLL_SECONDS)

    def _steady(self, rate: int, seconds: int) -> float:
        """Make changes at a rate; return the seconds from the last commit until the sink has it."""
        begun, made, number = time.perf_counter(), 0, 0
        while (passed := time.perf_counter() - begun) < seconds:
            if made < rate * passed:
                made += self._round(number)
                number += 1
            else:
                time.sleep(0.001)
        if made < 0.9 * rate * seconds:
            sys.stderr.write(f"note: only {made / seconds:,.0f} changes a second could be made\n")
        last = self.next - 1
        ended = time.perf_counter()
        while self._value("SELECT count(*) FROM target WHERE id = %s", last) != 1:
            if time.perf_counter() - ended > PATIENCE:
                sys.exit("the stream does not catch up")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - ended

    def _check(self) -> None:
        """Exit with an error unless both tables have the same rows."""
        differing = "(TABLE source EXCEPT ALL TABLE target) UNION ALL (TABLE target EXCEPT ALL TABLE source)"
        end = time.monotonic() + 30
        while (found := self._value(f"SELECT count(*) FROM ({differing}) x")) != 0:
            if time.monotonic() > end:
                sys.exit(f"{found} rows differ")
            time.sleep(0.2)


def table_lines(found: dict[str, Any]) -> list[str]:
    """Return the lines of the README's table."""
    return [
        "| changes of a PostgreSQL table, one server as source and sink | |",
        "|---|---|",
        (
            f"| {found['changes']:,} changes that had piled up | {found['changes_per_second']:,} changes/s, "
            f"{found['changes_per_cpu_second']:,} per CPU second |"
        ),
        (
            f"| {found['rate']:,} changes/s by statements of {BATCH} rows: behind at the end | "
            f"{found['seconds_behind_at_the_end'] * 1000:.0f} ms |"
        ),
        "",
        f"Equal row for row at the end. {machine()}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
