"""A diagnosis looks at what it can reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflows.work import diagnose
from dataflows.work.classify.classifier import classified
from dataflows.work.diagnosis.cause import diagnosed
from penstock.models.domain import Error
from penstock.models.failures import Check, Failure


@pytest.mark.parametrize(
    ("kind", "seen", "blamed"),
    [
        ("schema", "column `phone` is gone (it was text)", True),
        ("data", "column `phone` is gone (it was text); column `phone_number` (text) is new", False),
        ("data", "column `price` is text now (it was numeric)", True),
    ],
)
def test_columns_that_came_or_went_explain_no_bad_values(kind: str, seen: str, *, blamed: bool) -> None:
    error = Error(code=f"{kind}.some", what="101 of 1,000 rows went to the dead letters")
    found = classified(error, None, {}).to_dict() | {"kind": kind}
    task = {"id": "e1", "pipeline": "items", "task": "t1", "attempt": 1}
    failure = Failure.parse({**task, "error": error.to_dict(), "classified": found})
    check = Check.model_validate({"what": "columns of items of source shop", "found": "wrong", "evidence": seen})
    assert diagnosed(failure, [check], 0).cause.startswith("columns of") == blamed


@pytest.mark.parametrize(("login", "said"), [("ok", True), ("unknown", False)])
def test_both_sides_answer_only_if_that_was_seen(login: str, *, said: bool) -> None:
    error = Error(code="unavailable.unreachable", what="the server cannot reach another one", transient=True)
    found = classified(error, None, {}).to_dict()
    task = {"id": "e1", "pipeline": "items", "task": "t1", "attempt": 1}
    failure = Failure.parse({**task, "error": error.to_dict(), "classified": found})
    check = Check.model_validate({"what": "login to source shop", "found": login, "evidence": "x"})
    assert ("both sides answered" in diagnosed(failure, [check], 0).cause) == said


def test_what_is_seen_again_is_told_once_with_its_own_hint() -> None:
    what = "the brokers refuse this user"
    error = Error(code="unavailable.access_denied", what=f"{what}, got 't2'", hint="check `username`")
    found = classified(error, None, {}).to_dict()
    task = {"id": "e1", "pipeline": "items", "task": "t1", "attempt": 1}
    failure = Failure.parse({**task, "error": error.to_dict(), "classified": found})
    seen = f"topic t2: {what} (t2)"
    check = Check.model_validate({"what": "login to source bus", "found": "wrong", "evidence": seen})
    diagnosis = diagnosed(failure, [check], 0)
    assert (diagnosis.cause, diagnosis.hint) == (f"login to source bus: {seen}", "check `username`")


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
