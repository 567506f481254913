"""Hostile inputs are judged in a process of its own, which may be killed by one: then it is known by which.

The child says the number of each input before it looks at it, and what became of it afterwards. A child that dies or
is silent for too long has found a defect; the next one goes on behind that input.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
SECONDS = 20.0
"""In which one input has to be done, however busy the machine is; the child itself counts 5 seconds of CPU."""
STARTING = 120.0
CANARY = "penstock-canary-8d1f0c"


@dataclass
class Verdicts:
    """What became of the inputs: how many of each kind, and what went wrong by the input's number."""

    counts: Counter[str] = field(default_factory=Counter)
    defects: dict[int, str] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        return sum(self.counts.values()) + len(self.defects)


def judged(kind: str, numbers: range, folder: Path) -> Verdicts:
    """Make the inputs of these numbers and judge them all, however many children that takes."""
    found, at = Verdicts(), numbers.start
    while at < numbers.stop:
        at = _one_child(kind, range(at, numbers.stop), folder, found)
    return found


def _one_child(kind: str, numbers: range, folder: Path, found: Verdicts) -> int:
    """Where the next child has to begin."""
    (folder / "canary").write_text(CANARY)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PENSTOCK_SECRET_CANARY": CANARY, "POLARS_MAX_THREADS": "1"}
    words = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.hostile.judge",
        kind,
        str(numbers.start),
        str(numbers.stop),
    ]
    with tempfile.TemporaryFile() as noise:
        child = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=noise)
        begun = None
        try:
            for told in _lines(child):
                if told is None:
                    found.defects[_at(begun, numbers)] = f"silent for {SECONDS:g} s"
                    return _at(begun, numbers) + 1
                if "begin" in told:
                    begun = told["begin"]
                elif "defect" in told:
                    found.defects[told["end"]] = told["defect"]
                    begun = None
                elif "end" in told:
                    found.counts[told["verdict"]] += 1
                    begun = None
        finally:
            child.kill()
            code = child.wait()
            child.stdout.close()  # type: ignore[union-attr]
        if begun is None and code == 0:
            return numbers.stop
        noise.seek(0)
        said = noise.read().decode(errors="replace")[-3000:]
    found.defects[_at(begun, numbers)] = f"the process ended with {code}: {said}"
    return _at(begun, numbers) + 1 if begun is not None else numbers.stop


def _at(begun: int | None, numbers: range) -> int:
    return numbers.start if begun is None else begun


def _lines(child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any] | None]:
    """What the child says; None if it has been silent for too long."""
    stream: IO[bytes] = child.stdout  # type: ignore[assignment]
    selector, buffer, wait = selectors.DefaultSelector(), b"", STARTING
    selector.register(stream, selectors.EVENT_READ)
    deadline = time.monotonic() + wait
    while True:
        if not selector.select(max(0.0, deadline - time.monotonic())):
            yield None
            return
        data = os.read(stream.fileno(), 1 << 16)
        if not data:
            return
        *whole, buffer = (buffer + data).split(b"\n")
        deadline = time.monotonic() + SECONDS
        yield from (json.loads(line) for line in whole)
