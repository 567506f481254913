"""What every process of a run does alike: signals wait until the flow can stop, and an error is told without values."""

from __future__ import annotations

import signal
import threading
from typing import Any, Final

from dataflows.pipeline import FirstError, Stopped
from penstock.errors import PenstockError

__all__ = ["STOPPING", "error_of", "hold_signals", "stop_on_signal"]

STOPPING: Final = {signal.SIGTERM, signal.SIGINT}


def error_of(error: BaseException) -> dict[str, Any]:
    """An error as the result file and the log hold it: codes, templates and names of objects, never values of rows."""
    if not isinstance(error, PenstockError):
        what = f"a defect in the run: {type(error).__name__}"
        return {"code": "defect", "what": what, "where": None, "hint": "report it", "transient": False}
    value = "" if error.value is None else f", got {error.value!r}"
    return {
        "code": error.code, "what": f"{error.what}{value}", "where": error.where, "hint": error.hint,
        "transient": error.transient,
    }  # fmt: skip


def hold_signals() -> None:
    """Let SIGTERM and SIGINT wait for whoever asks for them: in this thread, and in those that it starts from now on.

    Before any thread is started: one that does not hold them back would end the process at once.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def stop_on_signal(first: FirstError) -> None:
    """Let SIGTERM and SIGINT put `Stopped` into the flow, by a thread that waits for them."""
    hold_signals()

    def wait() -> None:
        signal.sigwait(STOPPING)
        first.put(Stopped("the run was asked to stop", hint="it goes on from here when it is run again"))

    threading.Thread(target=wait, daemon=True, name="signals").start()
