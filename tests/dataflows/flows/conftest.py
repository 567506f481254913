from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import conninfo, sql

from penstock import postgres
from penstock.topics.embedded import EmbeddedServer
from tests.agents.control_plane import pipeline
from tests.agents.control_plane import postgres as connection
from tests.dataflows.flows.place import ROOT, Nursery, Place


@pytest.fixture
def fresh(pg: EmbeddedServer, new_database: Callable[[], str]) -> Iterator[Callable[[], str]]:
    """Make databases that are dropped after the test, with whoever is still in them."""
    made: list[str] = []

    def make() -> str:
        made.append(new_database())
        return made[-1]

    yield make
    with postgres.connect(pg.dsn("postgres"), "tests") as session:
        for dsn in made:
            name = str(conninfo.conninfo_to_dict(dsn)["dbname"])
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def place(fresh: Callable[[], str], tmp_path: Path) -> Iterator[Place]:
    """An installation where nothing runs yet."""
    place = Place(tmp_path, fresh(), fresh())
    yield place
    place.close()


@pytest.fixture(scope="session")
def newborn() -> Iterator[Nursery]:
    """What starts flows by fork."""
    command = [sys.executable, str(Path(__file__).parent / "programs" / "nursery.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1"}
    nursery = Nursery(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env))
    yield nursery
    nursery.close()


@pytest.fixture
def nursery(newborn: Nursery) -> Iterator[Nursery]:
    """… and what it started is gone after the test."""
    yield newborn
    for pid in list(newborn.alive):
        newborn.kill(pid)


@pytest.fixture
def busy(place: Place) -> Place:
    """… with commands on the log that make connections and the pipelines p0 to p2."""
    for name in ("shop", "house"):
        place.send("connection.put", name=name, connection=connection(name))
    for number in range(3):
        place.send("pipeline.apply", pipeline=pipeline(f"p{number}"))
    return place
