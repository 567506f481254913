"""First loads in the order of the sink's foreign keys: the runs that a waiting member needs, and those that fail.

A member's run is queued with the others of its set; it is not assigned while its member waits (`agents.parents`). When
a first load ends without being complete, each run that waits for it fails, and says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from shlex import quote
from typing import Any, Final

from agents.parents import is_loaded
from agents.policies import Policies
from agents.protocol import Cause, Draft, State
from agents.ready import open_tasks
from agents.runs import drained, run_created, run_finished, task_closed
from agents.workload import running_pipelines, with_drafts
from penstock.errors import Refused
from penstock.ids import named_id
from penstock.models.sets import circle, in_circle, set_of

__all__ = ["check", "settled"]

CIRCLE_HINT: Final = "let the targets have one of these keys only after the first loads"


def check(state: State, name: str) -> None:
    """Check that the first loads that a member waits for can come.

    Raises:
        Refused: one of them is not active, or they wait for each other.
    """
    running, seen, left = running_pipelines(state), {name}, [name]
    while left:
        one = left.pop(0)
        if (why := _never(state, one, running)) is not None:
            raise Refused(why["what"], where=f"pipeline {one}", hint=why["hint"])
        more = [parent for parent in _waits(state, one) if parent not in seen]
        seen |= {*more}
        left += more


def settled(state: State, effects: tuple[Draft, ...], policies: Policies, cause: Cause) -> tuple[Draft, ...]:
    """Return what follows from `effects` for the first loads that wait for others; `state` is that after them.

    A run that waits for a member without a run begins one there, or fails if that cannot begin. With the pages of a
    listing, this is looked at after the last one.
    """
    if not state["needed"]:
        return ()
    concerned = cause.type == "set.listed" or any(one.type in {"run.created", "run.finished"} for one in effects)
    return _Settling(state, policies, cause).of(effects) if concerned else ()


class _Settling:
    """The drafts so far, and the state after them."""

    def __init__(self, state: State, policies: Policies, cause: Cause) -> None:
        self._state, self._policies, self._cause = state, policies, cause
        self._running = running_pipelines(state)
        self._out: list[Draft] = []

    def of(self, effects: tuple[Draft, ...]) -> tuple[Draft, ...]:
        for name in self._asked(effects):
            self._begin(name)
        for draft in effects:
            for waiting, why in self._ended(draft):
                self._fail(waiting, why)
        return tuple(self._out)

    def _asked(self, effects: tuple[Draft, ...]) -> list[str]:
        """Return the members whose runs are to be looked at."""
        if self._cause.type != "set.listed":
            return [draft.payload["run"]["pipeline"] for draft in effects if draft.type == "run.created"]
        page = self._cause.payload
        return sorted(name for name in self._running if set_of(name) == page["name"]) if page["last"] else []

    def _begin(self, name: str) -> None:
        """Begin the first loads that a member waits for, and those before them; or let its run fail."""
        left = [name]
        while left:
            one = left.pop(0)
            if not self._held(one):
                continue
            if (why := _never(self._state, one, self._running)) is not None:
                self._fail(one, why)
                continue
            for parent in _waits(self._state, one):
                if parent not in self._running:
                    id_ = named_id("run", self._cause.record.id, parent)
                    self._add(run_created(self._state, parent, self._policies, self._cause, id_, {}))
                    self._running.add(parent)
                    left.append(parent)

    def _ended(self, draft: Draft) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the members that wait for a first load which has ended without being complete, and why they fail."""
        if draft.type != "run.finished":
            return
        parent, status = draft.payload["run"]["pipeline"], draft.payload["run"]["status"]
        if is_loaded(self._state, parent):
            return
        verdict = {"failed": "has failed", "stopped": "was stopped"}.get(status, "was one of an earlier version")
        what = f"it waits for the first load of {parent}, to which its target refers by a foreign key; that {verdict}"
        for name in self._state["needed"].get(parent, ()):
            if parent in _waits(self._state, name):
                yield name, {"what": what, "hint": f"penstock status {quote(parent)}; then run both again"}

    def _fail(self, name: str, why: dict[str, str]) -> None:
        """Let the runs of a member that waits fail, each followed by those that wait for it."""
        left = [self._failed(name, why)]  # no recursion: a chain of foreign keys may be long
        while left:
            if (waiting := next(left[-1], None)) is None:
                left.pop()
            else:
                left.append(self._failed(*waiting))

    def _failed(self, name: str, why: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
        """Let the runs of a member that waits fail; yield the members that fail with it after each of them."""
        for task in self._held(name):
            error = {"code": Refused.code, "where": f"pipeline {name}", **(_in_circle(self._state, name) or why)}
            finished = run_finished(self._state, task, "failed", self._cause, {"error": error})
            self._running.discard(name)
            self._add(drained(self._state, name, (task_closed(task, "failed", error["what"]), *finished)))
            for draft in finished:
                yield from self._ended(draft)

    def _held(self, name: str) -> list[dict[str, Any]]:
        """Return the runs' tasks that wait for first loads of others; tasks that have begun are left alone."""
        tasks = [one for one in open_tasks(self._state, name) if one["kind"] == "pipeline"]
        waits = bool(_waits(self._state, name)) and all(one["status"] != "assigned" for one in tasks)
        return tasks if waits else []

    def _add(self, drafts: tuple[Draft, ...]) -> None:
        self._out += drafts
        self._state = with_drafts(self._state, drafts)


def _waits(state: State, name: str) -> list[str]:
    found: list[str] = state["pipelines"].get(name, {}).get("waits", [])
    return found


def _in_circle(state: State, name: str) -> dict[str, str] | None:
    """Return what is wrong if a member waits for itself, and what to do; None if it does not."""
    if not (found := circle(lambda one: _waits(state, one), name)):
        return None
    return {"what": in_circle(found), "hint": CIRCLE_HINT}


def _never(state: State, name: str, running: Collection[str]) -> dict[str, str] | None:
    """Return why the first loads that a member waits for cannot come, and what to do; None if they can."""
    for parent in _waits(state, name):
        status = state["pipelines"].get(parent, {}).get("status", "gone")
        if parent not in running and status != "active":
            what = f"its target refers by a foreign key to that of {parent}, which is not loaded yet, and is {status}"
            return {"what": what, "hint": f"penstock resume {quote(parent)}, then run it first"}
    return _in_circle(state, name)
