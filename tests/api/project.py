"""A project folder, and the `penstock` command in it: in this process, or in a separate one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import psutil

from api.cli.main import main
from api.starter import SHOP, WAREHOUSE
from penstock import postgres
from penstock.topics.embedded import EmbeddedServer
from tests.api.nursery import NURSERY

SECONDS = 60.0
PENSTOCK = (sys.executable, "-c", "from api.cli.main import main; main()")
FORKING = (sys.executable, "-m", "tests.api.programs.runs")
"""The same, but the processes of runs are forked."""


@dataclass(frozen=True)
class Completed:
    """Output of a command, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as one JSON document a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The only line that begins with `error:`."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert "Traceback" not in self.err
        return line


def penstock(*arguments: str | Path) -> Completed:
    """Run a command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return Completed(code, out.getvalue(), err.getvalue())


def until(found: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Poll `found`; return its first true value. A look that takes long, such as a command, is taken less often."""
    began = time.monotonic()
    while True:
        look = time.thread_time()
        if value := found():
            return value
        assert time.monotonic() - began < seconds, f"waited {seconds:g} s in vain for: {what}"
        time.sleep(min(0.05 + 4 * (time.thread_time() - look), 0.5))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm-256color", "COLUMNS": "100", **more}


def on_a_terminal(arguments: list[str], folder: Path, **more: str) -> str:
    """Return the output of a command on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PENSTOCK, *arguments], cwd=folder, env=environment(**more), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 4096):
            said += block
    except OSError:
        pass  # Linux reports the end of a terminal like this
    finally:
        process.wait()
        os.close(ours)
    return said.decode()


@dataclass
class Project:
    """A project, and the processes that were started in it."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    address: str = ""
    """URL of the health of `up`."""

    def do(self, *arguments: str | Path) -> Completed:
        """Run a command on this project, in this process."""
        return penstock(arguments[0], "--project", self.folder, *arguments[1:])

    def done(self, *arguments: str | Path) -> Any:
        """Run a command that must succeed; return its JSON."""
        said = self.do(*arguments, "--json")
        assert said.code == 0, said.out + said.err
        return said.json

    def start(
        self,
        *arguments: str,
        out: int | IO[str] = subprocess.PIPE,
        program: Sequence[str] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[str]:
        """Start a command in a separate process: forked in the project's folder, or by the command of a `program`."""
        words = [arguments[0], "--project", str(self.folder), *arguments[1:]]
        process = (
            subprocess.Popen(
                [*program, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHONPATH": ROOT, **environment},
            )
            if program
            else NURSERY.command(
                words, self.folder, out if isinstance(out, int) else out.fileno(), {**os.environ, **environment}
            )
        )
        self.started.append(process)
        return process

    def up(self, environment: Mapping[str, str] = MappingProxyType({})) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """Start `penstock up`; return it once it is up, with its JSON."""
        process = self.start("up", "--port", "0", "--json", environment=environment)
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("{"), line + process.stdout.read()
        told = json.loads(line)
        assert "health" in told, told
        self.address = told["health"]
        return process, told

    def copied(self, folder: Path) -> Project:
        """Copy a project whose server is not running: faster than another server's `initdb`."""
        subprocess.run(["cp", "--archive", self.folder, folder], check=True)
        connections = folder / "connections.yaml"
        connections.write_text(connections.read_text().replace(str(self.folder), str(folder)))
        return Project(folder)

    @property
    def server(self) -> EmbeddedServer:
        return EmbeddedServer(self.folder / ".penstock")

    def sql(self, database: str, query: str) -> list[tuple[Any, ...]]:
        with self.server.lease(), postgres.connect(self.server.dsn(database), "tests") as session:
            cursor = session.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def differences(self) -> dict[str, int]:
        """Count the orders of the sample that are lost or wrong, and duplicated or foreign, in the warehouse."""
        want = self.sql(
            SHOP, "SELECT id, upper(customer), CAST(price * quantity AS numeric(14,2)), placed_at FROM orders"
        )
        have = self.sql(WAREHOUSE, "SELECT order_id, customer, total, placed_at FROM orders")
        return {"lost": len(set(want) - set(have)), "doubled": len(have) - len(set(want) & set(have))}

    def processes(self) -> list[psutil.Process]:
        """Return every process of this project: by its command line or working folder, and the server."""
        return [one for one in psutil.process_iter() if one.pid != os.getpid() and _belongs(one, str(self.folder))]

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self.server.remove()


def _belongs(process: psutil.Process, folder: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and (
            any(folder in word for word in process.cmdline()) or folder in process.cwd()
        )
    return False


ROOT = str(Path(__file__).parents[2])


@contextlib.contextmanager
def ending(project: Project) -> Iterator[Project]:
    """End the project's processes and delete its server afterwards."""
    try:
        yield project
    finally:
        project.close()
