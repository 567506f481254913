"""The catalog's folds of datasets, their schemas and the mappings between them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from catalog import tables
from catalog.evolution import completes, detailed
from catalog.lexemes import is_sampled, searched
from catalog.rows import Change, Entry, Row, Rows, parsed, storable
from catalog.words import trigrams, words
from penstock.ids import named_id
from penstock.models.domain import Schema, SchemaMapping
from penstock.models.profiles import fingerprint_of
from penstock.records import Record
from penstock.records.coordination import DatasetConfigured
from penstock.records.execution import DatasetGone, DatasetProfiled, SchemaObserved

__all__ = [
    "Fold",
    "Seen",
    "configured",
    "dataset_id",
    "forgotten",
    "gone",
    "named_dataset",
    "observed_schema",
    "profiled",
    "put_mapping",
]

KEPT: Final = 4000
"""Schemas that are kept in memory."""
LONGEST_WORD: Final = 30
"""Letters of a word that others can be like."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A record with its offset."""

    offset: int
    record: Record


Fold = Callable[[Seen, Any], Iterable[Change | Entry]]


def dataset_id(connection: str, object_: str) -> str:
    """Return the id of a dataset's catalog entry, usable in a URL."""
    return named_id("dataset", connection, object_)


def named_dataset(seen: Seen, connection: str, object_: str) -> Change:
    """Fold a dataset that a pipeline names: it gets an entry without a schema, unless it has one."""

    def fold(row: Row, rows: Rows) -> None:
        _see(row, seen, connection, object_)
        row["kind"] = "table"
        _index(row, rows, seen, None, object_)

    return Change(tables.datasets, dataset_id(connection, object_), fold, once=True)


def _see(row: Row, seen: Seen, connection: str, object_: str) -> tuple[object, ...] | None:
    """Note that the dataset was seen; return what the search had of it before."""
    before = _indexed(row) if "first_offset" in row else None
    if before is None:
        row |= {"connection": connection, "object": object_, "tags": []}
        row |= {"first_offset": seen.offset, "first_at": seen.record.at}
    row |= {"last_offset": seen.offset, "last_at": seen.record.at}
    return before


def _indexed(row: Row) -> tuple[object, ...]:
    """Return all that the row of a search is made from."""
    texts = (row.get("kind"), row.get("description"), *row["tags"])
    stored = tuple(text and text.replace("\0", "\ufffd") for text in texts)  # as it comes back from the table
    return (row.get("fingerprint"), row.get("gone_at"), *stored)


def _index(row: Row, rows: Rows, seen: Seen, before: tuple[object, ...] | None, *texts: str | None) -> None:
    """Replace the row of the search if it has changed, and add the words of `texts` that are not known yet."""
    if _indexed(row) == before:
        return
    new = [text for text in texts if text and text not in rows.indexed and text not in rows.indexed_before]
    rows.indexed.update(new)
    added, stored = rows.history.get(tables.words, {}), rows.written_before.get(tables.words, ())
    for word in words(*new):
        if (word,) not in added and (word,) not in stored and len(word) <= LONGEST_WORD:
            found = {"word": word, "trigrams": sorted(trigrams(word)), "changed": seen.offset}
            rows.add(tables.words, found)

    rows.derive(tables.search_entries, row["id"], lambda: _search_entry(row, seen.offset))


def _search_entry(row: Row, offset: int) -> Row:
    """Return what the search reads of a dataset."""
    schema = _known(row)
    described = () if schema is None else (field.description for field in schema.fields)
    found = {name: row[name] for name in ("id", "connection", "object", "kind", "tags")}
    about = (row["connection"], row["object"], row["kind"], row["tags"])
    vector, text = searched(*about, (row.get("description"), *described), schema)
    found |= {"texts": text, "search": vector, "sampled": is_sampled(row["id"])}
    return found | {"gone": row.get("gone_at") is not None, "changed": offset}


def observed_schema(seen: Seen, body: SchemaObserved) -> Iterable[Change | Entry]:
    """Fold a schema that was observed: a new version if it differs.

    A run sees names, types and nullability only; what is known besides stays, and what a discovery finds besides later
    belongs to the version that the run has seen.
    """
    dataset = body.dataset
    key = dataset_id(dataset.connection, dataset.object)

    def fold(row: Row, rows: Rows) -> None:
        known = _known(row)
        schema = body.schema_ if known is None or body.discovered else detailed(body.schema_, known)
        document = schema.to_dict()
        fingerprint = schema.fingerprint_of(document)
        before = _see(row, seen, dataset.connection, dataset.object)
        if body.discovered or body.kind != "table":
            row["kind"] = body.kind
        row["kind"] = row.get("kind") or body.kind
        if body.discovered or body.description is not None:
            row["description"] = body.description
        first: dict[str, Any] = parsed(row.get("seen")) or {}
        if row.get("fingerprint") != fingerprint:
            same = body.discovered and _is_completed(known, schema, first) and row.get("gone_at") is None
            first = first if same else _first(seen)
            found = {"version": (row.get("version") or 0) + (not same), "fingerprint": fingerprint}
            found["schema"] = storable(document)
            row |= found
            version = {"dataset": key, **found, **first, "changed": seen.offset}
            version.pop("described", None)
            if same:
                rows.derive(tables.schema_versions, f"{key}:{row['version']}", lambda: version)
            else:
                rows.add(tables.schema_versions, version)
            _keep(schema, fingerprint)
        row["seen"] = first | {"described": body.discovered or first.get("described", False)}
        row |= {"outline": body.schema_.outline, "gone_at": None} | ({"tags": list(body.tags)} if body.tags else {})
        described = (text for field in schema.fields for text in (field.name, field.description))
        _index(row, rows, seen, before, dataset.object, row.get("description"), *row["tags"], *described)

    return [Change(tables.datasets, key, fold)]


def _is_completed(known: Schema | None, schema: Schema, first: dict[str, Any]) -> bool:
    return bool(first) and known is not None and completes(schema, known, described=first["described"])


def _first(seen: Seen) -> dict[str, Any]:
    """Return who has seen a version first, and when."""
    record = seen.record
    cause = record.cause[0] if record.cause else None
    return {"at": record.at.isoformat(), "offset": seen.offset, "actor": record.actor, "cause": cause}


def _known(row: Row) -> Schema | None:
    """Return the current schema of a dataset, if there is one."""
    found = row.get("schema")
    if found is None:
        return None
    kept = _SCHEMAS.get(row["fingerprint"])
    if kept is None:
        kept = _keep(Schema.parse(parsed(found)), row["fingerprint"])
    return kept


_SCHEMAS: Final[OrderedDict[str, Schema]] = OrderedDict()
"""Schemas by fingerprint, those that the last records named: the same one is needed again by a profile."""


def _keep(schema: Schema, fingerprint: str) -> Schema:
    _SCHEMAS[fingerprint] = schema
    if len(_SCHEMAS) > KEPT:
        _SCHEMAS.popitem(last=False)
    return schema


def configured(seen: Seen, body: DatasetConfigured) -> Iterable[Change | Entry]:
    """Fold the rule that somebody has set for a dataset."""

    def fold(row: Row, rows: Rows) -> None:
        before = _see(row, seen, body.dataset.connection, body.dataset.object)
        row |= {"kind": row.get("kind") or "table", "compatibility": body.compatibility}
        _index(row, rows, seen, before, body.dataset.object)

    return [Change(tables.datasets, dataset_id(body.dataset.connection, body.dataset.object), fold)]


def profiled(seen: Seen, body: DatasetProfiled) -> Iterable[Change | Entry]:
    """Fold the profile of a dataset: the last one counts."""
    dataset, profile = body.dataset, body.profile
    document, tags = profile.to_dict(), profile.tags
    fingerprint = fingerprint_of(document)

    def fold(row: Row, rows: Rows) -> None:
        before = _see(row, seen, dataset.connection, dataset.object)
        row |= {"kind": row.get("kind") or "table", "rows": profile.rows, "bytes": profile.bytes}
        row |= {"profile": document, "profiled": fingerprint, "profiled_at": seen.record.at}
        row["tags"] = list(tags)
        _index(row, rows, seen, before, dataset.object, *tags)

    return [Change(tables.datasets, dataset_id(dataset.connection, dataset.object), fold)]


def gone(seen: Seen, body: DatasetGone) -> Iterable[Change | Entry]:
    """Fold that a dataset is no longer at its source. Its schemas and profile stay."""
    dataset = body.dataset

    def fold(row: Row, rows: Rows) -> None:
        before = _see(row, seen, dataset.connection, dataset.object)
        row |= {"kind": row.get("kind") or "table", "gone_at": row.get("gone_at") or seen.record.at}
        _index(row, rows, seen, before, dataset.object)

    return [Change(tables.datasets, dataset_id(dataset.connection, dataset.object), fold)]


def forgotten(id_: str) -> Change:
    """Drop a dataset with the history of its schemas."""

    def fold(_: Row, rows: Rows) -> None:
        for table in (tables.datasets, tables.search_entries, tables.schema_versions):
            rows.drop(table, id_)

    return Change(tables.datasets, id_, fold)


def put_mapping(mapping: SchemaMapping, *, at: datetime, actor: str, offset: int) -> Change:
    """Store a mapping as the next version of its name."""

    def fold(row: Row, rows: Rows) -> None:
        version = (row.get("version") or 0) + 1
        document = mapping.model_copy(update={"version": version}).to_dict()
        ends = {"source": mapping.source, "target": mapping.target}
        row |= {name: dataset_id(end.connection, end.object) for name, end in ends.items()}
        row |= {"version": version, "mapping": document, "at": at}
        entry = {"name": mapping.name, "version": version, "mapping": document, "at": at, "actor": actor}
        rows.add(tables.mapping_versions, entry | {"changed": offset})

    return Change(tables.mappings, mapping.name, fold)
