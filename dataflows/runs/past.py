"""What a pipeline's stream has read before its objects were changed, and whether it would begin again.

Positions belong to a source and a sink. A source that is named otherwise has none there, though it may be the same
topics: what they hold would be appended once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Final

from dataflows.connectors.contract import Source
from dataflows.connectors.state import PastState, StreamState
from dataflows.connectors.streaming import Restartable
from dataflows.runs.job import Job
from penstock.errors import Refused

__all__ = ["begins_again"]

MOST_SHOWN: Final = 4


def begins_again(job: Job, source: Source, state: StreamState) -> str | None:
    """Return what to say of a stream that begins again, since its objects were changed; None if it goes on.

    Raises:
        Refused: it would append rows again, or skip some, and was not asked to.
    """
    if not isinstance(state, PastState) or state.positions() or not (past := state.past_streams()):
        return None
    at, sink = job.spec.source.from_ or "earliest", job.sink.object
    here = {name: parts for (name, into), parts in past.items() if into is None}
    shifts = [] if job.rules.changes else _shifts(job, source, here)
    if shifts and job.write == "append" and not (job.begin is not None and job.begin.reset):
        names = " and ".join(sorted(here))
        what = (
            f"the stream begins again, as it had read {names}, not {job.source.object}, into {sink}: {_listed(shifts)}"
        )
        hint = f"name the source as before; or `penstock run {quote(job.pipeline)} --from earliest|latest|TIME --reset`"
        raise Refused(what, where=f"{job.pipeline}: spec.source", hint=hint)
    before = ", ".join(sorted(f"{name} into {into or sink}" for name, into in past))
    again = f"; {_listed(shifts)}" if shifts else ""
    return f"the stream begins again, from {at}: until now it has read {before}, whose rows stay as they are{again}"


def _shifts(job: Job, source: Source, past: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return what would be repeated or skipped of what was read into the same sink, in words."""
    known = {part: at for parts in past.values() for part, at in parts.items()}
    if not known or not isinstance(source, Restartable):
        return []
    try:
        return list(source.restarted(known, job.spec.source.from_ or "earliest").shifts)
    except (KeyError, TypeError, ValueError):  # positions of another kind of system
        return []


def _listed(shifts: list[str]) -> str:
    more = f"; and {len(shifts) - MOST_SHOWN} more" if len(shifts) > MOST_SHOWN else ""
    return "; ".join(shifts[:MOST_SHOWN]) + more
