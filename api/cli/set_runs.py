"""Waits of commands on sets: until the objects are listed, and until the runs of the members are queued."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from api.cli.console import escape
from api.cli.results import Result
from api.client import Client
from api.switches import is_halted, resume_hint
from penstock.errors import PenstockError, Refused, error_from_report

if TYPE_CHECKING:
    from catalog.entries import SetEntry

__all__ = ["listing_line", "member_results", "wait_for_listing", "wait_for_next_listing"]

POLL_SECONDS: Final = 0.25
HALTED_SECONDS: Final = 1.0
"""Seconds between two questions whether the orchestrator is halted."""
GRACE: Final = 15.0
"""Seconds for a listing that is at work when the orchestrator is halted."""


def _wait(client: Client, name: str, done: Callable[[SetEntry], bool]) -> SetEntry | PenstockError:
    """Wait until `done`; return the error if the listing is given up, or not begun. Raises Unavailable."""
    halted_since, look_at = None, 0.0
    while True:
        seen = client.store.commits.listen()
        entry = client.store.set_entry(name)
        if done(entry):
            return entry
        if failed := client.store.listing_failed(name):
            return error_from_report(dict(failed))
        if (status := client.store.pipeline(name).status) != "active":
            hint = f"`penstock resume {quote(name)}` makes it active, and lists them"
            return Refused(f"is {status}: only those of an active set are listed", where=f"pipeline {name}", hint=hint)
        if (moment := time.monotonic()) >= look_at:
            look_at = moment + HALTED_SECONDS
            if not is_halted(client.store, "orchestrator"):
                halted_since = None
            elif halted_since is None:
                halted_since = moment
            elif moment - halted_since >= GRACE:
                hint = resume_hint(client.store, "orchestrator")
                what = "is not listed while the orchestrator is halted"
                return Refused(what, where=f"pipeline {name}", hint=hint)
        client.look_after()
        client.store.commits.wait(seen, POLL_SECONDS)


def wait_for_listing(client: Client, name: str, version: int) -> SetEntry | PenstockError:
    """Wait until the objects of a set are listed for this version; return the listing, or its error."""
    return _wait(client, name, lambda entry: entry.listed and entry.version is not None and entry.version >= version)


def wait_for_next_listing(client: Client, name: str, before: SetEntry) -> SetEntry | PenstockError:
    """Wait until the objects of a set are listed once more than in `before`; return the listing, or its error."""
    return _wait(client, name, lambda entry: entry.listed and entry.task != before.task)


def member_results(client: Client, name: str, answer: Mapping[str, Any], *, others: bool) -> list[Result]:
    """Wait until all runs of a start are queued; return them, or the error of the listing as the set's result.

    With `others` also the open runs of members that got none, since they have one already.
    """
    from api.watch import OPEN

    group = str(answer["group"])
    found = _wait(client, name, lambda entry: entry.group == group and entry.queued)
    if isinstance(found, PenstockError):
        return [Result(name, error=found)]
    started = [Result(pipeline, run) for run, pipeline in client.store.group_runs(group).items()]
    left = {one["object"] for one in found.skipped} if others else set()
    members = client.overview(name) if left else []
    runs = ((one.name, one.last_run) for one in members if one.name in left and one.status == "active")
    return started + [Result(member, run["id"]) for member, run in runs if run and run["status"] in OPEN]


def listing_line(name: str, found: SetEntry | PenstockError) -> str:
    """Return what a listing found, for people."""
    if isinstance(found, PenstockError):
        return f"{escape(name)}: [red]its objects cannot be listed:[/red] {escape(str(found))}"
    parts = [f"{found.members} members"]
    for words, objects in (("refused", found.refused), ("proposed", found.proposed), ("gone", found.vanished)):
        parts += [f"{len(objects)} {words}"] if objects else []
    missing = f"; nothing matches {', '.join(found.unmatched)}" if found.unmatched else ""
    return f"{escape(name)}: {', '.join(parts)}{escape(missing)}"
