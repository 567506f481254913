"""Thousands of hostile inputs: each ends in a result whose rows are all accounted for, or in one error that a person
can act on; never in another exception, the end of the process, or a wait. `made` and `judge` of each kind say how.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.crew import judged

KINDS = {"documents": 250, "expressions": 1200, "csv_files": 600, "jsonl_files": 1200, "parquet_files": 300}
"""How many of each; the long form has four times as many, others than these."""
LONG = 4


def check(kind: str, numbers: range, folder: Path) -> None:
    found = judged(kind, numbers, folder)
    told = "\n\n".join(f"{kind} {number}: {what}" for number, what in list(found.defects.items())[:3])
    assert not found.defects, f"{len(found.defects)} of {len(numbers)}\n{told}"
    assert found.judged == len(numbers)
    assert len(found.counts) > 1, found.counts


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs_do_no_harm(kind: str, tmp_path: Path) -> None:
    check(kind, range(KINDS[kind]), tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_many_more_hostile_inputs_do_no_harm(kind: str, tmp_path: Path) -> None:
    check(kind, range(KINDS[kind], KINDS[kind] * (LONG + 1)), tmp_path)


@pytest.mark.parametrize(
    "code", ["open('/etc/passwd')", "import socket; socket.socket()", "import polars; polars.read_csv('/etc/passwd')"]
)
def test_the_lock_that_expressions_are_judged_behind_holds(code: str) -> None:
    """A process that is locked and reaches out is ended by the kernel."""
    import signal
    import subprocess
    import sys

    program = f"import polars, socket; from tests.hostile.sandbox import lock; lock()\n{code}"
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode
        == -signal.SIGSYS
    )
