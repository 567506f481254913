"""What files of SQLite and DuckDB have."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from dataflows.connectors.cataloguing import Choice
from dataflows.connectors.contract import Place
from dataflows.connectors.registry import connector
from penstock.models.connection import parse_connection

TABLES = """
CREATE TABLE "Kunden Ä" ("select" INTEGER PRIMARY KEY, mail VARCHAR NOT NULL UNIQUE);
CREATE TABLE _penstock_positions (x INTEGER); CREATE VIEW recent AS SELECT mail FROM "Kunden Ä"
"""


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_tables_and_views_of_a_file_are_described(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file) if kind == "sqlite" else duckdb.connect(str(file))) as session:
        for statement in TABLES.split(";"):
            session.execute(statement)
    before = file.read_bytes()
    place = Place("discovery", "shop", parse_connection("shop", {"type": kind, "path": str(file)}), "")
    with closing(connector(kind, "shop").catalog(place)) as catalog:  # type: ignore[attr-defined]
        found = {one.object: one for page in catalog.objects(Choice()) for one in page}
    assert {name: one.kind for name, one in found.items()} == {"Kunden Ä": "table", "recent": "view"}
    assert [one.name for one in found["Kunden Ä"].schema.fields] == ["select", "mail"]
    assert (found["Kunden Ä"].schema.key, found["Kunden Ä"].schema.unique) == (("select",), (("mail",),))
    assert file.read_bytes() == before, "nothing was written"
