"""`penstock discover`: look at what a connection has, and follow the discovery until it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from api.cli.console import escape, seconds
from api.cli.main import State, command
from api.client import Client, connected
from penstock.errors import Refused, error_from_report
from penstock.records import Record, records_of
from penstock.topics.table import CONTROL

if TYPE_CHECKING:
    from catalog.entries import Dataset, DiscoveryEntry
    from penstock.models.domain import Schema

SHOWN: Final = 20
"""New or changed objects that are shown one by one."""
READ: Final = 500
POLL_SECONDS: Final = 0.5


@command(name="discover")
@click.argument("connection")
@click.option(
    "--include", "tables", multiple=True, metavar="PATTERN",
    help="Only objects whose whole name matches, such as `public.*`; may be given again.",
)  # fmt: skip
@click.option("--exclude", "except_", multiple=True, metavar="PATTERN", help="Not those; may be given again.")
@click.option("--sample-rows", type=click.IntRange(0, 10_000_000), help="Rows of each object to look at; 0 for none.")
@click.option(
    "--write", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write a pipeline file for all of it."
)
@click.option("--to", "sink", help="With --write: the connection of the sink.")
def discover_(
    state: State, connection: str, tables: tuple[str, ...], except_: tuple[str, ...], *, sample_rows: int | None,
    file: Path | None, sink: str | None,
) -> None:  # fmt: skip
    """Look at what a connection has, and put it into the catalog.

    Reads only, and as little as it can: the system's own catalog, and samples. Shows what is new or has changed.
    """
    if file is not None and file.exists():
        raise Refused("is there already", where=str(file), hint="name another file, or delete it")
    order: dict[str, Any] = {"connection": connection, "except": list(except_)}
    order |= {"tables": list(tables)} if tables else {}
    order |= {} if sample_rows is None else {"sample_rows": sample_rows}
    with connected(state.settings, worker=True) as client:
        at = client.log.end(CONTROL, 0)
        answer = client.ask("discovery.start", connection, order)
        found = _followed(state, client, str((answer.result or {})["discovery"]), connection, at)
        if file is not None and found.error is None:
            _write(client, file, connection, sink, tables, except_)
    if found.error is not None:
        raise error_from_report(found.error)
    counts = found.found or {}
    for note in found.notes or ():
        state.output.say(f"[yellow]note:[/yellow] {escape(note)}")
    took = seconds(found.requested_at, found.finished_at)
    state.output.say(f"{counts.get('objects', 0):,} objects, {counts.get('changed', 0):,} new or changed, in {took}.")
    state.output.data(found)
    state.output.hint(f"penstock plan {file}" if file else f"penstock catalog search --connection {connection}")


def _write(
    client: Client, file: Path, connection: str, sink: str | None, tables: tuple[str, ...], except_: tuple[str, ...]
) -> None:
    """Write the pipeline file of what the catalog has of a connection."""
    from api.cli.proposal import Wanted, pipeline_file

    others = [one.name for one in client.store.connections() if one.name != connection]
    wanted = Wanted(file.stem.lower(), connection, sink or (others[0] if len(others) == 1 else "SINK"), tables, except_)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(pipeline_file(wanted, _described(client, connection)))


def _described(client: Client, connection: str) -> Iterator[tuple[Dataset, Schema]]:
    after = None
    while True:
        page = client.store.datasets(connection=connection, limit=500, after=after)
        for one in page.items:
            if one.version is not None and one.profile is not None:
                yield one, client.store.schema_at(one.id).schema
        if (after := page.after) is None:
            return


def _followed(state: State, client: Client, id_: str, connection: str, at: int) -> DiscoveryEntry:
    """Show what the log says of a discovery, from offset `at` on; return its entry once it has ended."""
    shown = 0
    for record in _records(client, at):
        payload = record.payload
        if record.type == "schema.observed" and payload["dataset"]["connection"] == connection:
            shown += 1
            if shown <= SHOWN:
                columns = len(payload["schema"]["fields"])
                state.output.say(f"{payload['kind']} {escape(payload['dataset']['object'])}: {columns} columns")
            elif shown == SHOWN + 1:
                state.output.say("…")
        if record.type == "task.failed" and payload["error"].get("transient"):
            state.output.errors.print(f"[yellow]{escape(payload['error']['what'])}: it is tried again[/yellow]")
        if record.type == "discovery.finished" and payload["id"] == id_:
            break
    while True:
        seen = client.store.commits.listen()
        entry = client.store.discovery(id_)
        if entry.status != "running":
            return entry
        client.store.commits.wait(seen, POLL_SECONDS)


def _records(client: Client, at: int) -> Iterator[Record]:
    """Yield the records of the control topic from offset `at` on, as they come."""
    while True:
        stored = client.log.read(CONTROL, 0, at, READ)
        for offset, record in records_of(stored):
            at = offset + 1
            yield record
        if not stored:
            client.look_after()
            client.log.wait(CONTROL, 0, at, POLL_SECONDS)
