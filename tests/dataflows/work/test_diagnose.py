"""A diagnosis looks at what it can reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflows.work import diagnose
from dataflows.work.classify.classifier import classified
from penstock.models.domain import Error


def test_a_catalog_that_does_not_answer_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "stop_on_signal", lambda _: None)
    error = Error(code="schema.missing_table", what="there is no such table", where="connection shop")
    path = str(tmp_path / "shop.db")
    ends = {
        "source": {"connection": "shop", "object": "items"},
        "sink": {"connection": "house", "object": "items", "write": "replace"},
    }
    document = {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "items"}, "spec": ends}
    found = classified(error, document, {}).to_dict()
    failure = {"id": "e1", "pipeline": "items", "task": "t1", "attempt": 1, "error": error.to_dict()}
    diagnose.run_task({
        "pipeline": document,
        "uid": "u1",
        "connections": {name: {"type": "sqlite", "path": path} for name in ("shop", "house")},
        "letters": "host=127.0.0.1 port=1 dbname=catalog connect_timeout=2",
        "failure": failure | {"classified": found},
        "result": str(tmp_path / "result"),
    })  # fmt: skip
    checks = json.loads((tmp_path / "result").read_text())["diagnosis"]["checks"]
    assert any("shop" in one["what"] for one in checks), checks
    assert any(one["what"].startswith("room for") for one in checks), checks
