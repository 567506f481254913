"""Lineage from the catalog: edges around some objects, and what the events of a run need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from shlex import quote

from sqlalchemy import Connection, Text, cast, select

from catalog import history, pipelines, tables
from catalog.dataset_folds import dataset_id
from catalog.lineage import Edge, Node, Step, edges, trace
from catalog.openlineage import RunLineage
from penstock.errors import InvalidDocument, NotFound, did_you_mean
from penstock.models.domain import DatasetRef, Schema
from penstock.models.pipeline import Pipeline

__all__ = ["lineage", "run_lineage"]


def lineage(connection: Connection, begin: Node, *, up: bool, depth: int) -> tuple[Step, ...]:
    """Return what `begin` comes from (`up`) or goes to, over at most `depth` pipelines, nearest first.

    Raises NotFound: the object has no such column, although its columns are known.
    """
    if begin.column is not None:
        known = _columns(connection, [begin.dataset]).get(begin.dataset)
        if known is not None and begin.column not in known:
            hint = did_you_mean(begin.column, known) or f"penstock catalog show {quote(str(begin.dataset))}"
            raise NotFound("has no such column", where=str(begin.dataset), value=begin.column, hint=hint)
    return trace(begin, lambda objects: _near(connection, objects, up=up), up=up, depth=depth)


def run_lineage(connection: Connection, id_: str) -> RunLineage | None:
    """Return what the events of a run need; None if the catalog does not have it, or can no longer read it."""
    run = history.run(connection, id_)
    version = None if run is None or run.uid is None else pipelines.version(connection, run.uid, run.version)
    if run is None or version is None:
        return None
    try:
        pipeline = Pipeline.parse(dict(version.pipeline))
    except InvalidDocument:  # of an older release
        return None
    known = {one.name: one.connection for one in pipelines.connections(connection)}
    source = DatasetRef.of(pipeline.spec.source)
    query = select(tables.datasets.c.schema).where(tables.datasets.c.id == dataset_id(source.connection, source.object))
    schema = connection.execute(query).scalar()
    return RunLineage(run, pipeline, known, None if schema is None else Schema.parse(schema))


def _near(connection: Connection, objects: Sequence[DatasetRef], *, up: bool) -> Iterable[Edge]:
    """Yield the edges of the pipelines that write `objects`, or read them, also in a lookup."""
    table, ids = tables.pipelines, [dataset_id(one.connection, one.object) for one in objects]
    query = select(table.c.pipeline).where(table.c.status != "deleted", table.c.source.is_not(None))
    looks_up = cast(table.c.pipeline, Text).contains('"lookup"')
    query = query.where(table.c.sink.in_(ids) if up else table.c.source.in_(ids) | looks_up)
    found = []
    for (document,) in connection.execute(query.order_by(table.c.name.collate("C"))):
        try:
            found.append(Pipeline.parse(dict(document)))
        except InvalidDocument:  # of an older release
            continue
    sources = {one.name: DatasetRef.of(one.spec.source) for one in found}
    columns = _columns(connection, sorted(set(sources.values()), key=str))
    for one in found:
        yield from edges(one, columns.get(sources[one.name]))


def _columns(connection: Connection, refs: Sequence[DatasetRef]) -> dict[DatasetRef, tuple[str, ...]]:
    """Return the columns of each of `refs` that has a schema."""
    table, ids = tables.datasets, {dataset_id(one.connection, one.object): one for one in refs}
    rows = connection.execute(select(table.c.id, table.c.schema).where(table.c.id.in_(list(ids))))
    return {ids[id_]: tuple(field["name"] for field in schema["fields"]) for id_, schema in rows if schema is not None}
