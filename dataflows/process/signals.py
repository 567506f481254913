"""Hold back SIGTERM and SIGINT until a flow can stop between two chunks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Final

from penstock.errors import PenstockError

__all__ = ["STOPPING", "Stopped", "hold_signals", "stop_on_signal"]

STOPPING: Final = {signal.SIGTERM, signal.SIGINT}


def hold_signals() -> None:
    """Let SIGTERM and SIGINT wait for whoever asks for them: in this thread, and in those that it starts from now on.

    Before any thread is started: one that does not hold them back would end the process at once.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def stop_on_signal(stop: Callable[[BaseException], None]) -> None:
    """Let SIGTERM and SIGINT call `stop` with `Stopped`, from a thread that waits for them."""
    hold_signals()

    def wait() -> None:
        signal.sigwait(STOPPING)
        stop(Stopped("the run was asked to stop", hint="it goes on from here when it is run again"))

    threading.Thread(target=wait, daemon=True, name="signals").start()


class Stopped(PenstockError):
    """The run was asked to stop, and did so between two chunks; it can be resumed."""

    code = "run.stopped"
    transient = True
