"""Run launchers as processes forked from this one, so that a hundred of them start in seconds.

Before the first fork, all modules that a run may load are loaded and the models that it parses are built: this took
longer than a short run itself. The processes of a run with several workers are forked, too, before it begins and has
threads. Processes that load what they need themselves, as in production, are tested with the worker
(`tests/dataflows/work`, `tests/dataflows/flows`) and with `penstock up` (`tests/api/test_bad_steps.py`).

One JSON order a line on stdin, one answer a line on stdout: ``{"start": task, "failpoint": …, "without": […]}`` gives
``{"pid": …}``, as does ``{"suite": arguments, "folder": …, "environment": …, "path": …, "output": …}``, which runs the
conformance suite instead; ``{"wait": pid, "seconds": …}`` gives how it ended and the most memory that it had, in kB,
or that it is stopped or still runs.
"""

from __future__ import annotations

import gc
import io
import json
import os
import pkgutil
import select
import subprocess
import sys
import time
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import bytewax.dataflow
import pgpq
import polars as pl
import pyarrow.csv
import pytest

import dataflows.connectors
import dataflows.pipeline
import dataflows.runs
import dataflows.transforms
from dataflows.connectors.http import client
from dataflows.connectors.mysql import pruning as mysql_pruning
from dataflows.connectors.postgres import state
from dataflows.connectors.postgres import writer as sink
from dataflows.connectors.postgres.session import Session, one_message
from dataflows.connectors.postgres.state import PostgresState
from dataflows.connectors.registry import BUILT_IN, connector
from dataflows.connectors.sql import database, pruning
from dataflows.process.forked import Forked
from dataflows.runs import children, deletes, launcher, parallel, progress, publish, spill, watchdog
from dataflows.runs.job import Job
from penstock import failpoints
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Pipeline

LOADED = (bytewax.dataflow, pgpq, pl, pyarrow.csv, dataflows.pipeline)
FOREIGN = {"__main__", "conformance"}
"""Modules that no run loads."""
TICK = 0.005


def load(package: ModuleType) -> None:
    """Load all modules of the package."""
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in FOREIGN:
            found = import_module(f"{package.__name__}.{module.name}")
            if module.ispkg:
                load(found)


def prepare() -> None:
    """Do what each process does once: check classes, build models, load certificates."""
    for kind in BUILT_IN:
        connector(kind, kind)
    parse_connection("file", {"type": "sqlite", "path": "/file"})
    Pipeline.model_rebuild()
    client._tls()


def start(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            (suite if "suite" in order else run)(order)
        finally:
            os._exit(70)
    return pid


def run(order: dict[str, Any]) -> None:
    out = os.open(order["start"]["result"] + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ[failpoints.VARIABLE] = order.get("failpoint") or ""  # for its children
    failpoints.arm(order.get("failpoint"))
    fork_workers(order["start"]["pipeline"]["spec"].get("limits", {}).get("workers", 1))
    for name in order.get("without", ()):
        WITHOUT[name]()
    os._exit(launcher.run_task(order["start"]))


def fork_workers(count: int) -> None:
    """Fork the processes of a run with several workers, which it would start by their command."""
    waiting = [Worker() for _ in range(count if count > 1 else 0)]
    command, popen = ("-m", "dataflows.runs.parallel"), subprocess.Popen

    def started(words: list[str], **options: Any) -> Any:
        return waiting.pop() if tuple(words[1:]) == command and waiting else popen(words, **options)

    setattr(children, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": started}))  # noqa: B010 - a module


class Worker(Forked):
    """Process of a run that waits for its orders."""

    def __init__(self) -> None:
        (orders, stdin), (stdout, lines) = os.pipe(), os.pipe()
        super().__init__(work, (orders, lines, 2), 2)
        os.close(orders)
        os.close(lines)
        self.stdin, self.stdout = os.fdopen(stdin, "w"), os.fdopen(stdout)


def work() -> int:
    """Do as the orders say; end if there are none, since the run needs fewer processes."""
    if select.select([0], [], [])[0] and cast(io.BufferedReader, sys.stdin.buffer).peek():
        parallel.main()
    return 0


def suite(order: dict[str, Any]) -> None:
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    sys.path[:0] = order["path"]
    out = os.open(order["output"], os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = pytest.main(order["suite"])
    sys.stdout.flush()
    os._exit(code)


def no_fence() -> None:
    """Commit regardless of newer generations."""
    PostgresState.fence = lambda *_, **__: "SELECT 1"  # type: ignore[method-assign]


def no_ending() -> None:
    """Do not end the sessions of older generations."""
    PostgresState.end_sessions = lambda *_, **__: None  # type: ignore[method-assign]


def no_single_message() -> None:
    """Send the COMMIT after the fence was answered, so that a process can stop between them."""

    def two_messages(session: Session, text: str, where: str, **_: Any) -> None:
        if not text.endswith("; COMMIT"):
            return one_message(session, text, where)
        one_message(session, text.removesuffix("; COMMIT"), where)
        failpoints.failpoint("commit.sent")
        return one_message(session, "COMMIT", where)

    setattr(sink, "one_message", two_messages)  # noqa: B010 - mypy knows another shape


def no_patience() -> None:
    """Wait a moment only for what another process has locked: it is stopped and will not let go."""
    setattr(database, "LOCK_SECONDS", 0.2)  # noqa: B010 - mypy knows it as final
    patient = f"lock_timeout = {int(state.LOCK_SECONDS * 1000)};"
    assert patient in state._CLAIM
    setattr(state, "_CLAIM", state._CLAIM.replace(patient, "lock_timeout = 200;"))  # noqa: B010 - as above
    publish.ASK_SECONDS = 0.2
    setattr(Job, "patient", lambda job: job)  # noqa: B010 - mypy knows it as a method


def no_grace() -> None:
    """Give an attempt that is told to end a moment only, and soon report that nothing moves."""
    setattr(watchdog, "GRACE_SECONDS", 0.5)  # noqa: B010 - mypy knows it as final
    setattr(progress, "IDLE_SECONDS", 1)  # noqa: B010 - as above


def no_bulk() -> None:
    """Delete a few keys at once, by statements of still fewer; in two parts, so that a part has more."""
    for module, name, value in ((deletes, "AT_ONCE", 7), (deletes, "PARTS", 2), (spill, "PARTS", 2)):
        setattr(module, name, value)
    for module in (pruning, mysql_pruning):
        setattr(module, "AT_ONCE", 3)  # noqa: B010 - mypy knows it as final


WITHOUT = {
    "fence": no_fence, "ending": no_ending, "single_message": no_single_message, "patience": no_patience,
    "grace": no_grace, "bulk": no_bulk,
}  # fmt: skip


def wait(pid: int, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status, used = os.wait4(pid, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(status):
            return {"stopped": True}
        if found:
            return {"code": os.waitstatus_to_exitcode(status), "peak": used.ru_maxrss}
        time.sleep(TICK)
    return {"running": True}


def main() -> None:
    for package in (dataflows.connectors, dataflows.runs, dataflows.transforms):
        load(package)
    prepare()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        answer = wait(order["wait"], order["seconds"]) if "wait" in order else {"pid": start(order)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
