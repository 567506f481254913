"""A logic of Bytewax whose errors end the flow without a panic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import TypeVar

from bytewax.operators import StatefulBatchLogic

from penstock.topics.operators import Wakeup

__all__ = ["Guarded"]

V = TypeVar("V")
W = TypeVar("W")


class Guarded(StatefulBatchLogic[V, W, None]):
    """A logic whose errors end the flow as those of a thread do; afterwards it takes everything and returns nothing."""

    def __init__(self, logic: StatefulBatchLogic[V, W, None], wakeup: Wakeup) -> None:
        self._logic, self._wakeup = logic, wakeup

    def on_batch(self, values: list[V]) -> tuple[Iterable[W], bool]:
        return self._guarded(partial(self._logic.on_batch, values))

    def on_notify(self) -> tuple[Iterable[W], bool]:
        return self._guarded(self._logic.on_notify)

    def on_eof(self) -> tuple[Iterable[W], bool]:
        return self._guarded(self._logic.on_eof)

    def _guarded(self, act: Callable[[], tuple[Iterable[W], bool]]) -> tuple[Iterable[W], bool]:
        nothing: tuple[Iterable[W], bool] = ((), StatefulBatchLogic.RETAIN)
        return self._wakeup.guarded(act, nothing)

    def notify_at(self) -> datetime | None:
        return self._logic.notify_at()

    def snapshot(self) -> None:
        """Return None: Bytewax stores no state here."""
