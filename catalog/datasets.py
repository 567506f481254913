"""Datasets and the history of their schemas."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, select, tuple_

from catalog import tables
from catalog.dataset_folds import dataset_id
from catalog.entries import Dataset, Known, Page, SchemaVersion
from catalog.pages import LIMIT, checked
from penstock.errors import NotFound
from penstock.models import DatasetRef, Schema

__all__ = [
    "COLUMNS",
    "dataset",
    "datasets",
    "discovered",
    "entry",
    "filters",
    "known",
    "schema_at",
    "schema_history",
]

_INNER = {"schema", "outline", "profiled", "seen"}
COLUMNS = [column for column in tables.datasets.columns if column.name not in _INNER]
"""The columns of an entry; the others are for the projection."""


def entry(row: RowMapping) -> Dataset:
    """Return the entry in `row`."""
    columns = {column.name: row[column.name] for column in COLUMNS}
    return Dataset(**{**columns, "tags": tuple(columns["tags"])})


def dataset(connection: Connection, id: str) -> Dataset:
    """Return the catalog entry `id`. Raises NotFound."""
    row = connection.execute(select(*COLUMNS).where(tables.datasets.c.id == id)).mappings().first()
    if row is None:
        raise NotFound("there is no such dataset", value=id, hint="search for it: penstock catalog search WORDS")
    return entry(row)


def datasets(
    connection: Connection,
    *,
    connection_name: str | None = None,
    kind: str | None = None,
    tag: str | None = None,
    limit: int = LIMIT,
    after: str | None = None,
) -> Page[Dataset]:
    """Return entries by connection and object; `after` is the id of the last entry of the previous page."""
    table = tables.datasets
    query = select(*COLUMNS).where(*filters(connection_name=connection_name, kind=kind, tag=tag))
    place = tuple_(table.c.connection.collate("C"), table.c.object.collate("C"))
    if after is not None:
        last = dataset(connection, after)
        query = query.where(place > tuple_(last.connection, last.object))
    query = query.order_by(table.c.connection.collate("C"), table.c.object.collate("C")).limit(checked(limit) + 1)
    found = tuple(entry(row) for row in connection.execute(query).mappings())
    return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)


def filters(*, connection_name: str | None, kind: str | None, tag: str | None) -> list[Any]:
    """Return the conditions of a list or a search; None is no condition."""
    table = tables.datasets
    conditions = [] if connection_name is None else [table.c.connection == connection_name]
    conditions += [] if kind is None else [table.c.kind == kind]
    return conditions + ([] if tag is None else [table.c.tags.contains([tag])])


def known(connection: Connection, refs: Collection[DatasetRef]) -> dict[DatasetRef, Known]:
    """Return the hashes of each of `refs` that has an entry."""
    table, ids = tables.datasets, {dataset_id(ref.connection, ref.object): ref for ref in refs}
    columns = (table.c.id, table.c.fingerprint, table.c.outline, table.c.profiled, table.c.kind, table.c.description)
    described = table.c.seen["described"].as_boolean()
    query = select(*columns, table.c.gone_at.is_not(None), described).where(table.c.id.in_(list(ids)))
    rows = connection.execute(query)
    return {ids[id_]: Known(*found) for id_, *found in rows}


def discovered(connection: Connection, connection_name: str) -> set[str]:
    """Return the objects of a connection that a discovery has found and that are not gone."""
    table = tables.datasets
    there = (table.c.connection == connection_name, table.c.profiled.is_not(None), table.c.gone_at.is_(None))
    return set(connection.execute(select(table.c.object).where(*there)).scalars())


def schema_history(connection: Connection, id: str) -> tuple[SchemaVersion, ...]:
    """Return every schema that the dataset has had, oldest first; empty if none was observed. Raises NotFound."""
    dataset(connection, id)
    table = tables.schema_versions
    rows = connection.execute(select(table).where(table.c.dataset == id).order_by(table.c.version)).mappings()
    return tuple(_version(row) for row in rows)


def schema_at(
    connection: Connection,
    id: str,
    *,
    version: int | None = None,
    at: datetime | None = None,
) -> SchemaVersion:
    """Return the schema that was current at `at`, the one of `version`, or the current one. Raises NotFound."""
    table = tables.schema_versions
    query = select(table).where(table.c.dataset == id).order_by(table.c.version.desc())
    query = query if version is None else query.where(table.c.version == version)
    query = query if at is None else query.where(table.c.at <= at)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound("has no such schema version", where=f"dataset {id}", value=version or at)
    return _version(row)


def _version(row: RowMapping) -> SchemaVersion:
    columns = {name: value for name, value in row.items() if name not in {"schema", "changed"}}
    return SchemaVersion(**columns, schema=Schema.parse(row["schema"]))
