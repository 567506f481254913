"""Repair of a pipeline whose run failed because the schema has changed: pause it, or follow a rename."""

from __future__ import annotations

from typing import Any

from agents.protocol import Cause, Draft, State

__all__ = ["repaired"]

BROKEN = "schema.broken"
RENAMED = "schema.renamed"
"""Codes of the errors `SchemaBroken` and `SchemaRenamed`; a run ends with them as its pipeline's rules say."""


def repaired(state: State, cause: Cause) -> tuple[Draft, str, str] | None:
    """Return the effect, the action's name and the reason for a failed run; None if it calls for neither."""
    run, error = cause.payload["run"], cause.payload.get("error") or {}
    name = run["pipeline"]
    pipeline = state["pipelines"].get(name)
    if run["status"] != "failed" or pipeline is None or pipeline["status"] not in {"active", "draining"}:
        return None
    paused = {"name": name, "uid": pipeline["uid"], "before": pipeline["status"], "status": "paused"}
    if error.get("code") == BROKEN:
        return Draft("pipeline.status_changed", name, paused), "pause", error["what"]
    version, document = len(pipeline["versions"]), pipeline["versions"][-1]
    if error.get("code") != RENAMED or not error.get("renamed") or run["version"] != version:
        return None
    changed = following(document, error["renamed"])
    if changed == document:
        reason = f"{error['what']}; expressions of its mapping have to be changed by hand"
        return Draft("pipeline.status_changed", name, paused), "pause", reason
    payload = {
        "name": name,
        "uid": pipeline["uid"],
        "version": version + 1,
        "pipeline": changed,
        "by": "agent:lifecycle",
        "again": True,
    }
    return Draft("pipeline.updated", name, payload), "follow_rename", error["what"]


def following(pipeline: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """Return a pipeline that reads renamed columns under their new names, and is otherwise the same.

    A first step gives them their old names back; a mapping names the new ones, if it has no expression over them.
    """
    spec = pipeline["spec"]
    fields = (spec.get("mapping") or {}).get("fields")
    if fields is not None:
        fields = [{**one, "from": renamed.get(one["from"], one["from"])} if "from" in one else one for one in fields]
        return {**pipeline, "spec": {**spec, "mapping": {**spec["mapping"], "fields": fields}}}
    steps = spec.get("transforms", [])
    names = {step["name"] for step in steps}
    name = next(f"renamed-{number}" for number in range(1, len(names) + 2) if f"renamed-{number}" not in names)
    step = {"name": name, "rename": {new: old for old, new in renamed.items()}}
    return {**pipeline, "spec": {**spec, "transforms": [step, *steps]}}
