"""A table that is altered while a session writes to it, so that no split is committed, or that computes a column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from dataflows.connectors.conformance.case import Case, Pipeline, made_rows
from dataflows.connectors.contract import Place
from dataflows.connectors.registry import connector
from dataflows.data.splits import Split
from penstock.errors import Unavailable
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink
from tests.dataflows.connectors.conftest import Flows, System
from tests.dataflows.connectors.test_remade import do
from tests.pairs import all_pairs

FUNCTION = (
    "CREATE FUNCTION upper_name() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.name := upper(new.name); "
    "RETURN new; END $$; CREATE TRIGGER t BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION upper_name()"
)
ALTERED = {
    ("postgres", "append"): ["ALTER TABLE copied ALTER id TYPE double precision", FUNCTION],
    ("postgres", "merge"): ["ALTER TABLE copied ALTER price TYPE real", FUNCTION],
    ("mysql", "append"): [
        "ALTER TABLE copied MODIFY price FLOAT",
        "ALTER TABLE copied ENGINE = MyISAM",
        "CREATE TRIGGER t BEFORE INSERT ON copied FOR EACH ROW SET NEW.name = upper(NEW.name)",
    ],
    ("mysql", "merge"): [
        "ALTER TABLE copied DROP PRIMARY KEY",
        "ALTER TABLE copied ADD UNIQUE (price)",
        "CREATE TRIGGER t BEFORE UPDATE ON copied FOR EACH ROW SET NEW.name = upper(NEW.name)",
    ],
    ("sqlite", "append"): [
        "CREATE TRIGGER t AFTER INSERT ON copied BEGIN UPDATE copied SET name = upper(name); END",
        "ALTER TABLE copied RENAME COLUMN price TO cost",
    ],
    ("sqlite", "merge"): ["CREATE TRIGGER t BEFORE INSERT ON copied BEGIN SELECT RAISE(IGNORE); END"],
}
"""Statements by which rows would get in changed, twice, or not at all."""
CASES = [(*one, statement) for one, statements in ALTERED.items() for statement in statements]


@dataclass(frozen=True)
class Known(Case):
    """A case whose connection has secrets in a folder of the test."""

    secrets: Path = Path()

    def place(self, name: str) -> Place:
        return replace(super().place(name), secrets=self.secrets)


@pytest.mark.parametrize(("name", "write", "statement"), CASES)
def test_a_split_into_a_table_that_was_altered_meanwhile_is_not_committed(
    new_system: Callable[[str], System], tmp_path: Path, name: str, write: str, statement: str
) -> None:
    system = new_system(name)
    settings = parse_connection("tested", system.connection)
    case = Known(connector(settings.type, "tests"), settings, None, None, system.object, None, tmp_path)
    key = ("id",) if write == "merge" else ()
    pipeline = Pipeline(case, str(uuid4()), Sink(connection="tested", object=system.object, write=write, key=key))
    with pipeline.run("r1", [Split(0), Split(1), Split(2)]) as run, run.writer() as writer:
        for split in (0, 1):
            writer.write(run.chunk(split, made_rows(range(split * 3, split * 3 + 3))))
            run.end(writer, split, 3)
        do(system, statement)
        with pytest.raises(Unavailable, match="altered"):  # noqa: PT012 - at the rows or at their end
            writer.write(run.chunk(2, made_rows(range(6, 9))))
            run.end(writer, 2, 3)
    assert system.ids() == list(range(6))


@all_pairs(name=["postgres", "mysql", "sqlite", "duckdb"], write=["append", "merge", "replace"])
def test_a_column_that_the_server_computes_is_refused(
    new_system: Callable[[str], System], into: Flows, name: str, write: str
) -> None:
    system = new_system(name)
    stored = {"duckdb": "VIRTUAL", "mysql": "VIRTUAL"}.get(name, "STORED")
    do(
        system,
        "CREATE TABLE copied (id INTEGER PRIMARY KEY, name TEXT, "
        f"price DOUBLE PRECISION GENERATED ALWAYS AS (id * 2) {stored})",
    )
    error = into(system, write, **({"key": ["id"]} if write == "merge" else {})).failed("r1")
    assert (error["code"], "`price`" in error["what"], "computed" in error["what"]) == (
        "schema.mismatch",
        True,
        True,
    ), error
