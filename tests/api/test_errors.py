"""`penstock errors`: a failure is diagnosed unasked, its incident shown, and closed by itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.api.project import Project

PIPELINE = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  source: {{connection: a, object: items}}
  sink: {{connection: b, object: {name}, write: replace}}
"""


@pytest.fixture
def files(project: Project, folder: Path) -> Project:
    """A project that copies a table between two files of SQLite; the table is missing."""
    lines = [f"{name}: {{type: sqlite, path: {folder}/{name}.db}}" for name in "ab"]
    (project.folder / "connections.yaml").write_text("\n".join(lines))
    (project.folder / "pipelines" / "orders.yaml").write_text(PIPELINE.format(name="items"))
    execute(folder / "a.db", "CREATE TABLE itmes (id integer PRIMARY KEY)")
    project.done("apply")
    return project


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as session, session:
        session.execute(statement)


def test_a_failure_is_diagnosed_unasked_and_its_incident_closes_itself(files: Project, folder: Path) -> None:
    said = files.do("run", "items", "--watch")
    assert said.code == 1
    assert "cause: object items of source a: there is no such table" in said.out

    (fault,) = files.done("errors")
    assert (fault["code"], fault["kind"], fault["count"], fault["incidents"]) == (
        "schema.missing_table",
        "schema",
        1,
        1,
    )
    shown = files.done("errors", fault["fingerprint"])
    (one,) = shown["errors"]
    assert one["strategy"]["action"] == "escalate"
    assert {"login to source a", "last success"} <= {check["what"] for check in one["diagnosis"]["checks"]}
    (incident,) = files.done("errors", "--incidents")
    assert incident["pipeline"] == "items"
    for argument in ("items", one["run"], incident["id"][:8]):
        assert "no such table" in files.do("errors", argument).out
    for command in ("status", "why"):
        assert "cause: object items of source a" in files.do(command, "items").out

    execute(folder / "a.db", "ALTER TABLE itmes RENAME TO items")
    files.done("run", "items", "--watch")
    assert files.done("errors", "--incidents") == []
    (closed,) = files.done("errors", "--incidents", "--all")
    assert (closed["status"], closed["reason"]) == ("closed", "pipeline items works")
    assert files.do("errors", "nobody").code == 3
