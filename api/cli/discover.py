"""`penstock discover`: look at what a connection has, and follow the discovery until it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

import click

from api.cli.completion import connection_names
from api.cli.console import counted, escape, seconds
from api.cli.main import State, command
from api.client import Client, connected
from penstock.errors import Refused, error_from_report
from penstock.models.sets import DATABASES
from penstock.records import Record, records_of
from penstock.topics.table import CONTROL

if TYPE_CHECKING:
    from api.cli.proposal import Described
    from catalog.entries import DiscoveryEntry

SHOWN: Final = 20
"""New or changed objects that are shown one by one."""
READ: Final = 500
POLL_SECONDS: Final = 0.5
_Patterns = tuple[tuple[str, ...], tuple[str, ...]]
"""Patterns of the objects that are wanted, and of those that are not."""


@command(name="discover")
@click.argument("connection", shell_complete=connection_names)
@click.option(
    "--include", "tables", multiple=True, metavar="PATTERN",
    help="Only objects whose whole name matches, such as `public.*`; may be given again.",
)  # fmt: skip
@click.option("--exclude", "except_", multiple=True, metavar="PATTERN", help="Not those; may be given again.")
@click.option("--sample-rows", type=click.IntRange(0, 10_000_000), help="Rows of each object to look at; 0 for none.")
@click.option(
    "--write", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write a pipeline file for all of it."
)
@click.option("--to", "sink", shell_complete=connection_names, help="With --write: the connection of the sink.")
def discover_(
    state: State,
    connection: str,
    tables: tuple[str, ...],
    except_: tuple[str, ...],
    *,
    sample_rows: int | None,
    file: Path | None,
    sink: str | None,
) -> None:
    """Look at what a connection has, and put it into the catalog.

    Reads only, and as little as it can: the system's own catalog, and samples. Shows what is new or has changed.
    """
    if file is not None and file.exists():
        raise Refused("is there already", where=str(file), hint="name another file, or delete it")
    order: dict[str, Any] = {"connection": connection, "except": list(except_)}
    order |= {"tables": list(tables)} if tables else {}
    order |= {} if sample_rows is None else {"sample_rows": sample_rows}
    with connected(state.settings, worker=True) as client:
        kind = next((one.type for one in client.store.connections() if one.name == connection), None)
        if file is not None and kind is not None and kind not in DATABASES:
            _write(state, client, file, connection, sink, (tables, except_))
            state.output.data({"file": str(file)})
            state.output.hint(f"penstock plan {quote(str(file))}")
            return
        at = client.log.end(CONTROL, 0)
        answer = client.ask("discovery.start", connection, order)
        found = _followed(state, client, str((answer.result or {})["discovery"]), connection, at)
        if file is not None and found.error is None:
            _write(state, client, file, connection, sink, (tables, except_))
    if found.error is not None:
        raise error_from_report(found.error)
    counts = found.found or {}
    for note in found.notes or ():
        state.output.say(f"[yellow]note:[/yellow] {escape(note)}")
    took = seconds(found.requested_at, found.finished_at)
    objects = counted(counts.get("objects", 0), "object")
    state.output.say(f"{objects}, {counts.get('changed', 0):,} new or changed, in {took}.")
    state.output.data(found)
    state.output.hint(
        f"penstock plan {quote(str(file))}" if file else f"penstock catalog search --connection {quote(connection)}"
    )


def _write(state: State, client: Client, file: Path, connection: str, sink: str | None, patterns: _Patterns) -> None:
    """Write the pipeline file of what a connection has: of a database by the catalog, of others by names."""
    from api.cli.proposal import Wanted, pipeline_file

    known = {one.name: dict(one.connection) for one in client.store.connections()}
    others = [name for name in known if name != connection]
    sink = sink or (others[0] if len(others) == 1 else "SINK")
    kinds = {name: str(one["type"]) for name, one in known.items()}
    wanted = Wanted(
        file.stem.lower(),
        connection,
        sink,
        *patterns,
        source_type=kinds[connection],
        sink_type=kinds.get(sink, "postgres"),
        database=known.get(sink, {}).get("database"),
    )
    found = (
        _known(client, connection) if kinds[connection] in DATABASES else _listed(state, connection, known, patterns)
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(pipeline_file(wanted, found))


def _known(client: Client, connection: str) -> Iterator[Described]:
    from api.cli.proposal import Described

    after = None
    while True:
        page = client.store.datasets(connection=connection, limit=500, after=after)
        for one in page.items:
            if one.version is not None and one.profile is not None:
                schema = client.store.schema_at(one.id).schema
                yield Described(one.object, one.kind, schema, one.rows, one.bytes, "personal" in one.tags)
        if (after := page.after) is None:
            return


def _listed(state: State, connection: str, known: Mapping[str, Any], patterns: _Patterns) -> Iterator[Described]:
    from api.cli.replication import described
    from dataflows.connectors.contract import Place
    from penstock.models.connection import parse_connection

    settings = parse_connection(connection, known[connection])
    return described(Place("discover", connection, settings, "*", Path(state.settings.secrets)), *patterns)


def _followed(state: State, client: Client, id_: str, connection: str, at: int) -> DiscoveryEntry:
    """Show what the log says of a discovery, from offset `at` on; return its entry once it has ended."""
    shown: set[str] = set()
    for record in _records(client, at):
        payload = record.payload
        if record.type == "schema.observed" and payload["dataset"]["connection"] == connection:
            name = payload["dataset"]["object"]
            if name not in shown and len(shown) < SHOWN:
                columns = counted(len(payload["schema"]["fields"]), "column")
                state.output.say(f"{payload['kind']} {escape(name)}: {columns}")
            elif name not in shown and len(shown) == SHOWN:
                state.output.say("…")
            shown.add(name)  # it is observed again with its profile
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
