"""Hold back SIGTERM and SIGINT until a flow can stop between two chunks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from penstock.errors import PenstockError

__all__ = ["STOPPING", "Stopped", "hold_signals", "stop_on_signal"]

STOPPING: Final = {signal.SIGTERM, signal.SIGINT}


def hold_signals() -> None:
    """Block SIGTERM and SIGINT in this thread, and in those that it starts from now on, until `stop_on_signal`.

    Call it before any thread is started: in a thread that does not block them they would end the process at once.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


@dataclass(slots=True)
class _Receiver:
    """The thread of this process that waits for signals, and its callback; without one a signal stays pending."""

    stop: Callable[[BaseException], None] | None = None
    waiting: bool = False
    thread: threading.Thread | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> None:
        while True:
            signal.sigwait(STOPPING)
            with self.lock:
                self.waiting = True
                self.deliver()

    def deliver(self) -> None:
        if self.waiting and self.stop is not None:
            self.waiting = False
            self.stop(Stopped("the run was asked to stop", hint="the next run continues from here"))


_receiver = _Receiver()


def stop_on_signal(stop: Callable[[BaseException], None] | None) -> None:
    """Call `stop` with `Stopped` on SIGTERM or SIGINT, from a thread that waits for them.

    Called again, the signals go to the new `stop` alone: a process that serves one run after another stops the current
    one only. With None they wait for the next `stop`.
    """
    hold_signals()
    with _receiver.lock:
        _receiver.stop = stop
        _receiver.deliver()
        if _receiver.thread is None:
            _receiver.thread = threading.Thread(target=_receiver.wait, daemon=True, name="signals")
            _receiver.thread.start()


class Stopped(PenstockError):
    """The run was asked to stop, and did so between two chunks; it can be resumed."""

    code = "run.stopped"
    transient = True
