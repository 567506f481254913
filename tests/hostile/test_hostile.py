"""Thousands of hostile inputs: each must end in a result whose rows are all accounted for, or in one actionable error;
never in another exception, a crash or a hang. Each kind is a module with `generate` (by number) and `check`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.runner import run_inputs

KINDS = {"documents": 125, "expressions": 600, "csv_files": 300, "jsonl_files": 600, "parquet_files": 150}
"""Inputs of each kind; the long test adds `LONG` times as many others."""
LONG = 9


def check(kind: str, numbers: range, folder: Path) -> None:
    outcomes = run_inputs(kind, numbers, folder)
    examples = "\n\n".join(f"{kind} {number}: {what}" for number, what in list(outcomes.defects.items())[:3])
    assert not outcomes.defects, f"{len(outcomes.defects)} of {len(numbers)}\n{examples}"
    assert outcomes.judged == len(numbers)
    assert len(outcomes.counts) > 1, outcomes.counts


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs_end_in_a_result_or_an_error(kind: str, tmp_path: Path) -> None:
    check(kind, range(KINDS[kind]), tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_many_more_hostile_inputs_end_in_a_result_or_an_error(kind: str, tmp_path: Path) -> None:
    check(kind, range(KINDS[kind], KINDS[kind] * (LONG + 1)), tmp_path)


@pytest.mark.parametrize(
    "code", ["open('/etc/passwd')", "import socket; socket.socket()", "import polars; polars.read_csv('/etc/passwd')"]
)
def test_the_sandbox_of_expressions_kills_a_process_that_opens_anything(code: str) -> None:
    import signal
    import subprocess
    import sys

    program = f"import polars, socket; from tests.hostile.sandbox import lock; lock()\n{code}"
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode
        == -signal.SIGSYS
    )
