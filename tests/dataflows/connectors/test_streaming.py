"""Rows stream: the memory of a run does not grow with the rows that it moves, from each system and into each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.dataflows.connectors.conftest import SYSTEMS, Flow

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers
    from tests.dataflows.connectors.conftest import System

MB: Final = 1024
"""In the unit of `ru_maxrss`."""
GROUP: Final = 100_000
APART: Final = 80
"""MB: DuckDB's cache of 64 MB is full with the one and not with the other; all others are within 40."""


def write_rows(path: Path, rows: int, width: int, group: int) -> None:
    """A Parquet file of `rows` rows in groups, each written alone; a row's text has `width` characters."""
    path.parent.mkdir()
    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("price", pa.float64())])
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as file:
        for first in range(0, rows, group):
            ids = pa.array(range(first, min(rows, first + group)), pa.int64())
            names = pc.utf8_lpad(pc.cast(ids, pa.string()), width, "x")
            file.write_batch(pa.RecordBatch.from_arrays([ids, names, pc.multiply(ids, 0.5)], schema=schema))


def checked(path: Path, rows: int) -> None:
    """All rows are there, each once."""
    ids = [pq.read_table(one, columns=["id"]).column("id") for one in sorted(path.glob("*.parquet"))]
    found = pa.chunked_array([chunk for one in ids for chunk in one.chunks], pa.int64())
    assert (len(found), pc.sum(found).as_py()) == (rows, rows * (rows - 1) // 2)
    assert pc.count_distinct(found).as_py() == rows


@pytest.fixture
def through(tmp_path: Path, launchers: Launchers) -> Callable[..., Iterator[Flow]]:
    """The pipelines that bring a file's rows into a world, and from there back to a folder."""

    def make(world: System, rows: int, width: int, group: int) -> Iterator[Flow]:
        root = tmp_path / f"{world.name}-{rows}"
        root.mkdir()
        write_rows(root / "made" / "rows.parquet", rows, width, group)
        connections = {"hub": {"type": "files", "root": str(root)}, world.name: world.connection}
        ends = (
            ({"connection": "hub", "object": "made/*.parquet"}, world.sink("replace")),
            (world.source(cursor=False), {"connection": "hub", "object": "back", "write": "replace"}),
        )
        for source, sink in ends:
            yield Flow(launchers, tmp_path, connections, source, sink, split_rows=group)
        checked(root / "back", rows)

    return make


def test_what_is_in_flight_is_bounded(world: System, through: Callable[..., Iterator[Flow]]) -> None:
    """Of rows with 150 MB of texts in all never more than a fraction is held."""
    peaks = []
    for rows in (1_000, 75_000):
        for flow in through(world, rows, 2_000, 5_000):
            task = flow.task("r1")
            task["pipeline"]["spec"]["limits"] = {"batch_rows": 1_000}
            pid = flow.launchers.start(task)
            assert flow.launchers.wait(pid) == {"code": 0}, json.loads(Path(task["result"]).read_text())
            peaks.append(flow.launchers.peaks[pid])
    small, large = peaks[:2], peaks[2:]
    assert [one - other < 110 * MB for one, other in zip(large, small, strict=True)] == [True, True], peaks


def peak_of(task: dict[str, Any]) -> int:
    """The greatest resident memory of a run's process, in MB; it is one of its own, as in production."""
    command = [sys.executable, "-m", "dataflows.runs"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin
    process.stdin.write(json.dumps(task).encode())
    process.stdin.close()
    peak = 0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            peak = int(line.split()[1]) // 1024 if line.startswith("VmHWM:") else peak
        time.sleep(0.02)
    result = json.loads(Path(task["result"]).read_text())
    assert result["status"] == "completed", result
    return peak


@pytest.mark.chaos
@pytest.mark.parametrize("system", SYSTEMS)
def test_ten_million_rows_take_no_more_memory_than_one(
    worlds: Callable[[str], System], through: Callable[..., Iterator[Flow]], system: str
) -> None:
    peaks: dict[int, list[int]] = {}
    for rows in (1_000_000, 10_000_000):
        peaks[rows] = [peak_of(flow.task("r1")) for flow in through(worlds(system), rows, 20, GROUP)]
    one, ten = peaks.values()
    told = f"{system}: MB at 1M and 10M rows, as sink {one[0]} and {ten[0]}, as source {one[1]} and {ten[1]}"
    sys.stdout.write(f"{told}\n")
    assert max(one + ten) < 400, told
    assert all(large - small < APART for small, large in zip(one, ten, strict=True)), told
