"""Commands on a project's files: validate, apply, schema, settings."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote

import click
from pydantic import TypeAdapter

from api.cli.console import escape
from api.cli.dependencies import in_order
from api.cli.main import State, command
from api.client import Client, connected
from penstock.errors import InvalidDocument, Issue, NotFound, PenstockError, did_you_mean
from penstock.models.connection import Connection
from penstock.models.documents import CONNECTIONS, Documents, read_documents, read_project
from penstock.models.pipeline import Pipeline
from penstock.models.policy import AgentPolicy
from penstock.models.routes import issues_of_routes
from penstock.models.sets import DATABASES, placeholder_issue
from penstock.records.commands import ConnectionPut, PipelineApply, PolicyPublish
from penstock.settings import FILE, PREFIX

Files = tuple[Path, ...]


def documents_of(state: State, files: Files) -> Documents:
    """Return the documents of `files`, else of the project; reports every issue of all of them at once."""
    from dataflows.transforms.expressions.check import check_expressions

    documents = (
        read_documents(files, check_expressions) if files else read_project(state.settings.project, check_expressions)
    )
    if patterns := _patterns(documents, {**_written(state), **documents.connections}):
        raise InvalidDocument(patterns)
    return in_order(documents)


def _patterns(documents: Documents, connections: Mapping[str, Connection]) -> list[Issue]:
    """Return an issue for each object of a database that is a pattern: only folders have objects of several parts."""
    issues = []
    for one in documents.pipelines:
        if one.spec.is_set:
            of = getattr(connections.get(one.spec.source.connection), "type", "")
            if issue := placeholder_issue(one.spec.sink.object, of):
                where = f"{documents.origins.get(('Pipeline', one.name), one.name)}: spec.sink.object"
                issues.append(Issue(where, issue))
            continue
        for part, end in (("source", one.spec.source), ("sink", one.spec.sink)):
            kind = getattr(connections.get(end.connection), "type", None)
            if kind in DATABASES and "*" in end.object and '"' not in end.object:
                hint = "write `objects: [PATTERN]` in its place; a table of that very name is written in quotes"
                where = f"{documents.origins.get(('Pipeline', one.name), one.name)}: spec.{part}.object"
                issues.append(Issue(where, f"a pattern of tables has no meaning here, got {end.object!r}; {hint}"))
    return issues


FILES = click.argument("files", nargs=-1, type=click.Path(path_type=Path))


@command(name="validate")
@FILES
def validate_(state: State, files: Files) -> None:
    """Check files without touching any system: keys, types, rules, SQL expressions. Default: all of the project."""
    documents = documents_of(state, files)
    notes = [note for found in _notes(documents).values() for note in found]
    notes += [f"{issue}, unless it is applied already" for issue in _unknown(documents, _types(_written(state)))]
    state.output.data({"valid": True, "documents": len(documents), "notes": notes})
    state.output.say("1 document is valid" if len(documents) == 1 else f"{len(documents)} documents are valid")
    _tell(state, notes)
    state.output.hint("penstock apply")


def _written(state: State) -> Mapping[str, Connection]:
    """Return the connections of the project's file: single files may use them."""
    path = state.settings.project / CONNECTIONS
    with suppress(PenstockError):
        return read_documents([path]).connections if path.exists() else {}
    return {}


def _tell(state: State, notes: Iterable[str]) -> None:
    for note in notes:
        state.output.say(f"[yellow]note:[/yellow] {escape(note)}")


def _notes(documents: Documents, inspected: Collection[str] = ()) -> dict[tuple[str, str], list[str]]:
    from api.notes import notes_of

    return notes_of(documents, inspected)


@command(name="apply")
@FILES
def apply_(state: State, files: Files) -> None:
    """Put files into effect: check all, then send connections, policies and pipelines, in this order."""
    documents = documents_of(state, files)
    sets = [one.name for one in documents.pipelines if one.spec.is_set]
    with connected(state.settings, worker=bool(sets)) as client:
        installed = {one.name: one.connection.get("type") for one in client.store.connections()}
        if issues := _unknown(documents, installed):
            raise InvalidDocument(issues, hint="add it to connections.yaml, or correct the name; nothing was applied")
        cursors = _cursor_notes(state, client, documents)
        rows = put(client, documents)
        listings = _listings(client, sets, rows)
    state.output.table(("what", "name", "#version", ""), rows, empty="Nothing to apply.")
    notes = _notes(documents, inspected=[name for (_, name), found in cursors.items() if found])
    for key, found in cursors.items():
        notes[key] = [*notes.get(key, []), *found]
    _tell(state, [note for found in notes.values() for note in found])
    state.output.data(
        [
            {"kind": kind, "name": name, "version": version, "change": change, "notes": notes.get((kind, name), [])}
            for kind, name, version, change in rows
        ]
    )
    for line in listings:
        state.output.say(line)
    names = [pipeline.name for pipeline in documents.pipelines]
    state.output.hint(f"penstock run {quote(names[0])} --watch" if names else "penstock list")


def _listings(client: Client, sets: Collection[str], rows: Iterable[tuple[str, str, object, str]]) -> list[str]:
    """Wait until the objects of each set that has changed are listed; return a line about each."""
    from api.cli.set_runs import listing_line, wait_for_listing

    changed = {name: version for _, name, version, change in rows if name in sets and change == "changed"}
    return [listing_line(name, wait_for_listing(client, name, int(str(version)))) for name, version in changed.items()]


def _cursor_notes(state: State, client: Client, documents: Documents) -> dict[tuple[str, str], list[str]]:
    from api.cli.cursors import cursor_notes

    connections = {one.name: dict(one.connection) for one in client.store.connections()}
    connections |= {name: one.to_dict() for name, one in documents.connections.items()}
    return cursor_notes(state, [one for one in documents.pipelines if not one.spec.is_set], connections)


def _types(connections: Mapping[str, Connection]) -> dict[str, str | None]:
    return {name: one.type for name, one in connections.items()}


def _unknown(documents: Documents, installed: Mapping[str, str | None]) -> list[Issue]:
    """Return an issue for each connection that a pipeline or a policy names, and that does not exist or does not fit.

    `installed` are the types of connections by name.
    """
    known = {**installed, **_types(documents.connections)}
    routes = [
        Issue(f"{documents.origins['AgentPolicy', policy.name]}: {issue.path}", issue.message)
        for policy in documents.policies
        for issue in issues_of_routes(policy, known)
    ]
    return routes + [
        Issue(
            f"{documents.origins['Pipeline', pipeline.name]}: spec.{side}.connection",
            f"there is no connection `{name}`{_near(name, known)}",
        )
        for pipeline in documents.pipelines
        for side, name in (("source", pipeline.spec.source.connection), ("sink", pipeline.spec.sink.connection))
        if name not in known
    ]


def _near(name: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, known)
    return f"; {hint}" if hint else ""


def put(client: Client, documents: Documents) -> list[tuple[str, str, object, str]]:
    """Send every document; return kind, name, version and change of each."""
    asked = [
        *(
            ("connection.put", name, ConnectionPut(name=name, connection=one.to_dict()))
            for name, one in documents.connections.items()
        ),
        *(
            ("policy.publish", one.name, PolicyPublish(policy=one.to_dict(), origin="file"))
            for one in documents.policies
        ),
        *(("pipeline.apply", one.name, PipelineApply(pipeline=one.to_dict())) for one in documents.pipelines),
    ]
    rows: list[tuple[str, str, object, str]] = []
    for type_, name, payload in asked:
        try:
            result = client.ask(type_, name, payload.to_dict()).result or {}
        except PenstockError as error:
            error.add_note(f"{len(rows)} of {len(asked)} documents were applied before this one")
            raise
        change = "changed" if result.get("changed") else "unchanged"
        rows.append((type_.partition(".")[0], name, result.get("version") or str(result.get("hash", ""))[:12], change))
    return rows


KINDS: dict[str, type[Pipeline | AgentPolicy]] = {"Pipeline": Pipeline, "AgentPolicy": AgentPolicy}


@command(name="schema")
@click.argument("kind")
def schema_(_: State, kind: str) -> None:
    """Print the JSON Schema of a KIND: Pipeline, AgentPolicy or connections. For editors, always JSON."""
    if kind == "connections":
        found = TypeAdapter(dict[str, Connection]).json_schema()
    elif kind in KINDS:
        found = KINDS[kind].model_json_schema(by_alias=True)
    else:
        known = [*KINDS, "connections"]
        raise NotFound(
            "there is no such kind", value=kind, hint=did_you_mean(kind, known) or f"one of {', '.join(known)}"
        )
    click.echo(json.dumps(found, indent=2))


@command(name="settings")
def settings_(state: State) -> None:
    """Show every setting, its value, and its origin: the environment, penstock.toml, or the default."""
    settings = state.settings
    path = settings.project / FILE
    written = tomllib.loads(path.read_text()) if path.exists() else {}
    rows = []
    for name, value in settings.shown().items():
        variable = PREFIX + name.upper()
        origin = variable if variable in os.environ else FILE if name in written else "default"
        rows.append((name, value, origin))
    state.output.table(("setting", "value", "from"), rows, empty="")
    state.output.data({name: {"value": value, "from": origin} for name, value, origin in rows})
    state.output.hint("penstock doctor")
