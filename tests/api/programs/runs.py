"""`penstock`, but its worker forks the processes of all runs, as it does those of streams.

A process of its own for each run that follows a failed one takes ten times as long as a short run. As many as the
variable `SPAWNED` says start by their command first (`test_bad_steps.py`; see also `tests/dataflows/flows` and
`tests/dataflows/work`). Where the environment names the socket of a process that has imported all (see `flows.py`), the
process that forks runs is forked there, and so are flows that cannot be forked here, since there are threads.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dataflows.process import fork_server
from dataflows.process.fork_server import ForkServer, Offspring
from dataflows.runtime import supervisor
from dataflows.work import child

VARIABLE, SPAWNED = "TESTS_FORKS", "TESTS_SPAWNED"
servers: dict[Path, ForkServer] = {}
numbers = count(1)
spawn = child._spawn


def fork(
    project: Path, options: Sequence[str], stdin: int, stdout: int, lifeline: int
) -> Offspring | subprocess.Popen[bytes]:
    if next(numbers) <= int(os.environ.get(SPAWNED, "0")):
        with (project / SPAWNED).open("a") as record:  # for the test
            record.write(f"{os.getpid()}\n")
        return spawn(project, options, stdin, stdout, lifeline)
    if project not in servers or not servers[project].alive:
        servers[project] = child.fork_server(project)
    return servers[project].fork(stdin, stdout, sys.stderr.fileno(), lifeline)


class Forking:
    """The process that forks runs for this one, forked by another."""

    def __init__(self, path: str, what: str, door: int, folder: str) -> None:
        order = {"what": what, "folder": folder, "environment": dict(os.environ)}
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as entrance:
            entrance.connect(path)
            socket.send_fds(entrance, [json.dumps(order).encode()], [door, sys.stderr.fileno()])
            self._descriptor = os.pidfd_open(int(entrance.recv(64)))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self) -> None:
        select.select([self._descriptor], [], [])


def started(words: Sequence[str], **how: Any) -> Forking | subprocess.Popen[bytes]:
    if path := os.environ.get(VARIABLE):
        return Forking(path, words[-2], how["pass_fds"][0], str(how["cwd"]))
    return subprocess.Popen(words, **how)


def ordered(
    server: ForkServer, what: str, words: Sequence[str], folder: str, environment: Mapping[str, str], out: int, at: int,
    *, err: int | None = None,
) -> Offspring:  # fmt: skip
    """Let a server of orders fork a process; `at` is the descriptor that it keeps, beside its output and its errors."""
    order = {"what": what, "words": [*words], "folder": folder, "environment": dict(environment)}
    with os.fdopen(os.memfd_create("order"), "w+b") as stdin:
        stdin.write(json.dumps(order).encode())
        stdin.seek(0)
        return server.fork(stdin.fileno(), out, out if err is None else err, at)


def of_flows(
    server: Callable[[], ForkServer], environment: Mapping[str, str], words: Sequence[str], log: Path, lifeline: int
) -> Offspring:
    """Let a server of orders fork flows, as the supervisor starts them."""
    folder, at = words[words.index("--project") + 1], words.index("--lifeline")
    with log.open("ab") as output:
        own = [*words[:at], *words[at + 2 :]]
        return ordered(server(), "flows", own, folder, environment, output.fileno(), lifeline)


@cache
def orders() -> ForkServer:
    return ForkServer(["orders"], Path.cwd())


def spawned_flows(words: Sequence[str], log: Path, lifeline: int) -> Offspring | subprocess.Popen[bytes]:
    if VARIABLE in os.environ:
        return of_flows(orders, os.environ, words, log, lifeline)
    return spawn_flows(words, log, lifeline)


spawn_flows = supervisor._spawned
ways = SimpleNamespace(Popen=started, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)


def fork_all() -> None:
    """Fork from now on what this process would start by its command."""
    for module, name, found in (
        (child, "_spawn", fork), (supervisor, "_spawned", spawned_flows), (fork_server, "subprocess", ways),
    ):  # fmt: skip
        setattr(module, name, found)


if __name__ == "__main__":
    fork_all()
    import_module("api.cli.main").main()
