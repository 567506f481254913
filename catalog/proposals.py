"""Changes that are proposed for pipelines: their folds, and a query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from sqlalchemy import Connection, select

from catalog import tables
from catalog.dataset_folds import Seen
from catalog.entries import ProposalEntry
from catalog.rows import Change, Entry, Row, Rows
from penstock.records.coordination import ChangeAnswered, ChangeProposed

__all__ = ["answered", "proposals", "proposed"]


def proposed(seen: Seen, body: ChangeProposed) -> Iterable[Change | Entry]:
    """Fold a change that is proposed, perhaps once more."""
    columns: Row = {"pipeline": body.name, "uid": body.uid, "run": body.run, "proposal": body.proposal.to_dict()}
    columns |= {"status": "open", "proposed_at": seen.record.at, "answered_at": None, "by": None, "offset": seen.offset}
    columns |= {"plan": body.plan and body.plan.to_dict(), "reason": None}
    return [Change(tables.proposals, body.id, lambda row, _: row.update(columns))]


def answered(seen: Seen, body: ChangeAnswered) -> Iterable[Change | Entry]:
    """Fold an answer; one to a change that was never proposed is none."""

    def fold(row: Row, rows: Rows) -> None:
        if "status" not in row:
            rows.drop(tables.proposals, body.id)
        else:
            row |= {"status": body.answer, "answered_at": seen.record.at, "by": body.by, "reason": body.reason}

    return [Change(tables.proposals, body.id, fold)]


def proposals(connection: Connection, *, every: bool = False) -> tuple[ProposalEntry, ...]:
    """Return the proposals that wait for an answer, oldest first; with `every` the answered ones, too."""
    table, pipelines = tables.proposals, tables.pipelines
    query = select(table).join(pipelines, pipelines.c.uid == table.c.uid).where(pipelines.c.status != "deleted")
    query = query if every else query.where(table.c.status == "open")
    rows = connection.execute(query.order_by(table.c.offset)).mappings()
    names = [field.name for field in fields(ProposalEntry)]
    return tuple(ProposalEntry(**{name: row[name] for name in names}) for row in rows)
