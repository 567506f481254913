"""Notice that what keeps a pipeline's state at its sink was deleted: without it, everything would be written again."""

from __future__ import annotations

from contextlib import closing
from shlex import quote

from dataflows.connectors.state import IdentifiedState, State
from dataflows.runs.job import Job
from penstock.errors import Refused

__all__ = ["check_identity", "remember_identity"]


def _sink(job: Job) -> str:
    return f"{job.sink.connection}:{job.sink.object}"


def check_identity(job: Job, state: State) -> None:
    """Refuse to begin if the state is gone, or is another one than that of the last run.

    Raises:
        Refused: it is, and the stream was not asked to begin again.
    """
    if job.letters is None or not isinstance(state, IdentifiedState):
        return
    with closing(job.open_letters()) as letters:
        known = letters.known_state(_sink(job))
    if known is None or known == (found := state.identity()) or (job.begin is not None and job.begin.reset):
        return
    what = "was deleted" if found is None else "was deleted and made again"
    name = job.pipeline
    again = f"`penstock run {quote(name)} --from earliest|latest|TIME --reset`" if job.streams else "apply it again"
    hint = f"restore it; or `penstock delete {quote(name)}`, and {again}, which may write rows twice"
    if job.streams:
        hint = f"restore it; or choose from where to go on: {again}; rows may be written twice, or skipped"
    raise Refused(
        f"what keeps the pipeline's state at the sink {what}: nothing says which rows are written",
        where=job.at_sink,
        value=known,
        hint=hint,
    )


def remember_identity(job: Job, state: State) -> None:
    """Remember what keeps the state, once the run owns the pipeline."""
    if job.letters is None or not isinstance(state, IdentifiedState) or (found := state.identity()) is None:
        return
    with closing(job.open_letters()) as letters:
        letters.remember_state(_sink(job), found)
