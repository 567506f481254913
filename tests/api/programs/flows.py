"""The process that forks commands, and flows of commands in a test process: `python -m tests.api.programs.flows DOOR`.

The standard input of what it forks is its order, a JSON document: the `words` of a command or of flows (`what`), its
`folder` and its `environment`. The third kind, `forks`, listens at a socket, and forks for each worker that asks there
what `python -m dataflows.work.forks` would be, or one that takes orders (see `runs.py`).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from importlib import import_module
from typing import Any

from dataflows.process.fork_server import serve_forks
from dataflows.process.signals import hold_signals
from dataflows.runtime import flows
from dataflows.work import forks
from penstock import failpoints
from tests.api.programs import runs

COMMANDS = ("up", "run", "project", "pipelines", "plumbing", "audit", "destroy", "listing", "runs", "console", "board")


def run(lifeline: int) -> int:
    order = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    begin(order)
    if order["what"] == "forks":
        return listen(lifeline)
    if order["what"] == "flows":
        return flows.main([*order["words"], "--lifeline", str(lifeline)])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        import_module("api.cli.main").main(order["words"])
    except SystemExit as end:
        sys.stdout.flush()
        return int(end.code or 0)
    return 0


def begin(order: dict[str, Any]) -> None:
    """Become a process of another folder and environment."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    failpoints.arm(os.environ.get(failpoints.VARIABLE))


def listen(at: int) -> int:
    """Fork a process that forks others for each client, with the descriptors that it sends: a door, and its output."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=at) as entrance:
        while True:
            client, _ = entrance.accept()
            if os.fork() == 0:
                entrance.close()
                fork_others(client)
                os._exit(0)
            client.close()


def fork_others(client: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, (door, output), _, _ = socket.recv_fds(client, 1 << 18, 2)
    order = json.loads(text)
    os.setsid()
    os.dup2(output, 2)
    os.close(output)
    begin(order)
    client.send(str(os.getpid()).encode())
    client.close()
    if order["what"] != "orders":
        sys.path.insert(0, order["folder"])
        hold_signals()
    with socket.socket(fileno=door) as opened:
        serve_forks(opened, run if order["what"] == "orders" else forks._run)


if __name__ == "__main__":
    runs.fork_all()
    for name in (*forks.LOADED, *(f"api.cli.{name}" for name in COMMANDS)):
        import_module(name)
    gc.collect()
    with socket.socket(fileno=int(sys.argv[1])) as door:
        serve_forks(door, run)
