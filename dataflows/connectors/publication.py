"""The end of a run, the same in every sink: once each of its splits is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataflows.connectors.state import RunRow, State
from penstock.errors import Fenced, Refused
from penstock.failpoints import failpoint

__all__ = ["Outcome", "publishing", "recorded"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run; `ended`: it was recorded before, and nothing is left to do."""

    result: dict[str, Any]
    ended: bool
    row: RunRow


def recorded(run: RunRow, where: str) -> dict[str, Any]:
    """The result of a run that has ended.

    Raises:
        Fenced: a newer one took its place.
    """
    if run.state == "superseded":
        hint = "nothing to do: the newer run carries on"
        raise Fenced(f"run {run.taken_over_by} has taken this run's place", where=where, hint=hint)
    return run.result or {}


@contextmanager
def publishing(
    state: State, run: str, generation: int, position: str | None, told: dict[str, Any], where: str
) -> Iterator[Outcome]:
    """Hold the generation while the run's rows become the target's inside; then record its end and its result.

    Raises:
        Fenced: a newer run took over.
        Refused: it has no plan any more, or splits are missing.
    """
    with state.owned(generation):
        failpoint("publish.locked")
        found = _finished(state, run, told, where)
        yield found
        if not found.ended:
            state.finish(run, position, found.result)
            failpoint("publish.moved")


def _finished(state: State, run: str, told: dict[str, Any], where: str) -> Outcome:
    """What is to be recorded of a run whose splits are all done: its counters, and `told`."""
    row = state.run(run)
    if row is None:
        raise Refused("the run has no plan any more", where=where, hint="run it again")
    if row.ended:
        return Outcome(recorded(row, where), ended=True, row=row)
    pending, planned = state.pending(run)
    if pending:
        raise Refused(f"{len(pending)} of {planned} splits are not done", where=where, hint="run it again")
    counted = (state.counters() - row.base).as_dict()
    return Outcome({**counted, "splits": planned, **told}, ended=False, row=row)
