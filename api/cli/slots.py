"""The slot of a stream of changes in `penstock status`: what the source keeps for it, also while it does not run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any, Final

from api.cli.console import escape, size
from api.cli.main import State
from api.client import Client
from catalog.entries import PipelineEntry
from penstock.errors import PenstockError
from penstock.models.pipeline import Limits
from penstock.records.execution import SlotProgress, StreamProgress

__all__ = ["slot_line", "slot_of"]

ALARMING: Final = {"unreserved", "lost"}


def slot_of(
    state: State, client: Client, pipeline: PipelineEntry, stream: StreamProgress | None
) -> dict[str, Any] | None:
    """Return the fields of the slot as the source has it now, whether the stream runs or not; None if it has none.

    If the source does not answer, they are those that the open run reported last, else `unknown` is the error.
    """
    if pipeline.pipeline["spec"].get("mode") != "stream":
        return None
    from api.cli.candidates import candidates
    from dataflows.connectors.streaming import SlotReporting

    try:
        job = candidates(state, client, (pipeline.name,)).job(state, pipeline.name)
        if not job.rules.changes:
            return None
        with closing(job.open_source()) as source:
            found = source.slot() if isinstance(source, SlotReporting) else None
    except PenstockError as error:
        reported = stream.slot if stream is not None else None
        return {"unknown": str(error)} if reported is None else reported.model_dump(mode="json")
    return None if found is None else asdict(found)


def slot_line(fields: Mapping[str, Any], pipeline: Mapping[str, Any]) -> str:
    """Return the slot as one line."""
    if "unknown" in fields:
        return f"[yellow]slot: not known, {escape(fields['unknown'])}[/yellow]"
    slot = SlotProgress.parse(fields)
    limits = Limits.parse(pipeline["spec"].get("limits") or {})
    kept = f"its source keeps {size(slot.retained)} of WAL for it"
    left = "" if slot.room is None else f", and gives it up after {size(max(0, slot.room))} more"
    drop = "" if limits.slot_drop is None else f"; the slot is dropped at {size(limits.slot_drop)}"
    line = f"slot {slot.name}: {'active' if slot.active else 'not active'}, {slot.status}; {kept}{left}{drop}"
    if slot.status in ALARMING or slot.retained >= limits.slot_alert:
        return f"[yellow]{line}[/yellow]"
    return line
