"""Reports of a task's process to its worker: JSON lines on stdout, and a result file at the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from penstock.errors import PenstockError, SchemaMismatch, SchemaMoved, SchemaRenamed
from penstock.failpoints import failpoint

__all__ = ["error_of", "keep_stdout_for_lines", "print_to_stderr", "write_line", "write_result"]

_lines: Final[list[IO[str]]] = []
"""The stream of `write_line`, if it is no longer stdout."""


def keep_stdout_for_lines() -> None:
    """Keep what is stdout now for `write_line` alone: what steps of a pipeline print goes to stderr, the run's log.

    A step that prints could otherwise end its run by a line that looks like one of these.
    """
    _lines[:] = [os.fdopen(os.dup(1), "w", buffering=1)]
    print_to_stderr()


def print_to_stderr() -> None:
    """Let what is printed from now on go where stderr does, if `keep_stdout_for_lines` was called."""
    if _lines:
        with suppress(OSError, ValueError):  # a step has closed it
            sys.stdout.flush()
            os.dup2(2, 1)


def write_line(data: dict[str, Any]) -> None:
    """Write a JSON line to the process that started this one; if it has closed its end, the run goes on."""
    stream = _lines[0] if _lines else sys.stdout
    try:
        stream.write(json.dumps(data, separators=(",", ":")) + "\n")
        stream.flush()
    except (OSError, ValueError):
        pass


def error_of(error: BaseException) -> dict[str, Any]:
    """Return an error as it is stored: codes, templates and object names, never values of rows."""
    if not isinstance(error, PenstockError):
        what = f"a defect in the run: {type(error).__name__}"
        return {"code": "defect", "what": what, "where": None, "hint": "report it", "transient": False}
    value = "" if error.value is None else f", got {error.value!r}"
    return {
        "code": error.code,
        "what": f"{error.what}{value}",
        "where": error.where,
        "hint": error.hint,
        "transient": error.transient,
        **({"renamed": error.renamed} if isinstance(error, SchemaRenamed) else {}),
        **({"moved": error.moved} if isinstance(error, SchemaMoved) else {}),
        **({"proposed": [*error.proposed]} if isinstance(error, SchemaMismatch) and error.proposed else {}),
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write the file atomically. It need not survive a crash of the machine: its reader would not either."""
    failpoint("result.before")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(result))
    temporary.replace(path)
    failpoint("result.written")
