"""`penstock init NAME --from URL --to URL`: a project that replicates all that one system has into another."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import Any

from api.cli.main import State
from api.cli.proposal import Described, Wanted, pipeline_file
from api.cli.set_runs import listing_line, wait_for_listing
from api.client import connected
from api.starter import empty_project
from api.urls import connection_of
from dataflows.connectors.cataloguing import Choice, chosen
from dataflows.connectors.contract import Place
from dataflows.connectors.registry import connector
from dataflows.connectors.source_catalog import found_objects, listing, open_catalog
from penstock.errors import Refused
from penstock.models.connection import parse_connection
from penstock.models.documents import read_project
from penstock.models.sets import DATABASES
from penstock.settings import load

__all__ = ["described", "make_replication"]

SOURCE, TARGET = "source", "target"
"""Names of the connections."""
_LOGIN = {"password", "access_key", "secret_key"}
"""Keys of a connection that refer to files, one for each end."""
Patterns = tuple[tuple[str, ...], tuple[str, ...]]
"""Patterns of the objects that are wanted, all if there are none, and of those that are not."""


def make_replication(
    state: State,
    folder: Path,
    source: str,
    sink: str,
    patterns: Patterns,
    *,
    changes: bool,
) -> None:
    """Make the project, apply it, and list the objects; what is made is removed again if the source cannot be read.

    Raises:
        UsageError: a URL of no known system; the folder is not empty.
        Refused: the source sends no changes, or is the target, too.
        Unavailable, AccessDenied: the source does not answer.
    """
    folder = folder.absolute()
    made = empty_project(folder)
    try:
        made += _files(folder, source, sink, patterns, changes=changes)
    except BaseException:
        shutil.rmtree(folder)
        raise
    name = _name(folder)
    state.output.data({"project": str(folder), "files": [str(path) for path in made]})
    state.output.say(f"{folder} holds {', '.join(str(path.relative_to(folder)) for path in made)}")
    state.output.say(_applied(folder, name))
    state.output.hint(f"cd {quote(str(folder))} && penstock plan {quote(name)} && penstock run {quote(name)} --watch")


def _files(folder: Path, source: str, sink: str, patterns: Patterns, *, changes: bool) -> list[Path]:
    """Write the connections, their secrets, and the pipeline file; return what is written, without secrets."""
    secrets, connections = folder / "secrets", dict[str, dict[str, Any]]()
    for name, url in ((SOURCE, source), (TARGET, sink)):
        connections[name], files = connection_of(url, name, secrets)
        parse_connection(name, connections[name])
        for path, secret in files.items():
            secrets.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(secret)
    ends = [{key: value for key, value in one.items() if key not in _LOGIN} for one in connections.values()]
    if ends[0] == ends[1]:
        hint = "name another database or folder: each table would be read from where it is written"
        raise Refused("is the source, too", where="--to", hint=hint)
    kinds = {name: one["type"] for name, one in connections.items()}
    if changes and kinds[SOURCE] != "postgres":
        what, hint = f"a source of type {kinds[SOURCE]} sends no changes of rows", "leave out --cdc"
        raise Refused(what, where="--cdc", hint=hint)
    place = Place("init", SOURCE, parse_connection(SOURCE, connections[SOURCE]), "*", secrets)
    wanted = Wanted(
        _name(folder),
        SOURCE,
        TARGET,
        *patterns,
        source_type=kinds[SOURCE],
        sink_type=kinds[TARGET],
        database=connections[TARGET].get("database"),
        changes=changes,
    )
    text = pipeline_file(wanted, described(place, *patterns))
    written = [folder / "connections.yaml", folder / "pipelines" / f"{_name(folder)}.yaml"]
    written[1].parent.mkdir()
    written[0].write_text("".join(f"{name}: {_line(one)}\n" for name, one in connections.items()))
    written[1].write_text(text)
    return written


def described(place: Place, tables: Sequence[str] = (), except_: Sequence[str] = ()) -> Iterator[Described]:
    """Yield the objects of a connection: of a database with keys, columns and estimates, of others by name.

    Raises:
        Refused: systems of its type cannot be listed.
        Unavailable, AccessDenied: it does not answer.
    """
    kind, choice = connector(place.settings.type, place.where), Choice(tuple(tables) or ("*",), tuple(except_))
    with closing(open_catalog(kind, place)) as catalog:
        if place.settings.type in DATABASES:
            for page in found_objects(kind, place, catalog, choice):
                for one in page:
                    yield Described(one.object, one.kind, one.schema, one.profile.rows, one.profile.bytes)
        else:
            yield from (Described(one.name) for one in chosen(listing(kind, place), place, choice, []))


def _applied(folder: Path, name: str) -> str:
    """Apply the project; return a line about its objects."""
    from api.cli.project import put

    settings = load(folder)
    with connected(settings, worker=True) as client:
        rows = put(client, read_project(settings.project))
        version = next(int(str(row[2])) for row in rows if row[:2] == ("pipeline", name))
        return listing_line(name, wait_for_listing(client, name, version))


def _name(folder: Path) -> str:
    """Return the set's name: that of the folder, as far as it can be one."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.name.lower()).strip("-_0123456789")
    return name[:63] or "replica"


def _line(connection: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{key}: {json.dumps(value)}' for key, value in connection.items())}}}"
