"""Parse a task into a job; what this engine cannot do yet is refused here, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dataflows.connectors.contract import Owner, Place, Shared, Source, Standing, Target
from dataflows.connectors.history import HISTORY
from dataflows.connectors.registry import connector, open_source, open_target
from dataflows.data.cursors import CursorRule
from dataflows.runs.changes import check_changes, check_unchanging, of_changes
from dataflows.runs.place_checks import check_clean, check_topics
from dataflows.transforms.mapping import FieldSpec, Rules
from penstock.errors import NotFound, Refused
from penstock.models.connection import parse_connection
from penstock.models.domain import Beginning, Reload
from penstock.models.pipeline import Pipeline, PipelineSpec
from penstock.models.pipeline import Sink as SinkSpec
from penstock.models.pipeline import Source as SourceSpec
from penstock.models.sets import DATABASES
from penstock.models.traits import traits

if TYPE_CHECKING:
    from catalog.letters import DeadLetters
    from dataflows.transforms.steps import LookupTable

__all__ = ["BY_CHUNK", "SPLIT_ROWS", "Job", "depends_on_chunks", "refuse_what_is_missing", "rules_of"]

SPLIT_ROWS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a run needs to know, except secrets: connectors resolve those when they connect."""

    uid: str
    run: str
    spec: PipelineSpec
    source: Place
    sink: Place
    rules: Rules = field(default_factory=Rules)
    changes: bool = False
    """True if the source is a stream of the changes of a table."""
    connections: Mapping[str, Any] = field(default_factory=dict)
    """All connections of the task, for lookup tables."""
    modules: frozenset[str] = frozenset()
    """Modules whose functions steps may call."""
    mask_key: str = ""
    """Reference to the key of `mask: hash`; empty = none."""
    split_rows: int = SPLIT_ROWS
    reload: Reload | None = None
    """Request to read rows again, whatever the position."""
    begin: Beginning | None = None
    """Where a stream starts instead, if it was asked to."""
    drain: Path | None = None
    """File whose presence asks a stream to end after what its source has."""
    letters: str | None = None
    """The catalog's database, which keeps the dead letters; without it, the first bad row fails the run."""
    looked_up: dict[tuple[str, str], LookupTable] = field(default_factory=dict, compare=False, repr=False)
    """Cache of the lookup tables read so far, by connection and object."""

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self.source.pipeline

    @property
    def at_source(self) -> str:
        """Location that errors of the source name."""
        return self.source.where

    @property
    def at_sink(self) -> str:
        """Location that errors of the sink name."""
        return self.sink.where

    @property
    def write(self) -> str:
        """The write mode."""
        return self.spec.sink.write

    @property
    def shadowed(self) -> bool:
        """True if the run's rows are loaded into a shadow table and published at the end."""
        if self.write == "replace":
            return True
        return self.reload is not None and not (self.reload.is_window and self.write == "merge")

    @property
    def continued(self) -> bool:
        """True if the run adds to the rows of earlier runs."""
        return not self.shadowed

    @property
    def planned_as(self) -> str:
        """Write mode stored in the plan; the plan of a reload can only be resumed by that same run."""
        return "replace" if self.reload is not None else self.write

    @property
    def streams(self) -> bool:
        """True if it never ends."""
        return self.spec.mode == "stream"

    def is_draining(self) -> bool:
        """Return True if a stream was asked to end after what its source has."""
        return self.drain is not None and self.drain.exists()

    @property
    def cursor(self) -> str | None:
        """The cursor's column, or None."""
        return self.spec.source.cursor.field if self.spec.source.cursor else None

    @property
    def mark(self) -> str | None:
        """Column of the target that marks rows which the source does not have any more, or None."""
        return self.spec.deletes.column if self.spec.deletes else None

    @property
    def rule(self) -> CursorRule:
        """Settings of the cursor in the pipeline file."""
        cursor = self.spec.source.cursor
        if cursor is None:
            return CursorRule()
        return CursorRule(
            cursor.lag, cursor.timezone, idempotent=self.write in {"merge", "scd2"}, ordered=cursor.ordered
        )

    @property
    def workers(self) -> int:
        """Number of processes and of slots."""
        return self.spec.limits.workers

    @property
    def batch_rows(self) -> int:
        """Maximum number of rows in a chunk."""
        return self.spec.limits.batch_rows

    def open_source(self) -> Source:
        """Connect to the source."""
        return open_source(self.source)

    def open_target(self, *, generation: int = 0, patience: float | None = None) -> Target:
        """Connect to the sink, with the state of this pipeline."""
        return self.owned_target(generation, patience)

    def owned_target(self, generation: int, patience: float | None, redrives: str | None = None) -> Target:
        """Connect to the sink; for `redrives` see `Owner`."""
        known_as = self.spec.source.known_as or self.source.object
        source = connector(self.source.settings.type, self.at_source).named(replace(self.source, object=known_as))
        deletes = self.spec.deletes
        prunes = deletes is not None and deletes.column is None
        rules = (self.shadowed, self.rules.changes, self.mark, prunes, redrives)
        return open_target(self.sink, Owner(self.uid, source, self.spec.sink, generation, patience, *rules))

    def patient(self) -> Job:
        """Return the job of a run: it waits as long as nothing may move for what another run has locked."""
        seconds = self.spec.limits.stalled.total_seconds()
        return replace(self, source=replace(self.source, patience=seconds), sink=replace(self.sink, patience=seconds))

    def place(self, connection: str, object_: str) -> Place:
        """Return another object, of a connection of the task.

        Raises:
            NotFound: the task has no such connection.
        """
        settings, source = _settings(self.connections, connection), self.source
        return Place(self.pipeline, connection, settings, object_, source.secrets, patience=source.patience)

    @property
    def standing(self) -> Standing | None:
        """Condition of each commit on another stream; None of all but redrives of changes."""
        return None

    def open_letters(self) -> DeadLetters:
        """Open the pipeline's dead letters; requires `letters`."""
        from dataflows.runs.kept_letters import KeptLetters

        return KeptLetters(self.letters or "", self.uid, self.pipeline)

    @classmethod
    def from_task(cls, task: Mapping[str, Any], *, secrets: Path | None = None) -> Job:
        """Return the job of a worker's task.

        Raises:
            Refused: a feature that the file may use and this engine does not support yet.
            InvalidDocument: a pipeline or connection that does not validate.
        """
        pipeline = Pipeline.parse(task["pipeline"])
        spec = pipeline.spec
        places = [_place(pipeline, end, task["connections"], secrets) for end in (spec.source, spec.sink)]
        refuse_what_is_missing(pipeline.name, spec)
        if spec.mode == "stream":
            places[0] = replace(places[0], stream=str(task["uid"]), shared=_shared(task), write=spec.sink.write)
        _check_readable(pipeline, places)
        changes = spec.mode == "stream" and traits(places[0].settings).sends_changes
        if changes:
            check_changes(pipeline.name, spec, places[1].settings.type)
        else:
            check_unchanging(pipeline.name, spec)
        no_nul = traits(places[0].settings).holds_nul and not traits(places[1].settings).holds_nul
        rules = replace(rules_of(spec), no_nul=no_nul, repeats=_repeating(*places))
        return cls(
            uid=str(task["uid"]),
            run=str(task["run"]),
            spec=spec,
            source=places[0],
            sink=places[1],
            rules=of_changes(rules, spec.sink.write) if changes else rules,
            changes=changes,
            connections=task["connections"],
            modules=frozenset(task.get("modules") or ()),
            mask_key=str(task.get("mask_key") or ""),
            begin=Beginning.parse(task["begin"]) if task.get("begin") else None,
            drain=Path(task["drain"]) if task.get("drain") else None,
            letters=task.get("letters"),
            reload=Reload.parse(task["reload"]) if task.get("reload") else None,
            split_rows=int(task.get("split_rows") or SPLIT_ROWS),
        )


def _check_readable(pipeline: Pipeline, places: Sequence[Place]) -> None:
    """Refuse to compare both sides if rows of one of them cannot be read back, or keys not at one point in time.

    Raises:
        Refused: by name.
    """
    unreadable = [one.settings.type for one in places if traits(one.settings).only_streams]
    if pipeline.spec.check is not None and unreadable:
        what = f"rows of a connection of type {unreadable[0]} cannot be read back, so there is nothing to compare"
        raise Refused(what, where=f"{pipeline.name}: spec.check", hint="leave it out")
    others = [one.settings.type for one in places if one.settings.type not in DATABASES]
    if pipeline.spec.deletes is not None and others:
        what = f"keys of a connection of type {others[0]} cannot be compared: both sides have to be databases"
        raise Refused(what, where=f"{pipeline.name}: spec.deletes", hint="leave it out")


def _shared(task: Mapping[str, Any]) -> Shared | None:
    """Return what a member of a set shares with the others."""
    if not task.get("set_id"):
        return None
    return Shared(str(task["set_id"]), Path(task["shared"]) if task.get("shared") else None)


def _place(
    pipeline: Pipeline, end: SourceSpec | SinkSpec, connections: Mapping[str, Any], secrets: Path | None
) -> Place:
    """Return one end of a pipeline.

    Raises:
        Refused: `format` is set on a system without files, `clean` on a source that has nothing of the kind, or a
            batch on a source without an end.
    """
    settings = _settings(connections, end.connection)
    place = Place(pipeline.name, end.connection, settings, end.object, secrets, end.format, pipeline.spec.clean)
    if isinstance(end, SourceSpec):
        place = replace(place, topics=end.topics, pattern=end.pattern)
        check_topics(pipeline.name, end, settings)
        check_clean(pipeline, settings)
        if pipeline.spec.mode == "batch" and traits(settings).only_streams:
            what = f"a connection of type {settings.type} can only be read as a stream"
            raise Refused(what, where=f"{pipeline.name}: spec.mode", hint="write mode: stream")
    if end.format is not None and not connector(settings.type, place.where).takes_format:
        what = f"a connection of type {settings.type} has no files to `format`"
        raise Refused(what, where=place.where, hint="leave it out")
    return place


BY_CHUNK: Final = (
    "rows that `deduplicate` leaves out depend on the chunk that they are in, so they cannot be found again: "
    "only by columns that include the sink's key"
)


def depends_on_chunks(spec: PipelineSpec) -> bool:
    """True if which keys the steps make depends on where chunks end: other ones keep other rows of those equal."""
    key = set(spec.sink.key)
    rules = [step.deduplicate for step in spec.transforms]
    return any(rule is not None and rule.within is None and not (key and key <= set(rule.by)) for rule in rules)


def refuse_what_is_missing(name: str, spec: PipelineSpec) -> None:
    """Refuse what the spec allows and the engine does not support.

    Raises:
        Refused: with the path of the first such setting.
    """
    remembering = next((f"spec.transforms[{at}]" for at, one in enumerate(spec.transforms) if one.remembers), "")
    wrong = (
        (
            "spec.schema.types",
            spec.schema_.types == "ignore",
            "a type that does not fit cannot be ignored: values would be cut or rounded",
        ),
        (remembering, bool(remembering) and spec.mode == "batch", "only a stream remembers rows of earlier chunks"),
        (
            remembering,
            bool(remembering) and spec.limits.workers > 1,
            "several workers cannot remember rows together yet",
        ),
        (
            "spec.check",
            bool(remembering) and spec.check is not None,
            "rows of a step that remembers others cannot be made again, so there is nothing to compare",
        ),
        ("spec.deletes", spec.deletes is not None and depends_on_chunks(spec), BY_CHUNK),
        ("spec.check", spec.check is not None and depends_on_chunks(spec), BY_CHUNK),
        (
            "spec.deletes",
            spec.deletes is not None and any(step.explode for step in spec.transforms),
            "a row that became several has no key of its own at the source",
        ),
        ("spec.mapping.ref", bool(spec.mapping and spec.mapping.ref), "a mapping of the catalog must come as `fields`"),
        (
            "spec.source.cursor",
            spec.mode == "batch" and spec.sink.write == "append" and spec.source.cursor is None,
            "`append` needs a cursor: without one each run would append every row again",
        ),
        (
            "spec.source.cursor",
            spec.sink.write == "replace" and spec.source.cursor is not None,
            "`replace` reads everything: a cursor has no meaning there",
        ),
    )
    for path, holds, what in wrong:
        if holds:
            ways = "name a column that only grows, or write: replace; Kafka needs mode: stream"
            hint = ways if "needs a cursor" in what else "change the file"
            raise Refused(what, where=f"{name}: {path}", hint=hint)


def _settings(connections: Mapping[str, Any], name: str) -> Any:
    try:
        data = connections[name]
    except KeyError as error:
        raise NotFound("there is no such connection", value=name, hint="add it to connections.yaml") from error
    return parse_connection(name, data)


def rules_of(spec: PipelineSpec) -> Rules:
    """Return the mapping, the steps and the validation of the pipeline."""
    carried = frozenset({spec.sink.delete} if spec.sink.delete else ())
    filled = frozenset(HISTORY) if spec.sink.write == "scd2" else frozenset[str]()
    filled |= {spec.deletes.column} if spec.deletes and spec.deletes.column else frozenset[str]()
    left_out = spec.schema_.additive == "ignore"
    return Rules(_fields(spec), spec.transforms, spec.validate_, carried, filled, left_out, spec.clean.nul)


def _repeating(source: Place, sink: Place) -> frozenset[str]:
    """Return the types of the source in which keys may repeat, if the sink keeps only the last of them."""
    if not traits(sink.settings).drops_repeats:
        return frozenset()
    return frozenset({"json"} if traits(source.settings).drops_repeats else {"json", "jsonb"})


def _fields(spec: PipelineSpec) -> tuple[FieldSpec, ...] | None:
    if spec.mapping is None or spec.mapping.fields is None:
        return None
    return tuple(
        FieldSpec(rule.target, rule.from_, rule.sql, f"spec.mapping.fields[{at}]")
        for at, rule in enumerate(spec.mapping.fields)
    )
