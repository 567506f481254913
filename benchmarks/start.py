"""Cost of commands that start everything themselves: CPU of all processes, including the server, and elapsed time.

``python -m benchmarks.start [--times 5] [--json] [--readme]``. The sample project is applied and run once; then in
turns `penstock list`, `penstock run` without new rows, and `penstock up` until it is ready. This process adopts the
processes that commands leave behind (PR_SET_CHILD_SUBREAPER, Linux), so that the server's CPU counts as well.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from api.starter import make_project
from benchmarks.parts.readme import machine, write_table

PENSTOCK: Final = str(Path(sys.executable).parent / "penstock")
PR_SET_CHILD_SUBREAPER: Final = 36
GOALS: Final = {"list_cpu_seconds": 0.5, "run_cpu_seconds": 2.5, "up_ready_seconds": 2.0}


def cpu_seconds() -> float:
    """Return the CPU seconds of all descendants that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def reap() -> None:
    """Wait for every process that a command has left behind; all of them are about to end."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def command(folder: Path, *words: str) -> dict[str, float]:
    """Return CPU and wall-clock seconds of a command that must succeed, with all its descendants."""
    before, began = cpu_seconds(), time.perf_counter()
    subprocess.run([PENSTOCK, "--project", str(folder), *words], stdout=subprocess.DEVNULL, check=True)
    taken = time.perf_counter() - began
    reap()
    return {"cpu_seconds": cpu_seconds() - before, "seconds": taken}


def up(folder: Path) -> dict[str, float]:
    """Return the seconds until `penstock up` is ready, and the CPU of all its processes from start to stop."""
    before, began = cpu_seconds(), time.perf_counter()
    words = [PENSTOCK, "--project", str(folder), "up", "--port", "0", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        if process.stdout is not None and process.stdout.readline():
            taken = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
    reap()
    return {"ready_seconds": taken, "cpu_seconds": cpu_seconds() - before}


def main() -> int:
    """Measure in turns; print the medians."""
    parser = argparse.ArgumentParser(prog="start", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one last line of JSON")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "project"
        make_project(folder)
        for words in (("apply",), ("run", "orders")):
            command(folder, *words)
        ways: dict[str, Callable[[], dict[str, float]]] = {
            "list": lambda: command(folder, "list"),
            "run": lambda: command(folder, "run", "orders"),
            "up": lambda: up(folder),
        }
        taken = [{way: measure() for way, measure in ways.items()} for _ in range(options.times)]
    found = {
        f"{way}_{figure}": round(statistics.median(turn[way][figure] for turn in taken), 3)
        for way in ways
        for figure in taken[0][way]
    }
    lines = table(found)
    if options.readme:
        write_table("start", [*lines, "", f"Medians of {options.times}; {machine()}."])
    print("\n".join(lines))
    if options.json:
        print(json.dumps({**found, "goals": GOALS}))
    return 0


def table(found: dict[str, float]) -> list[str]:
    """Return the lines of the README's table."""
    return [
        "| command, with nothing running | CPU, all processes | wait |",
        "|---|---|---|",
        f"| `penstock list` | {found['list_cpu_seconds']:.2f} s | {found['list_seconds']:.2f} s |",
        f"| `penstock run`, nothing new | {found['run_cpu_seconds']:.2f} s | {found['run_seconds']:.2f} s |",
        f"| `penstock up`, until it is ready | {found['up_cpu_seconds']:.2f} s | {found['up_ready_seconds']:.2f} s |",
    ]


if __name__ == "__main__":
    sys.exit(main())
