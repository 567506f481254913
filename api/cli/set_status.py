"""`penstock status` of a set: what its last listing found, and its members, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from api.cli.alert_lines import alert_lines
from api.cli.choice import object_matches
from api.cli.comparisons import difference
from api.cli.console import ago, escape
from api.cli.listing import ended, follows
from api.cli.main import State
from api.client import Client
from catalog.alerts import alerts
from catalog.overview import Overview, overview
from catalog.sets import listing_failed, next_start, set_entry, set_named
from penstock import postgres
from penstock.clock import now

if TYPE_CHECKING:
    from catalog.entries import PipelineEntry

__all__ = ["show_set", "watched_set"]

MOST_ALERTS: Final = 10
SHOWN: Final = 50
"""Members in the table for people; the counts above it, and `--json`, are about all."""
EVERY_SECONDS: Final = 1.0
WORST: Final = ("failed", "stopped", "running", "queued", None, "completed")
"""The order of members by the status of their last run; None before the first."""


def watched_set(client: Client, name: str, tables: Sequence[str]) -> Iterator[str]:
    """Yield a line when the members' runs have changed, for as long as any is open, or a start goes on.

    Yield nothing for a pipeline that is no set.
    """
    from api.watch import OPEN

    shown = None
    if not client.store.pipeline(name).pipeline["spec"]["source"].get("objects"):
        return
    while True:
        seen = client.store.commits.listen()
        members = _chosen(client.overview(name), tables)
        line = _summary(members)
        if line != shown:
            yield f"{now():%H:%M:%S}  {len(members)} members: {line}"
            shown = line
        starting = client.store.set_entry(name)
        is_open = any(_last(one) in OPEN and one.status != "paused" for one in members)
        if not is_open and (starting.group is None or starting.queued):
            return
        client.store.commits.wait(seen, EVERY_SECONDS)


def _chosen(members: Sequence[Overview], tables: Sequence[str]) -> list[Overview]:
    return [member for member in members if not tables or object_matches(member.name, tables)]


def _summary(members: Sequence[Overview]) -> str:
    """Return how many members there are in each state."""
    counts = Counter(_word(member) for member in members)
    return ", ".join(f"{count} {word}" for word, count in counts.most_common()) or "no members"


def show_set(state: State, client: Client, name: str, tables: Sequence[str]) -> bool:
    """Show a set, with `tables` only members whose objects match one of these patterns; False if it is no set."""
    with closing(postgres.connect(client.site.catalog_dsn, "penstock:status")) as session:
        if (one := set_named(session, name)) is None:
            return False
        listing, tick = set_entry(session, name, one.uid), next_start(session, one)
        failed, everyone = listing_failed(session, name), overview(session, name)
        open_ones = alerts(session, name, limit=MOST_ALERTS)
    members = sorted(_chosen(everyone, tables), key=_rank)
    source, sink = one.pipeline["spec"]["source"], one.pipeline["spec"]["sink"]
    route = f"{source['connection']}: {', '.join(source['objects'])} -> {sink['connection']}:{sink['object']}"
    state.output.say(f"[bold]{one.name}[/bold] version {one.version}, {one.status}: {escape(route)}")
    state.output.say(f"{len(members)} members: {_summary(members)}; listed {ago(listing.at) or 'never'}")
    for item in listing.refused:
        state.output.say(f"[red]refused:[/red] {escape(item['object'])}: {escape(item['reason'])}")
    for word, objects in (("proposed", listing.proposed), ("gone", listing.vanished)):
        for each in objects:
            state.output.say(f"[yellow]{word}:[/yellow] {escape(each)}")
    columns = ("member", "#version", "status", "last run", "when", "#rows", "error")
    state.output.table(columns, [_row(member) for member in members[:SHOWN]], empty="It has no members yet.")
    if len(members) > SHOWN:
        state.output.say(f"and {len(members) - SHOWN:,} more; --table PATTERN picks some, --json shows all")
    if failed:
        state.output.say(f"[red]its objects could not be listed:[/red] {escape(str(failed.get('what')))}")
    for line in alert_lines(open_ones):
        state.output.say(line)
    for line in _dependencies(client, one):
        state.output.say(escape(line))
    if tick is not None:
        state.output.say(f"next run by its schedule: {tick:%Y-%m-%d %H:%M} UTC")
    state.output.data({"pipeline": one, "listing": listing, "members": members, "next_run": tick, "alerts": open_ones})
    worst = members[0] if members and (members[0].has_failed or members[0].differs) else None
    state.output.hint(f"penstock status {quote(worst.name)}" if worst else f"penstock run {quote(one.name)} --watch")
    return True


def _dependencies(client: Client, one: PipelineEntry) -> Iterator[str]:
    if one.pipeline["spec"].get("after"):
        from api.cli.dependencies import dependency_lines

        yield from dependency_lines(client.store, one, client.store.runs_of(one.name, limit=1).items)


def _rank(member: Overview) -> tuple[bool, int, str]:
    return not (member.has_failed or member.differs), WORST.index(_last(member)), member.name


def _last(member: Overview) -> str | None:
    return str(member.last_run["status"]) if member.last_run else None


def _word(member: Overview) -> str:
    return member.status if member.status != "active" else _last(member) or "not run yet"


def _row(member: Overview) -> tuple[Any, ...]:
    run = member.last_run or {}
    when = ago(run.get("finished_at") or run.get("requested_at"))
    rows = (run.get("counters") or {}).get("rows_out", "")
    error = (run.get("error") or {}).get("what") or follows(run.get("status"), run.get("after"))
    error = error or difference(member.checked, member.deletes)
    return member.name, member.version, member.status, ended(run), when, rows, error
