"""The suite for connectors of other packages: it passes for ours, and fails for each flaw of a flawed one.

Of files, only those in a bucket are tried in `make test`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataflows.connectors.conftest import SYSTEMS
from tests.pairs import soon

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers
    from tests.dataflows.connectors.conftest import System

ROOT = Path(__file__).parents[3]
FLAWED = '''
"""SQLite with one flaw, chosen by the environment."""
import os
from dataclasses import replace
from dataflows.connectors.sql.source import DatabaseSource
from dataflows.connectors.sql.state import DatabaseState
from dataflows.connectors.sql.target import DatabaseTarget
from dataflows.connectors.sqlite.connector import SqliteConnector

FLAW = os.environ["FLAW"]


class Reader:
    def __init__(self, reader):
        self.reader, self.close = reader, reader.close

    def read(self, slot, split):
        for chunk in self.reader.read(slot, split):
            if not (FLAW == "no marker" and chunk.last):
                yield replace(chunk, sequence=0) if FLAW == "unnumbered" else chunk


class Source(DatabaseSource):
    def plan(self, table, key, window, rows, first):
        splits = super().plan(table, key, window, rows, first)
        return splits[:-1] if FLAW == "lost split" and len(splits) > 1 else splits

    def window(self, table, cursor, last, rule):
        return super().window(table, cursor, None if FLAW == "same window" else last, rule)

    def reader(self, order):
        return Reader(super().reader(order))


class State(DatabaseState):
    def fence(self, slot, split, run, generation, counted, moves=()):
        if FLAW == "no fence":
            newest = "SELECT max(generation) FROM _penstock_positions WHERE pipeline = ?"
            generation = self.session.rows(newest, (self.uid,))[0][0]
        super().fence(slot, split, run, generation, counted, moves)

    def finish(self, run, position, result):
        super().finish(run, None if FLAW == "no position" else position, result)


class Target(DatabaseTarget):
    def load_table(self, run):
        return self.name.name if FLAW == "seen early" else super().load_table(run)

    def drop(self, *, table):
        super().drop(table=table and FLAW != "not dropped")


class Flawed(SqliteConnector):
    @staticmethod
    def source(place):
        own = SqliteConnector.source(place)
        return Source(own.place, own.name, own.session)

    @staticmethod
    def target(place, owner):
        own = SqliteConnector.target(place, owner)
        kept = own.state
        state = State(kept.session, kept.uid, kept.source, kept.sink, kept.where)
        return Target(own.place, own.owner, own.name, own.database, state)
'''
FLAWS = {
    "": (),
    "no marker": ("test_source.py::test_all_rows_that_were_written_are_read",),
    "unnumbered": ("test_source.py::test_a_split_read_twice_is_the_same",),
    "lost split": ("test_source.py::test_splits_of_any_size_have_each_row_once[7]",),
    "same window": ("test_source.py::test_a_window_has_the_new_rows_and_the_next_one_none",),
    "no fence": ("test_target.py::test_an_older_generation_changes_nothing[r1-append]",),
    "no position": ("test_target.py::test_a_run_ends_with_its_rows_counters_and_position[append]",),
    "seen early": ("test_target.py::test_a_replace_becomes_visible_at_once_when_published",),
    "not dropped": ("test_target.py::test_a_pipeline_that_was_dropped_is_not_claimed_again",),
}


def outcomes(output: str) -> tuple[set[str], int]:
    """Return the names of failed tests, and the number of passed ones."""
    found = re.findall("^(?:FAILED|ERROR) (.*)$", output, re.MULTILINE)
    passed = len(re.findall("^PASSED ", output, re.MULTILINE))
    assert passed + len(found) > 0, output
    return {line.split("/")[-1].split(" - ")[0] for line in found}, passed


@pytest.fixture
def suite(launchers: Launchers, tmp_path: Path) -> Callable[..., tuple[set[str], int]]:
    """Run the suite; return its outcomes."""

    def run(connector: str, connection: dict[str, Any], *options: str, **more: str) -> tuple[set[str], int]:
        (tmp_path / "connection.yaml").write_text(json.dumps(connection))
        words = ["--connector", connector, "--connection", "connection.yaml", *options]
        return outcomes(launchers.suite(words, tmp_path, path=[str(tmp_path)], **more)[1])

    return run


CONNECTORS = {
    "postgres": "dataflows.connectors.postgres.connector:PostgresConnector",
    "mysql": "dataflows.connectors.mysql.connector:MysqlConnector",
    "sqlite": "dataflows.connectors.sqlite.connector:SqliteConnector",
    "duckdb": "tests.dataflows.connectors.ducks:OpenDuckdb",
    "s3": "dataflows.connectors.files.connector:S3Connector",
    "files": "dataflows.connectors.files.connector:FilesConnector",
}


@pytest.mark.long
@pytest.mark.parametrize("kind", soon(SYSTEMS, "postgres", "mysql", "sqlite", "duckdb", "s3"))
def test_every_system_passes(
    suite: Callable[..., tuple[set[str], int]], new_system: Callable[[str], System], kind: str
) -> None:
    system = new_system(kind)
    name = CONNECTORS[system.connection["type"]]
    more = ("--file-format", system.format["type"]) if system.format else ()
    connection, secrets = dict(system.connection), {}
    for key, value in system.connection.items():
        if isinstance(value, str) and value.startswith("${file:"):
            variable = f"PENSTOCK_SECRET_{key.upper()}"
            secrets[variable] = Path(value[7:-1]).read_text().strip()
            connection[key] = f"${{env:{variable}}}"
    failed, passed = suite(name, connection, "--target-object", system.object, *more, **secrets)
    assert failed == set()
    assert passed >= (26 if system.format else 46)


def test_the_example_of_a_connector_in_a_package_of_its_own(tmp_path: Path) -> None:
    """By the command that the suite's users run."""
    line = '10.0.0.1 - - [02/Jan/2024:03:04:05 +0100] "GET /{} HTTP/1.1" 200 7 "-" "curl/8"\n'
    (tmp_path / "access.log").write_text("".join(line.format(at) for at in range(300)))
    (tmp_path / "connection.yaml").write_text(json.dumps({"type": "accesslog", "folder": str(tmp_path)}))
    command = [sys.executable, "-m", "pytest", "-p", "dataflows.connectors.conformance", "-p", "no:cacheprovider"]
    command += ["--connector", "penstock_accesslog:AccessLog", "--connection", "connection.yaml", "-W", "error", "-rA"]
    command += ["--source-object", "access.log", "--cursor", "position"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples/connector'}"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=150
    )
    failed, passed = outcomes(done.stdout + done.stderr)
    assert failed == set()
    assert passed >= 11


QUICK = {"", "no marker", "lost split", "no fence", "seen early"}


@pytest.mark.parametrize("flaw", [one if one in QUICK else pytest.param(one, marks=pytest.mark.chaos) for one in FLAWS])
def test_each_flaw_is_detected(suite: Callable[..., tuple[set[str], int]], tmp_path: Path, flaw: str) -> None:
    (tmp_path / "flawed.py").write_text(FLAWED)
    connection = {"type": "sqlite", "path": str(tmp_path / "rows.sqlite")}
    tests = [one.partition("::")[2].partition("[")[0] for one in FLAWS[flaw]] or [
        one.partition("::")[2].partition("[")[0] for some in FLAWS.values() for one in some
    ]
    failed, _ = suite("flawed:Flawed", connection, "--target-object", "scratch", "-k", " or ".join(tests), FLAW=flaw)
    assert set(FLAWS[flaw]) <= failed
    assert flaw or not failed
