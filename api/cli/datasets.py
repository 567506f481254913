"""`penstock catalog search` and `show`: datasets, their columns, keys and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from api.cli.console import ago, escape, size
from api.cli.main import State
from api.cli.schemas import dataset, one_word
from api.client import connected

if TYPE_CHECKING:
    from catalog.entries import Dataset
    from penstock.models.domain import ForeignKey

__all__ = ["search", "show"]


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


def show(state: State, words: tuple[str, ...]) -> None:
    """Show a dataset: columns, key, comments, indexes, size."""
    with connected(state.settings, runs=False) as client:
        found = dataset(client, one_word(words, "show"))
        schema = client.store.schema_at(found.id) if found.version is not None else None
    profile = found.profile or {}
    about = [found.kind] + ([f"about {found.rows:,} rows"] if found.rows is not None else [])
    about += [size(found.bytes)] if found.bytes is not None else []
    state.output.say(f"{escape(f'{found.connection}:{found.object}')}: {', '.join(about)}, seen {ago(found.last_at)}")
    if found.description:
        state.output.say(escape(found.description))
    fields = schema.schema.fields if schema else ()
    key = schema.schema.key if schema else ()
    rows = [
        (f.name, f.type, "" if f.nullable else "not null", "key" if f.name in key else "", f.default, f.description)
        for f in fields
    ]
    state.output.table(
        ("column", "type", "null", "key", "default", "comment"), rows, empty="No schema was observed yet."
    )
    _show_structure(state, profile, schema.schema.foreign or () if schema else ())
    state.output.data({**_plain(found), "schema": schema.schema if schema else None})
    state.output.hint(f"penstock catalog search --connection {found.connection}")


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
