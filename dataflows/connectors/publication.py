"""The end of a split and of a run, as every sink tells it: what adds up, and a run once each of its splits is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dataflows.connectors.state import RunRow, State
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from penstock.errors import Fenced, PenstockError, Refused

__all__ = ["Outcome", "counted_split", "finished", "recorded"]


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


def finished(state: State, run: str, told: dict[str, Any], where: str) -> Outcome:
    """What is to be recorded of a run whose splits are all done: its counters, and `told`. Inside `state.owned`.

    Raises:
        Refused: it has no plan any more, or splits are missing.
    """
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


def counted_split(marker: Chunk, sent: int, written: int, size: int, where: str) -> Counters:
    """The counters of a split that is about to be committed: what its marker says was read against what was written.

    Raises:
        PenstockError: they do not add up, which is a defect.
    """
    filtered = marker.read - marker.dead - sent
    counted = Counters(marker.read, written, filtered, marker.dead, size)
    if written != sent or not counted.balanced or filtered < 0:
        raise PenstockError(
            f"split {marker.split} does not add up: {marker.read} rows read, {sent} sent, {written} written",
            where=where,
            hint="this is a defect: nothing of the split was committed",
        )
    return counted
