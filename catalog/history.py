"""History, latest first: commands, runs, tasks, decisions and errors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, Table, func, select

from catalog import tables
from catalog.answers import Command
from catalog.entries import Decision, DiscoveryEntry, ErrorEntry, Page, RunEntry, TaskEntry
from catalog.pages import LIMIT, latest

__all__ = [
    "command",
    "count_errors",
    "decision",
    "decisions",
    "discovery",
    "errors",
    "run",
    "runs",
    "runs_by_id",
    "tasks",
]


def command(connection: Connection, id: str) -> Command | None:
    """Return the command `id`, or None; an answer without its command does not count."""
    query = select(tables.commands).where(tables.commands.c.id == id, tables.commands.c.at.is_not(None))
    row = connection.execute(query).mappings().first()
    return None if row is None else Command(**row)


def run(connection: Connection, id: str) -> RunEntry | None:
    """Return the run `id`, or None."""
    row = connection.execute(_runs().where(tables.runs.c.id == id)).mappings().first()
    return None if row is None else RunEntry(**row)


def runs_by_id(connection: Connection, ids: Collection[str]) -> tuple[RunEntry, ...]:
    """Return the runs of `ids` that were created."""
    return tuple(
        RunEntry(**row) for row in connection.execute(_runs().where(tables.runs.c.id.in_(list(ids)))).mappings()
    )


def runs(
    connection: Connection,
    *,
    pipeline: str | None = None,
    member_of: str | None = None,
    status: str | None = None,
    limit: int = LIMIT,
    after: str | None = None,
) -> Page[RunEntry]:
    """Return runs, optionally of one pipeline, of the members of a set, or in one status."""
    query = _where(_runs(), tables.runs, pipeline=pipeline, status=status)
    if member_of is not None:
        query = query.where(tables.runs.c.pipeline.startswith(f"{member_of}/", autoescape=True))
    return latest(connection, query, tables.runs.c.offset, lambda row: RunEntry(**row), limit=limit, after=after)


def _runs() -> Select[Any]:
    """Select runs that were created: a task's record alone is not a run."""
    return select(tables.runs).where(tables.runs.c.offset.is_not(None))


def tasks(
    connection: Connection,
    *,
    run: str | None = None,
    status: str | None = None,
    limit: int = LIMIT,
    after: str | None = None,
) -> Page[TaskEntry]:
    """Return tasks, optionally of one run or in one status."""
    table = tables.tasks
    query = _where(select(table).where(table.c.offset.is_not(None)), table, run=run, status=status)
    return latest(connection, query, table.c.offset, lambda row: TaskEntry(**row), limit=limit, after=after)


def discovery(connection: Connection, id: str) -> DiscoveryEntry | None:
    """Return the discovery `id`, or None."""
    table = tables.discoveries
    query = select(table).where(table.c.id == id, table.c.offset.is_not(None))
    row = connection.execute(query).mappings().first()
    return None if row is None else DiscoveryEntry(**row)


def decision(connection: Connection, id: str) -> Decision | None:
    """Return the decision `id`, or None."""
    table = tables.agent_decisions
    row = connection.execute(select(table).where(table.c.id == id)).mappings().first()
    return None if row is None else _decision(row)


def decisions(
    connection: Connection,
    *,
    pipeline: str | None = None,
    policy: str | None = None,
    since: datetime | None = None,
    limit: int = LIMIT,
    after: str | None = None,
    **equal: str | None,
) -> Page[Decision]:
    """Return decisions, optionally those that equal a given `agent`, `subject` or `outcome`, and since a time.

    Those about a `pipeline` are also about its runs and tasks; a `policy` is its name, or the beginning of its hash.
    """
    table, versions = tables.agent_decisions, tables.policy_versions
    query = _where(select(table), table, **equal)
    if since is not None:
        query = query.where(table.c.at >= since)
    if policy is not None:
        named = select(versions.c.hash).where(versions.c.name == policy)
        query = query.where(table.c.policy.startswith(policy, autoescape=True) | table.c.policy.in_(named))
    if pipeline is not None:
        about = [select(t.c.id).where(t.c.pipeline == pipeline) for t in (tables.runs, tables.tasks)]
        query = query.where((table.c.subject == pipeline) | table.c.subject.in_(about[0].union_all(about[1])))
    return latest(connection, query, table.c.offset, _decision, limit=limit, after=after)


def errors(
    connection: Connection,
    *,
    pipeline: str | None = None,
    run: str | None = None,
    code: str | None = None,
    limit: int = LIMIT,
    after: str | None = None,
) -> Page[ErrorEntry]:
    """Return errors, optionally of one pipeline, run or code."""
    table = tables.errors
    query = _where(select(table), table, pipeline=pipeline, run=run, code=code)
    return latest(connection, query, table.c.offset, _error, limit=limit, after=after)


def count_errors(connection: Connection, code: str) -> int:
    """Return the number of errors of one code."""
    query = select(func.count()).select_from(tables.errors).where(tables.errors.c.code == code)
    return int(connection.execute(query).scalar_one())


def _decision(row: RowMapping) -> Decision:
    return Decision(**{name: value for name, value in row.items() if name != "changed"})


def _error(row: RowMapping) -> ErrorEntry:
    return ErrorEntry(**{one.name: row[one.name] for one in fields(ErrorEntry)})


def _where(query: Select[Any], table: Table, **equal: str | None) -> Select[Any]:
    return query.where(*(table.c[name] == value for name, value in equal.items() if value is not None))
