"""A run that wants more memory than its pipeline allows ends by name, and the process stays below the limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dataflows.work.processes import _Running
from penstock.models.pipeline import Limits
from tests.pairs import soon

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy

LIMIT = 400
HUNGRY = """
import pyarrow as pa
import polars as pl

kept = []

def bytes_(batch):
    while True:
        kept.append(b"x" * 1_000_000)

def at_once(batch):
    kept.append(bytearray(8 << 30))

def arrow(batch):
    while True:
        kept.append(pa.array(range(100_000)))

def polars(batch):
    kept.append(pl.repeat(0, 1 << 30, dtype=pl.Int64, eager=True))

def greedy_child(batch):
    import subprocess, sys
    subprocess.run([sys.executable, "-c", "kept = []\\nwhile True: kept.append(b'x' * 1_000_000)"])
    return batch
"""


def hungry(made: Copy, folder: Path, function: str, **more: Any) -> dict[str, Any]:
    """Return a task whose step takes memory without end."""
    (folder / "hungry_steps.py").write_text(HUNGRY)
    task = made.task("r1", modules=["hungry_steps"], log=str(folder / "log"), **more)
    spec = task["pipeline"]["spec"]
    spec["transforms"] = [{"name": "eat", "python": {"call": f"hungry_steps:{function}", "columns": {"id": "bigint"}}}]
    spec["limits"] |= {"memory": f"{LIMIT}MB"}
    return task


def served(folder: Path, *tasks: dict[str, Any]) -> tuple[int, int]:
    """Run tasks in one process; return its exit code and its peak of resident memory in MB.

    The peak is the process's own: what `wait4` reports includes that of the test process before exec.
    """
    text = "".join(json.dumps(one) + "\n" for one in tasks)
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{folder}"}
    peak = 0
    with subprocess.Popen(
        [sys.executable, "-m", "dataflows.runs"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdin
        process.stdin.write(text.encode())
        process.stdin.close()
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            lines = status.read_text().splitlines()
            peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
            time.sleep(0.005)
    return process.returncode, peak >> 10


@pytest.mark.parametrize("function", soon(["bytes_", "at_once", "arrow", "greedy_child"], "arrow", "greedy_child"))
def test_a_run_beyond_its_memory_ends_by_name(copy: Callable[..., Copy], tmp_path: Path, function: str) -> None:
    made = copy("append")
    task = hungry(made, tmp_path, function)
    code, peak = served(tmp_path, task)
    found = json.loads(Path(task["result"]).read_text())
    assert (code, found["status"]) == (1, "failed"), found
    error = found["error"]
    assert (error["code"], error["transient"]) == ("memory.exceeded", False), error
    assert error["what"] == f"the run used more than `limits.memory` {LIMIT}MB"
    assert peak < LIMIT + 150, "the pages of its programs come on top"


def test_several_processes_share_the_limit(copy: Callable[..., Copy], tmp_path: Path) -> None:
    made = copy("append", workers=2, split_rows=100)
    task = hungry(made, tmp_path, "bytes_")
    served(tmp_path, task)
    assert json.loads(Path(task["result"]).read_text())["error"]["code"] == "memory.exceeded"


def test_the_limit_follows_the_run(copy: Callable[..., Copy], tmp_path: Path) -> None:
    made = copy("append")
    first, second = made.task("r1"), made.task("r2")
    first["pipeline"]["spec"]["limits"] |= {"memory": "300MB"}
    second["pipeline"]["spec"]["limits"] |= {"memory": "5GB"}
    assert served(tmp_path, first, second)[0] == 0
    for task in (first, second):
        assert json.loads(Path(task["result"]).read_text())["status"] == "completed"


def test_a_library_that_aborts_is_reported_by_name(copy: Callable[..., Copy], tmp_path: Path) -> None:
    made = copy("append")
    task = hungry(made, tmp_path, "polars")
    code, _ = served(tmp_path, task)
    assert code == -signal.SIGABRT
    assert not Path(task["result"]).exists()
    child: Any = None  # it has ended
    running = _Running(
        child, 1, Path(task["result"]), alone=True, changed=print, log=tmp_path / "log", spec=task["pipeline"]
    )
    found = running.outcome(code)
    assert found
    assert (found["error"]["code"], found["error"]["transient"]) == ("memory.exceeded", False)


def test_sizes_are_written_with_units() -> None:
    assert Limits.parse({"memory": "1GB"}).memory == 10**9
    assert Limits.parse({"memory": "1.5GiB"}).memory == 3 << 29
    assert Limits.parse({"memory": "300MB"}).model_dump(mode="json")["memory"] == "300MB"
    assert Limits().model_dump(mode="json")["memory"] == "2GB"
