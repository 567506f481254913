"""`penstock`, but its worker forks the processes of all runs, as it does those of streams.

A process of its own for each run that follows a failed one takes ten times as long as a short run; how they start by
their command is tested in `test_bad_steps.py`, and with the worker (`tests/dataflows/flows`, `tests/dataflows/work`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from api.cli.main import main
from dataflows.process.fork_server import ForkServer, Offspring
from dataflows.work import child

servers: dict[Path, ForkServer] = {}


def fork(project: Path, options: Sequence[str], stdin: int, stdout: int, lifeline: int) -> Offspring:
    if project not in servers or not servers[project].alive:
        servers[project] = child.fork_server(project)
    return servers[project].fork(stdin, stdout, sys.stderr.fileno(), lifeline)


setattr(child, "_spawn", fork)  # noqa: B010 - mypy knows another result

if __name__ == "__main__":
    main()
