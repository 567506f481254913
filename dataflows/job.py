"""A run as plain arguments, read from a task at the door; what this engine cannot do yet is refused here, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

from dataflows.postgres.tables import TableName
from dataflows.transforms.mapping import FieldSpec
from penstock.errors import NotFound, Refused
from penstock.models.connection import PostgresConnection, parse_connection, postgres_dsn
from penstock.models.pipeline import Pipeline, PipelineSpec

__all__ = ["SPLIT_ROWS", "Job"]

SPLIT_ROWS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a run needs to know; the two DSNs hold secrets and leave this process to its children only."""

    uid: str
    run: str
    pipeline: str
    source_dsn: str
    sink_dsn: str
    source_name: str
    sink_name: str
    source: TableName
    sink: TableName
    write: Literal["append", "replace"]
    cursor: str | None = None
    lag: timedelta = timedelta(0)
    fields: tuple[FieldSpec, ...] | None = None
    key: tuple[str, ...] = ()
    batch_rows: int = 65536
    workers: int = 1
    split_rows: int = SPLIT_ROWS

    @property
    def at_source(self) -> str:
        """Where a source's error is."""
        return f"{self.pipeline}: connection {self.source_name}"

    @property
    def at_sink(self) -> str:
        """Where a sink's error is."""
        return f"{self.pipeline}: connection {self.sink_name}"

    @classmethod
    def from_task(cls, task: Mapping[str, Any], *, secrets: Path | None = None) -> Job:
        """The job of a worker's task, with secrets resolved.

        Raises:
            Refused: something that the file may say and this engine cannot do yet.
            InvalidDocument: a pipeline or connection that does not validate.
        """
        pipeline = Pipeline.parse(task["pipeline"])
        spec = pipeline.spec
        refuse_what_is_missing(pipeline.name, spec)
        dsns = {name: _dsn(task, name, secrets) for name in (spec.source.connection, spec.sink.connection)}
        cursor = spec.source.cursor
        return cls(
            uid=str(task["uid"]), run=str(task["run"]), pipeline=pipeline.name,
            source_dsn=dsns[spec.source.connection], sink_dsn=dsns[spec.sink.connection],
            source_name=spec.source.connection, sink_name=spec.sink.connection,
            source=TableName.parse(spec.source.object), sink=TableName.parse(spec.sink.object),
            write="append" if spec.sink.write == "append" else "replace",
            cursor=cursor.field if cursor else None, lag=cursor.lag if cursor else timedelta(0),
            fields=_fields(spec), key=tuple(spec.sink.key), batch_rows=spec.limits.batch_rows,
            workers=spec.limits.workers, split_rows=int(task.get("split_rows") or SPLIT_ROWS),
        )  # fmt: skip


def refuse_what_is_missing(name: str, spec: PipelineSpec) -> None:
    """Refuse what the spec allows and the engine cannot do.

    Raises:
        Refused: with the path of the first such thing.
    """
    validation = spec.validate_
    wrong = (
        ("spec.mode", spec.mode != "batch", "streams cannot be run yet"),
        ("spec.sink.write", spec.sink.write not in {"append", "replace"}, f"`{spec.sink.write}` cannot be run yet"),
        ("spec.transforms", bool(spec.transforms), "transforms cannot be run yet; use `sql` fields of the mapping"),
        ("spec.validate", bool(validation.not_null or validation.unique or validation.checks), "cannot be run yet"),
        ("spec.mapping.ref", bool(spec.mapping and spec.mapping.ref), "a mapping of the catalog must come as `fields`"),
        ("spec.source.cursor", spec.sink.write == "append" and spec.source.cursor is None,
         "`append` needs a cursor: without one each run would append every row again"),
        ("spec.source.cursor", spec.sink.write == "replace" and spec.source.cursor is not None,
         "`replace` reads everything: a cursor has no meaning there"),
    )  # fmt: skip
    for path, holds, what in wrong:
        if holds:
            hint = "name a column that only grows, or write: replace" if "needs a cursor" in what else "change the file"
            raise Refused(what, where=f"{name}: {path}", hint=hint)


def _dsn(task: Mapping[str, Any], name: str, secrets: Path | None) -> str:
    try:
        data = task["connections"][name]
    except KeyError as error:
        raise NotFound("there is no such connection", value=name, hint="add it to connections.yaml") from error
    connection = parse_connection(name, data)
    if not isinstance(connection, PostgresConnection):
        raise Refused(f"connections of type {connection.type} cannot be used in a run yet", where=f"connection {name}")
    return postgres_dsn(connection, name=name, secrets=secrets)


def _fields(spec: PipelineSpec) -> tuple[FieldSpec, ...] | None:
    if spec.mapping is None or spec.mapping.fields is None:
        return None
    return tuple(
        FieldSpec(field.target, field.from_, field.sql, f"spec.mapping.fields[{at}]")
        for at, field in enumerate(spec.mapping.fields)
    )
