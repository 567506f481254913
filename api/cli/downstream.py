"""Runs that follow from others: those that start by `after`, and those that `run --downstream` asks for in order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from api.cli.results import Result
from catalog.overview import Overview

__all__ = ["Cascade", "downstream"]

Results = Mapping[str, Result]
"""The result of each pipeline that has run."""


def downstream(names: Iterable[str], pipelines: Sequence[Overview]) -> list[str]:
    """Return the active pipelines that run after those of `names`, directly or through others."""
    found = dict.fromkeys(names)
    given, new = len(found), ["any"]
    while new:
        known = {*found, *(whole for one in found if (whole := _set_of(one)))}
        active = (one for one in pipelines if one.name not in found and one.status == "active")
        new = [one.name for one in active if known & {*_waits_for(one)}]
        found |= dict.fromkeys(new)
    return list(found)[given:]


def _set_of(name: str) -> str | None:
    from penstock.models.sets import set_of

    return set_of(name)


def _waits_for(one: Overview) -> list[str]:
    names: list[str] = (one.pipeline["spec"].get("after") or {}).get("pipelines", [])
    return names


@dataclass(frozen=True, slots=True)
class Cascade:
    """What follows from the runs of one command; `asked` are pipelines to run in order, whether they are due or not.

    `idle` are sets that were asked and had no member to run.
    """

    asked: Collection[str] = ()
    idle: set[str] = field(default_factory=set)

    def first(self, pipelines: Sequence[Overview]) -> list[str]:
        """Return those that are asked for and run after none of the others."""
        return [one.name for one in pipelines if one.name in self.asked and not self._upstream(one)]

    def _upstream(self, one: Overview) -> list[str]:
        asked = {*self.asked, *map(_set_of, self.asked)} - {None}
        return [name for name in _waits_for(one) if {name, _set_of(name)} & asked]

    def started(self, results: Results, pipelines: Sequence[Overview]) -> dict[str, str]:
        """Return the runs (run: pipeline) that the ends of `results` have started."""
        seen = {one.run for one in results.values()}
        times = [one.entry.requested_at for one in results.values() if one.entry is not None]
        names = {*downstream(results, pipelines)}
        return {
            str(one.last_run["id"]): one.name
            for one in pipelines
            if one.name in names and one.last_run and one.last_run["id"] not in seen
            if times and one.last_run["requested_at"] > min(times)
        }

    def ready(self, results: Results, pipelines: Sequence[Overview]) -> list[str]:
        """Return those that are asked for, have not run, and whose dependencies among the others have completed."""
        return [
            one.name
            for one in self._waiting(results, pipelines)
            if all(self._is_good(name, results) for name in self._upstream(one))
        ]

    def left(self, results: Results, pipelines: Sequence[Overview]) -> dict[str, str]:
        """Return those that are asked for and were not run, each with what did not complete before it."""
        waiting = self._waiting(results, pipelines)
        ways = {one.name: [name for name in self._upstream(one) if not self._is_good(name, results)] for one in waiting}
        return {name: found[0] for name, found in ways.items() if found}

    def _waiting(self, results: Results, pipelines: Sequence[Overview]) -> list[Overview]:
        asked = {*self.asked} - self.idle
        return [one for one in pipelines if one.name in asked and not _results_of(one.name, results)]

    def _is_good(self, name: str, results: Results) -> bool:
        found = _results_of(name, results)
        return name in self.idle or (bool(found) and all(one.error is None for one in found))


def _results_of(name: str, results: Results) -> list[Result]:
    return [one for pipeline, one in results.items() if name in {pipeline, _set_of(pipeline)}]
