"""Run hostile inputs in a child process, since an input may kill it.

The child reports the number of each input before it checks it, and the outcome afterwards. If it dies or is silent for
too long, the current input has found a defect, and the next child continues after that input.
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
"""Wall-clock limit of one input, also on a busy machine; the child itself allows 5 seconds of CPU."""
START_SECONDS = 120.0
"""Limit until the child's first message."""
CANARY = "penstock-canary-8d1f0c"


@dataclass
class Outcomes:
    """Number of inputs by verdict, and the defects by the input's number."""

    counts: Counter[str] = field(default_factory=Counter)
    defects: dict[int, str] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        return sum(self.counts.values()) + len(self.defects)


def run_inputs(kind: str, numbers: range, folder: Path) -> Outcomes:
    """Generate and check the inputs of these numbers, restarting the child after each defect."""
    outcomes, at = Outcomes(), numbers.start
    while at < numbers.stop:
        at = _run_child(kind, range(at, numbers.stop), folder, outcomes)
    return outcomes


def _run_child(kind: str, numbers: range, folder: Path, outcomes: Outcomes) -> int:
    """Run one child; return the number of the input at which the next child starts."""
    (folder / "canary").write_text(CANARY)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PENSTOCK_SECRET_CANARY": CANARY, "POLARS_MAX_THREADS": "1"}
    words = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.hostile.child",
        kind,
        str(numbers.start),
        str(numbers.stop),
    ]
    with tempfile.TemporaryFile() as noise:
        child = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=noise)
        begun = None
        try:
            for message in _messages(child):
                if message is None:
                    outcomes.defects[_at(begun, numbers)] = f"silent for {SECONDS:g} s"
                    return _at(begun, numbers) + 1
                if "begin" in message:
                    begun = message["begin"]
                elif "defect" in message:
                    outcomes.defects[message["end"]] = message["defect"]
                    begun = None
                elif "end" in message:
                    outcomes.counts[message["verdict"]] += 1
                    begun = None
        finally:
            child.kill()
            code = child.wait()
            child.stdout.close()  # type: ignore[union-attr]
        if begun is None and code == 0:
            return numbers.stop
        noise.seek(0)
        said = noise.read().decode(errors="replace")[-3000:]
    outcomes.defects[_at(begun, numbers)] = f"the process ended with {code}: {said}"
    return _at(begun, numbers) + 1 if begun is not None else numbers.stop


def _at(begun: int | None, numbers: range) -> int:
    return numbers.start if begun is None else begun


def _messages(child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any] | None]:
    """Yield the child's messages; None if it has been silent for too long."""
    stream: IO[bytes] = child.stdout  # type: ignore[assignment]
    selector, buffer, wait = selectors.DefaultSelector(), b"", START_SECONDS
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
