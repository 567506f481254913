"""Conflicts between tasks on one pipeline or table, by rule: what waits for what, and what counts together.

What may not be at all is refused by `Conflict`, where the command is answered. Every rule is named in the decision that
follows it, with the task or run that came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from agents.protocol import Draft, State
from agents.ready import COMPARING, open_tasks, rivals, works
from agents.streams import is_stream

__all__ = ["WRITERS_IN_TURN", "met", "words"]

RUNS_IN_TURN: Final = "runs_in_turn"
"""Runs of one pipeline are done one after the other, in the order in which they were queued."""
RUNS_AND_COMPARISONS: Final = "runs_and_comparisons_in_turn"
"""Of a batch, runs and comparisons of both sides wait for each other; runs that wait come first."""
WRITERS_IN_TURN: Final = "writers_in_turn"
"""Of several batches that write one table, runs, comparisons of keys and redrives are done one after the other."""
TRIGGERS_MERGE: Final = "triggers_merge"
"""However many triggers fire while a pipeline cannot run, one run follows."""


def met(state: State, effects: Iterable[Draft]) -> list[dict[str, str]]:
    """Return the conflicts of what is queued or has fired; `state` is that after these effects."""
    found: list[dict[str, str]] = []
    for draft in effects:
        if draft.type == "task.queued":
            found += _queued(state, draft.payload["task"]["id"])
            found += _beside(state, draft.payload["task"]["id"])
        elif draft.type == "trigger.fired" and draft.payload["name"] in state["fired"]:
            found.append(_merged(state, draft.payload["name"]))
    return found


def _queued(state: State, id_: str) -> Iterator[dict[str, str]]:
    """Yield the conflict of a task with what came before it on its pipeline, if there is one."""
    task = state["tasks"].get(id_)
    if task is None or task["kind"] not in {"pipeline", *COMPARING} or is_stream(task["spec"]):
        return
    others = [one for one in open_tasks(state, task["pipeline"]) if one["id"] != id_]
    runs = [one["id"] for one in others if one["kind"] == "pipeline"]
    compared = [one["id"] for one in others if one["kind"] in COMPARING]
    if task["kind"] == "pipeline" and runs:
        yield {"rule": RUNS_IN_TURN, "task": id_, "other": runs[0], "outcome": "ordered"}
    elif before := runs or compared:
        yield {"rule": RUNS_AND_COMPARISONS, "task": id_, "other": before[0], "outcome": "ordered"}


def _beside(state: State, id_: str) -> Iterator[dict[str, str]]:
    """Yield the conflict of a task with one of another pipeline that writes the same table, if there is one."""
    if (task := state["tasks"].get(id_)) is None:
        return
    others = [one for one in rivals(state, task) if works(state["pipelines"].get(one["pipeline"]))]
    line = sorted([task, *others], key=_turn)
    if others:
        behind = line[1] if line[0] is task else task
        yield {"rule": WRITERS_IN_TURN, "task": behind["id"], "other": line[0]["id"], "outcome": "ordered"}


def _turn(task: dict[str, Any]) -> tuple[bool, bool, bool, int, int]:
    """Return what the tasks that write one table are sorted by: what has begun goes on first."""
    waits = task["status"] != "assigned", not task["attempt"]
    return *waits, task["kind"] in COMPARING, -task["priority"], task["order"]


def _merged(state: State, name: str) -> dict[str, str]:
    run = next((run["id"] for run in state["runs"].values() if run["pipeline"] == name), None)
    status = state["pipelines"][name]["status"]
    return {"rule": TRIGGERS_MERGE, "pipeline": name, "other": run or f"the pipeline is {status}", "outcome": "merged"}


def words(found: Iterable[dict[str, str]]) -> str:
    """Return the conflicts in words, for a decision's reason."""
    return "; ".join(f"{one['outcome']} by rule {one['rule']}, behind {one['other']}" for one in found)
