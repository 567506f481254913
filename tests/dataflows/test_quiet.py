"""Quiet runs: their threads rest, and wake at once when something happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from dataflows import pipeline
from dataflows.data import movement as module
from dataflows.data.chunks import Chunk
from dataflows.data.movement import Movement, eased
from dataflows.pipeline import FirstError
from dataflows.runs.gauges import QUIET_SECONDS, Gauges
from dataflows.stream import StreamPipelineEngine
from penstock.errors import Unavailable

PATIENCE = 10.0


def test_a_loop_rests_longer_the_longer_it_is_quiet() -> None:
    assert [eased(0.1, 1.0, quiet) for quiet in (0.0, 1.0, 5.0, 100.0)] == [0.1, 0.1, 0.5, 1.0]


def rested(movement: Movement, act: Callable[[], None], over: threading.Event) -> bool:
    """Return what a rest returns that ends after `act`; it would take an hour."""
    found: list[bool] = []
    seen = movement.number
    thread = threading.Thread(target=lambda: found.append(movement.rest(over, seen, 0.01, 3600)), daemon=True)
    thread.start()
    act()
    thread.join(PATIENCE)
    return found[0]


def test_a_movement_ends_a_rest_also_one_that_came_before_it() -> None:
    movement, over = Movement(), threading.Event()
    assert not rested(movement, movement.moved, over)
    seen = movement.number
    movement.moved()
    assert not movement.rest(over, seen, 0.01, 3600)


def test_the_end_ends_a_rest_and_an_answer_does_not() -> None:
    movement, over = Movement(), threading.Event()

    def end() -> None:
        movement.answered()
        over.set()
        movement.wake()

    assert rested(movement, end, over)
    seen = movement.number
    movement.answered()
    assert movement.number == seen


def test_a_stream_that_falls_behind_is_shown_at_once() -> None:
    behind = {"t/0": 0}
    gauges = Gauges(movement := Movement(), {"t/0": "1"}, lambda _: dict(behind))
    gauges.measure()
    seen = movement.number
    gauges.measure()
    assert movement.number == seen
    behind["t/0"] = 3
    gauges.measure()
    assert movement.number > seen
    assert gauges.pause < QUIET_SECONDS


@dataclass
class Silent:
    """A reader of one chunk, and the writer that gets it."""

    first: FirstError
    written: threading.Event = field(default_factory=threading.Event)

    def chunks(self) -> Iterator[Chunk]:
        yield Chunk("0", 0, 0, None, 0, last=True)
        while self.first.error is None:
            time.sleep(0.01)

    def open(self) -> None: ...

    def write(self, chunk: Chunk) -> None:
        if chunk.last:
            self.written.set()

    def idle(self) -> None: ...

    def done(self) -> None: ...

    def close(self) -> None: ...


def test_the_first_error_ends_a_flow_that_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUIET_ALONE", "QUIET_SECONDS"):
        monkeypatch.setattr(pipeline, name, 2 * PATIENCE)
    first = FirstError()
    silent = Silent(first)

    def stop() -> None:
        silent.written.wait(PATIENCE)
        monkeypatch.setattr(module, "EASE", 1e9)  # from now on they rest for longer than the test waits
        time.sleep(0.5)
        first.put(Unavailable("asked to stop"))

    threading.Thread(target=stop, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(Unavailable, match="asked to stop"):
        StreamPipelineEngine({"0": silent}, {"0": silent}, (), first).run()
    assert time.monotonic() - began < PATIENCE
