"""Records per second of a projector that catches up: what a discovery of many tables, and their pipelines, record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final

from agents.lifecycle import Lifecycle
from benchmarks.parts.entries import Table, tables
from dataflows.process.site import Site
from dataflows.projector import project_to_end
from penstock.ids import named_id
from penstock.models.domain import DatasetRef
from penstock.models.profiles import ColumnProfile, DatasetProfile, Index
from penstock.postgres import connect
from penstock.records import AGENT, BRAIN_LOCK, Record
from penstock.records.envelope import encode
from penstock.records.execution import DatasetProfiled, SchemaObserved
from penstock.topics.table import CONTROL

__all__ = ["RECORDS", "projected_per_s"]

RECORDS: Final = "for each table its schema and its profile, and for every fourth a pipeline; tables have 8 columns"
AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
BATCH: Final = 500
EVERY: Final = 4
"""Tables for one pipeline."""


def projected_per_s(site: Site, count: int) -> float:
    """Append what is recorded of `count` tables to the empty log of `site`, and project it, from the log's rows on."""
    messages = [encode(record) for record in _records(count)]
    with site.open_log("benchmark") as log:
        log.lock(BRAIN_LOCK, wait=True)
        for at in range(0, len(messages), BATCH):
            log.append(CONTROL, messages[at : at + BATCH])
    begin = time.perf_counter()
    project_to_end(site)
    seconds = time.perf_counter() - begin
    with closing(connect(site.catalog_dsn, "benchmark")) as session:
        found = session.execute("SELECT (SELECT count(*) FROM catalog.datasets), count(*) FROM catalog.pipelines")
        pipelines = -(-count // EVERY)
        if (there := found.fetchone()) != (count + pipelines, pipelines):  # a pipeline names its target
            message = f"the catalog has {there}, not {count} tables and {pipelines} pipelines with their targets"
            raise RuntimeError(message)
    return len(messages) / seconds


def _records(count: int) -> Iterator[Record]:
    """Yield the records in the order of the log; a pipeline is a decision about the record before it."""
    agents = {"lifecycle": Lifecycle.rules}
    started = {"agents": agents, "release": "0"}
    yield Record(type="brain.started", key="brain", at=AT, actor="control", payload=started)
    offset = 1
    for n, table in enumerate(tables(count)):
        ref = DatasetRef(connection=f"shop{n % 20}", object=table.object)
        described: dict[str, Any] = {"kind": table.kind, "description": table.description, "discovered": True}
        yield _record("schema.observed", ref, SchemaObserved(dataset=ref, schema_=table.schema, **described).to_dict())
        yield _record("dataset.profiled", ref, DatasetProfiled(dataset=ref, profile=_profile(table, n)).to_dict())
        offset += 2
        if n % EVERY == 0:
            cause = {"actor": f"{AGENT}lifecycle", "cause": (offset - 1, 0), "brain": 0}
            yield _record("pipeline.created", ref, _pipeline(n, ref), **cause)
            offset += 1


def _profile(table: Table, n: int) -> DatasetProfile:
    columns = [ColumnProfile(name=one.name, nulls=0.1, distinct=10 * n) for one in table.schema.fields]
    columns[1:2] = [columns[1].model_copy(update={"tags": dict.fromkeys(table.tags, 0.9)})]
    index = Index(name=f"{n}_pkey", columns=("id",), unique=True)
    return DatasetProfile(rows=100 * n, bytes=10_000 * n, indexes=(index,), columns=tuple(columns))


def _pipeline(n: int, ref: DatasetRef) -> dict[str, Any]:
    spec = {
        "source": {"connection": ref.connection, "object": ref.object},
        "sink": {"connection": "warehouse", "object": f"raw.{ref.object}", "write": "merge", "key": ["id"]},
    }
    metadata = {"name": f"p{n}", "owner": "data-team", "labels": {"tier": "gold"}}
    document = {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": metadata, "spec": spec}
    return {"name": f"p{n}", "uid": named_id("uid", n), "version": 1, "pipeline": document}


def _record(type_: str, ref: DatasetRef, payload: dict[str, Any], **more: Any) -> Record:
    return Record(**{"type": type_, "key": str(ref), "at": AT, "actor": "worker", "payload": payload, **more})
