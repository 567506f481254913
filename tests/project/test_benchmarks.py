"""`python -m benchmarks`: one benchmark by name, or all of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("[a-z]*.py"))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Replace the benchmarks' main functions; return the list of their calls, with arguments."""
    found: list[tuple[str, list[str]]] = []
    for name in NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        monkeypatch.setattr(module, "main", lambda name=name: found.append((name, sys.argv[1:])))
    return found


def test_without_a_name_every_benchmark_runs_and_writes_its_table(
    ran: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    assert main() == 0
    assert ran == [(name, ["--readme"]) for name in NAMES]
    assert {"topics", "commands", "copy"} <= set(NAMES)
    assert [line for line in capsys.readouterr().out.splitlines() if line] == [f"== {name}" for name in NAMES]


def test_a_named_one_runs_alone_with_its_arguments(
    ran: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "copy", "--rows", "5"])
    assert main() == 0
    assert ran == [("copy", ["--rows", "5"])]


def test_an_unknown_one_is_wrong_use(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "cpoy"])
    assert main() == 2
    said = capsys.readouterr().err
    assert [name for name in NAMES if name not in said] == []
