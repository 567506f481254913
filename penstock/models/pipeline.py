"""The pipeline as users write it (`kind: Pipeline`), with every rule that can be checked without a system."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from penstock.models.base import Bytes, Duration, Fraction, Model, Name, PipelineName
from penstock.models.expect import Expect
from penstock.models.formats import Format
from penstock.models.schedule import After, Schedule, misplaced_after, time_zone
from penstock.models.schema_rules import SchemaAction, SchemaRules, as_tuple
from penstock.models.transforms import (
    Clean,
    ColumnName,
    Columns,
    MappingRule,
    ObjectName,
    TransformStep,
    Validation,
    unique,
)
from penstock.models.triggers import Triggers, misplaced_triggers
from penstock.models.upkeep import Check, Deletes, misplaced

__all__ = [
    "Cursor",
    "DeadLetter",
    "ErrorRules",
    "Labels",
    "Limits",
    "Metadata",
    "Pipeline",
    "PipelineSpec",
    "PipelineTest",
    "Retry",
    "SchemaAction",
    "SchemaRules",
    "Sink",
    "Source",
    "all_topics",
]

Labels = dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_./-]{0,62}$")], Annotated[str, Field(max_length=63)]]


class Metadata(Model):
    """Name, owner, description and labels."""

    name: PipelineName
    owner: str | None = Field(default=None, max_length=128)
    description: str | None = Field(default=None, max_length=2000)
    labels: Labels = {}


class Cursor(Model):
    """Read only new rows: those whose `field` is above the last position, and older than `lag`.

    `timezone` is the zone of a column that has none; by default the server's, database's or role's. `ordered` promises
    that each new value, made by a program, is greater than all earlier ones, which no catalog shows.
    """

    field: ColumnName
    lag: Duration = timedelta(0)
    timezone: Annotated[str, AfterValidator(time_zone)] | None = None
    ordered: bool = False


def all_topics(source: Mapping[str, Any]) -> str | None:
    """Return what names all topics or objects of a source; None if it has neither, nor a `pattern`."""
    if objects := source.get("objects"):
        return str(objects[0]) if len(objects) == 1 else f"{objects[0]} and {len(objects) - 1} more"
    topics, pattern = source.get("topics"), source.get("pattern")
    if isinstance(pattern, str):
        return f"/{pattern}/"
    return ",".join(map(str, topics)) if topics and isinstance(topics, list | tuple) else None


def _named(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("missing", "Field required")
    return value


class Source(Model):
    """The origin of rows. Without a cursor each run of a batch reads everything (full refresh).

    `from` is where a stream begins a partition that it has not read yet: at the earliest message, after the latest, or
    at the first one of a time. In place of `object` a stream may have several `topics`, or a `pattern` that whole names
    of topics match, also of those that are made while it runs; `object` is then what names them all.

    With `objects` in place of `object` the pipeline is a set: each object whose name matches one of these patterns
    (`*`, `?`, `[…]`), and none of `except`, becomes a member, a pipeline of its own; see `penstock.models.sets`.

    `known_as` is the name that the object had before it was moved: its position is kept under that name.
    """

    connection: Name
    objects: tuple[ObjectName, ...] = ()
    except_: tuple[ObjectName, ...] = Field(default=(), alias="except")
    topics: tuple[ObjectName, ...] = ()
    pattern: ObjectName | None = None
    object: Annotated[ObjectName, BeforeValidator(_named)] = Field(default_factory=all_topics, validate_default=True)
    known_as: ObjectName | None = None
    cursor: Cursor | None = None
    from_: Literal["earliest", "latest"] | AwareDatetime | None = Field(default=None, alias="from")
    format: Format | None = None


AUTO: Final = ("*",)
"""The key of `key: auto`."""


def _auto(value: Any) -> Any:
    """Return the key as a tuple."""
    return AUTO if value == "auto" else as_tuple(value)


def _key_text(value: tuple[str, ...]) -> Any:
    return "auto" if value == AUTO else list(value)


Key = Annotated[
    Columns,
    BeforeValidator(_auto),
    PlainSerializer(_key_text, when_used="json"),
    Field(json_schema_extra={"anyOf": [{"type": "array", "items": {"type": "string"}}, {"const": "auto"}]}),
]
"""Columns, or ``auto`` in a set: the primary key of each of its objects."""


class Sink(Model):
    """The destination of rows, and how they are written.

    `merge` and `scd2` find the row to change by `key`. Of two rows with the same key, the one with the greater
    `version` wins; without a `version`, the greater cursor, if its column is mapped unchanged. Where the column
    `delete` is true, the row is deleted (`merge`), or no longer current (`scd2`); the target need not have that column.
    """

    connection: Name
    object: ObjectName
    write: Literal["append", "replace", "merge", "scd2"] = "append"
    key: Key = ()
    version: ColumnName | None = None
    delete: ColumnName | None = None
    format: Format | None = None

    @model_validator(mode="after")
    def _key_where_needed(self) -> Self:
        if self.write in {"merge", "scd2"} and not self.key:
            message = f"`write: {self.write}` needs a `key`"
            raise ValueError(message)
        if self.write not in {"merge", "scd2"} and (self.version or self.delete):
            message = f"`version` and `delete` are for merge and scd2; `{self.write}` does not compare rows"
            raise ValueError(message)
        return self


class Retry(Model):
    """Waits before the next attempt: ``min(max, base * factor ** (attempt - 1))``."""

    base: Duration = timedelta(seconds=1)
    factor: float = Field(default=2.0, ge=1, le=100)
    max: Duration = timedelta(minutes=5)
    attempts: int = Field(default=6, ge=1, le=1000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.base <= timedelta(0) or self.max < self.base:
            message = "needs 0 < base <= max"
            raise ValueError(message)
        return self


class DeadLetter(Model):
    """Retention of refused rows, and the share of them that fails the run."""

    keep: Duration = timedelta(days=30)
    fail_above: Fraction = 0.01
    window: Duration = timedelta(minutes=10)


class ErrorRules(Model):
    """Reactions to errors."""

    retry: Retry = Retry()
    dead_letter: DeadLetter = DeadLetter()


class Limits(Model):
    """Limits: rows in a chunk, rows in flight, processes, and the lag of a stream that raises an alert.

    `snapshot` is how long a run may hold a snapshot of its source, which keeps that server from cleaning up.
    `stalled` is how long nothing may move in a run: no chunk read or written, no commit; twelve times that while a
    server prepares, commits or publishes. `memory` is what the processes of a run may use together. `linger` is how
    long a stream waits for more rows before it commits: 200 ms if not set, into files 10 s. `slot_alert` is how much
    WAL a source may keep for a stream of changes before that is reported; at `slot_drop` the slot is dropped, so that
    the source's disk does not fill up, and the stream has to be rebuilt.
    """

    batch_rows: int = Field(default=65536, ge=1, le=1_000_000)
    in_flight: int = Field(default=500_000, ge=1, le=100_000_000)
    workers: int = Field(default=1, ge=1, le=64)
    max_lag: Duration | None = None
    snapshot: Duration = Field(default=timedelta(hours=1), gt=timedelta(0))
    stalled: Duration = Field(default=timedelta(minutes=5), ge=timedelta(seconds=1))
    memory: Bytes = Field(default=2 * 10**9, ge=256 * 10**6, le=2**50)
    linger: Duration | None = Field(default=None, ge=timedelta(0), le=timedelta(minutes=1))
    slot_alert: Bytes = Field(default=10 * 10**9, ge=10**6, le=2**50)
    slot_drop: Bytes | None = Field(default=None, ge=10**6, le=2**50)


class PipelineTest(Model):
    """A unit test of the mapping and the transforms: rows given and rows expected.

    `types` declares the types of source columns that the values do not show; a number with a point is numeric.
    `tables` contains the rows of the tables that lookups read, by object.
    """

    name: Name
    tables: dict[ObjectName, tuple[dict[str, JsonValue], ...]] = {}
    types: dict[ColumnName, Annotated[str, Field(min_length=1, max_length=64)]] = {}
    given: tuple[dict[str, JsonValue], ...]
    expect: tuple[dict[str, JsonValue], ...]


class PipelineSpec(Model):
    """The specification of a pipeline, or of a set of them: only a set has `tables`, `appear` and `vanish`.

    `tables` are parts of a specification by pattern, for the members whose objects match; ``disabled: true`` leaves
    them out. `appear` is what happens to objects that are new at the source, `vanish` to members whose object is gone.
    """

    mode: Literal["batch", "stream"] = "batch"
    source: Source
    schedule: Schedule | None = None
    after: After | None = None
    triggers: Triggers | None = None
    clean: Clean = Clean()
    mapping: MappingRule | None = None
    schema_: SchemaRules = Field(default=SchemaRules(), alias="schema")
    transforms: tuple[TransformStep, ...] = ()
    validate_: Validation = Field(default=Validation(), alias="validate")
    sink: Sink
    errors: ErrorRules = ErrorRules()
    limits: Limits = Limits()
    check: Check | None = None
    deletes: Deletes | None = None
    expect: Expect | None = None
    tests: tuple[PipelineTest, ...] = ()
    tables: dict[ObjectName, dict[str, JsonValue]] = {}
    appear: Literal["apply", "propose", "ignore"] = "apply"
    vanish: Literal["keep", "pause"] = "keep"

    @property
    def is_set(self) -> bool:
        """True if each of its `objects` becomes a pipeline of its own."""
        return bool(self.source.objects)

    @model_validator(mode="after")
    def _fits_a_set(self) -> Self:
        if self.is_set:
            one = self.source
            if not (one.topics or one.pattern is not None or one.object != all_topics({"objects": one.objects})):
                return self
            message = "`source` takes one of `object`, `objects`, `topics` and `pattern`"
            raise ValueError(message)
        for wrong, message in (
            (bool(self.source.except_), "`source.except` is for a set, whose source has `objects`"),
            (self.sink.key == AUTO, "`sink.key: auto` is for a set, whose source has `objects`; name the columns"),
            (bool(self.tables), "`tables` is for a set, whose source has `objects`"),
            ((self.appear, self.vanish) != ("apply", "keep"), "`appear` and `vanish` are for a set"),
        ):
            if wrong:
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        unique(tuple(step.name for step in self.transforms))
        unique(tuple(test.name for test in self.tests))
        if (self.source.connection, self.source.object) == (self.sink.connection, self.sink.object):
            message = "source and sink are the same object"
            raise ValueError(message)
        if found := misplaced(self.deletes, self.mode, self.sink):
            raise ValueError(found)
        if found := misplaced_triggers(self.triggers, self.mode, is_set=self.is_set):
            raise ValueError(found)
        if self.mode == "stream":
            self._fits_a_stream()
        elif any(step.lookup is not None and step.lookup.refresh is not None for step in self.transforms):
            message = "`lookup.refresh` is for streams; a batch reads the table once"
            raise ValueError(message)
        elif self.source.from_ is not None:
            message = "`source.from` is for streams; a batch has a `cursor`"
            raise ValueError(message)
        return self

    def _fits_a_stream(self) -> None:
        for wrong, message in (
            (
                self.schedule is not None and not self.is_set,
                "a stream runs continuously: it takes no `schedule`; that of a set lists its objects again",
            ),
            (self.after is not None, "a stream runs continuously: it takes no `after`"),
            (self.sink.write == "replace", "a stream cannot `replace` its sink: it never ends"),
            (bool(self.validate_.unique), "`validate.unique` needs a batch: a stream never ends"),
            (self.source.cursor is not None, "a stream has positions of its own: it takes no `cursor`"),
        ):
            if wrong:
                raise ValueError(message)


class Pipeline(Model):
    """A pipeline file: ``apiVersion: penstock/v1``, ``kind: Pipeline``."""

    apiVersion: Literal["penstock/v1"] = "penstock/v1"  # noqa: N815 - the key in the file
    kind: Literal["Pipeline"] = "Pipeline"
    metadata: Metadata
    spec: PipelineSpec

    @property
    def name(self) -> str:
        """The name in its metadata."""
        return self.metadata.name

    @model_validator(mode="after")
    def _runs_after_others(self) -> Self:
        after = self.spec.after
        if after is not None and (found := misplaced_after(after, self.name, self.spec.schedule)):
            raise ValueError(found)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return what the user wrote, without defaults, so that a later default applies to it too."""
        written = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return {"apiVersion": self.apiVersion, "kind": self.kind} | written
