"""Tables that are created again: an earlier run made them for columns it guessed, and failed before the first row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from shlex import quote

from dataflows.connectors.abilities import Remaking
from dataflows.connectors.contract import Target
from dataflows.connectors.state import StreamState
from dataflows.data.tables import Column, Table
from dataflows.runs.job import Job
from penstock.errors import Refused

__all__ = ["check_not_dropped", "give_up_plans", "made_for", "must_remake"]


def made_for(columns: Sequence[Column]) -> str:
    """Return the columns that a table is made for, as its target remembers them."""
    return json.dumps([[one.name, one.type, one.nullable] for one in columns])


def must_remake(target: Target, there: Table, columns: Callable[[], Sequence[Column]]) -> bool:
    """True if a run of the pipeline made the table for other columns than it would now, and it is unwritten."""
    if not isinstance(target, Remaking) or (made := target.made_as(there)) is None:
        return False
    return made != made_for(columns()) and target.is_unwritten()


def give_up_plans(target: Target, run: str) -> None:
    """Forget the plans of runs that have written nothing: they were made for what the source was then."""
    if (older := target.state.unfinished(run)) is not None:
        target.state.supersede(older.run, run)
    if target.state.run(run) is not None:
        target.state.forget(run)


def check_not_dropped(job: Job, target: Target) -> None:
    """Refuse to make a target again that has been dropped: it would lack the rows that are known to be in it.

    Raises:
        Refused: by what it would take to load them again.
    """
    state, name = target.state, job.pipeline
    if job.write == "replace" or job.begin is not None or (job.reload is not None and not job.reload.is_window):
        return
    loaded = state.loaded()
    if not (loaded.position is not None or loaded.partly or (isinstance(state, StreamState) and state.last_split())):
        return
    again = f"`penstock run {quote(name)} --full`"
    if job.streams:
        again = f"`penstock run {quote(name)} --from earliest --reset`, "
        again += f"or `penstock delete {quote(name)}` and apply it again,"
    hint = f"restore it, or let {again} load its rows again"
    raise Refused("it was dropped, and made again it would lack the rows so far", where=job.at_sink, hint=hint)
