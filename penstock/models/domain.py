"""Models of records and catalog: datasets, schemas, mappings, tasks, decisions, errors, runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, Self

import orjson
from pydantic import AfterValidator, AwareDatetime, JsonValue, model_validator
from pydantic import Field as Constraint

from penstock.errors import PenstockError
from penstock.models.base import Fraction, Model, Name, PipelineName, Sql
from penstock.models.letters import LettersOrder
from penstock.models.notices import Notice
from penstock.models.proposals import Proposal
from penstock.models.scope import Scope
from penstock.models.triggers import Fired

__all__ = [
    "AgentDecision",
    "Alternative",
    "Compatibility",
    "Counters",
    "DatasetRef",
    "Discovery",
    "Error",
    "Field",
    "FieldMapping",
    "ForeignKey",
    "Id",
    "Pattern",
    "PipelineStatus",
    "Run",
    "RunStatus",
    "Schema",
    "SchemaMapping",
    "Start",
    "Task",
    "TaskStatus",
    "Timestamp",
]


Timestamp = AwareDatetime
"""A point in time with its time zone."""

Id = Annotated[str, Constraint(min_length=1, max_length=640)]
"""The id of a record, run, task, worker or timer; bounded, because the catalog's indexes are."""
Confidence = Annotated[float, Constraint(ge=0, le=1)]
Compatibility = Literal[
    "none", "backward", "forward", "full", "backward_transitive", "forward_transitive", "full_transitive"
]
"""The rule for a dataset's next schema: against its last one, or if transitive against each."""
PipelineStatus = Literal["active", "draining", "paused", "stopped", "deleting"]
RunStatus = Literal["queued", "running", "completed", "failed", "stopped"]
TaskStatus = Literal["queued", "assigned", "waiting", "completed", "failed", "cancelled"]


def _no_repeats(fields: tuple[Field, ...] | None) -> tuple[Field, ...] | None:
    names = [field.name for field in fields or ()]
    if len(names) != len(set(names)):
        message = "has a duplicate field"
        raise ValueError(message)
    return fields or None


def _sorted(found: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Return the constraints without repeats, in one order: a system lists them in any."""
    return tuple(sorted(set(found), key=str)) or None if found else None


class _End(Protocol):
    @property
    def connection(self) -> str: ...
    @property
    def object(self) -> str: ...


class DatasetRef(Model):
    """One table, file set or topic: an object of a connection."""

    connection: Name
    object: Annotated[str, Constraint(min_length=1, max_length=512)]

    @classmethod
    def of(cls, end: _End) -> DatasetRef:
        """Return the dataset that a pipeline's source or sink names."""
        return cls(connection=end.connection, object=end.object)

    def __str__(self) -> str:
        return f"{self.connection}:{self.object}"


class Field(Model):
    """One column or one part of it, with its type as the engine writes it, e.g. ``numeric(15,2)``."""

    name: Annotated[str, Constraint(min_length=1, max_length=128)]
    type: Annotated[str, Constraint(min_length=1, max_length=256)]
    nullable: bool = True
    description: str | None = None
    default: Annotated[str, Constraint(max_length=2000)] | None = None
    """Expression of its default, as its system writes it."""
    fields: Annotated[tuple[Field, ...] | None, AfterValidator(_no_repeats)] = None
    """The parts of a struct or a document; those of each element, if it is a list of them."""


class ForeignKey(Model):
    """Columns whose values are those of a key of another object of the same connection."""

    columns: Annotated[tuple[str, ...], Constraint(min_length=1)]
    object: Annotated[str, Constraint(min_length=1, max_length=512)]
    references: Annotated[tuple[str, ...], Constraint(min_length=1)]


class Schema(Model):
    """The columns of a dataset in order, the key that identifies a row, and what else its system enforces.

    What is empty is left out of its JSON, so that a schema of an older release keeps its fingerprint.
    """

    fields: Annotated[tuple[Field, ...], AfterValidator(lambda found: _no_repeats(found) or ())]
    key: tuple[str, ...] = ()
    unique: Annotated[tuple[tuple[str, ...], ...] | None, AfterValidator(_sorted)] = None
    """Further unique keys, in the order of their columns' names."""
    foreign: Annotated[tuple[ForeignKey, ...] | None, AfterValidator(_sorted)] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = {field.name for field in self.fields}
        others = [(f"a {kind} key", columns) for kind, columns in self._constraints()]
        for what, columns in [("the key", self.key), *others]:
            if missing := set(columns) - names:
                message = f"{what} names {', '.join(sorted(missing))}, which is not a field"
                raise ValueError(message)
        return self

    def _constraints(self) -> list[tuple[str, tuple[str, ...]]]:
        foreign = [("foreign", one.columns) for one in self.foreign or ()]
        return [*(("unique", one) for one in self.unique or ()), *foreign]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its canonical JSON: two schemas are equal if and only if their fingerprints are."""
        return self.fingerprint_of(self.to_dict())

    @staticmethod
    def fingerprint_of(document: Mapping[str, Any]) -> str:
        """Return the fingerprint of the schema whose `to_dict` is `document`."""
        # The same bytes as those of `to_json`, since it has neither numbers nor any other value that is spelt two ways.
        return hashlib.sha256(orjson.dumps(document)).hexdigest()

    @property
    def outline(self) -> str:
        """Hash of what a run sees of it: names, types and nullability."""
        seen = [(field.name, field.type, field.nullable) for field in self.fields]
        return hashlib.sha256(repr(seen).encode()).hexdigest()


class FieldMapping(Model):
    """The source fields of one target field, and the matcher's confidence."""

    target: Annotated[str, Constraint(min_length=1)]
    sources: tuple[str, ...]
    sql: Sql | None = None
    confidence: Confidence = 1.0
    factors: dict[str, float] = {}
    status: Literal["proposed", "accepted", "rejected"] = "proposed"


class SchemaMapping(Model):
    """The mapping from one dataset to another."""

    name: Name
    source: DatasetRef
    target: DatasetRef
    version: Annotated[int, Constraint(ge=1)] = 1
    fields: tuple[FieldMapping, ...] = ()


Pattern = Annotated[str, Constraint(min_length=1, max_length=512)]
"""Objects by name, with `*` and `?`: ``public.*``."""


class Discovery(Model):
    """A look at the objects of a connection whose names match `tables` and not `except`.

    At most `sample_rows` rows of each are sampled, with 0 none; what has no catalog shows its columns in some rows.
    """

    id: Id
    connection: Name
    tables: tuple[Pattern, ...] = ("*",)
    except_: tuple[Pattern, ...] = Constraint(default=(), alias="except")
    sample_rows: Annotated[int, Constraint(ge=0, le=10_000_000)] = 0
    asked: bool = False
    """True if somebody asked for it, and gets its error as the answer."""


class Reload(Model):
    """Rows that a run reads again regardless of its pipeline's position: all, or a window of the cursor.

    The window starts at `from` and ends before `to`, written as values of the cursor: a whole number, a date,
    or a time (UTC if it has no zone).
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
        """True if it is only a part of the rows, not all."""
        return self.rows == "window"


class Start(Model):
    """Runs to queue for the members of a set once its objects are listed; they share the id `group`."""

    group: Id
    reload: Reload | None = None
    scheduled_for: Timestamp | None = None
    trigger: Fired | None = None


class Task(Model):
    """One unit of work for one worker; `attempt` counts the assignments, from 1.

    It is a pipeline's, a discovery, or a notice about an alert.

    A listing of a set may have a `start`; `letters` says what to do with dead letters.
    """

    id: Id
    kind: Literal[
        "pipeline", "cleanup", "discover", "list", "check", "deletes", "letters", "diagnose", "watch", "notify"
    ]
    pipeline: PipelineName | None = None
    discovery: Discovery | None = None
    run: Id | None = None
    priority: Annotated[int, Constraint(ge=-(2**31), lt=2**31)] = 0
    attempt: Annotated[int, Constraint(ge=0, lt=2**31)] = 0
    worker: Id | None = None
    status: TaskStatus = "queued"
    start: Start | None = None
    limit: Fraction | None = None
    """Of a comparison of keys: the share of them that may be gone, if it was approved."""
    since: Annotated[str, Constraint(max_length=100)] | None = None
    """Of a check: the value of the cursor from which on rows are compared."""
    letters: LettersOrder | None = None
    asked: bool | None = None
    """True if somebody waits for this comparison."""
    asked_at: AwareDatetime | None = None
    """When it was asked for."""
    failure: dict[str, JsonValue] | None = None
    """Of a diagnosis: what has failed, a `Failure`."""
    notice: Notice | None = None
    """What is sent about an alert, to one route."""

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        has = (self.discovery, self.notice, self.pipeline, self.letters)
        alone = [self.kind == "discover", self.kind == "notify"]
        if [one is not None for one in has] != [*alone, not any(alone), self.kind == "letters"]:
            message = (
                "a task `discover` has a discovery, `notify` a notice, any other a pipeline, and `letters` letters"
            )
            raise ValueError(message)
        return self


class Counters(Model):
    """Rows and bytes of a run. `rows_in == rows_out + filtered + dead` always holds; `bytes` is what was written."""

    rows_in: Annotated[int, Constraint(ge=0, lt=2**63)] = 0
    rows_out: Annotated[int, Constraint(ge=0, lt=2**63)] = 0
    filtered: Annotated[int, Constraint(ge=0, lt=2**63)] = 0
    dead: Annotated[int, Constraint(ge=0, lt=2**63)] = 0
    bytes: Annotated[int, Constraint(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _nothing_vanishes(self) -> Self:
        if self.rows_in != self.rows_out + self.filtered + self.dead:
            message = (
                f"rows_in {self.rows_in} is not rows_out {self.rows_out} + filtered {self.filtered} + dead {self.dead}"
            )
            raise ValueError(message)
        return self


class Beginning(Model):
    """Where a stream begins: the earliest message that is there, the next one, those since a time, or given positions.

    Positions are offsets by partition; partitions that are not named stay where they are. `reset` allows it for a
    stream that has been read before: it then repeats messages, or skips some.
    """

    from_: Literal["earliest", "latest"] | AwareDatetime | dict[str, str] = Constraint(alias="from")
    reset: bool = False


class Run(Model):
    """One run of one version of a pipeline."""

    id: Id
    pipeline: PipelineName
    version: Annotated[int, Constraint(ge=1, lt=2**31)]
    status: RunStatus
    requested_at: Timestamp
    scheduled_for: Timestamp | None = None
    """The tick of the schedule that started it; None if a person did."""
    reload: Reload | None = None
    """Rows that it reads again; None for a normal run of its pipeline."""
    begin: Beginning | None = None
    """Where it begins, if it is a stream that begins anew."""
    group: Id | None = None
    """The runs of a set's members that were started together share it."""
    after: tuple[PipelineName, ...] | None = None
    """Members whose first loads it waited for when it was created."""
    trigger: Fired | None = None
    """What has triggered it."""
    finished_at: Timestamp | None = None
    counters: Counters = Counters()
    resumed: bool = False
    """True if it resumed from an earlier attempt's commits: its rows then come from more than one point in time."""


class Alternative(Model):
    """Another option of a decision, and its score."""

    option: str
    score: float
    reason: str | None = None


class AgentDecision(Model):
    """The reasons of a decision: enough to explain it, replay it and judge it again under another policy."""

    agent: Name
    rules: Annotated[int, Constraint(ge=1, lt=2**31)]
    action: Annotated[str, Constraint(min_length=1)]
    subject: Id
    reason: str
    inputs: dict[str, JsonValue] = {}
    alternatives: tuple[Alternative, ...] = ()
    confidence: Confidence = 1.0
    threshold: Confidence | None = None
    policy: str | None = None
    outcome: Literal["acted", "proposed", "refused"] = "acted"
    held: str | None = None
    """The limit of a policy that kept the agent from acting on its own, or from its first choice."""
    scope: Scope | None = None


class Error(Model):
    """An error by code and object name; never a row's value, a secret or the driver's detail."""

    code: Annotated[str, Constraint(min_length=1)]
    what: str
    where: str | None = None
    hint: str | None = None
    transient: bool = False
    renamed: dict[str, str] | None = None
    """Columns that were renamed, by their old names, which the pipeline is to follow."""
    moved: str | None = None
    """The name that the source's object has now, which the pipeline is to follow."""
    proposed: tuple[Proposal, ...] | None = None
    """Changes of a schema that it would take, once they are approved."""

    @classmethod
    def of(cls, error: BaseException) -> Error:
        """Return what may be recorded of `error`; of a foreign exception only the class."""
        if isinstance(error, PenstockError):
            return cls(code=error.code, what=error.what, where=error.where, hint=error.hint, transient=error.transient)
        return cls(code="unexpected", what=f"{type(error).__module__}.{type(error).__qualname__}")
