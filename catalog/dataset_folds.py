"""The catalog's folds of datasets, their schemas and the mappings between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from catalog import tables
from catalog.evolution import detailed
from catalog.rows import Change, Entry, Row, Rows, storable
from catalog.words import words
from penstock.ids import named_id
from penstock.models.domain import Schema, SchemaMapping
from penstock.records import Record
from penstock.records.coordination import DatasetConfigured
from penstock.records.execution import DatasetProfiled, SchemaObserved

__all__ = ["Fold", "Seen", "configured", "dataset_id", "named_dataset", "observed_schema", "profiled", "put_mapping"]


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

    def fold(row: Row, _: Rows) -> None:
        _see(row, seen, connection, object_)
        row["kind"] = "table"

    return Change(tables.datasets, dataset_id(connection, object_), fold, once=True)


def _see(row: Row, seen: Seen, connection: str, object_: str) -> None:
    if row.get("first_offset") is None:
        row |= {"connection": connection, "object": object_, "tags": [], "name_words": " ".join(words(object_))}
        row |= {"first_offset": seen.offset, "first_at": seen.record.at}
    row |= {"last_offset": seen.offset, "last_at": seen.record.at}


def observed_schema(seen: Seen, body: SchemaObserved) -> Iterable[Change | Entry]:
    """Fold a schema that was observed: a new version if its fingerprint differs.

    A run sees names, types and nullability only; what is known besides stays.
    """
    dataset, record = body.dataset, seen.record
    key = dataset_id(dataset.connection, dataset.object)

    def fold(row: Row, rows: Rows) -> None:
        known = None if body.discovered else _known(row)
        schema = body.schema_ if known is None else detailed(body.schema_, known)
        fingerprint = schema.fingerprint
        _see(row, seen, dataset.connection, dataset.object)
        if body.discovered or body.kind != "table":
            row["kind"] = body.kind
        row["kind"] = row.get("kind") or body.kind
        if body.discovered or body.description is not None:
            row["description"] = body.description
        row |= {"outline": body.schema_.outline} | ({"tags": list(body.tags)} if body.tags else {})
        row["column_words"] = " ".join(words(*(field.name for field in schema.fields)))
        described = (field.description for field in schema.fields)
        row["text_words"] = " ".join(words(row.get("description"), *row["tags"], *described))
        if row.get("fingerprint") != fingerprint:
            found = {"version": (row.get("version") or 0) + 1, "fingerprint": fingerprint}
            found["schema"] = storable(schema.to_dict())
            row |= found
            version = {"dataset": key, **found, "at": record.at, "offset": seen.offset, "changed": seen.offset}
            version |= {"actor": record.actor, "cause": record.cause[0] if record.cause else None}
            rows.add(tables.schema_versions, version)

    return [Change(tables.datasets, key, fold)]


def _known(row: Row) -> Schema | None:
    """Return the current schema of a dataset, if there is one."""
    found = row.get("schema")
    if isinstance(found, orjson.Fragment):
        found = orjson.loads(orjson.dumps(found))
    return None if found is None else Schema.parse(found)


def configured(seen: Seen, body: DatasetConfigured) -> Iterable[Change | Entry]:
    """Fold the rule that somebody has set for a dataset."""

    def fold(row: Row, _: Rows) -> None:
        _see(row, seen, body.dataset.connection, body.dataset.object)
        row |= {"kind": row.get("kind") or "table", "compatibility": body.compatibility}

    return [Change(tables.datasets, dataset_id(body.dataset.connection, body.dataset.object), fold)]


def profiled(seen: Seen, body: DatasetProfiled) -> Iterable[Change | Entry]:
    """Fold the profile of a dataset: the last one counts."""
    dataset, profile = body.dataset, body.profile
    document, fingerprint = profile.to_dict(), profile.fingerprint

    def fold(row: Row, _: Rows) -> None:
        _see(row, seen, dataset.connection, dataset.object)
        row |= {"kind": row.get("kind") or "table", "rows": profile.rows, "bytes": profile.bytes}
        row |= {"profile": document, "profiled": fingerprint, "profiled_at": seen.record.at}
        row["tags"] = list(profile.tags)

    return [Change(tables.datasets, dataset_id(dataset.connection, dataset.object), fold)]


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
