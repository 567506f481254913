"""`penstock catalog search` and `show`: datasets, their columns, keys and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from api.cli.console import ago, escape, size
from api.cli.main import State
from api.cli.moments import moment
from api.cli.schemas import dataset, one_word
from api.client import Client, connected
from catalog.lineage import Node
from catalog.profiles import Profiles
from catalog.queries import Filters
from penstock.models import DatasetRef

if TYPE_CHECKING:
    from catalog.entries import Dataset
    from catalog.results import Hit, Results
    from penstock.models.domain import ForeignKey, Schema

__all__ = ["erase", "search", "show"]

SHOWN: Final = 5
"""Frequent values of a column, and pipelines of an object, that are shown."""


def search(state: State, words: str, options: Mapping[str, Any]) -> None:
    """Show the datasets that have all words, best first, and why each is shown."""
    choice = {name: options[name] for name in ("fuzzy", "limit", "after")}
    named = {name: value for name, value in options.items() if name not in {*choice, "updated_since"}}
    since = None if options["updated_since"] is None else moment(options["updated_since"], "--updated-since")
    with connected(state.settings, runs=False) as client:
        found = client.store.search(words, Filters(**named, updated_since=since), **choice)
    state.output.data(_document(found))
    if found.approximate:
        state.output.say("Nothing has these words; this is spelt alike:")
    columns = ("connection", "object", "kind", "#rows, about", "#size, about", "tags", "found in")
    state.output.table(columns, [_row(hit) for hit in found.hits], empty="Nothing matches.")
    if found.total is not None and found.total > len(found.hits):
        _show_rest(state, found)
    shown = next((f"{one.dataset.connection}:{one.dataset.object}" for one in found.hits), None)
    state.output.hint(f"penstock catalog show {quote(shown)}" if shown else "penstock discover CONNECTION")


def _row(hit: Hit) -> tuple[object, ...]:
    one = hit.dataset
    kind = "not seen yet" if one.version is None else one.kind if one.gone_at is None else f"{one.kind} (gone)"
    why = "; ".join(
        ("about: " if not reason.exact else "") + (reason.text if reason.place != "name" else "its name")
        for reason in hit.reasons
    )
    return one.connection, one.object, kind, one.rows, one.bytes and size(one.bytes), ", ".join(one.tags), why


def _document(found: Results) -> dict[str, Any]:
    hits = [
        {**_plain(hit.dataset), "rank": hit.rank, "approximate": hit.approximate,
         "why": [asdict(reason) for reason in hit.reasons]}
        for hit in found.hits
    ]  # fmt: skip
    rest = {name: getattr(found, name) for name in ("total", "exact", "approximate", "facets", "after")}
    return {"hits": hits, **rest}


def _show_rest(state: State, found: Results) -> None:
    """Show how many there are, and what they have in common."""
    about = "" if found.exact else "about "
    state.output.say(f"{len(found.hits)} of {about}{found.total:,}")
    for name, counts in found.facets.items():
        if len(counts) > 1:
            parts = ", ".join(f"{one} {about}{count:,}" for one, count in counts.items())
            state.output.say(escape(f"{name}: {parts}"))


def show(state: State, words: tuple[str, ...], *, values: bool = False) -> None:
    """Show a dataset: columns, key, comments, indexes, size; with `values`, frequent ones that are kept."""
    with connected(state.settings, runs=False) as client:
        found = dataset(client, one_word(words, "show"))
        schema = client.store.schema_at(found.id).schema if found.version is not None else None
        kept = _kept(client, found) if values else {}
        here = Node(DatasetRef(connection=found.connection, object=found.object))
        near = {way: client.store.lineage(here, up=way == "written by", depth=1) for way in ("written by", "read by")}
    lineage = {way: sorted({step.edge.pipeline for step in steps}) for way, steps in near.items()}
    profile = found.profile or {}
    about = [found.kind] + ([f"about {found.rows:,} rows"] if found.rows is not None else [])
    about += [size(found.bytes)] if found.bytes is not None else []
    about += _of_files(profile)
    state.output.say(f"{escape(f'{found.connection}:{found.object}')}: {', '.join(about)}, seen {ago(found.last_at)}")
    if found.gone_at is not None:
        state.output.say(f"[bold]gone[/bold] from its source, as was seen {ago(found.gone_at)}")
    if found.description:
        state.output.say(escape(found.description))
    state.output.table(*_columns(schema, profile), empty="No schema was observed yet.")
    _show_structure(state, profile, schema.foreign or () if schema else ())
    for name, one in kept.items():
        top = ", ".join(f"{value} ({share:.0%})" for value, share in one.get("top", ())[:SHOWN])
        state.output.say(escape(f"{name}: {top or ' to '.join(one.get(end, '') for end in ('least', 'greatest'))}"))
    for way, names in lineage.items():
        if names:
            more = " …" if len(names) > SHOWN else ""
            state.output.say(escape(f"{way} {', '.join(names[:SHOWN])}{more}"))
    shown = {name.replace(" ", "_"): names for name, names in lineage.items()}
    state.output.data({**_plain(found), "schema": schema, **shown, **({"values": kept} if values else {})})
    named = f"{found.connection}:{found.object}"
    known = any(lineage.values())
    state.output.hint(
        f"penstock lineage {quote(named)}"
        if known
        else f"penstock catalog search --connection {quote(found.connection)}"
    )


def erase(state: State, words: tuple[str, ...]) -> None:
    """Delete the values of a dataset that discovery has kept."""
    with connected(state.settings, runs=False) as client:
        found = dataset(client, one_word(words, "erase"))
        with closing(Profiles(client.site.catalog_dsn)) as profiles:
            erased = profiles.erase(found.connection, found.object)
    named = f"{found.connection}:{found.object}"
    state.output.say(f"{escape(named)}: {'its values are erased' if erased else 'no values are kept'}")
    state.output.data({"dataset": named, "erased": bool(erased)})
    state.output.hint(f"penstock catalog show {quote(named)}")


def _kept(client: Client, found: Dataset) -> dict[str, Any]:
    with closing(Profiles(client.site.catalog_dsn)) as profiles:
        kept = profiles.get(found.connection, found.object)
    return kept[1] if kept else {}


def _columns(schema: Schema | None, profile: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Return the table of columns."""
    features = {one["name"]: one for one in profile.get("columns", ())}
    rows: list[tuple[object, ...]] = []
    for field in schema.fields if schema else ():
        known = features.get(field.name, {})
        rows.append((
            field.name, field.type, "" if field.nullable else "not null",
            "key" if schema and field.name in schema.key else "", field.default,
            "" if known.get("nulls") is None else f"{known['nulls']:.0%}", known.get("distinct"),
            ", ".join(known.get("tags", {})) + (" (personal)" if known.get("personal") else ""), field.description,
        ))  # fmt: skip
    return ("column", "type", "null", "key", "default", "#nulls", "#distinct, about", "tags", "comment"), rows


def _show_structure(state: State, profile: Mapping[str, Any], foreign: Sequence[ForeignKey]) -> None:
    indexes = [(one["name"], ", ".join(one["columns"]), "unique" if one.get("unique") else "") for one in
               profile.get("indexes", ())]  # fmt: skip
    if indexes:
        state.output.table(("index", "columns", ""), indexes, empty="")
    for one in foreign:
        state.output.say(escape(f"({', '.join(one.columns)}) references {one.object} ({', '.join(one.references)})"))
    if divided := profile.get("partitions"):
        state.output.say(escape(f"{divided['count']} partitions by {divided['by']}"))


def _of_files(profile: Mapping[str, Any]) -> list[str]:
    """Return what else is known of files or messages: how many, how new, and their format."""
    found = [f"about {profile['files']:,} files"] if profile.get("files") is not None else []
    found += [f"the newest of {profile['newest']}"] if profile.get("newest") else []
    found += [profile["format"]] if profile.get("format") else []
    return found + ([f"keys: {profile['key_format']}"] if profile.get("key_format") else [])


def _plain(dataset: Dataset) -> dict[str, Any]:
    return asdict(dataset)
