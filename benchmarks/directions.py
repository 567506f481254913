"""Compare Penstock with other tools in each direction that they share: TPC-H's lineitem between databases and files.

All run on one machine, in turns, and the median of each counts. The time of a tool is that of its processes, from start
to exit; its rows are counted afterwards. A tool that cannot be installed is named with the reason.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow.dataset as ds

from benchmarks.parts.mariadb import DATABASE, served_mysql
from benchmarks.parts.measure import Failed, Measured, timed
from benchmarks.parts.readme import TIMES, machine, write_table
from benchmarks.parts.tables import LINEITEM, generated, lineitem, served
from benchmarks.peers.dlt import DLT
from benchmarks.peers.peer import Command, Move, Peer, said
from benchmarks.peers.programs import FAUCET, INGESTR, SLING
from benchmarks.peers.psql import LIMIT
from benchmarks.peers.singer import MELTANO

DIRECTIONS: Final = {
    "postgres-postgres": "PostgreSQL to PostgreSQL",
    "postgres-parquet": "PostgreSQL to Parquet",
    "parquet-postgres": "Parquet to PostgreSQL",
    "csv-postgres": "CSV to PostgreSQL",
    "mysql-postgres": "MariaDB to PostgreSQL",
}
PEERS: Final[Sequence[Peer]] = (LIMIT, *DLT, MELTANO, FAUCET, SLING, INGESTR)
PART: Final = "lineitem_part"


@dataclass(slots=True)
class Found:
    """Results of a tool in one direction, of `rows` rows each, or the reason why there are none."""

    rows: int = 0
    turns: list[Measured] = field(default_factory=list)
    why_not: str = ""

    @property
    def speed(self) -> float:
        """Rows per second, by the median."""
        return self.rows / statistics.median(one.seconds for one in self.turns)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="directions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=6_001_215, help="about how many line items")
    parser.add_argument("--times", type=int, default=1, help="turns of each tool")
    parser.add_argument("--only", choices=sorted(DIRECTIONS), action="append", help="this direction; may be repeated")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    peers, missing = had(PEERS)
    with served() as dsn, tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp") as name:
        folder = Path(name)
        rows = filled(dsn, options.rows, folder)
        found = {}
        for way in options.only or DIRECTIONS:
            with (
                served_mysql(folder / "lineitem.csv", PART, rows // 10)
                if way.startswith("mysql")
                else nullcontext(0) as port
            ):
                move = Move(way, dsn, folder, "", mysql=port)
                found[way] = compared(move, peers, rows, options.times)
    lines = table_lines(found, rows, options.times, missing)
    sys.stdout.write("\n".join(lines) + "\n")
    if options.readme:
        write_table("directions", lines)
    if options.json:
        sys.stdout.write(json.dumps(as_json(found, rows, missing)) + "\n")
    return 0


def had(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """Set up the peers; return those that are ready, and why the others are not."""
    ready, missing = [], {}
    for peer in peers:
        sys.stderr.write(f"setting up {peer.name}\n")
        try:
            peer.ready()
        except (OSError, subprocess.CalledProcessError) as error:
            missing[peer.name] = said(error)
        else:
            ready.append(peer)
    return ready, missing


def filled(dsn: str, rows: int, folder: Path) -> int:
    """Create the table, a table with a tenth of its rows, and the files."""
    count = lineitem(dsn, rows)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE TABLE {PART} ({LINEITEM}, PRIMARY KEY (l_orderkey, l_linenumber))")
        session.execute(f"INSERT INTO {PART} SELECT * FROM lineitem LIMIT {count // 10}")
        session.execute(f"VACUUM ANALYZE {PART}")
    for form in ("parquet", "csv"):
        generated(rows, form, folder)
    return count


def compared(way: Move, peers: Sequence[Peer], rows: int, times: int) -> dict[str, Found]:
    """Measure Penstock and each peer that supports the direction, in turns."""
    found: dict[str, Found] = {"Penstock": Found(rows)}
    able = [peer for peer in peers if way.direction in peer.directions]
    found |= {peer.name: Found(rows if peer.fraction == 1 else rows // 10) for peer in able}
    for turn in range(times):
        for peer in (None, *able):
            mine = found[peer.name if peer else "Penstock"]
            if mine.why_not:
                continue
            move = replace(way, table=f"turn_{turn}", source=PART if mine.rows < rows else "lineitem")
            sys.stderr.write(f"{way.direction}, turn {turn + 1}: {peer.name if peer else 'Penstock'}\n")
            try:
                mine.turns.append(moved(peer, move, mine.rows))
            except Failed as error:
                words = str(error).strip().splitlines()
                mine.why_not = next((one for one in reversed(words) if "rror" in one), words[-1]).strip()[:160]
    return found


def moved(peer: Peer | None, move: Move, rows: int) -> Measured:
    """Measure one move, into a target of its own that is dropped afterwards.

    Raises:
        Failed: it failed, or rows are missing.
    """
    mine = replace(move, folder=Path(tempfile.mkdtemp(dir=move.folder)))
    for form in ("parquet", "csv"):
        (mine.folder / f"lineitem.{form}").symlink_to(move.folder / f"lineitem.{form}")
    landed = peer.landed(mine) if peer else f"public.{mine.table}"
    try:
        with psycopg.connect(mine.dsn, autocommit=True) as session:
            if peer is not None and not peer.makes_table:
                session.execute(f"CREATE TABLE {landed} ({LINEITEM})")
            session.execute("CHECKPOINT")
            command = peer.command(mine) if peer else penstock(mine)
            taken = timed(command.pipe, command.given, cwd=mine.folder, environment=command.environment)
            there = in_files(mine) if move.direction.endswith("parquet") else in_table(session, landed)
            if there != rows:
                message = f"{there} of {rows} rows arrived"
                raise Failed(message)
            schema = landed.rpartition(".")[0] or "public"
            if schema != "public":  # including the tool's own state, so that the next direction starts without it
                session.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            elif not move.direction.endswith("parquet"):
                session.execute(f"DROP TABLE {landed} CASCADE")
    finally:
        shutil.rmtree(mine.folder)
    return taken


def in_table(session: psycopg.Connection[Any], table: str) -> int:
    """Return the number of rows of a table."""
    row = session.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else 0


def in_files(move: Move) -> int:
    """Return the number of rows of the Parquet files below the move's folder, except its source."""
    files = [str(one) for one in (move.folder / move.table).rglob("*.parquet") if "/_" not in str(one)]
    return int(ds.dataset(files).count_rows()) if files else 0


def penstock(move: Move) -> Command:
    """Return the command of a run that replaces the target."""
    source, target = move.direction.split("-")
    files = {"type": "files", "root": str(move.folder)}
    database = {"type": "postgres", "dsn": move.dsn}
    mysql = {"type": "mariadb", "host": "127.0.0.1", "port": move.mysql or 1, "user": DATABASE, "database": DATABASE}
    ends = {
        "postgres": ("bench", f"public.{move.source}"),
        "parquet": ("files", "lineitem.parquet"),
        "csv": ("files", "lineitem.csv"),
        "mysql": ("mysql", f"{DATABASE}.{move.source}"),
    }
    connection, object_ = ends[source]
    into, place = ("bench", f"public.{move.table}") if target == "postgres" else ("files", f"{move.table}/*.parquet")
    spec = {
        "source": {"connection": connection, "object": object_},
        "sink": {"connection": into, "object": place, "write": "replace"},
    }
    task = {
        "run": move.table,
        "attempt": 1,
        "uid": f"{move.direction}-{move.table}",
        "progress": None,
        "result": str(move.folder / "result.json"),
        "connections": {"bench": database, "files": files, "mysql": mysql},
        "pipeline": {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "bench"}, "spec": spec},
    }
    root = str(Path(__file__).parents[1])
    return Command([[sys.executable, "-m", "dataflows.runs"]], json.dumps(task).encode(), {"PYTHONPATH": root})


def table_lines(found: dict[str, dict[str, Found]], rows: int, times: int, missing: dict[str, str]) -> list[str]:
    """Return the lines of the README's table and its footnotes."""
    lines = [
        f"| {rows:,} line items of TPC-H | | rows/s | Penstock | CPU s of the client | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for way, tools in found.items():
        mine = tools["Penstock"]
        for name, one in tools.items():
            label = DIRECTIONS[way] if name == "Penstock" else ""
            if not one.turns:
                lines.append(f"| {label} | {name} | failed: {one.why_not} | | | |")
                continue
            cpu, peak = (max(getattr(turn, what) for turn in one.turns) for what in ("cpu", "peak_mb"))
            times_faster = "" if one is mine or not mine.turns else f"{mine.speed / one.speed:.3g}{TIMES} as fast"
            part = "" if one.rows == rows else f", of {one.rows:,} rows"
            lines.append(f"| {label} | {name}{part} | {one.speed:,.0f} | {times_faster} | {cpu:.0f} | {peak:,.0f} MB |")
    turns = "One turn of each" if times == 1 else f"Median of {times} turns"
    lines += ["", f"{turns}, whole processes with their start; {machine()}."]
    return [*lines, *(f"Not available here: {name} ({why})." for name, why in missing.items())]


def as_json(found: dict[str, dict[str, Found]], rows: int, missing: dict[str, str]) -> dict[str, Any]:
    """Return the raw figures."""
    ways = {
        way: {
            name: {"rows": one.rows, "why_not": one.why_not, "turns": [asdict(turn) for turn in one.turns]}
            for name, one in tools.items()
        }
        for way, tools in found.items()
    }
    return {"rows": rows, "directions": ways, "missing": missing}


if __name__ == "__main__":
    sys.exit(main())
