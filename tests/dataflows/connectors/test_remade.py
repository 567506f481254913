"""A table that a failed first run made is created again for a mended source, unless it has rows or was changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from tests.dataflows.conftest import Launchers
from tests.dataflows.connectors.conftest import Flow, System
from tests.pairs import soon

SYSTEMS = ("postgres", "mysql", "sqlite", "duckdb", "parquet")


@pytest.fixture
def flow(tmp_path: Path, launchers: Launchers) -> Callable[..., Flow]:
    """A pipeline from a CSV file, whose types are guessed, into a system."""

    def make(system: System, write: str) -> Flow:
        (tmp_path / "in").mkdir(exist_ok=True)
        connections = {"in": {"type": "files", "root": str(tmp_path / "in")}, system.name: system.connection}
        source: dict[str, Any] = {"connection": "in", "object": "t.csv"}
        if write == "append":
            source["cursor"] = {"field": "_modified"}
        return Flow(launchers, tmp_path, connections, source, system.sink(write))

    return make


def put(flow: Flow, *values: str) -> None:
    """Replace the source's file by one of these values."""
    lines = [f"{number},{value}" for number, value in enumerate(values, 1)]
    (flow.folder / "in" / "t.csv").write_text("\n".join(["id,v", *lines, ""]))


def notes(flow: Flow) -> list[str]:
    job = Job.from_task(flow.task("plan"), secrets=flow.folder)
    with opened(job) as ends:
        return list(plan(job, ends)["notes"])


def do(system: System, statement: str) -> None:
    """Run a statement in the system's database."""
    if system.name == "mysql":
        system.rows(statement)
    elif system.name == "postgres":
        with psycopg.connect(system.connection["dsn"], autocommit=True) as session:
            session.execute(statement.encode())
    else:
        connect: Callable[[str], Any] = sqlite3.connect if system.name == "sqlite" else duckdb.connect
        with closing(connect(system.connection["path"])) as session:
            session.execute(statement)
            session.commit()


@pytest.mark.parametrize(
    ("name", "write"),
    soon(
        product(SYSTEMS, ("append", "replace")),
        *((name, ("append", "replace")[at % 2]) for at, name in enumerate(SYSTEMS)),
    ),
)
def test_a_table_of_a_failed_first_run_is_made_anew(
    new_system: Callable[[str], System], flow: Callable[..., Flow], name: str, write: str
) -> None:
    system = new_system(name)
    made = flow(system, write)
    put(made, "1", "2")
    assert made.run("r1", "prepare.planned=kill") == {"killed": 9}
    assert notes(made) == []
    put(made, "a", "b", "c")
    assert any("created again" in one for one in notes(made))
    assert made.completed("r2") == 3
    assert system.ids() == [1, 2, 3]
    assert notes(made) == []


@pytest.mark.parametrize("name", ["postgres", "mysql", "sqlite", "duckdb"])
def test_a_table_that_has_rows_or_was_changed_stays(
    new_system: Callable[[str], System], flow: Callable[..., Flow], name: str
) -> None:
    system = new_system(name)
    made = flow(system, "replace")
    put(made, "1", "2")
    made.run("r1", "prepare.planned=kill")
    put(made, "a", "b", "c")
    for change in ("INSERT INTO copied (id, v) VALUES (7, 7)", "ALTER TABLE copied ADD COLUMN more int"):
        do(system, change)
        assert made.failed("r2")["code"] == "schema.mismatch"
        do(system, "DELETE FROM copied")
    assert system.ids() == []


@pytest.mark.parametrize("name", ["postgres", "mysql", "sqlite", "duckdb"])
def test_a_table_that_was_dropped_is_made_again_only_with_its_rows(
    new_system: Callable[[str], System], flow: Callable[..., Flow], name: str
) -> None:
    system = new_system(name)
    made = flow(system, "append")
    put(made, "1", "2")
    made.completed("r1")
    do(system, "DROP TABLE copied")
    assert "it was dropped" in made.failed("r2")["what"]
    assert system.ids() == []
    task = made.task("r3") | {"reload": {"rows": "all"}}
    assert made.launchers.run(task)["status"] == "completed"
    assert system.ids() == [1, 2]


GROWING = ("postgres", "mysql", "sqlite", "duckdb")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_type_grows_in_each_system_or_is_refused_by_name(
    new_system: Callable[[str], System], flow: Callable[..., Flow], name: str
) -> None:
    system = new_system(name)
    made = flow(system, "replace")
    made.spec = {"schema": {"types": "apply"}}
    made.source["format"] = {"type": "csv", "columns": {"id": "bigint", "v": "integer"}}
    put(made, "1", "2")
    assert made.completed("r1") == 2
    made.source["format"] = {"type": "csv", "columns": {"id": "bigint", "v": "bigint"}}
    put(made, "1", "5000000000")
    if name in GROWING:
        assert made.completed("r2") == 2
        do(system, "UPDATE copied SET v = 9000000000 WHERE v = 5000000000")  # refused by a narrower type
        assert system.ids() == [1, 2]
    else:
        error = made.failed("r2")
        assert (error["code"], f"types of `v` cannot be changed in {system.connection['type']}" in error["what"]) == (
            "schema.mismatch",
            True,
        )


@pytest.mark.parametrize("name", ["mysql", "sqlite", "duckdb"])
@pytest.mark.parametrize("there", [False, True])
def test_names_that_differ_in_case_only_are_refused(
    new_system: Callable[[str], System], flow: Callable[..., Flow], name: str, there: bool
) -> None:
    system = new_system(name)
    made = flow(system, "replace")
    (made.folder / "in" / "t.csv").write_text("id,Id\n1,2\n")
    if there:
        do(system, "CREATE TABLE copied (id BIGINT)")
        made.spec["schema"] = {"additive": "apply"}
    error = made.failed("r1")
    assert (error["code"], "`id` and `Id`" in error["what"]) == ("refused", True), error


@pytest.mark.parametrize("name", ["postgres", "mysql"])
def test_a_column_without_a_name_is_refused(
    new_system: Callable[[str], System], flow: Callable[..., Flow], name: str
) -> None:
    made = flow(new_system(name), "replace")
    (made.folder / "in" / "t.jsonl").write_text('{"id": 1, "": 2}\n')
    made.source["object"] = "t.jsonl"
    error = made.failed("r1")
    assert (error["code"], "a column has no name" in error["what"]) == ("refused", True), error
