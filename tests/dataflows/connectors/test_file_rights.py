"""`plan` names the file or folder that this account may not read or write, for files and databases in files."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import PenstockError
from tests.dataflows.conftest import task_of
from tests.reaper import short_folder

KINDS = ["files", "sqlite", "duckdb"]
NOBODY = 65534


@contextlib.contextmanager
def another_account() -> Iterator[None]:
    """Act as an account that is not root, as which every file may be read and written."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(own)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = short_folder()
    made.chmod(0o755)
    yield made
    for path in (made, *made.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(made)


def end(kind: str, folder: Path) -> tuple[dict[str, Any], str, Path]:
    """Make rows of one system in `folder`; return the connection, the object, and the file."""
    folder.mkdir()
    if kind == "files":
        (folder / "t.csv").write_text("id,b\n1,x\n2,y\n")
        return {"type": "files", "root": str(folder)}, "t.csv", folder / "t.csv"
    file = folder / f"rows.{kind}"
    with closing(sqlite3.connect(file) if kind == "sqlite" else duckdb.connect(str(file))) as made:
        made.execute("CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, b TEXT)")
        made.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y')")
        made.commit()
    return {"type": kind, "path": str(file)}, "t", file


def planned(source: tuple[dict[str, Any], str], sink: tuple[dict[str, Any], str], folder: Path) -> dict[str, Any]:
    ends = {"source": {"connection": "a", "object": source[1]}, "sink": {"connection": "b", "object": sink[1]}}
    spec = {**ends, "sink": {**ends["sink"], "write": "replace"}}
    job = Job.from_task(task_of("r", "u", {"a": source[0], "b": sink[0]}, spec, folder))
    with another_account(), opened(job) as both:
        return plan(job, both)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_may_not_be_read_is_named(kind: str, folder: Path) -> None:
    connection, object_, file = end(kind, folder / "from")
    (folder / "to").mkdir(mode=0o777)
    (folder / "to").chmod(0o777)
    sink = ({"type": "files", "root": str(folder / "to")}, "out")
    file.chmod(0)
    with pytest.raises(PenstockError) as refused:
        planned((connection, object_), sink, folder)
    assert refused.value.code == "unavailable.access_denied"
    assert file.name in str(refused.value)
    assert f"account {NOBODY if os.geteuid() == 0 else os.geteuid()} may not read" in str(refused.value)
    assert "chmod" in str(refused.value)
    file.chmod(0o644)
    assert planned((connection, object_), sink, folder)["estimated_rows"] in {1, 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [False, True])
def test_a_target_that_may_not_be_written_is_named(kind: str, folder: Path, there: bool) -> None:
    connection, object_, _ = end("files", folder / "from")
    into, name, file = end(kind, folder / "to")
    if not there or kind == "files":
        file.unlink()
    (folder / "to").chmod(0o555)
    name = "out" if kind == "files" else name
    with pytest.raises(PenstockError) as refused:
        planned((connection, object_), (into, name), folder)
    assert refused.value.code == "unavailable.access_denied"
    assert "may not write" in str(refused.value)
    assert str(folder / "to") in str(refused.value)
    assert "chmod" in str(refused.value)
