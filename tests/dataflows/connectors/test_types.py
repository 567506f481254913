"""Every cell of the table in docs/types.md on PostgreSQL's types in files and database files, in both directions."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from dataflows.runs.comparison import Difference, compare
from dataflows.runs.job import Job
from dataflows.runs.survey import opened
from tests.dataflows.test_types import OWN, PAGE, VALUES, plain, values

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import Flow, System

    Flows = Callable[..., Flow]
    NewSystem = Callable[[str], System]

SYSTEMS: Final = ("parquet", "csv", "jsonl", "sqlite", "duckdb", "mysql")
TABLE: Final = {
    name: dict(zip(SYSTEMS, cells, strict=True))
    for name, *cells in (
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in PAGE.partition("| Parquet | CSV |")[2].partition("\n\n")[0].splitlines()[2:]
    )
}
NOT_FINITE: Final = {"NaN", "Infinity", "-Infinity"}


@pytest.fixture(scope="module")
def shop(new_database: Callable[[], str]) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True, options="-c timezone=UTC") as session:
        session.execute("CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy')")
        session.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
        session.execute("CREATE TYPE pair AS (a int, b text)")
        yield session, dsn


def fill(session: psycopg.Connection[Any], found: dict[str, tuple[str, ...]]) -> None:
    """Create table ``every`` with a column of each type, its values, and a row of NULLs."""
    session.execute("DROP TABLE IF EXISTS every; DROP TABLE IF EXISTS back")
    session.execute(
        f"CREATE TABLE every (id int PRIMARY KEY, {', '.join(f'c{at} {plain(name)}' for at, name in enumerate(found))})"
    )
    for row in range(max(map(len, found.values())) + 1):
        texts = [one[row] if row < len(one) else None for one in found.values()]
        literals = (
            f"{sql.Literal(text).as_string(None)}::{plain(name)}" for name, text in zip(found, texts, strict=True)
        )
        session.execute(f"INSERT INTO every SELECT {row}, {', '.join(literals)}")


def ends(dsn: str, system: System, into: Flows, out_of: Flows) -> tuple[Flow, Flow]:
    """Make the pipelines from PostgreSQL's table ``every`` into the system, and from there into ``back``."""
    forward, back = into(system, "replace"), out_of(system, "replace")
    forward.source = {"connection": "local", "object": "public.every"}
    back.sink = {"connection": "local", "object": "public.back", "write": "replace"}
    for flow in (forward, back):
        flow.connections["local"] = {"type": "postgres", "dsn": dsn}
    return forward, back


def agreement(flow: Flow) -> tuple[Difference, ...]:
    """Return what a comparison of both sides finds."""
    job = Job.from_task(task := flow.task("r1"), secrets=Path(task["secrets"]))
    with opened(job) as both:
        found = compare(job, both, wait=0)
    assert found.agree == (not found.differences)
    return found.differences


def types_in(system: System) -> list[str]:
    """Return the types of all columns but the first, by the system's own tools; CSV has none."""
    if system.name == "sqlite":
        with closing(sqlite3.connect(system.connection["path"])) as session:
            return [row[2] for row in session.execute("PRAGMA table_info(copied)")][1:]
    if system.name == "duckdb":
        with closing(duckdb.connect(system.connection["path"], read_only=True)) as session:
            query = "SELECT data_type FROM duckdb_columns() WHERE table_name = 'copied' ORDER BY column_index"
            return [row[0] for row in session.execute(query).fetchall()][1:]
    if system.name == "mysql":
        table = "table_schema = DATABASE() AND table_name = 'copied' ORDER BY ordinal_position"
        return [row[0] for row in system.rows(f"SELECT column_type FROM information_schema.columns WHERE {table}")][1:]
    path = next(path for path in Path(system.connection["root"], "copied").iterdir() if path.is_file())
    if system.name == "parquet":
        return [str(field.type) for field in pq.read_schema(path)][1:]
    lines = path.read_text().splitlines()
    return ["text"] * lines[0].count(",") if system.name == "csv" else _kinds(lines)


def _kinds(lines: list[str]) -> list[str]:
    import json

    rows = [list(json.loads(line).values())[1:] for line in lines]
    names = {str: "string", bool: "boolean", int: "number", float: "number"}
    return [next(names[type(one)] for one in column if one is not None) for column in zip(*rows, strict=True)]


def test_the_table_has_all_types() -> None:
    assert {name.strip("`") for name in TABLE} == set(VALUES)


@pytest.mark.parametrize("kind", SYSTEMS)
def test_each_type_is_mapped_as_documented_in_both_directions(
    shop: tuple[psycopg.Connection[Any], str], new_system: NewSystem, into: Flows, out_of: Flows, kind: str
) -> None:
    session, dsn = shop
    cells = {name: row[kind] for name, row in TABLE.items() if row[kind] != "refused"}
    found = {name: kept(name, cell) for name, cell in cells.items()}
    fill(session, found)
    forward, back = ends(dsn, system := new_system(kind), into, out_of)
    assert forward.completed("r1") == back.completed("r1")
    assert [agreement(forward), agreement(back)] == [(), ()]
    firsts = (re.findall(r"`([^`]+)`|(\w+)", cell)[0] for cell in cells.values())
    assert types_in(system) == [quoted or word for quoted, word in firsts]
    query = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'back'::regclass AND attnum > 1"
    types = [row[0] for row in session.execute(f"{query} ORDER BY attnum").fetchall()]
    assert types == [
        again.group(1) if (again := re.search(r"→ `(.+)`", cell)) else name.strip("`") for name, cell in cells.items()
    ]
    for at, name in enumerate(cells):
        shown = f"c{at}::text::{plain(name)}::text" if types[at] != name.strip("`") else f"c{at}::text"
        wanted = session.execute(f"SELECT c{at}::text FROM every ORDER BY id").fetchall()
        assert session.execute(f"SELECT {shown} FROM back ORDER BY id").fetchall() == wanted, name


def kept(name: str, cell: str) -> tuple[str, ...]:
    """Return the values of a type that are not refused."""
    if "1970 to 2038" in cell:
        return ("1970-01-01 00:00:01+00", "2038-01-19 03:14:07.999999+00")
    refused = NOT_FINITE if "infinity" in cell else {"NaN"} if "refused at the value" in cell else set[str]()
    return tuple(value for value in values(name) if value not in refused)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name, row in TABLE.items() for kind, cell in row.items() if "refused" in cell],
)
def test_refused_types_name_their_column(
    shop: tuple[psycopg.Connection[Any], str], new_system: NewSystem, into: Flows, out_of: Flows, name: str, kind: str
) -> None:
    session, dsn = shop
    cell = TABLE[name][kind]
    lost = [value for value in values(name) if value not in kept(name, cell)]
    for value in lost or values(name)[:1]:
        fill(session, {name: (value,)})
        forward, _ = ends(dsn, system := new_system(kind), into, out_of)
        error = forward.failed("r1")
        assert error["code"] == ("data.bad" if lost else "schema.mismatch")
        assert "`c0`" in error["what"]
        assert system.ids() == []


def test_user_defined_types_are_documented() -> None:
    assert set(OWN) <= set(TABLE)
