"""Runs that use one SQLite or DuckDB file at the same time wait for each other."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import duckdb
import pytest

from api.starter import SHOP
from tests.api.project import Project, ending

ROWS: Final = 150_000
TABLES: Final = ("first", "second")
ONCE: Final = "  errors: {retry: {attempts: 1}}\n"
"""Without retries, so that a run that does not wait fails."""
HELD_SECONDS: Final = 7.0
"""Longer than commands such as `plan` wait for a lock."""


@pytest.fixture(scope="module")
def busy(sample: Project) -> Iterator[Project]:
    """A project with `penstock up`, whose worker takes three runs at once, and a table that takes a while to copy."""
    with ending(sample.copied(sample.folder.with_name("shared"))) as made:
        (made.folder / "penstock.toml").write_text("slots = 3\n")
        made.up()
        made.done("apply")
        select = f"SELECT g AS id, 'name ' || g AS name, g * 1.01 AS price FROM generate_series(1, {ROWS}) g"
        made.sql(SHOP, f"CREATE TABLE large AS {select}")
        made.sql(SHOP, "ALTER TABLE large ADD PRIMARY KEY (id)")
        yield made


def apply(project: Project, file: Path, connection: str, name: str, source: str, sink: str) -> str:
    """Apply a pipeline, and the connection of a file, of the kind of its suffix; return the pipeline's name."""
    kind = file.suffix[1:]
    connections, pipeline = file.with_name("connections.yaml"), file.with_name(f"{name}.yaml")
    connections.write_text(f"{connection}: {{type: {kind}, path: {json.dumps(str(file))}}}\n")
    head = f"apiVersion: penstock/v1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n"
    pipeline.write_text(f"{head}  source: {{{source}}}\n  sink: {{{sink}}}\n{ONCE}")
    project.done("apply", connections, pipeline)
    return name


def into(project: Project, file: Path, write: str) -> list[str]:
    """Apply a pipeline for each of two tables in the file; return their names."""
    kind = file.suffix[1:]
    connection = f"{kind}-{write}"
    cursor = ", cursor: {field: id, ordered: true}" if write == "append" else ""
    source = f"connection: shop, object: public.large{cursor}"
    sink = f"connection: {connection}, write: {write}"
    return [apply(project, file, connection, f"{connection}-{one}", source, f"{sink}, object: {one}") for one in TABLES]


def session(file: Path) -> Any:
    connect: Callable[[str], Any] = sqlite3.connect if file.suffix == ".sqlite" else duckdb.connect
    return closing(connect(str(file)))


def contents(file: Path, *tables: str) -> list[Any]:
    query = "SELECT count(*), sum(id), count(DISTINCT name) FROM {}"
    with session(file) as opened:
        return [opened.execute(query.format(one)).fetchone() for one in tables]


EXACT: Final = (ROWS, ROWS * (ROWS + 1) // 2, ROWS)


@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_two_runs_into_one_file_both_complete(busy: Project, tmp_path: Path, kind: str, write: str) -> None:
    file = tmp_path / f"both.{kind}"
    said = busy.do("run", *into(busy, file, write), "--watch")
    assert said.code == 0, said.out + said.err
    assert contents(file, *TABLES) == [EXACT, EXACT]


def test_a_run_waits_as_long_as_another_process_writes_to_its_file_or_the_one_that_it_reads(
    busy: Project, tmp_path: Path
) -> None:
    files = [tmp_path / "held.sqlite", tmp_path / "held.duckdb"]
    names = [into(busy, file, "replace")[0] for file in files]
    source = tmp_path / "read.duckdb"
    with session(files[0]) as first, session(files[1]) as second, session(source) as third:
        for writing, begin in ((first, "BEGIN IMMEDIATE"), (second, "BEGIN")):
            writing.execute("CREATE TABLE other (id int)")
            writing.execute(begin)
            writing.execute("INSERT INTO other VALUES (1)")
        third.execute(f"CREATE TABLE {TABLES[0]} AS SELECT g AS id, 'n' AS name FROM range(10) t(g)")
        runs = [busy.start("run", name, "--watch") for name in names]
        read = f"connection: read-file, object: {TABLES[0]}"
        apply(busy, source, "read-file", "reads", read, "connection: warehouse, object: public.copied, write: replace")
        runs.append(busy.start("run", "reads", "--watch"))
        time.sleep(HELD_SECONDS)
        assert [run.poll() for run in runs] == [None, None, None]
        for writing in (first, second):
            writing.execute("COMMIT")
    said = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert "10 rows in" in said[2]
    assert [contents(file, TABLES[0]) for file in files] == [[EXACT], [EXACT]]
