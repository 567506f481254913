"""A real MariaDB server, as an unprivileged user in a folder of its own.

``PENSTOCK_TEST_MYSQLD`` names another server program to try instead, a MySQL's ``mysqld``, with its arguments.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

__all__ = ["SECRET", "MysqlServer", "program"]

WAIT = 60.0
SECRET = "penstock-test-secret"
QUICK = (
    "--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M", "--skip-log-bin", "--skip-name-resolve",
    "--local-infile=1", "--bind-address=127.0.0.1", "--max-allowed-packet=16M",
)  # fmt: skip
"""Settings without fsync: tests kill processes, never the machine."""


@dataclass
class MysqlServer:
    """A server in a folder of its own, on a free port of the loopback, as an unprivileged user."""

    home: Path
    port: int
    program: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    @property
    def mariadb(self) -> bool:
        return "mariadbd" in self.program[0]

    @property
    def _user(self) -> list[str]:
        return ["--user=nobody"] if os.getuid() == 0 else []

    def make(self) -> None:
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.home, nobody.pw_uid, nobody.pw_gid)
        if self.mariadb:
            command = [
                "mariadb-install-db",
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                f"--tmpdir={self.home}",  # in a folder that several share, their temporary files have the same names
            ]
        else:
            command = [*self.program, "--initialize-insecure"]
        done = subprocess.run(
            [*command, *self._user, f"--datadir={self.home}/data"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *more: str) -> None:
        arguments = [
            f"--datadir={self.home}/data",
            f"--socket={self.socket}",
            f"--port={self.port}",
            f"--pid-file={self.home}/pid",
            f"--tmpdir={self.home}",
        ]
        others = [] if self.mariadb else ["--mysqlx=OFF", "--performance-schema=OFF", "--secure-file-priv=NULL"]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.program,
                    *([] if "--no-defaults" in self.program else ["--no-defaults"]),
                    *self._user,
                    *arguments,
                    *QUICK,
                    *others,
                    *more,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if self._answers(socket.AF_INET, ("127.0.0.1", self.port)) and self._answers(socket.AF_UNIX, self.socket):
                return
            assert self.process.poll() is None, (self.home / "log").read_text()
            time.sleep(0.05)
        raise AssertionError((self.home / "log").read_text())

    @staticmethod
    def _answers(family: int, address: Any) -> bool:
        with socket.socket(family) as probe:
            return probe.connect_ex(address) == 0

    @property
    def socket(self) -> str:
        return f"{self.home}/s"

    def session(self, database: str | None = None, *, autocommit: bool = True) -> pymysql.Connection[Any]:
        """Return a session of the administrator; pymysql would load all certificates of the system for each."""
        return pymysql.connect(
            unix_socket=self.socket, user="root", database=database, autocommit=autocommit, ssl_disabled=True
        )

    def query(
        self, text: str, database: str | None = None, values: Sequence[Any] = (), *, lenient: bool = False
    ) -> list[tuple[Any, ...]]:
        with closing(self.session(database)) as one, one.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            if lenient:
                cursor.execute("SET sql_mode = ''")
            cursor.execute(text, values or None)
            return list(cursor.fetchall())

    def connection(self, database: str, **changes: Any) -> dict[str, Any]:
        """Return the connection as in `connections.yaml`; the secret is in a file."""
        return {
            "type": "mysql",
            "host": "127.0.0.1",
            "port": self.port,
            "user": "penstock",
            "database": database,
            "password": f"${{file:{self.home}/secret}}",
        } | changes

    def let_in(self) -> None:
        """Create a user of pipelines, and one without rights."""
        (self.home / "secret").write_text(SECRET)
        (self.home / "wrong").write_text("wrong")
        self.query(f"CREATE USER penstock@'%' IDENTIFIED BY '{SECRET}'")
        self.query("GRANT ALL ON *.* TO penstock@'%'")
        self.query(f"CREATE USER stranger@'%' IDENTIFIED BY '{SECRET}'")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


def program() -> tuple[str, ...]:
    if found := os.environ.get("PENSTOCK_TEST_MYSQLD"):
        return tuple(shlex.split(found))
    path = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert path, "mariadbd is missing: run tools/test-servers"
    return (path,)
