"""Files that arrive are noticed once: whole, also if they are overwritten, and whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataflows.work import watch
from dataflows.work.watches import MOST, STUCK, Watches
from penstock.failpoints import VARIABLE
from tests.agents.control_plane import pipeline

FILES: dict[str, Any] = {"connection": "lake", "object": "in/*.csv", "every": "1s", "settled": "0s"}


class Looks:
    """Looks for the files of a folder, as a worker lets its processes do."""

    def __init__(self, catalog: str, folder: Path, **files: Any) -> None:
        document = pipeline("a")
        document["spec"]["triggers"] = {"files": FILES | files}
        self.root, self._result = folder / "lake", folder / "result"
        (self.root / "in").mkdir(parents=True)
        self.task = {
            "kind": "watch",
            "uid": "u1",
            "pipeline": document,
            "connections": {"lake": {"type": "files", "root": str(self.root)}},
            "letters": catalog,
            "round": 0,
            "result": str(self._result),
        }

    def put(self, name: str, text: str = "id\n1\n") -> None:
        (self.root / "in" / name).write_text(text)

    def look(self, **more: Any) -> dict[str, Any]:
        watch.run_task(self.task | more)
        found: dict[str, Any] = json.loads(self._result.read_text())
        return found

    def report(self) -> dict[str, Any] | None:
        """Look; keep what the worker keeps; return the report."""
        found = self.look()
        assert found["status"] == "completed", found
        self.task["listing"] = found.get("listing")
        if report := found.get("report"):
            self.task["round"] = report["round"]
        return found.get("report")

    def killed(self, point: str) -> None:
        """Look in a process that is killed at a failpoint."""
        code = "import json, sys; from dataflows.work.watch import run_task; run_task(json.loads(sys.argv[1]))"
        code = "from penstock import failpoints; import os; failpoints.arm(os.environ['PENSTOCK_FAILPOINT']); " + code
        words = [sys.executable, "-c", code, json.dumps(self.task)]
        ended = subprocess.run(words, env={**os.environ, VARIABLE: f"{point}=kill"}, check=False)
        assert ended.returncode == -signal.SIGKILL


@pytest.fixture
def looks(catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Looks:
    monkeypatch.setattr(watch, "stop_on_signal", lambda _: None)
    return Looks(catalog, tmp_path)


def test_each_file_is_reported_once_and_again_when_it_is_overwritten(looks: Looks) -> None:
    assert looks.report() is None
    looks.put("a.csv")
    looks.put("b.csv")
    looks.put("c.txt")
    looks.put(".hidden.csv")
    assert looks.report() == {"round": 1, "count": 2, "files": ["in/a.csv", "in/b.csv"]}
    assert looks.report() is None
    looks.put("a.csv", "id\n1\n2\n")
    assert looks.report() == {"round": 2, "count": 1, "files": ["in/a.csv"]}
    (looks.root / "in" / "b.csv").unlink()
    assert looks.report() is None
    os.utime(looks.root / "in" / "a.csv", (0, 4102444800))
    assert looks.report() == {"round": 3, "count": 1, "files": ["in/a.csv"]}, "whatever its clock says"


def test_a_file_that_is_being_written_counts_when_it_stays_as_it_is(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks.put("whole.csv")
    looks.put("part.csv", "id\n")
    monkeypatch.setattr(watch, "_pause", lambda *_: looks.put("part.csv", "id\n1\n"))
    assert looks.report() == {"round": 1, "count": 1, "files": ["in/whole.csv"]}
    monkeypatch.setattr(watch, "_pause", lambda *_: None)
    assert looks.report() == {"round": 2, "count": 1, "files": ["in/part.csv"]}


@pytest.mark.parametrize("point", ["watch.noticing", "watch.noticed"])
def test_what_was_noticed_before_a_kill_is_reported_under_its_round(looks: Looks, point: str) -> None:
    looks.put("a.csv")
    looks.killed(point)
    looks.put("b.csv")
    first = looks.report()
    assert first is not None
    assert first["round"] == 1
    second = looks.report()
    assert [*first["files"], *(second["files"] if second else [])] == ["in/a.csv", "in/b.csv"]
    assert looks.report() is None


def test_a_lost_catalog_begins_another_round(looks: Looks) -> None:
    looks.put("a.csv")
    looks.task["round"] = 7
    assert looks.report() == {"round": 8, "count": 1, "files": ["in/a.csv"]}


def test_what_cannot_be_looked_at_is_an_error(looks: Looks, tmp_path: Path) -> None:
    found = looks.look(connections={"lake": {"type": "files", "root": str(tmp_path / "gone")}})
    assert found["error"]["code"].startswith("unavailable")
    found = looks.look(connections={"lake": {"type": "sqlite", "path": str(tmp_path / "x.db")}})
    assert "has no files that arrive" in found["error"]["what"]


def test_a_worker_looks_in_turn_and_reports_each_error_once() -> None:
    clock = [0.0]
    found = Watches(lambda: clock[0])
    for n in range(MOST + 1):
        document = pipeline("a")
        document["spec"]["triggers"] = {"files": FILES}
        found.add({"task": f"t{n}", "spec": document, "round": 3})
    assert [one["task"] for one in found.begin()] == [f"t{n}" for n in range(MOST)]
    assert list(found.begin()) == []
    assert found.looked("t0", {"error": None, "listing": "x"}) is None
    assert [(one["task"], one["round"]) for one in found.begin()] == [(f"t{MOST}", 3)]
    report = {"round": 4, "count": 1, "files": ["a"]}
    assert found.looked("t1", {"error": None, "report": report}) == {"report": report}
    assert [(one["task"], one["round"]) for one in found.begin()] == [("t1", 4)], "a repeated report: it looks again"
    failed = {"error": {"code": "unavailable", "what": "x"}}
    assert found.looked("t2", failed) == {"error": failed["error"]}
    clock[0] = 2.0
    assert [(one["task"], one["listing"]) for one in found.begin()] == [("t0", "x")], "t2 waits"
    clock[0] = 61.0
    assert [one["task"] for one in found.begin()] == [], "others still look"
    found.drop("t3")
    assert [one["task"] for one in found.begin()] == ["t2"]
    assert found.looked("t2", failed) is None
    assert found.looked("t3", failed) is None, "it is dropped"
    clock[0] = 400.0
    assert sorted(found.stuck()) == ["t0", "t1", f"t{MOST}"]
    stuck = {"error": STUCK.to_dict()}
    assert [found.looked("t0", stuck), found.looked("t0", stuck)] == [stuck, None]
    assert "t0" not in found.stuck()
