"""Pipelines that cannot write the same table: each `replace` would drop the rows of the other one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from shlex import quote
from typing import Any

from agents.protocol import State
from penstock.errors import Conflict
from penstock.models.sets import set_of
from penstock.models.targets import replaced_by, target_of

__all__ = ["Writers", "check_target", "goes_on"]

Targets = dict[str, dict[str, Mapping[str, Any]]]
"""The specifications of pipelines by name, by the table that they write."""


def check_target(
    state: State, name: str, document: Mapping[str, Any], *, resumes: bool = False, writers: Writers | None = None
) -> None:
    """Check that a pipeline may write its target; one that does so already may go on, and what is stopped may wait.

    Raises:
        Conflict: another pipeline writes the same table, and one of both replaces its rows.
    """
    before = state["pipelines"].get(name)
    waits = before is not None and before["status"] == "stopped" and not resumes
    if document["spec"]["source"].get("objects") or waits or goes_on(before, document):
        return
    if found := (writers or Writers(state)).refused(name, document):
        other, what = found
        hint = f"give one of them a table of its own, let both append or merge, or `penstock delete {quote(other)}`"
        raise Conflict("replace_alone", other, what, where=f"pipeline {name}: spec.sink.object", hint=hint)


def goes_on(before: Mapping[str, Any] | None, document: Mapping[str, Any]) -> bool:
    """True if a pipeline writes the same target in the same way already."""
    if before is None or before["status"] == "stopped":
        return False
    was, sink = before["versions"][-1]["spec"]["sink"], document["spec"]["sink"]
    return all(was.get(key) == sink.get(key) for key in ("connection", "object", "write"))


class Writers:
    """The pipelines of a state by the table that they write, without sets and what is stopped or being deleted.

    They are sorted when first asked for, and only those that replace if this one does not. Without the members of
    `whole`, too: its listing knows which of them keep their targets.
    """

    def __init__(self, state: State, whole: str | None = None) -> None:
        self._state, self._whole = state, whole
        self._connections = {name: one["connection"] for name, one in state["connections"].items()}

    @cached_property
    def _all(self) -> Targets:
        return self._by_target()

    @cached_property
    def _replacing(self) -> Targets:
        return self._by_target("replace")

    def _by_target(self, write: str | None = None) -> Targets:
        """Return the pipelines of each table; with `write`, those that write so."""
        found: Targets = {}
        for name, one in self._state["pipelines"].items():
            spec = one["versions"][-1]["spec"]
            if write is not None and spec["sink"].get("write") != write:
                continue
            is_one = not spec["source"].get("objects") and (self._whole is None or set_of(name) != self._whole)
            if is_one and one["status"] not in {"stopped", "deleting"}:
                found.setdefault(target_of(spec, self._connections), {})[name] = spec
        return found

    def refused(self, name: str, document: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the pipeline that keeps this one from writing its table, and why; None if there is none."""
        spec = document["spec"]
        others = self._all if spec["sink"].get("write") == "replace" else self._replacing
        for other, its in others.get(target_of(spec, self._connections), {}).items():
            if other != name and (what := replaced_by(name, spec, other, its)):
                return other, what
        return None
