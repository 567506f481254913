"""What files of SQLite and DuckDB have."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from dataflows.connectors.cataloguing import Choice, Found
from dataflows.connectors.contract import Place
from dataflows.connectors.registry import connector
from penstock.models.connection import parse_connection

TABLES = """
CREATE TABLE "Kunden Ä" ("select" INTEGER PRIMARY KEY, mail VARCHAR NOT NULL UNIQUE);
CREATE TABLE _penstock_positions (x INTEGER); CREATE VIEW recent AS SELECT mail FROM "Kunden Ä"
"""

LONG = f"""CREATE TABLE a ("{"c" * 129}" INTEGER); CREATE TABLE b (x INTEGER); CREATE TABLE "{"t" * 513}" (x INTEGER)"""


def found_in(file: Path, kind: str, tables: str) -> tuple[dict[str, Found], list[str]]:
    """Return the objects of a new file, and the notes about those that are left out."""
    with closing(sqlite3.connect(file) if kind == "sqlite" else duckdb.connect(str(file))) as session:
        for statement in tables.split(";"):
            session.execute(statement)
    before = file.read_bytes()
    place = Place("discovery", "shop", parse_connection("shop", {"type": kind, "path": str(file)}), "")
    with closing(connector(kind, "shop").catalog(place)) as catalog:  # type: ignore[attr-defined]
        found = {one.object: one for page in catalog.objects(Choice()) for one in page}
        assert file.read_bytes() == before, "nothing was written"
        return found, catalog.notes


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_tables_and_views_of_a_file_are_described(kind: str, tmp_path: Path) -> None:
    found, _ = found_in(tmp_path / "shop.db", kind, TABLES)
    assert {name: one.kind for name, one in found.items()} == {"Kunden Ä": "table", "recent": "view"}
    assert [one.name for one in found["Kunden Ä"].schema.fields] == ["select", "mail"]
    assert (found["Kunden Ä"].schema.key, found["Kunden Ä"].schema.unique) == (("select",), (("mail",),))


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_name_that_is_too_long_is_left_out_with_a_note(kind: str, tmp_path: Path) -> None:
    found, notes = found_in(tmp_path / "shop.db", kind, LONG)
    assert [*found] == ["b"]
    assert ["is left out" in one and len(one) < 500 for one in notes] == [True, True]
