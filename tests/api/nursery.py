"""Commands and flows that are forked from a process that has imported all that they need: a start takes a second."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataflows.process.fork_server import ForkServer, Offspring
from tests.api.programs.runs import VARIABLE, of_flows, ordered
from tests.forked import Command
from tests.reaper import short_folder

ROOT = Path(__file__).parents[2]


class Nursery:
    """The process that forks; it is started when it is first needed."""

    def __init__(self) -> None:
        self._server: ForkServer | None = None
        self._forks: Offspring | None = None
        self._home: Path | None = None

    def command(
        self, words: Sequence[str], folder: Path, out: int, environment: Mapping[str, str], err: int | None = None
    ) -> Command:
        """Fork `penstock` with these words, in a folder.

        `out` is a descriptor, or `subprocess.PIPE`; errors go to the descriptor `err`, or there, too.
        """
        reading, writing = os.pipe() if out == subprocess.PIPE else (None, out)
        try:
            with Path(os.devnull).open() as lifeline:
                known = self._known(environment)
                made = ordered(self.server(), "command", words, str(folder), known, writing, lifeline.fileno(), err=err)
        finally:
            if reading is not None:
                os.close(writing)
        return Command(made, words, reading)

    def flows(self, words: Sequence[str], log: Path, lifeline: int) -> Offspring:
        """Fork flows, as a command starts them."""
        return of_flows(self.server, self._known(os.environ), words, log, lifeline)

    def _known(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """Return an environment that names the socket."""
        self.server()
        return {**environment, VARIABLE: str(self._home / "forks")} if self._home else environment

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
                at, out = entrance.fileno(), nothing.fileno()
                self._forks = ordered(self._server, "forks", [], str(ROOT), os.environ, out, at)
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
