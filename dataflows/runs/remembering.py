"""State of a stream's steps that remember rows: made, restored and dropped together with its positions."""

from __future__ import annotations

import logging
from shlex import quote

from dataflows.connectors.state import State, StreamState, WindowState
from dataflows.runs.job import Job
from dataflows.transforms.chain import Chain
from dataflows.transforms.stateful import StatefulChain
from penstock.errors import Refused

__all__ = ["check_kept", "forget", "make_pieces", "restore"]

_log = logging.getLogger(__name__)


def check_kept(job: Job, state: State | StreamState) -> None:
    """Refuse steps that remember rows where the sink cannot keep what they remember.

    Raises:
        Refused: by name.
    """
    step = next((one for one in job.rules.steps if one.remembers), None)
    if step is not None and not isinstance(state, WindowState):
        what = f"step `{step.name}` remembers rows, and {job.sink.settings.type} has no place to keep them"
        hint = "write to PostgreSQL, MySQL, MariaDB, SQLite or DuckDB"
        raise Refused(what, where=f"{job.pipeline}: spec.sink.connection", hint=hint)


def make_pieces(job: Job, state: State | StreamState) -> None:
    """Create what keeps the state of steps, if a step needs it."""
    if isinstance(state, WindowState) and any(one.remembers for one in job.rules.steps):
        state.make_pieces()


def restore(job: Job, state: State | StreamState, chain: Chain | StatefulChain | None) -> None:
    """Let the steps go on from what they remembered.

    Raises:
        Refused: a step that remembers rows has been changed, renamed or removed.
    """
    if not isinstance(state, WindowState):
        return
    pieces = state.pieces()
    known = {step.name for step in chain.steps} if isinstance(chain, StatefulChain) else set[str]()
    if gone := sorted(set(pieces) - known):
        hint = f"restore it, or drop what it remembers by `penstock run {quote(job.pipeline)} --from … --reset`"
        what = f"step `{gone[0]}` is not there any more, and the sink keeps rows that it remembers"
        raise Refused(what, where=f"{job.pipeline}: spec.transforms", hint=hint)
    if isinstance(chain, StatefulChain):
        chain.load(pieces)


def forget(job: Job, state: State | StreamState) -> None:
    """Drop what the steps remember, since the stream starts elsewhere. Inside `owned`."""
    if isinstance(state, WindowState) and (steps := sorted(state.pieces())):
        state.forget_pieces()
        _log.warning(
            "%s: what step %s remembered is dropped: the stream starts elsewhere", job.pipeline, ", ".join(steps)
        )
