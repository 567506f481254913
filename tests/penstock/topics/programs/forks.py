"""The process that forks the programs next to it: `python -m tests.penstock.topics.programs.forks DOOR`.

What a program is, with its arguments and environment, is in a file that it inherits: most of its time would be imports.
"""

import gc
import json
import os
import runpy
import socket
import sys
from importlib import import_module

from dataflows.process.fork_server import serve_forks
from penstock import failpoints

LOADED = ("penstock.topics.opening", "penstock.topics.kafka", "penstock.topics.embedded", "penstock.topics.binaries")


def run(order: int) -> int:
    with os.fdopen(order) as file:
        given = json.load(file)
    os.environ.clear()
    os.environ.update(given["environment"])
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    sys.argv = given["words"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    for name in LOADED:
        import_module(name)
    gc.collect()
    with socket.socket(fileno=int(sys.argv[1])) as door:
        serve_forks(door, run)
