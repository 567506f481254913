"""PostgreSQL to PostgreSQL: a Penstock run against ``COPY … TO STDOUT | COPY … FROM STDIN`` (binary) by psql.

Both copy TPC-H's lineitem into a table without indexes, on one embedded server that writes to disk as by default.
They take turns, and the median of each counts. A running worker keeps a process ready for its next run, so a run's time
is from its order to the exit of that process. The additional time of a cold start is shown too.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.parts.measure import Measured, timed
from benchmarks.parts.readme import TIMES, machine, write_table
from benchmarks.parts.tables import LINEITEM, lineitem, served

READY_SECONDS: Final = 1.5
COLD: Final = ", from a cold start"
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


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="copy", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=6_001_215, help="about how many line items")
    parser.add_argument("--times", type=int, default=3, help="turns of each way")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    with served() as dsn:
        rows = lineitem(dsn, options.rows)
        targets(dsn)
        found = measured(dsn, options.times, options.workers)
    show(rows, found, as_json=options.json)
    if options.readme:
        write_table("copy", table_lines(rows, found))
    return 0


def targets(dsn: str) -> None:
    """Create the target tables."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE TABLE by_psql ({LINEITEM}); CREATE TABLE plain ({LINEITEM})")
        columns = [f"{name} {kind_of(name)}" for name in PLAIN] + [
            f"{name} {kind}" for name, (kind, _) in COMPUTED.items()
        ]
        session.execute(f"CREATE TABLE mapped ({', '.join(columns)})")


def kind_of(name: str) -> str:
    """Return the type of a column of lineitem."""
    found = re.search(rf"\b{name} ([a-z]+(?:\([\d,]+\))?)", LINEITEM)
    if found is None:
        message = f"lineitem has no {name}"
        raise KeyError(message)
    return found.group(1)


def measured(dsn: str, times: int, workers: int) -> dict[str, list[Measured]]:
    """Measure each way `times` times, in turns, and cold starts once."""
    ways: dict[str, Callable[[int], Measured]] = {
        "limit": lambda _: by_psql(dsn),
        "none": lambda turn: by_penstock(dsn, turn, "plain", None, workers),
        "transforms": lambda turn: by_penstock(dsn, turn, "mapped", transforms(), workers),
        f"none{COLD}": lambda turn: by_penstock(dsn, turn, "plain", None, workers, cold=True),
        f"transforms{COLD}": lambda turn: by_penstock(dsn, turn, "mapped", transforms(), workers, cold=True),
    }
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    for turn in range(times):
        for name, way in ways.items():
            if turn == 0 or not name.endswith(COLD):
                found[name].append(way(turn))
    return found


def transforms() -> dict[str, Any]:
    """Return a mapping and steps: eight columns unchanged, four derived, two of them cast; a filter, and a mask."""
    plain = [{"target": name, "from": name} for name in PLAIN]
    computed = [{"target": name, "sql": text} for name, (_, text) in COMPUTED.items()]
    steps = [
        {"name": "shipped", "filter": "l_shipinstruct <> 'NONE' OR l_quantity > 1"},
        {"name": "hide", "mask": {"l_comment": "sha256"}},
    ]
    return {"mapping": {"fields": plain + computed}, "transforms": steps}


def by_psql(dsn: str) -> Measured:
    """Measure the limit: two psql and a pipe."""
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
"""Copy by libpq's functions, if psql is not installed."""


def by_penstock(
    dsn: str, turn: int, table: str, rules: dict[str, Any] | None, workers: int, *, cold: bool = False
) -> Measured:
    """Measure a run that replaces the whole table, by a process that is ready, or including its start."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CHECKPOINT")
    spec: dict[str, Any] = {
        "source": {"connection": "bench", "object": "public.lineitem"},
        "limits": {"workers": workers},
        "sink": {"connection": "bench", "object": f"public.{table}", "write": "replace"},
    }
    spec |= rules or {}
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "run": f"{table}-{turn}{'-cold' * cold}",
            "attempt": 1,
            "uid": table,
            "progress": None,
            "result": f"{folder}/result.json",
            "pipeline": {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": table}, "spec": spec},
            "connections": {"bench": {"type": "postgres", "dsn": dsn}},
        }
        command = [sys.executable, "-m", "dataflows.runs", *(() if cold else ("--ready",))]
        found = timed([command], json.dumps(task).encode(), ready=0.0 if cold else READY_SECONDS)
        result = json.loads(Path(folder, "result.json").read_text())
    if result["status"] != "completed":
        sys.exit(f"the run failed: {result['error']}")
    sys.stderr.write(f"{table}: {result['counters']['seconds']}\n")
    return found


NAMES: Final = {
    "limit": "`psql COPY TO STDOUT` piped into `psql COPY FROM STDIN`, binary: the limit",
    "none": "Penstock, columns as they are",
    "transforms": "Penstock: cast, derive, filter, mask",
    f"none{COLD}": f"Penstock, columns as they are{COLD}",
    f"transforms{COLD}": f"Penstock: cast, derive, filter, mask{COLD}",
}


def table_lines(rows: int, found: dict[str, list[Measured]]) -> list[str]:
    """Return the lines of the README's table."""
    limit = statistics.median(one.seconds for one in found["limit"])
    lines = [
        f"| {rows:,} line items of TPC-H, PostgreSQL to PostgreSQL | rows/s | speed of COPY | CPU s | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        seconds = statistics.median(one.seconds for one in runs)
        cpu, peak = statistics.median(one.cpu for one in runs), max(one.peak_mb for one in runs)
        lines.append(
            f"| {NAMES[name]} | {rows / seconds:,.0f} | {limit / seconds:.2f}{TIMES} | {cpu:.1f} | {peak:,.0f} MB |"
        )
    said = "A running worker keeps processes ready for its next runs; a cold start, measured once, starts a new one."
    return [*lines, "", f"Median of {len(found['limit'])}. {said} {machine()}."]


def show(rows: int, found: dict[str, list[Measured]], *, as_json: bool) -> None:
    """Print the table, and the JSON line."""
    medians = {name: statistics.median(one.seconds for one in runs) for name, runs in found.items()}
    ratios = {name: round(medians["limit"] / medians[name], 3) for name in found}
    sys.stdout.write(f"{rows} rows of lineitem, median of {len(found['limit'])}\n")
    sys.stdout.write(f"{'':30}{'seconds':>9}{'rows/s':>12}{'of limit':>10}{'CPU s':>8}{'peak MB':>9}\n")
    for name, runs in found.items():
        cpu, peak = statistics.median(one.cpu for one in runs), max(one.peak_mb for one in runs)
        share = medians["limit"] / medians[name]
        sys.stdout.write(
            f"{name:30}{medians[name]:9.2f}{rows / medians[name]:12,.0f}{share:10.2f}{cpu:8.2f}{peak:9.0f}\n"
        )
    if as_json:
        raw = {name: [asdict(one) for one in runs] for name, runs in found.items()}
        speed = {name: round(rows / seconds) for name, seconds in medians.items()}
        warm, cold = ({name: ratios[f"{name}{how}"] for name in ("none", "transforms")} for how in ("", COLD))
        line = {
            "rows": rows,
            "ratio_to_limit": warm,
            "ratio_from_a_cold_start": cold,
            "rows_per_second": speed,
            "runs": raw,
        }
        sys.stdout.write(f"{json.dumps(line)}\n")


if __name__ == "__main__":
    sys.exit(main())
