"""A look at the members of a set for `penstock plan`: what the run of each would do, or why it would be refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from api.cli.candidates import Candidates
from api.cli.main import State
from dataflows.connectors.idle_sessions import IDLE_SESSIONS
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import PenstockError, Unreachable

__all__ = ["look_at"]

SECONDS: Final = 20.0
"""Time for one set; the members that are left then are named."""


def look_at(
    state: State,
    chosen: Candidates,
    documents: Mapping[str, Mapping[str, Any]],
    wanted: Callable[[str], bool] | None = None,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the plan of each member, by object, or its refusal; and the objects that were not looked at.

    One after the other, over the same few sessions. With `wanted` only members that it picks, however long they take.

    Raises:
        Unreachable: one of the systems does not answer, which is no fault of a member.
    """
    found: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + SECONDS
    with IDLE_SESSIONS.kept():
        for object_, document in documents.items():
            if wanted is None and time.monotonic() > end:
                break
            if wanted is None or wanted(object_):
                found[object_] = _looked_at(state, chosen, document)
    return found, [one for one in documents if one not in found]


def _looked_at(state: State, chosen: Candidates, document: Mapping[str, Any]) -> dict[str, Any]:
    try:
        job = chosen.job_of(state, document)
        with opened(job) as ends:
            return plan(job, ends)
    except Unreachable:
        raise
    except PenstockError as error:
        return {"refused": str(error).removeprefix(f"{document['metadata']['name']}: ")}
