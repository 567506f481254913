"""A discovery's process: what it reports, and how samples share their time."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dataflows.work import discover


@pytest.fixture
def discovery(catalog: str, tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as session:
        for name in "abc":
            session.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)")
            session.execute(f"INSERT INTO {name} VALUES (1), (2)")
        session.commit()
    order = {"id": "d", "connection": "shop", "sample_rows": 100}
    connections = {"shop": {"type": "sqlite", "path": str(file)}}
    return {"discovery": order, "connections": connections, "letters": catalog, "result": str(tmp_path / "result")}


def test_what_was_never_sampled_is_sampled_first(
    discovery: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(discover, "stop_on_signal", lambda _: None)
    order = []
    for _ in "abcd":
        times = iter((0.0, 0.0))  # the end is set, one object is looked at, and the time is over
        monkeypatch.setattr(discover, "time", SimpleNamespace(monotonic=lambda times=times: next(times, 1e9)))
        assert discover.run_task(discovery) == 0
        lines = [json.loads(line)["found"] for line in capsys.readouterr().out.splitlines()]
        assert {one["object"] for page in lines[:-1] for one in page} == {"a", "b", "c"}, "structure comes first"
        assert all(one["partial"] for page in lines[:-1] for one in page)
        ((sampled,),) = lines[-1:]
        assert (sampled["partial"], sampled["profile"]["columns"][0]["distinct"]) == (False, 2)
        order.append(sampled["object"])
        result = json.loads(Path(discovery["result"]).read_text())
        assert result["notes"] == ["2 objects are not sampled yet: the 60 s for it are over"]
    assert (set(order[:3]), order[3]) == ({"a", "b", "c"}, order[0]), "then what was sampled longest ago"
