"""End a run once all its splits are done; the same in every sink."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataflows.connectors.contract import Place, PublishOrder
from dataflows.connectors.state import RunRow, SharedState, State
from penstock.errors import Fenced, Refused
from penstock.failpoints import failpoint

__all__ = ["Outcome", "check_no_streams", "publishing", "recorded"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a run; `ended` is true if it was already recorded, and nothing is left to do."""

    result: dict[str, Any]
    ended: bool
    row: RunRow


def recorded(run: RunRow, where: str) -> dict[str, Any]:
    """Return the result of a run that has ended.

    Raises:
        Fenced: a newer run took over.
    """
    if run.state == "superseded":
        hint = "nothing to do: the newer run carries on"
        raise Fenced(f"run {run.taken_over_by} has taken over from this one", where=where, hint=hint)
    return run.result or {}


def check_no_streams(state: object, place: Place) -> None:
    """Refuse to replace rows that a stream has written, since it does not write them again.

    Raises:
        Refused: with that pipeline's number.
    """
    if isinstance(state, SharedState) and (others := state.other_streams()):
        what = f"the stream of another pipeline writes to {place.object}: its rows would be deleted and never come back"
        hint = "write to an object of its own, or `penstock delete` the stream"
        raise Refused(what, where=f"{place.pipeline}: spec.sink.object", value=others[0], hint=hint)


@contextmanager
def publishing(state: State, order: PublishOrder, where: str) -> Iterator[Outcome]:
    """Hold the generation while the caller publishes the run's rows; then record its end and its result.

    Raises:
        Fenced: a newer run took over.
        Refused: its plan no longer exists, or splits are missing.
    """
    with state.owned(order.generation):
        failpoint("publish.locked")
        outcome = _finished(state, order, where)
        yield outcome
        if not outcome.ended:
            state.finish(order.run, order.position, outcome.result)
            failpoint("publish.moved")


def _finished(state: State, order: PublishOrder, where: str) -> Outcome:
    """Return what to record of a run whose splits are all done: its counters, and `extra`."""
    row = state.run(order.run)
    if row is None:
        raise Refused("the run's plan no longer exists", where=where, hint="run it again")
    if row.ended:
        return Outcome(recorded(row, where), ended=True, row=row)
    pending, planned = state.pending(order.run)
    if pending:
        raise Refused(f"{len(pending)} of {planned} splits are not done", where=where, hint="run it again")
    counted = (state.counters() - row.base).as_dict()
    return Outcome({**counted, "splits": planned, **order.extra}, ended=False, row=row)
