"""The process that forks flows of commands in a test process, `python -m tests.api.programs.flows DOOR`.

The standard input of a flow is its order, a JSON document: its `words`, its `folder`, and the `environment`.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from importlib import import_module

from dataflows.process.fork_server import serve_forks
from dataflows.runtime import flows
from dataflows.work.forks import LOADED
from penstock import failpoints


def run(lifeline: int) -> int:
    order = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    return flows.main([*order["words"], "--lifeline", str(lifeline)])


if __name__ == "__main__":
    for name in (*LOADED, "tests.api.programs.runs"):
        import_module(name)
    gc.collect()
    with socket.socket(fileno=int(sys.argv[1])) as door:
        serve_forks(door, run)
