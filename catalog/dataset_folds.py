"""The catalog's folds of datasets, their schemas and the mappings between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from catalog import tables
from catalog.rows import Change, Entry, Row, Rows
from catalog.words import words
from penstock.ids import named_id
from penstock.models.domain import SchemaMapping
from penstock.records import Record
from penstock.records.execution import SchemaObserved

__all__ = ["Fold", "Seen", "dataset_id", "named_dataset", "observed_schema", "put_mapping"]


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
    """Fold a schema that a run has observed: a new version if its fingerprint differs."""
    dataset, schema, at = body.dataset, body.schema_, seen.record.at
    key = dataset_id(dataset.connection, dataset.object)
    fingerprint = schema.fingerprint
    fields = [field.to_dict() for field in schema.fields]

    def fold(row: Row, rows: Rows) -> None:
        _see(row, seen, dataset.connection, dataset.object)
        row |= {"kind": body.kind, "description": body.description, "tags": list(body.tags)}
        row["column_words"] = " ".join(words(*(field.name for field in schema.fields)))
        described = (field.description for field in schema.fields)
        row["text_words"] = " ".join(words(body.description, *body.tags, *described))
        if row.get("fingerprint") != fingerprint:
            row |= {"version": (row.get("version") or 0) + 1, "fingerprint": fingerprint}
            version = {"dataset": key, "version": row["version"], "fingerprint": fingerprint, "fields": fields}
            version |= {"key": schema.key, "at": at, "offset": seen.offset, "changed": seen.offset}
            rows.add(tables.schema_versions, version)

    return [Change(tables.datasets, key, fold)]


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
