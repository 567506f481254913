"""Commands and flows that are forked from a process that has imported all that they need: a start takes a second."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataflows.process.fork_server import ForkServer, Offspring
from tests.api.programs.runs import VARIABLE
from tests.reaper import short_folder

ROOT = Path(__file__).parents[2]


class Command(subprocess.Popen[str]):
    """A command that was forked, with the methods of one that was started."""

    def __init__(self, offspring: Offspring, words: Sequence[str], reading: int | None) -> None:
        self._offspring = offspring
        self._child_created = self._communication_started = False
        self._input, self.text_mode = None, True
        self.args, self.pid, self.stdin, self.stderr = words, offspring.pid, None, None
        self.stdout = None if reading is None else os.fdopen(reading)

    @property
    def returncode(self) -> Any:  # type: ignore[override]
        return self._offspring.returncode

    def poll(self) -> int | None:
        return self._offspring.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self._offspring.wait(timeout)

    def send_signal(self, sig: int) -> None:
        self._offspring._send(sig)  # type: ignore[arg-type]


class Nursery:
    """The process that forks; it is started when it is first needed."""

    def __init__(self) -> None:
        self._server: ForkServer | None = None
        self._forks: Offspring | None = None
        self._home: Path | None = None

    def command(self, words: Sequence[str], folder: Path, out: int, environment: Mapping[str, str]) -> Command:
        """Fork `penstock` with these words, in a folder; `out` is a descriptor, or `subprocess.PIPE`."""
        reading, writing = os.pipe() if out == subprocess.PIPE else (None, out)
        try:
            with Path(os.devnull).open() as lifeline:
                made = self.fork("command", words, folder, environment, writing, lifeline.fileno())
        finally:
            if reading is not None:
                os.close(writing)
        return Command(made, words, reading)

    def flows(self, words: Sequence[str], log: Path, lifeline: int) -> Offspring:
        """Fork flows, as a command starts them."""
        folder, at = words[words.index("--project") + 1], words.index("--lifeline")
        with log.open("ab") as output:
            return self.fork(
                "flows", [*words[:at], *words[at + 2 :]], Path(folder), os.environ, output.fileno(), lifeline
            )

    def fork(
        self, what: str, words: Sequence[str], folder: Path, environment: Mapping[str, str], out: int, lifeline: int
    ) -> Offspring:
        server = self.server()
        if self._home is not None:
            environment = {**environment, VARIABLE: str(self._home / "forks")}
        order = {"what": what, "words": [*words], "folder": str(folder), "environment": dict(environment)}
        with os.fdopen(os.memfd_create("order"), "w+b") as stdin:
            stdin.write(json.dumps(order).encode())
            stdin.seek(0)
            return server.fork(stdin.fileno(), out, out, lifeline)

    def server(self) -> ForkServer:
        if self._server is None:
            self._server = ForkServer([sys.executable, "-m", "tests.api.programs.flows"], ROOT)
            home = short_folder()
            with (
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as entrance,
                Path(os.devnull).open("w") as nothing,
            ):
                entrance.bind(str(home / "forks"))
                entrance.listen()
                self._forks = self.fork("forks", [], ROOT, os.environ, nothing.fileno(), entrance.fileno())
            self._home = home
        return self._server

    def close(self) -> None:
        if self._forks is not None:
            self._forks.kill()
        if self._server is not None:
            self._server.close()
        if self._home is not None:
            shutil.rmtree(self._home)


NURSERY = Nursery()
