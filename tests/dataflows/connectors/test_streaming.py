"""Rows stream: the memory of a run does not grow with the number of rows, for every source and sink."""

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
"""Kilobytes, the unit of `ru_maxrss`, in a megabyte."""
GROUP: Final = 100_000
APART: Final = 80
"""Allowed difference in MB: DuckDB fills its cache of 64 MB only with the larger table; all others stay within 40."""


def write_rows(path: Path, rows: int, width: int, group: int) -> None:
    """Write a Parquet file of `rows` rows, group by group; a row's text has `width` characters."""
    path.parent.mkdir()
    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("price", pa.float64())])
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as file:
        for first in range(0, rows, group):
            ids = pa.array(range(first, min(rows, first + group)), pa.int64())
            names = pc.utf8_lpad(pc.cast(ids, pa.string()), width, "x")
            file.write_batch(pa.RecordBatch.from_arrays([ids, names, pc.multiply(ids, 0.5)], schema=schema))


def assert_complete(path: Path, rows: int) -> None:
    """Assert that each row exists exactly once."""
    ids = [pq.read_table(one, columns=["id"]).column("id") for one in sorted(path.glob("*.parquet"))]
    found = pa.chunked_array([chunk for one in ids for chunk in one.chunks], pa.int64())
    assert (len(found), pc.sum(found).as_py()) == (rows, rows * (rows - 1) // 2)
    assert pc.count_distinct(found).as_py() == rows


@pytest.fixture
def through(tmp_path: Path, launchers: Launchers) -> Callable[..., Iterator[Flow]]:
    """Make the pipelines from a file into a system, and from there back to a folder."""

    def make(system: System, rows: int, width: int, group: int) -> Iterator[Flow]:
        root = tmp_path / f"{system.name}-{rows}"
        root.mkdir()
        write_rows(root / "made" / "rows.parquet", rows, width, group)
        connections = {"local": {"type": "files", "root": str(root)}, system.name: system.connection}
        ends = (
            ({"connection": "local", "object": "made/*.parquet"}, system.sink("replace")),
            (system.source(cursor=False), {"connection": "local", "object": "back", "write": "replace"}),
        )
        for source, sink in ends:
            yield Flow(launchers, tmp_path, connections, source, sink, split_rows=group)
        assert_complete(root / "back", rows)

    return make


@pytest.mark.parametrize(
    "kind",
    [one if one in {"postgres", "parquet"} else pytest.param(one, marks=pytest.mark.chaos) for one in SYSTEMS],
)
def test_rows_in_flight_are_bounded(
    new_system: Callable[[str], System], through: Callable[..., Iterator[Flow]], kind: str
) -> None:
    """Less than three quarters of 200 MB of rows are in memory at any time."""
    peaks, system = [], new_system(kind)
    for rows in (1_000, 100_000):
        for flow in through(system, rows, 2_000, 5_000):
            task = flow.task("r1")
            task["pipeline"]["spec"]["limits"] = {"batch_rows": 1_000}
            pid = flow.launchers.start(task)
            assert flow.launchers.wait(pid) == {"code": 0}, json.loads(Path(task["result"]).read_text())
            peaks.append(flow.launchers.peaks[pid])
    small, large = peaks[:2], peaks[2:]
    assert [one - other < 150 * MB for one, other in zip(large, small, strict=True)] == [True, True], peaks


def peak_of(task: dict[str, Any]) -> int:
    """Return the peak resident memory in MB of a run in a process of its own, as in production."""
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
@pytest.mark.parametrize("kind", SYSTEMS)
def test_ten_million_rows_need_no_more_memory_than_one_million(
    new_system: Callable[[str], System], through: Callable[..., Iterator[Flow]], kind: str
) -> None:
    peaks: dict[int, list[int]] = {}
    for rows in (1_000_000, 10_000_000):
        peaks[rows] = [peak_of(flow.task("r1")) for flow in through(new_system(kind), rows, 20, GROUP)]
    one, ten = peaks.values()
    summary = f"{kind}: MB at 1M and 10M rows, as sink {one[0]} and {ten[0]}, as source {one[1]} and {ten[1]}"
    sys.stdout.write(f"{summary}\n")
    assert max(one + ten) < 400, summary
    assert all(large - small < APART for small, large in zip(one, ten, strict=True)), summary
