"""The nouns of records and catalog: datasets, schemas, mappings, tasks, decisions, errors, runs."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, JsonValue, model_validator
from pydantic import Field as Constraint

from penstock.errors import PenstockError
from penstock.models.base import Model, Name, Sql

__all__ = [
    "AgentDecision",
    "Alternative",
    "Counters",
    "DatasetRef",
    "Error",
    "Field",
    "FieldMapping",
    "PipelineStatus",
    "Resolution",
    "Run",
    "RunStatus",
    "Schema",
    "SchemaMapping",
    "Task",
    "TaskStatus",
    "Utc",
]


Utc = AwareDatetime
"""A moment, with its zone."""

Confidence = Annotated[float, Constraint(ge=0, le=1)]
PipelineStatus = Literal["active", "paused", "stopped", "deleting"]
RunStatus = Literal["queued", "running", "completed", "failed", "stopped"]
TaskStatus = Literal["queued", "assigned", "waiting", "completed", "failed", "cancelled"]


class DatasetRef(Model):
    """One table, file set or topic: an object of a connection."""

    connection: Name
    object: Annotated[str, Constraint(min_length=1, max_length=512)]

    def __str__(self) -> str:
        return f"{self.connection}:{self.object}"


class Field(Model):
    """One column: its type as the system writes it, e.g. ``numeric(15,2)``."""

    name: Annotated[str, Constraint(min_length=1, max_length=128)]
    type: Annotated[str, Constraint(min_length=1, max_length=256)]
    nullable: bool = True
    description: str | None = None


class Schema(Model):
    """The columns of a dataset in their order, and the key that identifies a row."""

    fields: tuple[Field, ...]
    key: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [field.name for field in self.fields]
        if len(names) != len(set(names)):
            message = "names a field twice"
            raise ValueError(message)
        if missing := set(self.key) - set(names):
            message = f"the key names {', '.join(sorted(missing))}, which is no field"
            raise ValueError(message)
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its canonical JSON: two schemas are the same if and only if their fingerprints are."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


class FieldMapping(Model):
    """How one target field comes from source fields, and how sure the matcher is."""

    target: Annotated[str, Constraint(min_length=1)]
    sources: tuple[str, ...]
    sql: Sql | None = None
    confidence: Confidence = 1.0
    factors: dict[str, float] = {}
    status: Literal["proposed", "accepted", "rejected"] = "proposed"


class SchemaMapping(Model):
    """How one dataset becomes another."""

    name: Name
    source: DatasetRef
    target: DatasetRef
    version: Annotated[int, Constraint(ge=1)] = 1
    fields: tuple[FieldMapping, ...] = ()


class Task(Model):
    """One piece of work for one worker; `attempt` counts from 1 and names each assignment."""

    id: str
    kind: Literal["pipeline", "cleanup"]
    pipeline: Name
    run: str | None = None
    priority: int = 0
    attempt: Annotated[int, Constraint(ge=0)] = 0
    worker: str | None = None
    status: TaskStatus = "queued"


class Counters(Model):
    """What a run processed. `rows_in == rows_out + filtered + dead` always holds; `bytes` is what was written."""

    rows_in: Annotated[int, Constraint(ge=0)] = 0
    rows_out: Annotated[int, Constraint(ge=0)] = 0
    filtered: Annotated[int, Constraint(ge=0)] = 0
    dead: Annotated[int, Constraint(ge=0)] = 0
    bytes: Annotated[int, Constraint(ge=0)] = 0

    @model_validator(mode="after")
    def _nothing_vanishes(self) -> Self:
        if self.rows_in != self.rows_out + self.filtered + self.dead:
            message = (
                f"rows_in {self.rows_in} is not rows_out {self.rows_out} + filtered {self.filtered} + dead {self.dead}"
            )
            raise ValueError(message)
        return self


class Reload(Model):
    """What a run reads again, whatever its pipeline's position: all rows, or those of a window of the cursor.

    The window begins with `from` and ends before `to`, as a user writes values of the cursor: a whole number, a date,
    or a time (UTC where it names no zone).
    """

    rows: Literal["all", "window"]
    from_: Annotated[str, Constraint(min_length=1, max_length=100)] | None = Constraint(default=None, alias="from")
    to: Annotated[str, Constraint(min_length=1, max_length=100)] | None = None

    @model_validator(mode="after")
    def _bounds_of_windows(self) -> Self:
        wanted = self.rows == "window"
        if (self.from_ is not None, self.to is not None) != (wanted, wanted):
            message = "a window needs both `from` and `to`" if wanted else "all rows have no bounds"
            raise ValueError(message)
        return self

    @property
    def is_window(self) -> bool:
        """Whether it is only a part of the rows."""
        return self.rows == "window"


class Run(Model):
    """One run of one version of a pipeline."""

    id: str
    pipeline: Name
    version: Annotated[int, Constraint(ge=1)]
    status: RunStatus
    requested_at: Utc
    scheduled_for: Utc | None = None
    """The tick of its schedule that asked for it; None if a person did."""
    reload: Reload | None = None
    """What it reads again; None for a run that reads what is new, or everything, as its pipeline says."""
    finished_at: Utc | None = None
    counters: Counters = Counters()
    resumed: bool = False
    """Whether it went on from an earlier attempt's commits: then its rows come from more than one point in time."""


class Alternative(Model):
    """What else could have been decided, and its score."""

    option: str
    score: float
    reason: str | None = None


class AgentDecision(Model):
    """Why an agent did what it did: enough to explain it, replay it and judge it again under another policy."""

    agent: Name
    rules: Annotated[int, Constraint(ge=1)]
    action: Annotated[str, Constraint(min_length=1)]
    subject: Annotated[str, Constraint(min_length=1)]
    reason: str
    inputs: dict[str, JsonValue] = {}
    alternatives: tuple[Alternative, ...] = ()
    confidence: Confidence = 1.0
    threshold: Confidence | None = None
    policy: str | None = None
    outcome: Literal["acted", "proposed", "refused"] = "acted"


class Error(Model):
    """What went wrong, by code and object name; never a row's value, a secret or the driver's detail."""

    code: Annotated[str, Constraint(min_length=1)]
    what: str
    where: str | None = None
    hint: str | None = None
    transient: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Error:
        """What may be recorded of `error`; of one that is not ours, the class only."""
        if isinstance(error, PenstockError):
            return cls(code=error.code, what=error.what, where=error.where, hint=error.hint, transient=error.transient)
        return cls(code="unexpected", what=f"{type(error).__module__}.{type(error).__qualname__}")


class Resolution(Model):
    """What was done about an error."""

    error: str
    action: Literal["retry", "skip_record", "adjust_config", "pause", "escalate", "give_up"]
    outcome: Literal["resolved", "failed", "pending"] = "pending"
    details: dict[str, Any] = {}
