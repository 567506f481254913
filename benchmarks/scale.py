"""One stream over several processes: events/s and CPU with 1, 2 and 4 processes, and with 1, 8 and 64 partitions.

``python -m benchmarks.scale [--events 1000000] [--times 3] [--json] [--readme]``. The stream is that of the benchmark
`streams`: a run as a worker starts it drains a topic into a table. The processes of a run start cold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.parts.measure import Measured, timed
from benchmarks.parts.readme import machine, write_table
from benchmarks.parts.tables import served
from benchmarks.streams import READY_SECONDS, Bench, command, median, served_kafka

PROCESSES: Final = (1, 2, 4)
PARTITIONS: Final = (1, 8, 64)
USUAL: Final = 8
"""Partitions of the topic that several processes read."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scale", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=3, help="turns of each size")
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    with served() as dsn, served_kafka() as kafka:
        bench = Scale(kafka, dsn, options.events, {})
        found = bench.sizes(options.times)
    lines = table_lines(options.events, found)
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json:
        sys.stdout.write(json.dumps(figures(options.events, found)) + "\n")
    if options.readme:
        write_table("scale", lines)
    return 0


Size = tuple[int, int]
"""Processes and partitions."""


class Scale(Bench):
    """The same events in topics of several sizes."""

    def sizes(self, times: int) -> dict[Size, list[Measured]]:
        """Measure each size, in turns."""
        kept = {count: self.fill(f"events-{count}", self.events, count) for count in PARTITIONS}
        sizes = [*((count, USUAL) for count in PROCESSES), *((1, count) for count in PARTITIONS if count != USUAL)]
        found: dict[Size, list[Measured]] = {size: [] for size in sizes}
        for turn in range(times):
            for size in sizes:
                found[size].append(self._drained(size, turn, kept[size[1]]))
                sys.stderr.write(f"{size[0]} processes, {size[1]} partitions: {found[size][-1]}\n")
        return found

    def _drained(self, size: Size, turn: int, kept: int) -> Measured:
        workers, partitions = size
        self.session.execute("DROP TABLE IF EXISTS scaled")
        self.session.execute("CHECKPOINT")
        with tempfile.TemporaryDirectory(prefix="pen-") as folder:
            task = self.task(f"events-{partitions}", "scaled", Path(folder), f"turn-{turn}", workers=workers)
            Path(task["drain"]).touch()
            found = timed([command()], json.dumps(task).encode() + b"\n", ready=READY_SECONDS)
        self.check("scaled", kept)
        return found


def table_lines(events: int, found: dict[Size, list[Measured]]) -> list[str]:
    """Return the lines of the README's table."""
    lines = [
        f"| {events:,} events of 200 bytes, Kafka to PostgreSQL | events/s | CPU s | peak memory |",
        "|---|---|---|---|",
    ]
    for (workers, partitions), runs in found.items():
        size = f"{_counted(workers, 'process', 'processes')}, {_counted(partitions, 'partition', 'partitions')}"
        peak = max(one.peak_mb for one in runs)
        lines.append(f"| {size} | {events / median(runs):,.0f} | {used(runs):.1f} | {peak:,.0f} MB |")
    told = "Broker, PostgreSQL and the stream share the cores. Several processes start cold, which counts."
    return [*lines, "", f"{told} {machine()}."]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def used(runs: list[Measured]) -> float:
    """Return the median of the CPU seconds."""
    return statistics.median(one.cpu for one in runs)


def figures(events: int, found: dict[Size, list[Measured]]) -> dict[str, Any]:
    """Return what the line of JSON says."""
    shown: dict[str, Any] = {"events": events}
    for (workers, partitions), runs in found.items():
        name = f"processes_{workers}" if partitions == USUAL else f"partitions_{partitions}"
        shown[name] = {"events_per_second": round(events / median(runs)), "cpu_seconds": round(used(runs), 2)}
    return shown | {"runs": {f"{size[0]}/{size[1]}": [asdict(one) for one in runs] for size, runs in found.items()}}


if __name__ == "__main__":
    sys.exit(main())
