from __future__ import annotations

import os
import shutil
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
from tests.dataflows.flows.installation import ROOT, ForkServer, Installation
from tests.reaper import short_folder


@pytest.fixture
def fresh(
    pg: EmbeddedServer, new_database: Callable[[], str], new_catalog: Callable[[], str]
) -> Iterator[Callable[..., str]]:
    """Create databases, or empty catalogs, that are dropped after the test, even if sessions are still open."""
    made: list[str] = []

    def make(*, catalog: bool = False) -> str:
        made.append(new_catalog() if catalog else new_database())
        return made[-1]

    yield make
    with postgres.connect(pg.dsn("postgres"), "tests") as session:
        for dsn in made:
            name = str(conninfo.conninfo_to_dict(dsn)["dbname"])
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def installation(fresh: Callable[..., str], tmp_path: Path, fork_server: ForkServer) -> Iterator[Installation]:
    """An installation without running flows."""
    installation = Installation(tmp_path, fresh(catalog=True), fresh(), fork_server)
    yield installation
    installation.close()


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Process that starts flows by fork, for the whole session."""
    folder = short_folder()
    command = [sys.executable, str(Path(__file__).parent / "programs" / "fork_server.py"), str(folder / "forks")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1"}
    fork_server = ForkServer(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    )
    yield fork_server
    fork_server.close()
    shutil.rmtree(folder)


@pytest.fixture
def busy(installation: Installation) -> Installation:
    """An installation with commands on the log that create connections and the pipelines p0 to p2."""
    for name in ("shop", "house"):
        installation.send("connection.put", name=name, connection=connection(name))
    for number in range(3):
        installation.send("pipeline.apply", pipeline=pipeline(f"p{number}"))
    return installation
