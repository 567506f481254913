"""Fixture: PgBouncer in front of a database, which can encrypt sessions though the test's server cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import conninfo

from tests.reaper import short_folder

WAIT = 10.0
PORT = 6432


@pytest.fixture
def pooler() -> Iterator[Callable[..., Path]]:
    """Start a pooler in front of a database, by its DSN and with settings; return the folder of its socket."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "pgbouncer is missing: run tools/test-servers"
    started: list[subprocess.Popen[bytes]] = []
    folders: list[Path] = []

    def start(dsn: str, *settings: str, port: int = PORT) -> Path:
        parts = conninfo.conninfo_to_dict(dsn)
        owner = Path(str(parts["host"])).stat().st_uid
        folder = short_folder()
        folder.mkdir(exist_ok=True)
        folders.append(folder)
        os.chown(folder, owner, -1)
        file = folder / "b.ini"
        server = " ".join(f"{key}={parts[key]}" for key in ("host", "port", "user") if parts.get(key))
        lines = ["[databases]", f"* = {server}", "[pgbouncer]", "auth_type = any", f"unix_socket_dir = {folder}"]
        lines += [f"listen_port = {port}", f"logfile = {folder}/log", *settings]
        file.write_text("\n".join(lines) + "\n")
        started.append(subprocess.Popen([program, "-q", str(file)], user=owner if os.getuid() == 0 else None))
        end = time.monotonic() + WAIT
        while not (folder / f".s.PGSQL.{port}").exists():
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        return folder

    yield start
    for process in started:
        process.kill()
        process.wait()
    for folder in folders:
        shutil.rmtree(folder)
