"""`penstock events`: the records of the log, one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import click

from api.cli.console import escape, hinted_line, stopped_by_hand
from api.cli.main import State, command
from api.cli.moments import moment
from api.client import Client, connected
from penstock.records import LATER, UNREADABLE, Record, records_of
from penstock.records.families import TYPES
from penstock.telemetry import Span
from penstock.topics.table import CONTROL, Topic

READ = 1000
POLL_SECONDS = 0.5
LINKS = 16
"""Records whose traces a command names, at most."""
Numbered = tuple[int, Record]


@command(name="events")
@click.option("--follow", "-f", is_flag=True, help="Continue with new records; Ctrl-C ends it.")
@click.option("--since", help="Begin at an offset, a time (ISO 8601), or a duration ago such as 10m, 2h, 1d.")
@click.option("--type", "type_", help="Only types with this beginning, such as `run` or `task.failed`.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Without --since: how many, the latest."
)
def events_(state: State, *, follow: bool, since: str | None, type_: str | None, limit: int) -> None:
    """Show the records of the control topic, oldest first."""
    with connected(state.settings, runs=False) as client, stopped_by_hand():
        for offset, record in _wanted(client, since, type_, limit, follow=follow):
            _show(state, offset, record)
    state.output.hint("penstock why ID")


def _wanted(client: Client, since: str | None, type_: str | None, limit: int, *, follow: bool) -> Iterator[Numbered]:
    """Yield the records from `since` on, else the last `limit` of them; with `follow`, then the new ones."""

    def matching(begin: int, *, follow: bool) -> Iterator[Numbered]:
        return (
            one for one in records_from(client, begin, follow=follow) if type_ is None or one[1].type.startswith(type_)
        )

    if since is not None:
        yield from matching(offset_at(client, since, "--since"), follow=follow)
        return
    end = client.log.end(CONTROL, 0)
    begin = max(0, end - limit) if type_ is None else 0
    yield from deque((one for one in matching(begin, follow=False) if one[0] < end), limit)
    if follow:
        yield from matching(end, follow=True)


def offset_at(client: Client, text: str, where: str) -> int:
    """Return the offset that the option `where` names by number, time, or duration ago. Raises UsageError."""
    hint = "write an offset, 2026-01-31T12:00:00Z, or 10m"
    return int(text) if text.isdigit() else client.log.seek_time(CONTROL, 0, moment(text, where, hint=hint))


def link_records(client: Client, current: Span, offsets: Iterable[int]) -> None:
    """Link a span to the traces of the records at these offsets, the first `LINKS` of them."""
    for offset in islice(offsets, LINKS):
        for _, record in records_of(client.log.read(CONTROL, 0, offset, 1)):
            current.link(record.traceparent)


def records_from(
    client: Client, at: int, *, follow: bool, topic: Topic = CONTROL, part: int = 0
) -> Iterator[tuple[int, Record]]:
    while True:
        stored = client.log.read(topic, part, at, READ)
        yield from records_of(stored)
        if stored:
            at = stored[-1].offset + 1
        elif not follow:
            return
        else:
            client.log.wait(topic, part, at, POLL_SECONDS)


def _show(state: State, offset: int, record: Record) -> None:
    state.output.data({"offset": offset, **record.to_dict()})
    state.output.say(
        f"{offset:>6} [dim]{record.at:%Y-%m-%d %H:%M:%S}[/dim] [bold]{record.type:<24}[/bold] {escape(record.key)} "
        f"[dim]{escape(gist_of(record))}[/dim]"
    )


def gist_of(record: Record) -> str:
    """Return the gist of a record in a few words."""
    payload = record.payload
    if record.type in {UNREADABLE, LATER, "record.unreadable"}:
        return f"{payload.get('type') or 'no record'}, {payload['size']} bytes: {payload['reason']}"
    if record.kind == "command" or record.type not in TYPES:
        return ""
    if record.type == "agent.decided":
        return f"{payload['agent']} {payload['action']} ({payload['outcome']}): {payload['reason']}"
    if error := payload.get("error"):
        return hinted_line(error)
    shown = payload.get("run", payload) if isinstance(payload.get("run"), dict) else payload
    names = ("what", "status", "version", "worker", "attempt", "due", "reason")
    return " ".join(f"{name}={shown[name]}" for name in names if shown.get(name) is not None)
