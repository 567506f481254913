"""Runs as events of OpenLineage, the open format for lineage: https://openlineage.io/spec/2-0-2/OpenLineage.json.

Datasets are named as its naming convention says, so that events of other tools about the same tables join with ours.
No event has values of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from psycopg import ProgrammingError, conninfo

from catalog.entries import RunEntry
from catalog.lineage import Node, edges
from penstock import __version__
from penstock.models.domain import DatasetRef, RunStatus, Schema
from penstock.models.pipeline import Pipeline
from penstock.models.sets import set_of

__all__ = ["RunLineage", "event", "named"]

NAMESPACE: Final = "penstock"
"""The namespace of jobs: pipelines, and sets."""
_SPEC: Final = "https://openlineage.io/spec"
_PRODUCER: Final = f"urn:penstock:{__version__}"
_ENDS: Final = {"completed": "COMPLETE", "failed": "FAIL", "stopped": "ABORT"}


@dataclass(frozen=True, slots=True)
class RunLineage:
    """A run, the version of its pipeline, and what else its events need."""

    run: RunEntry
    pipeline: Pipeline
    connections: Mapping[str, Mapping[str, Any]]
    schema: Schema | None
    """The source's."""


def event(about: RunLineage, status: RunStatus, at: datetime) -> dict[str, Any]:
    """Return the event of a run that has `status` since `at`: of its start, or of its end."""
    run, pipeline, connections = about.run, about.pipeline, about.connections
    source, sink = DatasetRef.of(pipeline.spec.source), DatasetRef.of(pipeline.spec.sink)
    output = named(sink, connections) | {"facets": _origins(about)}
    if status in _ENDS:
        rows = _facet("1-0-2/OutputStatisticsOutputDatasetFacet", rowCount=run.counters.get("rows_out", 0))
        output |= {"outputFacets": {"outputStatistics": rows}}
    return {
        "eventType": _ENDS.get(status, "START"),
        "eventTime": at.isoformat(),
        "producer": _PRODUCER,
        "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": run.id, "facets": _of_run(run, pipeline, status)},
        "job": {"namespace": NAMESPACE, "name": pipeline.name, "facets": {"jobType": _job_type(pipeline)}},
        "inputs": [named(source, connections) | {"facets": _columns(about.schema)}],
        "outputs": [output],
    }


def named(ref: DatasetRef, connections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return namespace and name of a dataset: those of its system, or of its connection if that does not tell them."""
    one = connections.get(ref.connection, {})
    match one.get("type"):
        case "postgres":
            found = _of_postgres(str(one["dsn"]), ref.object)
        case "mysql" | "mariadb" if one.get("host"):
            whole = ref.object if "." in ref.object else f"{one.get('database')}.{ref.object}"
            found = f"mysql://{one['host']}:{one.get('port', 3306)}", whole
        case "kafka":
            found = f"kafka://{str(one['bootstrap']).partition(',')[0].strip()}", ref.object
        case "s3":
            url = urlsplit(str(one["url"]))
            found = f"s3://{url.netloc}", f"{url.path.strip('/')}/{ref.object}".strip("/")
        case "files":
            found = "file", f"{one['root']}/{ref.object}"
        case "sqlite" | "duckdb" as type_:
            found = f"{type_}://{one['path']}", ref.object
        case "kinesis":
            found = f"kinesis://{one['region']}", ref.object
        case _:
            found = None
    namespace, name = found or (f"{NAMESPACE}://{ref.connection}", ref.object)
    return {"namespace": namespace, "name": name}


def _of_postgres(dsn: str, object_: str) -> tuple[str, str] | None:
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except ProgrammingError:  # the whole of it is a secret
        return None
    host, database = str(parts.get("host") or "localhost"), parts.get("dbname") or parts.get("user")
    if database is None or "${" in f"{host}{database}{parts.get('port', '')}":
        return None
    table = object_ if "." in object_ else f"public.{object_}"
    port = "" if host.startswith("/") else f":{parts.get('port') or 5432}"
    return f"postgres://{host}{port}", f"{database}.{table}"


def _of_run(run: RunEntry, pipeline: Pipeline, status: RunStatus) -> dict[str, Any]:
    engine = _facet("1-1-1/ProcessingEngineRunFacet", version=__version__, name=NAMESPACE)
    found: dict[str, Any] = {"processing_engine": engine}
    if run.scheduled_for is not None:
        found["nominalTime"] = _facet("1-0-1/NominalTimeRunFacet", nominalStartTime=run.scheduled_for.isoformat())
    whole = set_of(pipeline.name)
    if run.group is not None and whole is not None:
        parent = {"run": {"runId": run.group}, "job": {"namespace": NAMESPACE, "name": whole}}
        found["parent"] = _facet("1-0-1/ParentRunFacet", **parent)
    if status == "failed" and run.error is not None:
        words = f"{run.error['code']}: {run.error['what']}"
        found["errorMessage"] = _facet("1-0-1/ErrorMessageRunFacet", message=words, programmingLanguage="python")
    return found


def _job_type(pipeline: Pipeline) -> dict[str, Any]:
    kind = "STREAMING" if pipeline.spec.mode == "stream" else "BATCH"
    return _facet("2-0-3/JobTypeJobFacet", processingType=kind, integration="PENSTOCK", jobType="PIPELINE")


def _columns(schema: Schema | None) -> dict[str, Any]:
    if schema is None:
        return {}
    described = ({"name": one.name, "type": one.type, "description": one.description} for one in schema.fields)
    fields = [{name: value for name, value in one.items() if value is not None} for one in described]
    return {"schema": _facet("1-1-1/SchemaDatasetFacet", fields=fields)}


def _origins(about: RunLineage) -> dict[str, Any]:
    """Return the facet of where each column of the target comes from, if columns are known."""
    names = None if about.schema is None else [field.name for field in about.schema.fields]
    found: dict[str, list[dict[str, Any]]] = {}
    for edge in edges(about.pipeline, names):
        if edge.target.column is not None and edge.source.column is not None:
            found.setdefault(edge.target.column, []).append(_input(edge.source, about.connections))
    if not found:
        return {}
    fields = {column: {"inputFields": origins} for column, origins in found.items()}
    return {"columnLineage": _facet("1-2-0/ColumnLineageDatasetFacet", fields=fields)}


def _input(origin: Node, connections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return named(origin.dataset, connections) | {"field": origin.column}


def _facet(schema: str, **parts: Any) -> dict[str, Any]:
    name = schema.partition("/")[2]
    return {"_producer": _PRODUCER, "_schemaURL": f"{_SPEC}/facets/{schema}.json#/$defs/{name}", **parts}
