"""The child process: generates the inputs of a kind by number and checks each, under limits of time and memory.

An input may end in a result, or in one `PenstockError` that says where and what to do next. Anything else is a defect:
another exception, too much CPU or memory, the end of the process, and above all rows that are not accounted for.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from typing import Any

from penstock.errors import InvalidDocument, PenstockError

CPU_SECONDS = 5.0
MEMORY = 12 << 30
"""Bytes of address space, most of which are never touched."""


class Defect(AssertionError):
    """An outcome that must not happen."""


def refusal(error: PenstockError) -> str:
    """Return the verdict for a refused input; an error must say where and what to do next, or list its issues."""
    text = str(error)
    if "\n" in text and not isinstance(error, InvalidDocument):
        raise Defect(f"more than a line: {text!r}") from error
    if isinstance(error, InvalidDocument):
        if not all((issue.path or error.where) and issue.message for issue in error.issues):
            raise Defect(f"an issue without its place: {error.issues}") from error
        if any("\n" in str(issue) for issue in error.issues):
            raise Defect(f"an issue of more than a line: {error.issues}") from error
    elif not error.where or not error.hint:
        raise Defect(f"an error without where or hint: {text!r}") from error
    text.encode()
    return f"refused: {error.code}"


def main() -> None:
    kind, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    inputs: Any = importlib.import_module(f"tests.hostile.{kind}")
    out = os.fdopen(os.dup(1), "w")
    getattr(inputs, "prepare", lambda: None)()
    for number in range(start, stop):
        report(out, begin=number)
        report(out, end=number, **examine(inputs, number))
    out.flush()
    os._exit(0)


def examine(inputs: Any, number: int) -> dict[str, str]:
    case = inputs.generate(number)
    began = time.process_time()
    try:
        try:
            verdict = inputs.check(case)
        except PenstockError as error:
            verdict = refusal(error)
    except BaseException as error:  # noqa: BLE001 - any other exception is a defect; Polars panics with a BaseException
        return {"defect": f"{shown(case)}\n{''.join(traceback.format_exception(error, limit=-6))}"}
    if (spent := time.process_time() - began) > CPU_SECONDS:
        return {"defect": f"{shown(case)}\n{spent:.1f} s of CPU"}
    return {"verdict": verdict}


def shown(case: Any) -> str:
    text = repr(case)
    return text if len(text) < 1500 else f"{text[:900]} … {text[-500:]}"


def report(out: Any, **fields: Any) -> None:
    out.write(json.dumps(fields) + "\n")
    out.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
