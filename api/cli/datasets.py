"""`penstock catalog search` and `show`: datasets, their columns, keys and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from api.cli.console import ago, escape, size
from api.cli.main import State
from api.cli.schemas import dataset, one_word
from api.client import Client, connected
from catalog.profiles import Profiles

if TYPE_CHECKING:
    from catalog.entries import Dataset
    from penstock.models.domain import ForeignKey, Schema

__all__ = ["erase", "search", "show"]

SHOWN: Final = 5
"""Frequent values of a column that are shown."""


def search(state: State, words: str, filters: Mapping[str, Any]) -> None:
    """Show the datasets that have all words, best first."""
    with connected(state.settings, runs=False) as client:
        hits = client.store.search(words, **filters)
    rows = [
        (d.connection, d.object, d.kind, d.rows, None if d.bytes is None else size(d.bytes), ", ".join(d.tags))
        for d in (hit.dataset for hit in hits)
    ]
    columns = ("connection", "object", "kind", "#rows, about", "#size, about", "tags")
    state.output.table(columns, rows, empty="Nothing matches.")
    state.output.data([{**_plain(hit.dataset), "rank": hit.rank} for hit in hits])
    first = hits[0].dataset if hits else None
    state.output.hint(
        f"penstock catalog show {first.connection}:{first.object}" if first else "penstock discover CONNECTION"
    )


def show(state: State, words: tuple[str, ...], *, values: bool = False) -> None:
    """Show a dataset: columns, key, comments, indexes, size; with `values`, frequent ones that are kept."""
    with connected(state.settings, runs=False) as client:
        found = dataset(client, one_word(words, "show"))
        schema = client.store.schema_at(found.id).schema if found.version is not None else None
        kept = _kept(client, found) if values else {}
    profile = found.profile or {}
    about = [found.kind] + ([f"about {found.rows:,} rows"] if found.rows is not None else [])
    about += [size(found.bytes)] if found.bytes is not None else []
    state.output.say(f"{escape(f'{found.connection}:{found.object}')}: {', '.join(about)}, seen {ago(found.last_at)}")
    if found.description:
        state.output.say(escape(found.description))
    state.output.table(*_columns(schema, profile), empty="No schema was observed yet.")
    _show_structure(state, profile, schema.foreign or () if schema else ())
    for name, one in kept.items():
        top = ", ".join(f"{value} ({share:.0%})" for value, share in one.get("top", ())[:SHOWN])
        state.output.say(escape(f"{name}: {top or ' to '.join(one.get(end, '') for end in ('least', 'greatest'))}"))
    state.output.data({**_plain(found), "schema": schema, **({"values": kept} if values else {})})
    state.output.hint(f"penstock catalog search --connection {found.connection}")


def erase(state: State, words: tuple[str, ...]) -> None:
    """Delete the values of a dataset that discovery has kept."""
    with connected(state.settings, runs=False) as client:
        found = dataset(client, one_word(words, "erase"))
        with closing(Profiles(client.site.catalog_dsn)) as profiles:
            erased = profiles.erase(found.connection, found.object)
    named = f"{found.connection}:{found.object}"
    state.output.say(f"{escape(named)}: {'its values are erased' if erased else 'no values are kept'}")
    state.output.data({"dataset": named, "erased": bool(erased)})
    state.output.hint(f"penstock catalog show {named}")


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


def _plain(dataset: Dataset) -> dict[str, Any]:
    return asdict(dataset)
