"""PostgreSQL to PostgreSQL: a Penstock run against ``COPY … TO STDOUT | COPY … FROM STDIN`` (binary) by psql.

Both copy TPC-H's lineitem into a table without indexes, on one embedded server that writes to disk as by default.
The ways take turns; of each the median counts. A run's time is that of its whole process, from its start to its exit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from penstock.topics.embedded import EmbeddedServer

ROWS_AT_SCALE_1: Final = 6_001_215
LINEITEM: Final = """
l_orderkey bigint NOT NULL, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL, l_linenumber integer NOT NULL,
l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2),
l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date,
l_shipinstruct text, l_shipmode text, l_comment text"""
PLAIN: Final = (
    "l_orderkey",
    "l_linenumber",
    "l_quantity",
    "l_extendedprice",
    "l_shipdate",
    "l_receiptdate",
    "l_shipinstruct",
    "l_comment",
)
COMPUTED: Final = {
    "net": ("numeric(20,4)", "CAST(l_extendedprice * (1 - l_discount) AS numeric(20,4))"),
    "ship_mode": ("text", "lower(l_shipmode)"),
    "returned": ("boolean", "l_returnflag = 'R'"),
    "days": ("integer", "l_receiptdate - l_shipdate"),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One copy: wall-clock and CPU seconds of the client's processes, and the largest of them in MB."""

    seconds: float
    cpu: float
    peak_mb: float


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="copy", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000, help="about how many line items")
    parser.add_argument("--times", type=int, default=3, help="turns of each way")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    options = parser.parse_args()
    with served() as dsn:
        rows = loaded(dsn, options.rows)
        found = measured(dsn, options.times, options.workers)
    show(rows, found, as_json=options.json)
    return 0


@contextmanager
def served() -> Iterator[str]:
    """An embedded server of its own; the DSN of its database."""
    home = Path(tempfile.mkdtemp(prefix="pen-", dir="/tmp"))
    server = EmbeddedServer(home)
    server.acquire()
    try:
        yield server.dsn("postgres")
    finally:
        server.stop()
        server.release()
        shutil.rmtree(home)


def loaded(dsn: str, rows: int) -> int:
    """Make and fill the tables; the rows that there are."""
    with psycopg.connect(dsn, autocommit=True) as session, tempfile.TemporaryDirectory() as folder:
        session.execute(f"CREATE TABLE lineitem ({LINEITEM})")
        program = shutil.which(
            "tpchgen-cli", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        )
        if program is None:
            sys.exit("tpchgen-cli is missing; run `make setup`")
        scale = f"{rows / ROWS_AT_SCALE_1:.6f}"
        subprocess.run(
            [program, "csv", "-s", scale, "--tables=lineitem", f"--output-dir={folder}"],
            check=True,
            capture_output=True,
        )
        with (
            session.cursor().copy("COPY lineitem FROM STDIN (FORMAT csv, HEADER)") as copy,
            (Path(folder) / "lineitem.csv").open("rb") as file,
        ):
            while data := file.read(1 << 20):
                copy.write(data)
        session.execute("ALTER TABLE lineitem ADD PRIMARY KEY (l_orderkey, l_linenumber)")
        session.execute("VACUUM ANALYZE lineitem")
        session.execute(f"CREATE TABLE by_psql ({LINEITEM}); CREATE TABLE plain ({LINEITEM})")
        columns = [f"{name} {kind_of(name)}" for name in PLAIN] + [
            f"{name} {kind}" for name, (kind, _) in COMPUTED.items()
        ]
        session.execute(f"CREATE TABLE mapped ({', '.join(columns)})")
        found = session.execute("SELECT count(*) FROM lineitem").fetchone()
        return int(found[0]) if found else 0


def kind_of(name: str) -> str:
    """The type of a column of lineitem."""
    found = re.search(rf"\b{name} ([a-z]+(?:\([\d,]+\))?)", LINEITEM)
    if found is None:
        message = f"lineitem has no {name}"
        raise KeyError(message)
    return found.group(1)


def measured(dsn: str, times: int, workers: int) -> dict[str, list[Measured]]:
    """Each way `times` times, in turns."""
    ways: dict[str, Callable[[int], Measured]] = {
        "limit": lambda _: by_psql(dsn),
        "none": lambda turn: by_penstock(dsn, turn, "plain", None, workers),
        "transforms": lambda turn: by_penstock(dsn, turn, "mapped", transforms(), workers),
    }
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    for turn in range(times):
        for name, way in ways.items():
            found[name].append(way(turn))
    return found


def transforms() -> dict[str, Any]:
    """Eight columns as they are, four derived ones, of which two are cast; a filter, and a mask."""
    plain = [{"target": name, "from": name} for name in PLAIN]
    computed = [{"target": name, "sql": text} for name, (_, text) in COMPUTED.items()]
    steps = [
        {"name": "shipped", "filter": "l_shipinstruct <> 'NONE' OR l_quantity > 1"},
        {"name": "hide", "mask": {"l_comment": "hash"}},
    ]
    return {"mapping": {"fields": plain + computed}, "transforms": steps}


def by_psql(dsn: str) -> Measured:
    """The limit: two psql and a pipe."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("TRUNCATE by_psql")
        session.execute("CHECKPOINT")
    if shutil.which("psql") is None:
        return timed([[sys.executable, "-c", PUMP, dsn]], b"")
    out = ["psql", "-qX", dsn, "-c", "COPY lineitem TO STDOUT (FORMAT binary)"]
    into = ["psql", "-qX", dsn, "-c", "COPY by_psql FROM STDIN (FORMAT binary)"]
    return timed([out, into], b"")


PUMP: Final = """
import sys, psycopg
with psycopg.connect(sys.argv[1]) as a, psycopg.connect(sys.argv[1]) as b:
    out = a.cursor().copy("COPY lineitem TO STDOUT (FORMAT binary)")
    into = b.cursor().copy("COPY by_psql FROM STDIN (FORMAT binary)")
    with out as source, into as sink:
        for data in source: sink.write(data)
"""
"""The same by libpq's functions, where there is no psql."""


def by_penstock(dsn: str, turn: int, table: str, rules: dict[str, Any] | None, workers: int) -> Measured:
    """A run that replaces the whole table."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CHECKPOINT")
    spec: dict[str, Any] = {
        "source": {"connection": "bench", "object": "public.lineitem"}, "limits": {"workers": workers},
        "sink": {"connection": "bench", "object": f"public.{table}", "write": "replace"},
    }  # fmt: skip
    spec |= rules or {}
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "run": f"{table}-{turn}", "attempt": 1, "uid": table, "progress": None, "result": f"{folder}/result.json",
            "pipeline": {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": table}, "spec": spec},
            "connections": {"bench": {"type": "postgres", "dsn": dsn}},
        }  # fmt: skip
        found = timed([[sys.executable, "-m", "dataflows.runtime.launcher"]], json.dumps(task).encode())
        result = json.loads(Path(folder, "result.json").read_text())
    if result["status"] != "completed":
        sys.exit(f"the run failed: {result['error']}")
    sys.stderr.write(f"{table}: {result['counters']['seconds']}\n")
    return found


def timed(commands: list[list[str]], given: bytes) -> Measured:
    """Run the commands as a pipe; what they took together."""
    began = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    for at, command in enumerate(commands):
        stdin = processes[-1].stdout if processes else subprocess.PIPE
        last = at == len(commands) - 1
        processes.append(subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL if last else subprocess.PIPE))
    first = processes[0].stdin
    if first is not None:
        first.write(given)
        first.close()
    if len(processes) > 1 and processes[0].stdout is not None:
        processes[0].stdout.close()
    usages = [os.wait4(process.pid, 0) for process in processes]
    seconds = time.perf_counter() - began
    for process, (_, status, _) in zip(processes, usages, strict=True):
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{process.args!r} ended with {process.returncode}")
    cpu = sum(usage.ru_utime + usage.ru_stime for _, _, usage in usages)
    return Measured(seconds, cpu, max(usage.ru_maxrss for _, _, usage in usages) / 1024)


def show(rows: int, found: dict[str, list[Measured]], *, as_json: bool) -> None:
    """Print the table, and the JSON line."""
    medians = {name: statistics.median(one.seconds for one in runs) for name, runs in found.items()}
    ratios = {name: round(medians["limit"] / medians[name], 3) for name in ("none", "transforms")}
    sys.stdout.write(f"{rows} rows of lineitem, median of {len(found['limit'])}\n")
    sys.stdout.write(f"{'':12}{'seconds':>9}{'rows/s':>12}{'of limit':>10}{'CPU s':>8}{'peak MB':>9}\n")
    for name, runs in found.items():
        cpu, peak = statistics.median(one.cpu for one in runs), max(one.peak_mb for one in runs)
        share = medians["limit"] / medians[name]
        sys.stdout.write(
            f"{name:12}{medians[name]:9.2f}{rows / medians[name]:12,.0f}{share:10.2f}{cpu:8.2f}{peak:9.0f}\n"
        )
    if as_json:
        raw = {name: [asdict(one) for one in runs] for name, runs in found.items()}
        speed = {name: round(rows / seconds) for name, seconds in medians.items()}
        sys.stdout.write(
            json.dumps({"rows": rows, "ratio_to_limit": ratios, "rows_per_second": speed, "runs": raw}) + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
