"""Folds of errors: each by itself, all of one fingerprint together, incidents, and connections that are held back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from catalog import tables
from catalog.dataset_folds import Fold, Seen
from catalog.rows import Change, Entry, Row, Rows, parsed
from penstock.ids import named_id
from penstock.models.domain import Error
from penstock.models.failures import Classification
from penstock.records.execution import ErrorRaised
from penstock.records.failures import (
    BreakerChanged,
    ComponentFailed,
    ErrorDiagnosed,
    IncidentClosed,
    IncidentOpened,
    StrategyChosen,
    StrategyEnded,
)

__all__ = ["FAILURES", "raised_error"]

PIPELINES: Final = 20
"""Pipelines that a fault names: those that had it last."""


def _raised(seen: Seen, body: ErrorRaised) -> Iterable[Change | Entry]:
    where = {"run": body.run, "task": body.task, "attempt": body.attempt}
    more: dict[str, Any] = {"classified": body.classified, "pipeline": body.pipeline, "where": where}
    return raised_error(seen, seen.record.id, source=body.source, error=body.error, **more)


def _component_failed(seen: Seen, body: ComponentFailed) -> Iterable[Change | Entry]:
    return raised_error(seen, seen.record.id, source=body.component, error=body.error, classified=body.classified)


def raised_error(
    seen: Seen,
    key: str,
    *,
    source: str,
    error: Error,
    classified: Classification | None = None,
    pipeline: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> Iterable[Change]:
    """Fold an error, the first of its `key`, and count it among those of its fingerprint."""
    fingerprint = classified.fingerprint if classified is not None else named_id("code", error.code)
    row: Row = {"at": seen.record.at, "source": source, "code": error.code, "error": error.to_dict()}
    row |= {"correlation": seen.record.correlation, "offset": seen.offset, "pipeline": pipeline, **(where or {})}
    row |= {"fingerprint": fingerprint, "classified": classified and classified.to_dict()}
    yield Change(tables.errors, key, lambda one, _: one.update(row) if one.get("at") is None else None)
    yield Change(tables.faults, fingerprint, _group(seen, key, error, classified, pipeline))


def _group(
    seen: Seen, key: str, error: Error, classified: Classification | None, pipeline: str | None
) -> Callable[[Row, Rows], None]:
    known = {"kind": classified.kind, "connection": classified.connection} if classified else {}
    sentence = classified.template if classified is not None else error.what

    def fold(row: Row, _: Rows) -> None:
        if row.get("error_id") == key:
            return  # reported twice
        others = [one for one in parsed(row.get("pipelines")) or () if one != pipeline]
        row |= {"code": error.code, "kind": known.get("kind"), "connection": known.get("connection")}
        row |= {"template": sentence, "count": (row.get("count") or 0) + 1, "error": error.to_dict()}
        row |= {"first_at": row.get("first_at") or seen.record.at, "last_at": seen.record.at, "last": seen.offset}
        row["error_id"] = key
        row["pipelines"] = [*others, pipeline][-PIPELINES:] if pipeline else others

    return fold


def _about(table: Any, key: str, **columns: object) -> Change:
    """Update columns of an existing row; ignore a missing one."""

    def fold(row: Row, rows: Rows) -> None:
        if row.keys() <= {*_keys(table), "changed"}:
            rows.drop(table, key)
        else:
            row.update(columns)

    return Change(table, key, fold)


def _keys(table: Any) -> set[str]:
    return {column.name for column in table.primary_key}


def _diagnosed(_: Seen, body: ErrorDiagnosed) -> Iterable[Change | Entry]:
    found = body.diagnosis.to_dict()
    yield _about(tables.errors, body.raised, diagnosis=found)
    yield _about(tables.faults, body.fingerprint, diagnosis=found)


def _chosen(seen: Seen, body: StrategyChosen) -> Iterable[Change | Entry]:
    chosen = body.model_dump(mode="json", include={"action", "reason", "due", "set", "incident"}, exclude_none=True)
    yield _about(tables.errors, body.raised, strategy=chosen)
    if body.incident is not None:

        def repeated(row: Row, rows: Rows) -> None:
            if "status" not in row:
                rows.drop(tables.incidents, row["id"])
            elif row["status"] == "open":
                row |= {"repeats": (row.get("repeats") or 0) + 1, "last_at": seen.record.at}

        yield Change(tables.incidents, body.incident, repeated)


def _ended(_: Seen, body: StrategyEnded) -> Iterable[Change | Entry]:
    def fold(row: Row, rows: Rows) -> None:
        if row.keys() <= {"fingerprint", "changed"}:
            rows.drop(tables.faults, body.fingerprint)
            return
        outcomes = {action: dict(counts) for action, counts in (parsed(row.get("outcomes")) or {}).items()}
        counts = outcomes.setdefault(body.action, {})
        counts[body.outcome] = counts.get(body.outcome, 0) + 1
        row["outcomes"] = outcomes

    return [Change(tables.faults, body.fingerprint, fold)]


def _opened(seen: Seen, body: IncidentOpened) -> Iterable[Change | Entry]:
    columns: Row = {"fingerprint": body.fingerprint, "pipeline": body.pipeline, "connection": body.connection}
    columns |= {"kind": body.kind, "status": "open", "what": body.what, "incident": body.to_dict(), "repeats": 0}
    columns |= {"opened_at": seen.record.at, "last_at": seen.record.at, "closed_at": None, "reason": None}
    return [Change(tables.incidents, body.id, lambda row, _: row.update(columns))]


def _closed(seen: Seen, body: IncidentClosed) -> Iterable[Change | Entry]:
    columns = {"status": "closed", "closed_at": seen.record.at, "reason": body.reason}
    return [_about(tables.incidents, body.id, **columns)]


def _breaker(seen: Seen, body: BreakerChanged) -> Iterable[Change | Entry]:
    columns: Row = {"status": body.status, "failures": body.failures, "reason": body.reason}
    columns |= {"until": body.until, "at": seen.record.at}
    return [Change(tables.breakers, body.connection, lambda row, _: row.update(columns))]


FAILURES: Final[dict[str, Fold]] = {
    "error.raised": _raised,
    "component.failed": _component_failed,
    "error.diagnosed": _diagnosed,
    "strategy.chosen": _chosen,
    "strategy.ended": _ended,
    "incident.opened": _opened,
    "incident.closed": _closed,
    "breaker.changed": _breaker,
}
"""The fold of each record type about failures; `diagnosis.requested` and `component.recovered` change nothing."""
