"""Settings that this release accepts but does not act on: noted by `validate` and `apply`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from pydantic import BaseModel

from dataflows.runs.job import refuse_what_is_missing
from penstock.errors import Refused
from penstock.models.documents import Documents
from penstock.models.pipeline import Pipeline
from penstock.models.policy import AgentPolicy

__all__ = ["notes_of"]

PIPELINE: Final = {
    "spec.schema.compatibility": "a run whose rows no longer fit is refused",
    "spec.limits.in_flight": "rows in flight follow from limits.batch_rows",
    "spec.limits.max_lag": "look at `penstock status`",
}
"""Settings of a pipeline that have no effect yet, with what applies or helps instead."""

POLICY: Final = {
    "spec.mapping": "write mappings as `fields` of the pipeline",
}
"""Settings of a policy that have no effect yet."""


def notes_of(documents: Documents, inspected: Collection[str] = ()) -> dict[tuple[str, str], list[str]]:
    """Return the notes of each document that has any, by kind (`pipeline`, `policy`) and name.

    `inspected` are the pipelines whose sources have been asked about their cursors.
    """
    found = {("pipeline", one.name): notes_on(one, inspected=one.name in inspected) for one in documents.pipelines}
    found |= {("policy", one.name): notes_on(one) for one in documents.policies}
    return {key: notes for key, notes in found.items() if notes}


def notes_on(document: Pipeline | AgentPolicy, *, inspected: bool = False) -> list[str]:
    """Return a line for each setting without effect, and for what keeps the pipeline from running at all."""
    known: Mapping[str, str] = PIPELINE if isinstance(document, Pipeline) else POLICY
    notes = [
        f"{document.name}: {path}: has no effect yet: {instead}"
        for path, instead in known.items()
        if _is_set(document, path.split("."))
    ]
    if not isinstance(document, Pipeline) or document.spec.is_set:  # what a member lacks, `tables` may give it
        return notes
    return [*_cannot_run(document), *([] if inspected else _on_cursor(document)), *notes]


def _on_cursor(pipeline: Pipeline) -> list[str]:
    """Return a note on a cursor that only its source can check."""
    cursor = pipeline.spec.source.cursor
    if cursor is None or cursor.lag or cursor.field.startswith("_"):
        return []
    what = f"`{cursor.field}` has no lag: `penstock plan` says what its column's default, type, zone and sequence allow"
    return [f"{pipeline.name}: spec.source.cursor: {what}"]


def _cannot_run(pipeline: Pipeline) -> list[str]:
    try:
        refuse_what_is_missing(pipeline.name, pipeline.spec)
    except Refused as error:
        return [str(error)]
    return []


def _is_set(model: BaseModel, path: list[str]) -> bool:
    """Return True if the file sets something at `path`; a default or an empty section does not count."""
    value: Any = model
    for key in path:
        fields = type(value).model_fields
        name = next(name for name, field in fields.items() if key == (field.alias or name))
        if name not in value.model_fields_set:
            return False
        value = getattr(value, name)
    return bool(value.model_fields_set) if isinstance(value, BaseModel) else value not in (None, ())
