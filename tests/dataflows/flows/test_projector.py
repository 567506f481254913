"""The projector and the server, killed at any moment: the catalog still equals the log."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from penstock.errors import Unavailable
from penstock.postgres import connect
from penstock.topics.embedded import EmbeddedServer
from tests.agents.control_plane import pipeline
from tests.agents.control_plane import postgres as connection
from tests.dataflows.flows.installation import ForkServer, Installation, Load, until
from tests.reaper import short_folder


def test_a_projector_killed_under_load_equals_a_fresh_rebuild(busy: Installation, fresh: Callable[..., str]) -> None:
    chance = random.Random(5)
    busy.start("control")
    busy.all_answered()
    load = Load(busy, rate=60)
    load.start()
    for _ in range(10):
        projector = busy.start("projector")
        time.sleep(chance.uniform(0.05, 0.5))
        projector.kill()
    load.stop()
    busy.all_answered()
    busy.start("projector")
    busy.projected()
    assert len(busy.sent) > 100
    busy.check_catalog(fresh(catalog=True))
    busy.check_answers()


def test_a_standby_projector_blocks_nothing_and_takes_over(busy: Installation, fresh: Callable[..., str]) -> None:
    active = busy.start("projector")
    until(lambda: busy.log.holder("projector"), "the first one's turn")
    waiting = busy.start("control", "projector")
    load = Load(busy, rate=60)
    load.start()
    busy.loaded(60)
    busy.all_answered()
    active.kill()
    busy.loaded(60)
    load.stop()
    busy.all_answered()
    busy.projected()
    assert waiting.running
    assert "fenced" not in (active.said + waiting.said).lower()
    busy.check_catalog(fresh(catalog=True))
    waiting.send(signal.SIGTERM)
    assert waiting.ended() == 0


def test_a_standby_projector_can_be_stopped(busy: Installation) -> None:
    with busy.site.open_log() as other:
        assert other.lock("projector", wait=False)
        waiting = busy.start("projector")
        until(lambda: sessions(busy, "projector"), "it to wait")
        waiting.send(signal.SIGTERM)
        assert waiting.ended() == 0
        assert waiting.said == ""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Start a server that a test may kill, as durable as in production."""
    home = short_folder()
    server = EmbeddedServer(home)
    server.acquire()
    for name in ("penstock", "penstock_log", "rebuilt"):
        server.create_database(name)
    yield server
    server.release()
    shutil.rmtree(home)


def test_a_server_killed_under_load_loses_nothing_acknowledged(
    own: EmbeddedServer, tmp_path: Path, fork_server: ForkServer
) -> None:
    installation = Installation(tmp_path, own.dsn("penstock"), own.dsn("penstock_log"), fork_server)
    try:
        for name in ("shop", "house"):
            installation.send("connection.put", name=name, connection=connection(name))
        for number in range(3):
            installation.send("pipeline.apply", pipeline=pipeline(f"p{number}"))
        for _ in range(3):
            flows = installation.start("control", "scheduler"), installation.start("projector")
            installation.all_answered()
            load = Load(installation, rate=150)
            load.start()
            installation.loaded(40)
            kill(own)
            load.over.set()
            load.join()
            assert load.error is None or isinstance(load.error, Unavailable)
            assert [flow.ended() for flow in flows] == [1, 1], "both end, and say why"
            assert all("unavailable" in flow.said for flow in flows)
            own.ensure()
            installation.log.close()
            installation.connect()
        installation.start("control", "projector")
        installation.all_answered()
        unacknowledged = {
            one.id: one for one in installation.records() if one.kind == "command"
        }.keys() - installation.sent.keys()
        assert len(unacknowledged) <= 3, "at most the one under way at each kill"
        installation.sent |= {
            id_: next(one for one in installation.records() if one.id == id_) for id_ in unacknowledged
        }
        installation.all_answered()
        installation.projected()
        installation.check_answers()
        installation.check_catalog(own.dsn("rebuilt"))
    finally:
        installation.close()


def kill(server: EmbeddedServer) -> None:
    pid = server.pid
    assert pid is not None
    family = [psutil.Process(pid), *psutil.Process(pid).children()]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not any(one.is_running() and one.status() != "zombie" for one in family), "the server to be gone")


def sessions(installation: Installation, name: str) -> bool:
    """True if the topics' database has a session of that name."""
    with connect(installation.log_dsn, "tests") as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s"
        found = session.execute(query, [f"%{name}%"]).fetchone()
    return bool(found and found[0])
