"""Faults made for real are classified rightly, and their diagnosis names the cause."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dataflows.work import diagnose
from dataflows.work.classify.classifier import classified
from penstock.models.domain import Error
from tests.dataflows.conftest import Launchers
from tests.dataflows.connectors.bench import FAULTS, Bench, Fault

for module in ("faults", "faults_elsewhere"):
    import_module(f"tests.dataflows.connectors.{module}")  # they fill the table


@pytest.fixture
def bench(
    database: str,
    tmp_path: Path,
    launchers: Launchers,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    monkeypatch.setattr(diagnose, "stop_on_signal", lambda _: None)  # it blocks signals, in all later children too
    made = Bench(database, tmp_path, launchers, request, diagnosis)
    yield made
    made.close()


def diagnosis(task: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker finds about a failed run."""
    found = classified(Error(**error), task["pipeline"], {})
    failure = {"id": "e1", "pipeline": "items", "run": "r1", "task": "t1", "attempt": 1, "error": error}
    failure = {key: value for key, value in failure.items() if value is not None}
    failure["error"] = Error(**error).to_dict()
    diagnose.run_task(task | {"failure": failure | {"classified": found.to_dict()}})
    return dict(json.loads(Path(task["result"]).read_text())["diagnosis"])


def judged(fault: Fault, bench: Bench) -> tuple[str, float, str]:
    """Make a fault; return its kind, the confidence in it, and the cause that its diagnosis names."""
    error, task = fault.make(bench)
    seen = task.pop("seen", None) or diagnosis(task, error)
    found = classified(Error(**error), task["pipeline"], {})
    return found.kind, found.confidence, f"{seen['cause']} [{error['code']}]"


def verdict(fault: Fault, found: tuple[str, float, str]) -> tuple[bool, bool]:
    """Return whether the kind is right, and whether the cause is named."""
    kind, _, cause = found
    return kind == fault.kind, all(word in cause for word in fault.named)


@pytest.mark.parametrize("fault", [one for one in FAULTS if not one.slow], ids=lambda one: one.name)
def test_a_real_fault_is_classified_and_its_cause_is_named(fault: Fault, bench: Bench) -> None:
    found = judged(fault, bench)
    assert verdict(fault, found) == (True, True), found


@pytest.mark.chaos
def test_nearly_all_kinds_of_faults_are_classified_and_their_causes_named(
    new_database: Callable[[], str],
    tmp_path: Path,
    launchers: Launchers,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """28 of 30 kinds are right, and 27 of 30 causes named; prints what was found of each."""
    monkeypatch.setattr(diagnose, "stop_on_signal", lambda _: None)
    verdicts, lines = [], []
    for number, fault in enumerate(FAULTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with closing(Bench(new_database(), folder, launchers, request, diagnosis)) as bench:
            found = judged(fault, bench)
        verdicts.append(verdict(fault, found))
        right, told = ("ok" if one else "WRONG" for one in verdicts[-1])
        lines.append(f"{fault.name:30} {found[0]:10} {right:5} {told:5} {found[2]}")
    kinds, causes = (sum(one[at] for one in verdicts) for at in (0, 1))
    lines.append(f"{len(FAULTS)} kinds of faults: {kinds} classified rightly, {causes} causes named")
    sys.stdout.write("\n".join(lines))
    assert len(FAULTS) >= 30
    assert kinds >= len(FAULTS) * 28 / 30
    assert causes >= len(FAULTS) * 27 / 30
