"""Settings that follow from others, or from the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.settings import Settings


@pytest.mark.parametrize(("slots", "cores", "expected"), [(0, 2, 3), (0, None, 2), (1, 8, 1)])
def test_a_worker_takes_one_run_more_than_it_has_cores_unless_it_is_told(
    monkeypatch: pytest.MonkeyPatch, slots: int, cores: int | None, expected: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert Settings(project=Path(), home=Path(), slots=slots).parallel == expected
