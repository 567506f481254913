"""Process that runs tasks: reads one a line from stdin, and runs one after another until stdin ends.

After each run a line ``{"ended": code, "reusable": …}`` follows its progress on stdout, once its result file is
written. Each run has its own log and no state of the one before; a run that left a thread behind is not reusable.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from dataflows.connectors.idle_sessions import IDLE_SESSIONS
from dataflows.process.lifeline import watch_lifeline
from dataflows.process.reports import keep_stdout_for_lines, print_to_stderr, write_line
from dataflows.process.signals import hold_signals, stop_on_signal
from dataflows.runs.launcher import run_task
from penstock import failpoints
from penstock.telemetry import add_trace_ids, flush, set_up, shut_down

__all__ = ["main"]

DISCOVER: Final = "dataflows.work.discover"
"""Module that runs discoveries."""
DIAGNOSE: Final = "dataflows.work.diagnose"
"""Module that looks for the cause of a failure."""
WATCH: Final = "dataflows.work.watch"
"""Module that looks for files."""
NOTIFY: Final = "dataflows.work.notify"
"""Module that sends notices about alerts; anything else is a task of a pipeline."""
LAST_SECONDS: Final = 0.2
"""Longest wait for a thread of a run that has ended."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read tasks from stdin, one a line, and run them; the exit code is that of the last one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--lifeline", type=int, help="a file descriptor; end when it is closed at its other end")
    parser.add_argument("--ready", action="store_true", help="the task comes later: load what most tasks need now")
    options = parser.parse_args(arguments)
    hold_signals()
    keep_stdout_for_lines()
    if options.lifeline is not None:
        watch_lifeline(options.lifeline)
    add_trace_ids(handler := logging.StreamHandler())
    logging.basicConfig(force=True, level=logging.WARNING, handlers=[handler])
    set_up("penstock-run")
    if options.ready:
        import_module("dataflows.connectors.postgres.connector")
    gc.freeze()
    code = serve(sys.stdin)
    shut_down()
    os._exit(code)  # a reader that hangs in a dead connection must not keep the process


def serve(tasks: Iterable[str]) -> int:
    """Run each of the tasks; 0 if the last one completed."""
    code = 0
    for text in tasks:
        code = _serve(json.loads(text))
    return code


def _module_of(task: Mapping[str, Any]) -> str | None:
    """Return the module that does a task; None for a run."""
    if task.get("kind") in {"watch", "notify"}:
        return WATCH if task["kind"] == "watch" else NOTIFY
    return DISCOVER if task.get("discovery") else DIAGNOSE if task.get("failure") else None


def _serve(task: Mapping[str, Any]) -> int:
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    stop_on_signal(None)
    before = set(threading.enumerate())
    IDLE_SESSIONS.begin(keep=(task["pipeline"].get("spec") or {}).get("mode") != "stream")
    errors = _errors_to(task.get("log"))
    module = _module_of(task)
    code = (import_module(module).run_task if module else run_task)(task)
    stop_on_signal(None)
    with suppress(OSError, ValueError):  # a step has closed it
        sys.stdout.flush()
    os.dup2(errors, sys.stderr.fileno())
    os.close(errors)
    print_to_stderr()
    reusable = _all_ended(set(threading.enumerate()) - before)
    flush()  # a worker that is stopped kills its processes
    write_line({"ended": code, "reusable": reusable})
    IDLE_SESSIONS.close_after()
    return code


def _errors_to(log: str | None) -> int:
    """Append stderr to a run's log from now on; return a file descriptor of the stderr before."""
    before = os.dup(sys.stderr.fileno())
    if log is not None:
        with Path(log).open("ab") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
        print_to_stderr()
    return before


def _all_ended(threads: Iterable[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(LAST_SECONDS)
    return not any(thread.is_alive() for thread in threads)
