"""Plan of a run, for the user: its target, the statements that change it, rows, risks, and what its users may not do.

Reads the source and the target, and changes neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dataflows.connectors.abilities import (
    CreateReporting,
    Estimating,
    Filling,
    GrantChecking,
    GrowthReporting,
    Widening,
)
from dataflows.connectors.contract import Target
from dataflows.connectors.state import StreamState
from dataflows.data.cursors import Window
from dataflows.data.tables import Column
from dataflows.runs.dataset_rules import check_rules
from dataflows.runs.identity import check_identity
from dataflows.runs.job import Job
from dataflows.runs.past import begins_again
from dataflows.runs.prepare import rows_of_split
from dataflows.runs.sharing import shared_note
from dataflows.runs.survey import Ends, Forecast, Survey, check_continued, forecast, is_from
from penstock.errors import AccessDenied
from penstock.models.traits import traits

__all__ = ["plan"]

_REMADE: Final = (
    "the table is dropped and created again: an earlier run made it for other columns, and wrote nothing to it"
)


def plan(job: Job, ends: Ends) -> dict[str, Any]:
    """Return the plan of a run: its target, the changes to its columns, its method, risks and splits.

    `estimated_rows` counts the rows above the cursor's position; it is None if they cannot be estimated.

    Raises:
        AccessDenied: a privilege is missing at the sink; names the commands that grant it.
        PenstockError: the same error as a run would fail with.
    """
    _check_grants(job, ends.target, grows=False)
    check_identity(job, ends.target.state)
    if known := ends.target.state.exists():
        check_continued(job, ends.target.state.loaded())
    found = forecast(job, ends, known=known)
    check_rules(job, found)
    if found.added:
        _check_grants(job, ends.target, grows=True)
    last = _position(job, ends.target) if known else None
    rows = _estimated_rows(ends, found.survey, Window(last, None))
    method = found.survey.method
    return {
        "pipeline": job.pipeline,
        "mode": job.spec.mode,
        "changes": job.changes,
        "write": job.write,
        "target": job.sink.object,
        "exists": found.made is None,
        "add": [f"{one.name} {one.type}" for one in found.added],
        "change": [f"{one.name} {one.type}" for one in found.widened],
        "statements": _statements(ends.target, found),
        "make": None if found.made is None else _described(found.made, found.key.columns),
        "replace_by": method.name if method else None,
        "because": list(method.reasons) if method else [],
        "risks": list(found.risks),
        "notes": _notes(job, ends, found, known=known),
        "estimated_rows": rows,
        "above": last,
        "splits": None if rows is None else max(1, round(rows / rows_of_split(job, ends))),
        "types_from": found.survey.source.types_from,
        "undecoded": found.survey.mapping.raw,
        "decoded_because": found.survey.mapping.decode_reason,
        "lineage": {
            name: {"from": list(origins), "by": list(steps)}
            for name, (origins, steps) in found.survey.mapping.lineage.items()
        },
    }


def _notes(job: Job, ends: Ends, found: Forecast, *, known: bool) -> list[str]:
    notes = [*found.notes, *([found.key.note] if found.key.note else [])]
    state = ends.target.state
    begun = known and isinstance(state, StreamState) and state.last_split() > 0
    if job.rules.changes and found.made is None and not begun:
        does = (
            "closes current rows that the source does not have, of those"
            if job.write == "scd2"
            else "replaces all rows"
        )
        notes.append(f"the snapshot {does} that {job.sink.object} has")
    if job.changes and job.source.shared is not None:
        notes.append(
            "what a transaction has written to several tables is whole in each target, not in all at one moment"
        )
    if job.streams and known and isinstance(state, StreamState) and (again := begins_again(job, ends.source, state)):
        notes.append(again)
    if job.streams and (shared := shared_note(job, ends.source)):
        notes.append(shared)
    if repeats := traits(job.sink.settings).at_least_once:
        notes.append(repeats)
    if found.remakes:
        notes.append(_REMADE)
    return notes


def _check_grants(job: Job, target: Target, *, grows: bool) -> None:
    missing = target.missing_grants(grows=grows) if isinstance(target, GrantChecking) else ()
    if missing:
        what = ", and ".join(dict.fromkeys(what for what, _ in missing))
        raise AccessDenied(what, where=job.at_sink, hint="; ".join(dict.fromkeys(grant for _, grant in missing)))


def _position(job: Job, target: Target) -> str | None:
    """Return the position above which the run would read."""
    loaded = target.state.loaded()
    return loaded.position if is_from(job, loaded) else None


def _estimated_rows(ends: Ends, surveyed: Survey, window: Window) -> int | None:
    source = ends.source
    if not isinstance(source, Estimating):
        return (surveyed.source.estimated_rows or None) if window.lower is None else None
    return source.estimate(surveyed.source, surveyed.key if window.lower is not None else None, window)


def _statements(target: Target, found: Forecast) -> list[str]:
    """Return the statements that create or change the target, as they would run."""
    if found.made is not None and isinstance(target, CreateReporting):
        return list(target.create_statements(found.made, found.key.columns))
    empty = tuple(one for one in found.added if one.name not in found.filled)
    grown = list(target.add_statements(empty)) if empty and isinstance(target, GrowthReporting) else []
    for one in found.added:
        if one.name in found.filled and isinstance(target, Filling):
            grown += target.filled_statements(one, found.filled[one.name])
    wider = target.widen_statements(found.widened) if found.widened and isinstance(target, Widening) else ()
    return [*grown, *wider]


def _described(columns: Sequence[Column], key: Sequence[str]) -> str:
    """Return the columns and the key of the target to create, types in PostgreSQL's spelling."""
    lines = [f"{one.name} {one.type}{'' if one.nullable and one.name not in key else ' NOT NULL'}" for one in columns]
    lines += [f"PRIMARY KEY ({', '.join(key)})"] if key else []
    return ", ".join(lines)
