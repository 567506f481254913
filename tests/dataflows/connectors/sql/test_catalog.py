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
from dataflows.connectors.source_catalog import found_objects, open_catalog
from penstock.models.connection import parse_connection
from tests.dataflows.listings import Discovered, discovered, outline

TABLES = """
CREATE TABLE "Kunden Ä" ("select" INTEGER PRIMARY KEY, mail VARCHAR NOT NULL UNIQUE);
CREATE TABLE _penstock_positions (x INTEGER); CREATE VIEW recent AS SELECT mail FROM "Kunden Ä";
INSERT INTO "Kunden Ä" VALUES (1, 'a@x.example'), (2, 'b@x.example')
"""

LONG = f"""CREATE TABLE a ("{"c" * 129}" INTEGER); CREATE TABLE b (x INTEGER); CREATE TABLE "{"t" * 513}" (x INTEGER)"""


def discovered_in(file: Path, kind: str, tables: str) -> Discovered:
    """Return what a discovery finds in a new file."""
    with closing(sqlite3.connect(file) if kind == "sqlite" else duckdb.connect(str(file))) as session:
        for statement in tables.split(";"):
            session.execute(statement)
        session.commit()
    before = file.read_bytes()
    there = discovered({"type": kind, "path": str(file)}, rows=1000)
    assert file.read_bytes() == before, "nothing was written"
    return there


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_tables_and_views_of_a_file_are_described(kind: str, tmp_path: Path) -> None:
    there = discovered_in(tmp_path / "shop.db", kind, TABLES)
    found = there.objects
    for name, one in found.items():
        assert one.schema.outline == outline({"type": kind, "path": str(tmp_path / "shop.db")}, name)
    assert {name: one.kind for name, one in found.items()} == {"Kunden Ä": "table", "recent": "view"}
    assert [one.name for one in found["Kunden Ä"].schema.fields] == ["select", "mail"]
    assert (found["Kunden Ä"].schema.key, found["Kunden Ä"].schema.unique) == (("select",), (("mail",),))
    mail = there.samples["Kunden Ä"]["mail"]
    assert (mail.nulls, mail.distinct, mail.bounds) == (0, 2, ("a@x.example", "b@x.example"))
    assert there.samples["recent"]["mail"] == mail


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_name_that_is_too_long_is_left_out_with_a_note(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = discovered_in(tmp_path / "shop.db", kind, LONG)
    assert [*there.objects] == ["b"]
    assert ["is left out" in one and len(one) < 500 for one in there.notes] == [True, True]
    assert len(there.present) == 2
    monkeypatch.setattr("dataflows.connectors.source_catalog.NOTES", 1)
    some = discovered({"type": kind, "path": str(tmp_path / "shop.db")}).notes
    assert [one.rpartition(" is left out")[1] != "" for one in some] == [True, False], "one is named"
    assert some[1] == "1 more left out"
    settings = parse_connection("shop", {"type": kind, "path": str(tmp_path / "shop.db")})
    place = Place("discovery", "shop", settings, "")
    with closing(open_catalog(connector(kind, "shop"), place)) as catalog:
        for _ in range(2):
            assert [*found_objects(connector(kind, "shop"), place, catalog, Choice())]
            assert catalog.notes[1:2] == ["1 more left out"]
        assert [*found_objects(connector(kind, "shop"), place, catalog, Choice(("b",)))]
        assert len(catalog.notes) == 3, "what was left out before is no news"
