"""Commands about single records of the log: show them, and the chain of causes behind each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import click

from api.cli.console import error_line, escape, stopped_by_hand
from api.cli.main import State, command
from api.cli.moments import moment
from api.client import Client, connected
from penstock.errors import NotFound, did_you_mean
from penstock.records import LATER, UNREADABLE, Record, records_of
from penstock.records.families import TYPES
from penstock.topics.table import CONTROL, Topic

READ = 1000
POLL_SECONDS = 0.5
Numbered = tuple[int, Record]


@command(name="events")
@click.option("--follow", "-f", is_flag=True, help="Continue with new records; Ctrl-C ends it.")
@click.option("--since", help="Begin at an offset, a time (ISO 8601), or a duration ago such as 10m, 2h, 1d.")
@click.option("--type", "type_", help="Only types with this beginning, such as `run` or `task.failed`.")
@click.option("--limit", default=50, show_default=True, help="Without --since: how many, the latest.")
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
        yield from matching(_begin(client, since), follow=follow)
        return
    end = client.log.end(CONTROL, 0)
    begin = max(0, end - limit) if type_ is None else 0
    yield from deque((one for one in matching(begin, follow=False) if one[0] < end), limit)
    if follow:
        yield from matching(end, follow=True)


def _begin(client: Client, since: str) -> int:
    if since.isdigit():
        return int(since)
    return client.log.seek_time(
        CONTROL, 0, moment(since, "--since", hint="write an offset, 2026-01-31T12:00:00Z, or 10m")
    )


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
        f"[dim]{escape(_gist(record))}[/dim]"
    )


def _gist(record: Record) -> str:
    """Return the gist of a record in a few words."""
    payload = record.payload
    if record.type in {UNREADABLE, LATER, "record.unreadable"}:
        return f"{payload.get('type') or 'no record'}, {payload['size']} bytes: {payload['reason']}"
    if record.kind == "command" or record.type not in TYPES:
        return ""
    if record.type == "agent.decided":
        return f"{payload['agent']} {payload['action']} ({payload['outcome']}): {payload['reason']}"
    if error := payload.get("error"):
        hint = error.get("hint")
        return error_line(error) + (f"; {hint}" if hint else "")
    shown = payload.get("run", payload) if isinstance(payload.get("run"), dict) else payload
    names = ("what", "status", "version", "worker", "attempt", "due", "reason")
    return " ".join(f"{name}={shown[name]}" for name in names if shown.get(name) is not None)


@command(name="why")
@click.argument("id_", metavar="ID")
def why_(state: State, id_: str) -> None:
    """Show the causes of ID: a run, a decision, a command, a record, an offset, or a pipeline (its last run)."""
    with connected(state.settings, runs=False) as client:
        chain = list(_chain(client, _offset(client, id_)))
    state.output.data([{"offset": offset, **record.to_dict()} for offset, record in chain])
    for depth, (offset, record) in enumerate(chain):
        _explain(state, depth, offset, record)
    state.output.hint(f"penstock events --since {chain[-1][0]}")


def _explain(state: State, depth: int, offset: int, record: Record) -> None:
    lead = "because " if depth else ""
    place = f"at {record.at:%Y-%m-%d %H:%M:%S} UTC, offset {offset}, by {record.actor}"
    state.output.say(f"{'  ' * depth}{lead}[bold]{record.type}[/bold] {escape(f'{record.key} {place}')}")
    if record.type == "agent.decided":
        why = record.payload
        judged = f"(rules {why['rules']}, policy {str(why.get('policy'))[:12]}, {why['outcome']})"
        state.output.say(f"{'  ' * depth}  {escape(why['reason'])} [dim]{escape(judged)}[/dim]")
        if why.get("inputs"):
            state.output.say(
                f"{'  ' * depth}  [dim]{escape(', '.join(f'{k}={v}' for k, v in why['inputs'].items()))}[/dim]"
            )
    elif gist := _gist(record):
        state.output.say(f"{'  ' * depth}  {escape(gist)}")


def _offset(client: Client, id_: str) -> int:
    """Return the offset of the record that `id_` names."""
    if id_.isdigit() and int(id_) < client.log.end(CONTROL, 0):
        return int(id_)
    store = client.store
    finds: tuple[Callable[[], int], ...] = (
        lambda: store.run(id_).changed,
        lambda: store.decision(id_).offset,
        lambda: store.command(id_).offset,
    )
    for find in finds:
        with suppress(NotFound):
            return find()
    if runs := store.runs(pipeline=id_, limit=1).items:
        return runs[0].changed
    for offset, record in records_from(client, 0, follow=False):
        if record.id == id_:
            return offset
    hint = did_you_mean(id_, [one.name for one in store.overview()])
    hint = hint or "name a pipeline (penstock list), a run (penstock runs), or the id of a record (penstock events)"
    raise NotFound("no pipeline, run, decision, command or record has this name or id", value=id_, hint=hint)


def _chain(client: Client, offset: int) -> Iterator[tuple[int, Record]]:
    """Yield the record at `offset`, the decision that it belongs to, and so on back to the first cause."""
    while True:
        ((_, record),) = records_of(client.log.read(CONTROL, 0, offset, 1))
        yield offset, record
        if record.cause is None:
            return
        if record.brain is not None and record.cause[1] > 0:
            first = offset - record.cause[1]
            ((_, decided),) = records_of(client.log.read(CONTROL, 0, first, 1))
            yield first, decided
        offset = record.cause[0]
