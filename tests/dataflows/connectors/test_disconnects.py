"""A connection that is lost in the middle ends the run with one clear error, and the next run completes exactly."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from penstock.topics.embedded import EmbeddedServer
from tests.conftest import QUICK
from tests.dataflows.connectors.conftest import SYSTEMS, in_database
from tests.reaper import short_folder

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import Flow, SourceFile, System
    from tests.dataflows.connectors.files.conftest import S3Server

    Flows = Callable[..., Flow]
    Worlds = Callable[[str], System]


def told(found: dict[str, Any], world: System) -> None:
    """The run failed by one error that names the connection, and says that trying again may help."""
    assert found["status"] == "failed", found
    error = found["error"]
    assert error["code"] in {"unavailable", "unavailable.unreachable"}, error
    assert (error["transient"], bool(error["hint"])) == (True, True), error
    assert error["where"].startswith(f"items: connection {world.name}"), error


POINTS = ("commit.begin:1", "publish.begin", "commit.before_fence:1")


@pytest.mark.parametrize(("system", "point"), [(name, POINTS[at % 3]) for at, name in enumerate(SYSTEMS)])
def test_a_sink_that_goes_away_in_the_middle(
    worlds: Worlds, hub: SourceFile, into: Flows, system: str, point: str
) -> None:
    goes_away(worlds(system), hub, into, point)


@pytest.mark.chaos
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_sink_that_goes_away_anywhere(worlds: Worlds, hub: SourceFile, into: Flows, system: str) -> None:
    for point in (*POINTS, "prepare.planned", "commit.mid_copy:0", "commit.copied:2", "commit.sent:0", "flow.end"):
        goes_away(worlds(system), hub, into, point)
        hub.rows("DELETE FROM items")


def goes_away(world: System, hub: SourceFile, into: Flows, point: str) -> None:
    hub.add(60)
    made = into(world, "append")
    task = made.task("r1")
    run = made.stopped(task, point)
    with world.away():
        told(made.woken(run, task), world)
    assert world.look() in ([], hub.ids()[:20], hub.ids())
    made.completed("r1")
    made.completed("r2")
    assert (world.look(), world.leftovers(made.uid)) == (hub.ids(), [])


def test_a_source_that_goes_away_in_the_middle(world: System, hub: SourceFile, into: Flows, out_of: Flows) -> None:
    hub.rows("CREATE TABLE bulky (id INTEGER PRIMARY KEY, name TEXT)")
    for at in range(60):
        hub.rows("INSERT INTO bulky VALUES (?, hex(randomblob(250000)))", (at,))
    into(world, "append", "bulky").completed("r1")
    made = out_of(world, "replace")
    task = made.task("r1")
    run = made.stopped(task, "read.block:0")
    with world.away():
        found = made.woken(run, task)
    if world.held:
        assert found["status"] == "completed", found
    else:
        told(found, world)
        assert hub.rows("SELECT count(*) FROM back") == [(0,)]
    made.completed("r2")
    assert hub.rows("SELECT * FROM back ORDER BY id") == hub.rows("SELECT * FROM bulky ORDER BY id")


def test_a_system_that_is_away_when_the_run_begins(world: System, hub: SourceFile, into: Flows, out_of: Flows) -> None:
    hub.add(5)
    made = into(world, "replace")
    made.completed("r1")
    back = out_of(world, "replace")
    with world.away():
        for flow in (made, back):
            error = flow.failed("r2")
            assert error["where"].startswith(f"items: connection {world.name}"), error
            assert error["code"].startswith("unavailable") or error["code"] == "schema.missing_table", error
    assert made.completed("r3") == back.completed("r3") == 5


# -- PostgreSQL: the server dies, sessions are ended


@pytest.fixture
def mortal() -> Iterator[tuple[EmbeddedServer, System]]:
    """A world on a server of its own."""
    server = EmbeddedServer(short_folder(), configuration=QUICK)
    server.acquire()
    try:
        server.create_database("shop")
        yield server, in_database(server.dsn("shop"))
    finally:
        server.remove()


@pytest.mark.parametrize("side", ["sink", "source"])
def test_the_server_is_killed_and_comes_back(
    mortal: tuple[EmbeddedServer, System], hub: SourceFile, into: Flows, out_of: Flows, side: str
) -> None:
    server, world = mortal
    hub.add(60)
    made = into(world, "append")
    if side == "source":
        made.completed("r0")
        made = out_of(world, "append")
    points = {"source": ("read.block:1", "flow.end"), "sink": ("commit.mid_copy:1", "publish.locked")}
    for run, point in enumerate(points[side]):
        task = made.task(f"r{run}")
        pid = made.stopped(task, point)
        kill_all(server)
        found = made.woken(pid, task)
        if (side, point) == ("source", "flow.end"):  # all of it was read
            assert found["status"] == "completed", found
        else:
            told(found, world)
        server.ensure()
        made.completed(f"r{run}")
        hub.add(60)
        if side == "source":
            into(world, "replace").completed("again")
    made.completed("last")
    if side == "sink":
        assert (world.look(), world.leftovers(made.uid)) == (hub.ids(), [])
    else:
        assert hub.rows("SELECT id FROM back ORDER BY id") == hub.rows("SELECT id FROM items ORDER BY id")


def kill_all(server: EmbeddedServer) -> None:
    """Kill the server; its sessions' processes end a moment later."""
    pid = server.pid
    assert pid
    children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    os.kill(pid, signal.SIGKILL)
    while any(Path(f"/proc/{one}/cwd").exists() for one in children):
        time.sleep(0.01)


# -- files of databases: somebody else has them


def held_by_another(world: System) -> Any:
    """A session of this process that keeps everybody else from writing."""
    path = world.connection["path"]
    if world.name == "duckdb":
        return duckdb.connect(path)
    session = sqlite3.connect(path, isolation_level=None)
    session.execute("BEGIN IMMEDIATE")
    return session


@pytest.mark.parametrize("system", ["sqlite", "duckdb"])
def test_a_file_that_somebody_else_writes_to_for_a_while_is_waited_for(
    worlds: Worlds, hub: SourceFile, into: Flows, system: str
) -> None:
    world = worlds(system)
    hub.add(60)
    made = into(world, "append")
    made.completed("r1")
    hub.add(5)
    task = made.task("r2")
    with closing(held_by_another(world)):
        pid = made.launchers.start(task)
        assert made.launchers.wait(pid, 1.5) == {"running": True}
    assert made.ended(pid, task)["status"] == "completed"
    assert world.look() == hub.ids()


@pytest.mark.parametrize("system", ["sqlite", "duckdb"])
def test_a_file_that_was_deleted_and_is_made_anew(worlds: Worlds, hub: SourceFile, into: Flows, system: str) -> None:
    world = worlds(system)
    hub.add(60)
    made = into(world, "append")
    task = made.task("r1")
    pid = made.stopped(task, "commit.begin:1")
    for one in Path(world.connection["path"]).parent.iterdir():
        one.unlink()
    told(made.woken(pid, task), world)
    made.completed("r1")
    assert (world.look(), world.leftovers(made.uid)) == (hub.ids(), [])


# -- folders: taken away, full


def test_a_target_folder_that_is_deleted_in_the_middle(worlds: Worlds, hub: SourceFile, into: Flows) -> None:
    world = worlds("parquet")
    folder = Path(world.connection["root"]) / world.object
    hub.add(60)
    made = into(world, "replace")
    for run, point in enumerate(("commit.begin:1", "commit.before_fence:2", "publish.locked")):
        task = made.task(f"r{run}")
        pid = made.stopped(task, point)
        shutil.rmtree(folder)
        found = made.woken(pid, task)
        told(found, world)
        assert world.look() == []
        made.completed(f"r{run}")
        assert (world.look(), world.leftovers(made.uid)) == (hub.ids(), [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of a few megabytes; called again it has others."""
    folder = tmp_path / "small"

    def sized(megabytes: int) -> Path:
        how = "remount," if folder.exists() else ""
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{how}size={megabytes}m", "tmpfs", folder], check=True)
        return folder

    yield sized
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("system", ["sqlite", "duckdb", "parquet", "csv", "jsonl"])
def test_a_disk_that_is_full_and_then_is_not(
    request: pytest.FixtureRequest,
    hub: SourceFile,
    into: Flows,
    small_disk: Callable[[int], Path],
    system: str,
    write: str,
) -> None:
    world = SYSTEMS[system](request, small_disk(3))
    hub.rows("CREATE TABLE bulky (id INTEGER PRIMARY KEY, name TEXT)")
    hub.rows(
        "WITH RECURSIVE n(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM n WHERE g < 6000) "
        "INSERT INTO bulky SELECT g, hex(randomblob(500)) FROM n"
    )
    made = replace(into(world, write, "bulky"), split_rows=1_000)
    error = made.failed("r1")
    assert (error["code"], error["transient"]) == ("unavailable.out_of_space", False), error
    seen = world.look()
    assert seen == list(range(1, len(seen) + 1))
    assert (len(seen) % 1_000, len(seen) < 6_000) == (0, True)
    small_disk(80)
    made.completed("r1")
    assert (world.look(), world.leftovers(made.uid)) == (list(range(1, 6_001)), [])


# -- S3: answers that are cut


@dataclass
class Cutter:
    """Passes bytes between clients and a server; the next `cuts` answers end after `kept` bytes."""

    port: int
    cuts: float = 0
    kept: int = 120
    door: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.door.accept()
                threading.Thread(target=self._client, args=(client,), daemon=True).start()

    def _client(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self.port)) as server:
            thread = threading.Thread(target=self._asks, args=(client, server), daemon=True)
            thread.start()
            while data := server.recv(1 << 16):
                if self.cuts > 0:
                    self.cuts -= 1
                    client.sendall(data[: self.kept])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    @staticmethod
    def _asks(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)


@pytest.fixture
def cutter(s3: S3Server) -> Iterator[Cutter]:
    made = Cutter(s3.port)
    threading.Thread(target=made.serve, daemon=True).start()
    yield made
    made.door.close()


def test_answers_of_s3_that_are_cut(
    worlds: Worlds, hub: SourceFile, into: Flows, out_of: Flows, cutter: Cutter
) -> None:
    world = worlds("s3")
    world.connection["endpoint"] = f"http://127.0.0.1:{cutter.door.getsockname()[1]}"
    hub.add(60)
    for flow, point in ((into(world, "append"), "commit.begin:1"), (out_of(world, "replace"), "read.begin:1")):
        task = flow.task("r1")
        run = flow.stopped(task, point)
        cutter.cuts = 3  # what is cut for a while is asked for again
        assert flow.woken(run, task)["status"] == "completed"
        assert cutter.cuts == 0
    assert world.look() == hub.ids() == [row[0] for row in hub.rows("SELECT id FROM back ORDER BY id")]
    hub.add(60)
    there = into(world, "replace")
    task = there.task("r2")
    run = there.stopped(task, "commit.begin:1")
    cutter.cuts = float("inf")
    told(there.woken(run, task), world)
    cutter.cuts = 0
    assert world.look() == hub.ids()[:60]
    there.completed("r2")
    assert (world.look(), world.leftovers(there.uid)) == (hub.ids(), [])
