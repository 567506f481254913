"""A lost connection ends the run with one clear error, and the next run completes exactly."""

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
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from penstock.topics.embedded import EmbeddedServer
from tests.conftest import QUICK
from tests.dataflows.connectors.conftest import FORMATS, SYSTEMS, in_database
from tests.pairs import soon
from tests.reaper import short_folder

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import Flow, SourceFile, System
    from tests.s3 import S3Server

    Flows = Callable[..., Flow]
    NewSystem = Callable[[str], System]


def assert_retryable(found: dict[str, Any], system: System) -> None:
    """Assert that the run failed with one transient error that names the connection."""
    assert found["status"] == "failed", found
    error = found["error"]
    assert error["code"] in {"unavailable", "unavailable.unreachable"}, error
    assert (error["transient"], bool(error["hint"])) == (True, True), error
    assert error["where"].startswith(f"items: connection {system.name}"), error


POINTS = ("commit.begin:1", "publish.begin", "commit.before_fence:1")


@pytest.mark.parametrize(
    ("kind", "point"),
    [
        pytest.param(name, POINTS[at % 3], marks=pytest.mark.chaos if name in FORMATS else ())
        for at, name in enumerate(SYSTEMS)
    ],
)
def test_a_sink_that_becomes_unreachable_during_a_run(
    new_system: NewSystem, source_file: SourceFile, into: Flows, kind: str, point: str
) -> None:
    fail_midway(new_system(kind), source_file, into, point)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize(
    "point", ["prepare.planned", "commit.mid_copy:0", "commit.copied:2", "commit.sent:0", "flow.end", *POINTS]
)
def test_a_sink_that_becomes_unreachable_at_any_point(
    new_system: NewSystem, source_file: SourceFile, into: Flows, kind: str, point: str
) -> None:
    fail_midway(new_system(kind), source_file, into, point)


def fail_midway(system: System, source_file: SourceFile, into: Flows, point: str) -> None:
    source_file.add(60)
    made = into(system, "append")
    task = made.task("r1")
    run = made.stopped(task, point)
    with system.unreachable():
        assert_retryable(made.woken(run, task), system)
    assert system.ids() in [source_file.ids()[:rows] for rows in (0, 20, 40, 60)], "whole splits"
    made.completed("r1")
    made.completed("r2")
    assert (system.ids(), system.leftovers(made.uid)) == (source_file.ids(), [])


def test_a_source_that_becomes_unreachable_during_a_run(
    system: System, source_file: SourceFile, into: Flows, out_of: Flows
) -> None:
    source_file.rows("CREATE TABLE bulky (id INTEGER PRIMARY KEY, name TEXT)")
    for at in range(60):
        source_file.rows("INSERT INTO bulky VALUES (?, hex(randomblob(125000)))", (at,))
    into(system, "append", "bulky").completed("r1")
    made = out_of(system, "replace")
    task = made.task("r1")
    run = made.stopped(task, "read.block:0")
    with system.unreachable():
        found = made.woken(run, task)
    if system.keeps_open_files:
        assert found["status"] == "completed", found
    else:
        assert_retryable(found, system)
        assert source_file.rows("SELECT count(*) FROM back") == [(0,)]
    made.completed("r2")
    assert source_file.rows("SELECT * FROM back ORDER BY id") == source_file.rows("SELECT * FROM bulky ORDER BY id")


def test_a_system_that_is_unreachable_when_the_run_begins(
    system: System, source_file: SourceFile, into: Flows, out_of: Flows
) -> None:
    source_file.add(5)
    made = into(system, "replace")
    made.completed("r1")
    back = out_of(system, "replace")
    with system.unreachable():
        for flow in (made, back):
            error = flow.failed("r2")
            assert error["where"].startswith(f"items: connection {system.name}"), error
            assert error["code"].startswith("unavailable") or error["code"] == "schema.missing_table", error
    assert made.completed("r3") == back.completed("r3") == 5


# -- PostgreSQL: the server is killed


@pytest.fixture
def server_to_kill() -> Iterator[tuple[EmbeddedServer, System]]:
    """A server of its own, and its database as a system."""
    server = EmbeddedServer(short_folder(), configuration=QUICK)
    server.acquire()
    try:
        server.create_database("shop")
        yield server, in_database(server.dsn("shop"))
    finally:
        server.remove()


@pytest.mark.parametrize("side", ["sink", "source"])
def test_the_server_is_killed_and_restarted(
    server_to_kill: tuple[EmbeddedServer, System], source_file: SourceFile, into: Flows, out_of: Flows, side: str
) -> None:
    server, system = server_to_kill
    source_file.add(60)
    made = into(system, "append")
    if side == "source":
        made.completed("r0")
        made = out_of(system, "append")
    points = {"source": ("read.block:1", "flow.end"), "sink": ("commit.mid_copy:1", "publish.locked")}
    for run, point in enumerate(points[side]):
        task = made.task(f"r{run}")
        pid = made.stopped(task, point)
        kill_all(server)
        found = made.woken(pid, task)
        if (side, point) == ("source", "flow.end"):  # all of it was read
            assert found["status"] == "completed", found
        else:
            assert_retryable(found, system)
        server.ensure()
        made.completed(f"r{run}")
        source_file.add(60)
        if side == "source":
            into(system, "replace").completed("again")
    made.completed("last")
    if side == "sink":
        assert (system.ids(), system.leftovers(made.uid)) == (source_file.ids(), [])
    else:
        assert source_file.rows("SELECT id FROM back ORDER BY id") == source_file.rows(
            "SELECT id FROM items ORDER BY id"
        )


def kill_all(server: EmbeddedServer) -> None:
    """Kill the server; its sessions' processes end a moment later."""
    pid = server.pid
    assert pid
    children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    os.kill(pid, signal.SIGKILL)
    while any(Path(f"/proc/{one}/cwd").exists() for one in children):
        time.sleep(0.01)


# -- database files: locked or deleted by another process


def locked_by_another(system: System) -> Any:
    """Return a session of this process that locks out other writers."""
    path = system.connection["path"]
    if system.name == "duckdb":
        return duckdb.connect(path)
    session = sqlite3.connect(path, isolation_level=None)
    session.execute("BEGIN IMMEDIATE")
    return session


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_run_waits_for_a_file_locked_by_another_writer(
    new_system: NewSystem, source_file: SourceFile, into: Flows, kind: str
) -> None:
    system = new_system(kind)
    source_file.add(60)
    made = into(system, "append")
    made.completed("r1")
    source_file.add(5)
    task = made.task("r2")
    with closing(locked_by_another(system)):
        pid = made.launchers.start(task)
        assert made.launchers.wait(pid, 1.5) == {"running": True}
    assert made.ended(pid, task)["status"] == "completed"
    assert system.ids() == source_file.ids()


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_deleted_database_file_is_created_again(
    new_system: NewSystem, source_file: SourceFile, into: Flows, kind: str
) -> None:
    system = new_system(kind)
    source_file.add(60)
    made = into(system, "append")
    task = made.task("r1")
    pid = made.stopped(task, "commit.begin:1")
    for one in Path(system.connection["path"]).parent.iterdir():
        one.unlink()
    assert_retryable(made.woken(pid, task), system)
    made.completed("r1")
    assert (system.ids(), system.leftovers(made.uid)) == (source_file.ids(), [])


# -- folders: deleted, disk full


def test_a_target_folder_deleted_during_a_run(new_system: NewSystem, source_file: SourceFile, into: Flows) -> None:
    system = new_system("parquet")
    folder = Path(system.connection["root"]) / system.object
    source_file.add(60)
    made = into(system, "replace")
    for run, point in enumerate(("commit.begin:1", "commit.before_fence:2", "publish.locked")):
        task = made.task(f"r{run}")
        pid = made.stopped(task, point)
        shutil.rmtree(folder)
        found = made.woken(pid, task)
        assert_retryable(found, system)
        assert system.ids() == []
        made.completed(f"r{run}")
        assert (system.ids(), system.leftovers(made.uid)) == (source_file.ids(), [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a file system of a few megabytes; a second call changes its size."""
    folder = tmp_path / "small"

    def sized(megabytes: int) -> Path:
        how = "remount," if folder.exists() else ""
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{how}size={megabytes}m", "tmpfs", folder], check=True)
        return folder

    yield sized
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("kind", "write"),
    soon(
        product(("sqlite", "duckdb", "parquet", "csv", "jsonl"), ("append", "replace")),
        ("sqlite", "append"),
        ("duckdb", "replace"),
        ("parquet", "append"),
        ("jsonl", "replace"),
    ),
)
def test_a_full_disk_that_gets_more_space(
    request: pytest.FixtureRequest,
    source_file: SourceFile,
    into: Flows,
    small_disk: Callable[[int], Path],
    kind: str,
    write: str,
) -> None:
    system = SYSTEMS[kind](request, small_disk(3))
    source_file.rows("CREATE TABLE bulky (id INTEGER PRIMARY KEY, name TEXT)")
    source_file.rows(
        "WITH RECURSIVE n(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM n WHERE g < 6000) "
        "INSERT INTO bulky SELECT g, hex(randomblob(500)) FROM n"
    )
    made = replace(into(system, write, "bulky"), split_rows=1_000)
    error = made.failed("r1")
    assert (error["code"], error["transient"]) == ("unavailable.out_of_space", False), error
    seen = system.ids()
    assert seen == list(range(1, len(seen) + 1))
    assert (len(seen) % 1_000, len(seen) < 6_000) == (0, True)
    small_disk(80)
    made.completed("r1")
    assert (system.ids(), system.leftovers(made.uid)) == (list(range(1, 6_001)), [])


# -- S3: truncated responses


@dataclass
class TruncatingProxy:
    """Forwards bytes between clients and a server; the next `cuts` responses end after `kept` bytes."""

    port: int
    cuts: float = 0
    kept: int = 120
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._client, args=(client,), daemon=True).start()

    def _client(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self.port)) as server:
            thread = threading.Thread(target=self._forward_requests, args=(client, server), daemon=True)
            thread.start()
            while data := server.recv(1 << 16):
                if self.cuts > 0:
                    self.cuts -= 1
                    client.sendall(data[: self.kept])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    @staticmethod
    def _forward_requests(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[TruncatingProxy]:
    made = TruncatingProxy(s3.port)
    threading.Thread(target=made.serve, daemon=True).start()
    yield made
    made.listener.close()


def test_truncated_responses_of_s3(
    new_system: NewSystem, source_file: SourceFile, into: Flows, out_of: Flows, proxy: TruncatingProxy
) -> None:
    system = new_system("s3")
    system.connection["endpoint"] = f"http://127.0.0.1:{proxy.listener.getsockname()[1]}"
    source_file.add(60)
    for flow, point in ((into(system, "append"), "commit.begin:1"), (out_of(system, "replace"), "read.begin:1")):
        task = flow.task("r1")
        run = flow.stopped(task, point)
        proxy.cuts = 3  # few enough for the client's retries
        assert flow.woken(run, task)["status"] == "completed"
        assert proxy.cuts == 0
    assert system.ids() == source_file.ids() == [row[0] for row in source_file.rows("SELECT id FROM back ORDER BY id")]
    source_file.add(60)
    forward = into(system, "replace")
    task = forward.task("r2")
    run = forward.stopped(task, "commit.begin:1")
    proxy.cuts = float("inf")
    assert_retryable(forward.woken(run, task), system)
    proxy.cuts = 0
    assert system.ids() == source_file.ids()[:60]
    forward.completed("r2")
    assert (system.ids(), system.leftovers(forward.uid)) == (source_file.ids(), [])
