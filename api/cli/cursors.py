"""Notes of sources on the cursors of pipelines, collected before the pipelines are applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from api.cli.main import State
from penstock.errors import MissingColumn, MissingTable, PenstockError, Refused, SchemaMismatch
from penstock.ids import new_id
from penstock.models.pipeline import Pipeline

__all__ = ["cursor_notes"]


def cursor_notes(
    state: State, pipelines: Iterable[Pipeline], connections: Mapping[str, Any]
) -> dict[tuple[str, str], list[str]]:
    """Return the notes on each pipeline's cursor. A source that cannot be reached now is checked by each run.

    Raises:
        Refused, SchemaMismatch: a cursor by which rows would be lost.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for pipeline in pipelines:
        if pipeline.spec.source.cursor is None:
            continue
        try:
            risks = _asked(state, pipeline, connections)
        except (MissingTable, MissingColumn):
            continue  # the table may be created before the first run
        except (Refused, SchemaMismatch) as error:
            error.add_note("nothing was applied")
            raise
        except PenstockError:
            continue
        found["pipeline", pipeline.name] = [f"{pipeline.name}: {one}" for one in risks]
    return found


def _asked(state: State, pipeline: Pipeline, connections: Mapping[str, Any]) -> tuple[str, ...]:
    from dataflows.runs.dry_run import inspect_cursor
    from dataflows.runs.job import Job

    task = {
        "run": new_id(),
        "uid": new_id(),
        "pipeline": pipeline.to_dict(),
        "connections": connections,
        "modules": state.settings.modules,
        "mask_key": state.settings.mask_key,
    }
    return inspect_cursor(Job.from_task(task, secrets=Path(state.settings.secrets)))
