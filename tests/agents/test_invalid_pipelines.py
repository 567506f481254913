from __future__ import annotations

import copy
import re
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidDocument
from penstock.models.pipeline import Pipeline
from tests.agents.control_plane import ControlPlane, pipeline, postgres
from tests.strategies import pipelines

ABSENT: Final = object()
BREAKS: Final[list[tuple[str, Any]]] = [
    ("kind", "Pipline"),
    ("apiVersion", "penstock/v9"),
    ("metadata", ABSENT),
    ("metadata.name", "No Name"),
    ("metadata.owner", 7),
    ("metadata.lables", {}),
    ("spec", ABSENT),
    ("spec.mode", "hourly"),
    ("spec.source", ABSENT),
    ("spec.source.object", ""),
    ("spec.source.conection", "shop"),
    ("spec.source.connection", "not-there"),
    ("spec.sink.connection", "not-there"),
    ("spec.sink.connection", ABSENT),
    ("spec.sink.write", "upsert"),
    ("spec.sink.key", ["id", "id"]),
    ("spec.schedule.cron", "every day"),
    ("spec.after.pipelines", []),
    ("spec.limits.batch_rows", 0),
    ("spec.limits.workers", "2"),
    ("spec.errors.retry.attempts", 0),
    ("spec.errors.retry.base", "soon"),
    ("spec.errors.dead_letter.fail_above", 2.0),
    ("spec.transforms[+].filter", "price >"),
    ("spec.transforms[+].fliter", "price > 0"),
    ("spec.sinks", {}),
]


def broken(document: dict[str, Any], path: str, value: Any) -> tuple[dict[str, Any], str]:
    """Return a copy with `value` at `path` ([+]: in an additional item), and the path as an issue names it."""
    whole = copy.deepcopy(document)
    *parents, last = path.split(".")
    at: Any = whole
    for part in parents:
        name = part.removesuffix("[+]")
        if part != name:
            steps = at.setdefault(name, [])
            path = path.replace("[+]", f"[{len(steps)}]")
            steps.append({"name": f"broken-{len(steps)}"})
            at = steps[-1]
        else:
            at = at.setdefault(name, {})
    if value is ABSENT:
        del at[last]
    else:
        at[last] = value
    return whole, path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(document=pipelines, change=st.sampled_from(BREAKS))
def test_property_18_an_invalid_pipeline_sent_as_a_command_is_rejected_at_its_path(
    document: dict[str, Any], change: tuple[str, Any]
) -> None:
    """Property 18: Invalid pipeline configurations are rejected.

    A valid pipeline with one thing broken, sent as `pipeline.apply`, is refused with an issue at that path, the very
    one that a file gets; the state, and the versions of the pipeline that was there, stay as they were.

    Validates: Requirements 1.1, 2.1
    """
    plane = ControlPlane()
    for side in ("source", "sink"):
        plane.done("connection.put", name=document["spec"][side]["connection"], connection=postgres("x"))
    for name in document["spec"].get("after", {}).get("pipelines", []):
        ends = {side: document["spec"][side]["connection"] for side in ("source", "sink")}
        plane.apply(pipeline(name, **ends))
    assert plane.apply(document)["version"] == 1
    invalid, path = broken(document, *change)
    refusal = plane.refused("pipeline.apply", pipeline=invalid)
    assert (refusal["code"], refusal["exit_code"]) == ("document.invalid", 2)
    assert path in [issue["path"] for issue in refusal["issues"]], refusal["issues"]
    if change[1] != "not-there":
        assert [issue["path"] for issue in refusal["issues"]] == issues_of_file(invalid)
    assert plane.apply(document) == {"version": 1, "changed": False}
    assert plane.of("pipeline.updated") == plane.of("agent.faulted") == []


def issues_of_file(document: dict[str, Any]) -> list[str]:
    try:
        Pipeline.parse(document)
    except InvalidDocument as error:
        return [issue.path for issue in error.issues]
    return []


def test_all_issues_of_a_command_are_reported_at_once() -> None:
    plane = ControlPlane()
    document = {
        "kind": "Pipeline",
        "metadata": {"name": "A"},
        "spec": {"source": {}, "sink": {"connection": "x"}, "x": 1},
    }
    paths = {issue["path"] for issue in plane.refused("pipeline.apply", pipeline=document)["issues"]}
    assert paths >= {"metadata.name", "spec.source.connection", "spec.source.object", "spec.sink.object", "spec.x"}
    assert all(re.fullmatch(r"[\w.\[\]]+", path) for path in paths)
