"""The engine of batches: the first error of a thread ends its flow, and is reported once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dataflows.pipeline import BatchPipelineEngine
from penstock.errors import Unavailable


class End:
    """A reader and a writer that wait until they are closed; it fails where it is told to."""

    def __init__(self, fails: str) -> None:
        self.fails, self.closed = fails, threading.Event()

    def _act(self, what: str) -> None:
        if self.fails == what:
            raise Unavailable("the session was lost", where=what)

    def chunks(self) -> Iterator[Any]:
        self._act("reader")
        yield SimpleNamespace(last=False)
        self.closed.wait(10)

    def open(self) -> None:
        self._act("writer")

    def write(self, chunk: Any) -> None:
        """Take it."""

    def idle(self) -> None:
        self._act("idle")

    def done(self) -> None:
        """Commit nothing."""

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("fails", ["reader", "writer", "idle"])
def test_an_error_of_a_thread_ends_the_flow_without_a_panic(capfd: pytest.CaptureFixture[str], fails: str) -> None:
    end: Any = End(fails)
    with pytest.raises(Unavailable, match="the session was lost"):
        BatchPipelineEngine({"00": end}, {"00": end}).run()
    assert "panicked" not in capfd.readouterr().err
