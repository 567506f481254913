"""Records that a worker appends about its tasks: started, progress, completed, failed, and the schemas observed."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from datetime import datetime
from shlex import quote
from typing import Any

from pydantic import ValidationError

from agents.retries import CRASHED
from catalog.dataset_folds import dataset_id
from catalog.entries import Known
from catalog.overview import verdict
from catalog.store import MetadataStore
from dataflows.work.classify.classifier import classified
from dataflows.work.processes import Ended, calls_modules
from dataflows.work.steady import steady, steady_profile
from penstock.clock import now
from penstock.errors import Unavailable
from penstock.ids import named_id, new_id
from penstock.models.domain import Counters, DatasetRef, Discovery, Error, Schema
from penstock.models.failures import Classification, Diagnosis, Failure
from penstock.models.letters import LettersSettled
from penstock.models.profiles import DatasetProfile
from penstock.records import Record
from penstock.records.commands import CheckRecord
from penstock.records.execution import (
    DatasetGone,
    DatasetProfiled,
    ErrorRaised,
    KeysCompared,
    RunProgress,
    SchemaObserved,
    TaskCompleted,
    TaskFailed,
    TaskHalted,
    TaskReturned,
    TaskStarted,
)
from penstock.records.failures import ErrorDiagnosed
from penstock.records.sets import PAGE
from penstock.records.triggers import FilesFound

__all__ = ["Outcomes", "crashed", "not_started"]

DIAGNOSE = "diagnose"
"""Kind of the tasks that look for the cause of a failure; their own failures are not diagnosed."""
EVERYTHING = ("*",)
"""The patterns of a discovery that asks for all objects of a connection."""


_Described = tuple[str | None, str | None, str | None, bool]
"""The fingerprint of an object's schema, its kind, its description, and True if it is gone."""


class Outcomes:
    """Records by one worker; each names the task and the attempt, so that a late one is ignored."""

    def __init__(self, actor: str, store: MetadataStore) -> None:
        self._actor, self._store = actor, store
        self._known: dict[DatasetRef, str] = {}
        self._shown: dict[str, Any] = {}
        self._reported: dict[str, dict[DatasetRef, _Described]] = {}
        """What a discovery has recorded of objects so far; the catalog may not have it yet."""
        self._unchanged: dict[str, set[DatasetRef]] = {}
        """What a discovery has only described more closely than a run before it."""
        self._seen: dict[str, set[str]] = {}

    def note_schema(self, record: Record) -> None:
        """Learn from a ``schema.observed`` of the log, whoever wrote it: the catalog need not be asked again."""
        observed = SchemaObserved.parse(record.payload)
        self._known[observed.dataset] = observed.schema_.outline

    def started(self, offset: int, assigned: Record, pid: int) -> Record:
        """``task.started``."""
        self._forget(assigned)
        return self._answer(offset, assigned, "task.started", TaskStarted(**_attempt(assigned), pid=pid).to_dict())

    def _forget(self, assigned: Record) -> None:
        """Forget what an attempt has reported, however it ended."""
        for kept in (self._reported, self._unchanged, self._seen, self._shown):
            kept.pop(assigned.payload["task"], None)

    def progress(self, offset: int, assigned: Record, line: Mapping[str, Any]) -> Record:
        """``run.progress``, for the metrics."""
        payload = RunProgress(
            run=assigned.payload.get("run") or assigned.key,
            pipeline=assigned.payload["pipeline"],
            attempt=assigned.payload["attempt"],
            phase=line["phase"],
            **{name: line[name] for name in Counters.model_fields},
            estimate=line["rows_estimated"],
            splits_done=line["splits_done"],
            splits=line["splits_planned"],
            stages=line["seconds"],
            lag=line["lag"],
            idle=line.get("idle"),
            stream=line.get("stream"),
            nulls=line.get("nulls"),
        )
        return Record(
            type="run.progress",
            key=payload.run,
            at=now(),
            actor=self._actor,
            cause=(offset, 0),
            correlation=assigned.correlation,
            traceparent=assigned.traceparent,
            payload=payload.to_dict(),
        )

    def observed(self, offset: int, assigned: Record, line: Mapping[str, Any]) -> list[Record]:
        """Return ``schema.observed`` for what a stream says of its schemas while it runs, once for each attempt."""
        task, shown = assigned.payload["task"], (assigned.payload["attempt"], line.get("schemas"))
        if shown[1] is None or self._shown.get(task) == shown:
            return []
        self._shown[task] = shown
        return self._schemas(offset, assigned, line)

    def found(self, offset: int, assigned: Record, page: Sequence[Mapping[str, Any]]) -> list[Record]:
        """Return ``schema.observed`` and ``dataset.profiled`` for objects that differ from what the catalog has."""
        connection, task = assigned.payload["discovery"]["connection"], assigned.payload["task"]
        found = {DatasetRef(connection=connection, object=one["object"]): one for one in page}
        known, reported, out = self._store.known(found), self._reported.setdefault(task, {}), list[Record]()
        for ref, seen in found.items():
            before = known.get(ref)
            one = self._steady(ref, seen, before)
            described = (one["fingerprint"], one["kind"], one["description"], False)
            unseen = before is None or before.fingerprint is None or before.gone
            last = reported.get(ref) or (before and (before.fingerprint, before.kind, before.description, before.gone))
            # What shows in rows only is not lost where there are none.
            if last != described and (unseen or not one["empty"]):
                reported[ref] = described
                schema = Schema.parse(one["schema"])
                if before is not None and before.described is False and before.outline == schema.outline:
                    self._unchanged.setdefault(task, set()).add(ref)
                payload = _described(ref, one, schema)
                out.append(self._found(offset, assigned, "schema.observed", ref, payload))
            known_profile = before.profiled if before is not None else None
            # What is known from a sample stays until the next sample.
            if known_profile is None or (known_profile != one["profiled"] and not one["partial"]):
                payload = DatasetProfiled(dataset=ref, profile=DatasetProfile.parse(one["profile"])).to_dict()
                out.append(self._found(offset, assigned, "dataset.profiled", ref, payload))
        self._seen.setdefault(task, set()).update(one["object"] for one in page)
        return out

    def _steady(self, ref: DatasetRef, one: Mapping[str, Any], before: Known | None) -> Mapping[str, Any]:
        """Return what was found, with what is known where it was only looked at in part."""
        if before is None or before.gone or before.fingerprint in {None, one["fingerprint"]}:
            return one
        id_ = dataset_id(ref.connection, ref.object)
        entry, seen = self._store.dataset(id_), Schema.parse(one["schema"])
        profile = DatasetProfile.parse(entry.profile or {})
        schema = steady(self._store.schema_at(id_).schema, profile, seen, one["looked_at"], one.get("well_seen") or {})
        kept = {each.name for each in schema.fields} - {each.name for each in seen.fields}
        found = steady_profile(profile, DatasetProfile.parse(one["profile"]), kept)
        more = {"schema": schema.to_dict(), "fingerprint": schema.fingerprint}
        return {**one, **more, "profile": found.to_dict(), "profiled": found.fingerprint}

    def _found(self, offset: int, assigned: Record, type_: str, ref: DatasetRef, payload: dict[str, Any]) -> Record:
        return self._answer(offset, assigned, type_, payload, key=str(ref))

    def of(self, offset: int, assigned: Record, ended: Ended) -> list[Record]:
        """Return the records of an ended attempt: schemas and ``task.completed``, or error and ``task.failed``."""
        result = ended.result or {}
        if result.get("status") == "completed":
            before = self._listed(offset, assigned, result) or self._schemas(offset, assigned, result)
            gone = self._gone(offset, assigned, result)
            differs = self._differs(offset, assigned, result)
            found = self._diagnosed(offset, assigned, result)
            completed = self._completed(offset, assigned, result)
            self._forget(assigned)
            return [*before, *gone, *differs, *found, completed]
        self._forget(assigned)
        error = Error(**result["error"]) if result.get("error") else crashed(ended, assigned)
        return self._failure(offset, assigned, error, _counted(result, ended), wait=result.get("wait"))

    def _failure(self, offset: int, assigned: Record, error: Error, counters: Counters, **more: Any) -> list[Record]:
        """Return ``error.raised`` and ``task.failed``, with what is known of the error by its codes and its history."""
        about = {**_attempt(assigned), "error": error, "counters": counters, **more}
        if assigned.payload["kind"] == DIAGNOSE:
            return [self._answer(offset, assigned, "task.failed", TaskFailed(**about).to_dict())]
        found = self._classified(assigned, error)
        raised = self._answer(offset, assigned, "error.raised", self._raised(assigned, error, found))
        failed = TaskFailed(**about, raised=raised.id, classified=found)
        return [raised, self._answer(offset, assigned, "task.failed", failed.to_dict())]

    def _classified(self, assigned: Record, error: Error) -> Classification:
        try:
            known = self._store.templates(error.code)
        except Unavailable:  # the history can wait, the failure cannot
            known = {}
        return classified(error, assigned.payload.get("spec"), known)

    def halted(self, offset: int, assigned: Record, ended: Ended) -> list[Record]:
        """Return ``task.halted``, if the process reported its commits before it ended."""
        self._forget(assigned)
        if ended.result is None:
            return []
        payload = TaskHalted(**_attempt(assigned), counters=_counters(ended.result))
        return [self._answer(offset, assigned, "task.halted", payload.to_dict())]

    def returned(self, offset: int, assigned: Record) -> Record:
        """``task.returned``, for an attempt that has not begun."""
        return self._answer(offset, assigned, "task.returned", TaskReturned(**_attempt(assigned)).to_dict())

    def not_started(self, offset: int, assigned: Record, error: OSError) -> list[Record]:
        """Return the records of an attempt whose process could not be started: an ordinary failure."""
        return self._failure(offset, assigned, not_started(error), Counters())

    def arrived(self, offset: int, assigned: Record, found: Mapping[str, Any]) -> list[Record]:
        """Return ``files.found`` for what a look has found, or ``error.raised`` if it could not be made."""
        payload = assigned.payload
        if "error" in found:
            error = Error(**found["error"])
            raised = self._raised(assigned, error, self._classified(assigned, error))
            return [self._answer(offset, assigned, "error.raised", raised).replaced(id=new_id())]
        head = {"name": payload["pipeline"], "uid": payload["uid"], "task": payload["task"]}
        body = FilesFound.parse({**head, **found["report"]}).to_dict()
        record = self._answer(offset, assigned, "files.found", body, key=payload["pipeline"])
        return [record.replaced(id=named_id("files.found", payload["uid"], body["round"]))]

    def _completed(self, offset: int, assigned: Record, result: Mapping[str, Any]) -> Record:
        counters = dict(result.get("counters") or {})
        seconds = counters.pop("seconds", {})
        payload = TaskCompleted(
            **_attempt(assigned),
            counters=_counters(result),
            seconds=seconds,
            resumed=bool(result.get("resumed")),
            notes=tuple(result.get("notes") or ()),
            checked=CheckRecord.parse(result["checked"]) if result.get("checked") else None,
            deletes=KeysCompared.parse(result["deletes"]) if result.get("deletes") else None,
            letters=LettersSettled.parse(result["letters"]) if result.get("letters") else None,
            **self._discovered(assigned, result),
        )
        return self._answer(offset, assigned, "task.completed", payload.to_dict())

    def _discovered(self, assigned: Record, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the outcome of a discovery says of its objects; nothing for other tasks."""
        if "discovery" not in assigned.payload:
            return {}
        task = assigned.payload["task"]
        changed = self._reported.get(task, {}).keys() - self._unchanged.get(task, set())
        counts = {"objects": result["objects"], "changed": len(changed)}
        return {"discovery": assigned.payload["discovery"]["id"], "found": counts}

    def _differs(self, offset: int, assigned: Record, result: Mapping[str, Any]) -> list[Record]:
        """Return ``error.raised`` for a check that has found differences."""
        found = result.get("checked")
        if not found or found["agree"]:
            return []
        name = assigned.payload["pipeline"]
        error = Error(
            code="check.differs",
            what=verdict(found),
            where=f"pipeline {name}",
            hint=f"penstock check {quote(name)} --last",
        )
        raised = self._raised(assigned, error, self._classified(assigned, error))
        return [self._answer(offset, assigned, "error.raised", raised)]

    def _diagnosed(self, offset: int, assigned: Record, result: Mapping[str, Any]) -> list[Record]:
        """Return ``error.diagnosed`` for what a diagnosis has found."""
        if not result.get("diagnosis"):
            return []
        failure = Failure.parse(assigned.payload["failure"])
        payload = ErrorDiagnosed(
            raised=failure.id,
            task=failure.task,
            pipeline=failure.pipeline,
            run=failure.run,
            fingerprint=failure.classified.fingerprint,
            diagnosis=Diagnosis.parse(result["diagnosis"]),
        )
        return [self._answer(offset, assigned, "error.diagnosed", payload.to_dict(), key=failure.id)]

    def _raised(self, assigned: Record, error: Error, found: Classification) -> dict[str, Any]:
        payload = assigned.payload
        return ErrorRaised(
            source=self._actor,
            pipeline=payload.get("pipeline"),
            run=payload.get("run"),
            task=payload["task"],
            attempt=payload["attempt"],
            error=error,
            classified=found,
        ).to_dict()

    def _schemas(self, offset: int, assigned: Record, result: Mapping[str, Any]) -> list[Record]:
        """Return ``schema.observed`` for each side whose schema differs from the catalog's."""
        if "spec" not in assigned.payload:
            return []
        spec, observed, sampled = assigned.payload["spec"]["spec"], {}, set()
        for side, part in (("source", spec["source"]), ("target", spec["sink"])):
            if columns := (result.get("schemas") or {}).get(side):
                ref = DatasetRef(connection=part["connection"], object=part["object"])
                observed[ref] = Schema.parse(columns if isinstance(columns, dict) else {"fields": columns})
                sampled |= {ref} if side == "source" and result["schemas"].get("inferred") else set()
        if asked := [ref for ref in observed if ref not in self._known]:
            known = self._store.known(asked)
            self._known |= {ref: one.outline for ref, one in known.items() if one.outline is not None}
        changed = {ref: one for ref, one in observed.items() if self._known.get(ref) != one.outline}
        changed |= {ref: self._whole(ref, changed[ref]) for ref in sampled & changed.keys()}
        return [
            self._answer(offset, assigned, "schema.observed", _observed(ref, schema), key=str(ref))
            for ref, schema in changed.items()
            if self._known.get(ref) != schema.outline
        ]

    def _whole(self, ref: DatasetRef, seen: Schema) -> Schema:
        """Return what a run's sample shows, and what else discovery knows: only a discovery knows what is gone."""
        known = self._store.known([ref]).get(ref)
        if known is None or known.fingerprint is None or known.profiled is None:
            return seen
        id_ = dataset_id(ref.connection, ref.object)
        profile = DatasetProfile.parse(self._store.dataset(id_).profile or {})
        return steady(self._store.schema_at(id_).schema, profile, seen, 0)

    def _gone(self, offset: int, assigned: Record, result: Mapping[str, Any]) -> list[Record]:
        """Return ``dataset.gone`` for what a discovery of everything has not found; none if it left anything out."""
        payload = assigned.payload
        seen = self._seen.get(payload["task"], set())
        if "discovery" not in payload:
            return []
        order = Discovery.parse(payload["discovery"])
        if order.tables != EVERYTHING or order.except_:
            return []
        lost = self._store.discovered(order.connection) - seen - set(result["present"])
        refs = [DatasetRef(connection=order.connection, object=name) for name in sorted(lost)]
        return [
            self._found(offset, assigned, "dataset.gone", ref, DatasetGone(dataset=ref, discovery=order.id).to_dict())
            for ref in refs
        ]

    def _listed(self, offset: int, assigned: Record, result: Mapping[str, Any]) -> list[Record]:
        """Return ``objects.found`` for each page of a listing; there is at least one."""
        if assigned.payload["kind"] != "list":
            return []
        objects, name, after = result["objects"], assigned.payload["pipeline"], result.get("after")
        head = {key: assigned.payload[key] for key in ("uid", "version", "task")} | {"name": name}
        pages = [objects[at : at + PAGE] for at in range(0, len(objects), PAGE)] or [[]]
        found = []
        for at, page in enumerate(pages):
            payload = {**head, "page": at, "last": at == len(pages) - 1, "objects": page}
            if after is not None:
                payload["after"] = {one["object"]: after[one["object"]] for one in page if one["object"] in after}
            found.append(self._answer(offset, assigned, "objects.found", payload, part=at))
        return found

    def _answer(
        self, offset: int, cause: Record, type_: str, payload: dict[str, Any], key: str | None = None, part: int = 0
    ) -> Record:
        at: datetime = now()
        found = cause.answer(offset, type_, key or cause.key, payload, at=at, actor=self._actor)
        return found.replaced(id=named_id(found.id, part)) if part else found


def not_started(error: OSError) -> Error:
    """Return the error of a process that could not be started."""
    what = f"the run's process cannot be started: {error.strerror}"
    return Error(code="worker.cannot_start", what=what, where=error.filename, transient=True)


def _described(ref: DatasetRef, one: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    described = {"kind": one["kind"], "description": one["description"], "discovered": True}
    return SchemaObserved(dataset=ref, schema_=schema, **described).to_dict()


def _observed(ref: DatasetRef, schema: Schema) -> dict[str, Any]:
    return SchemaObserved(dataset=ref, schema_=schema).to_dict()


def _attempt(assigned: Record) -> dict[str, Any]:
    return {name: assigned.payload[name] for name in ("task", "run", "attempt", "worker") if name in assigned.payload}


def _counters(result: Mapping[str, Any]) -> Counters:
    """Return the counters of the result; zeros if there is none, or if they are inconsistent."""
    reported = result.get("counters") or {}
    try:
        return Counters(**{name: reported[name] for name in Counters.model_fields if name in reported})
    except ValidationError:
        return Counters()


def _counted(result: Mapping[str, Any], ended: Ended) -> Counters:
    """Return the counters of the result; if the process died without one, those that it reported last."""
    return _counters(result or {"counters": ended.counted})


def crashed(ended: Ended, assigned: Record) -> Error:
    """Return the error of a process that died without a result."""
    calls = calls_modules(assigned.payload.get("spec") or {})
    hint = "does a function of a `python` step end the process? it is tried again" if calls else "it is tried again"
    how = f"by signal {signal.Signals(-ended.code).name}" if ended.code < 0 else f"with exit code {ended.code}"
    return Error(code=CRASHED, what=f"the run's process ended {how}", hint=hint, transient=True)
