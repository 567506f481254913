"""What a diagnosis looks at, one question each; every look only reads, and none waits for long."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import psycopg

from dataflows.connectors.registry import open_source, open_target
from dataflows.data.tables import Table
from dataflows.work.diagnosis.side import Address, Side
from penstock.errors import AccessDenied, MissingTable, OutOfSpace, PenstockError, SchemaMismatch, Unreachable
from penstock.models.connection import postgres_dsn
from penstock.models.failures import MOST_CHARACTERS, Check
from penstock.postgres import connect

__all__ = ["disks", "ends", "history", "known_columns", "locks", "servers"]

CONNECT_SECONDS: Final = 3.0
LET_IN: Final = "the system lets this user in"
LEAST_FREE: Final = 64 << 20
"""Bytes that a disk needs to have room for a run's next step."""


def _check(what: str, found: str, evidence: str) -> Check:
    return Check.model_validate({"what": what[:100], "found": found, "evidence": evidence[:MOST_CHARACTERS]})


def servers(side: Side) -> Iterator[Check]:
    """Check that a server listens where the connection says."""
    what = f"server of {side.label}"
    try:
        addresses = side.addresses()
    except PenstockError as error:
        yield _check(f"secrets of {side.label}", "wrong", error.what)
        return
    for address in addresses:
        yield _server(what, address, side.shown(address))


def _server(what: str, address: Address, shown: str) -> Check:
    host, port = address
    try:
        if port:
            with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
                return _check(what, "ok", f"{shown} accepts connections")
        with socket.socket(socket.AF_UNIX) as local:
            local.settimeout(CONNECT_SECONDS)
            local.connect(host)
        return _check(what, "ok", f"{shown} accepts connections")
    except socket.gaierror:
        return _check(what, "wrong", f"the host name of {shown} cannot be resolved")
    except TimeoutError:
        return _check(what, "wrong", f"{shown} does not answer within {CONNECT_SECONDS:g} s")
    except OSError as error:
        return _check(what, "wrong", f"no server listens at {shown}: {os.strerror(error.errno or 0).lower()}")


def ends(side: Side, known: Sequence[Mapping[str, Any]] | None, version: int | None) -> Iterator[Check]:
    """Log in, look for the object, and compare its columns with those `known` from the last runs.

    A file of DuckDB is left alone: only one process may open it, and that is to be the next attempt.
    """
    if side.place.settings.type == "duckdb":
        return
    login, there = f"login to {side.label}", f"object {side.dataset} of {side.label}"
    try:
        table = _described(side)
    except PenstockError as error:
        yield from _not_opened(side, error)
        return
    yield _check(login, "ok", LET_IN)
    if table is not None:
        yield _check(there, "ok", f"it has {len(table.columns)} columns")
        yield from _columns(side, table, known, version)
    elif known:
        yield _check(there, "wrong", f"it does not exist, and had {len(known)} columns in version {version}")
    else:
        yield _check(there, "ok", "it does not exist yet: a run creates it")


def _not_opened(side: Side, error: PenstockError) -> Iterator[Check]:
    """Say what stands in the way of opening one side."""
    login, said = f"login to {side.label}", _said(error)
    if isinstance(error, AccessDenied | Unreachable):
        yield _check(login, "wrong" if isinstance(error, AccessDenied) else "unknown", said)
    elif isinstance(error, SchemaMismatch):
        yield _check(login, "ok", LET_IN)
        missing = isinstance(error, MissingTable)
        what = f"object {side.dataset} of {side.label}" if missing else f"columns of {side.dataset} of {side.label}"
        yield _check(what, "wrong", said)
    elif isinstance(error, OutOfSpace):
        yield _check(f"room at {side.label}", "wrong", said)
    else:
        yield _check(f"opening {side.dataset} of {side.label}", "unknown" if error.transient else "wrong", said)


def _described(side: Side) -> Table | None:
    if side.owner is None:
        with closing(open_source(side.place)) as source:
            return source.describe()
    with closing(open_target(side.place, side.owner)) as target:
        return target.describe()


def _said(error: PenstockError) -> str:
    """Return what an error says, and of which part of a connection."""
    _, _, part = (error.where or "").partition("connection ")
    _, _, part = part.partition(", ") if ", " in part else part.partition(": ")
    said = error.what if error.value is None else f"{error.what} ({error.value})"
    return f"{part}: {said}" if part else said


def _columns(
    side: Side, table: Table, known: Sequence[Mapping[str, Any]] | None, version: int | None
) -> Iterator[Check]:
    if not known or (side.owner is None and table.types_from):
        return
    before = {str(one["name"]): str(one["type"]) for one in known}
    now = {one.name: one.type for one in table.columns if not one.hidden or one.name in before}
    changes = [f"column `{name}` is gone (it was {kind})" for name, kind in before.items() if name not in now]
    changes += [
        f"column `{name}` is {now[name]} now (it was {kind})"
        for name, kind in before.items()
        if name in now and now[name] != kind
    ]
    changes += [f"column `{name}` ({kind}) is new" for name, kind in now.items() if name not in before]
    what = f"columns of {side.dataset} of {side.label}, against version {version}"
    yield _check(what, "wrong" if changes else "ok", "; ".join(changes) or "they are the same")


_LOCKS: Final = """
    SELECT DISTINCT a.pid, coalesce(nullif(a.application_name, ''), 'no application name'), a.usename, a.state,
        round(extract(epoch FROM now() - a.xact_start))::bigint, l.mode
    FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.granted AND l.locktype = 'relation' AND l.relation = to_regclass(%s)
        AND l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')
        AND a.pid <> pg_backend_pid() AND a.application_name NOT LIKE 'penstock:%%'
    ORDER BY 5 DESC NULLS LAST LIMIT 3
"""


def locks(side: Side) -> Iterator[Check]:
    """Name the sessions that lock the object; only PostgreSQL shows them to everybody."""
    if side.place.settings.type != "postgres":
        return
    what = f"locks on {side.dataset} of {side.label}"
    dsn = postgres_dsn(side.place.settings, name=side.place.connection, secrets=side.place.secrets)
    with closing(connect(dsn, "penstock:diagnosis", timeout=int(CONNECT_SECONDS))) as session:
        session.execute("SET statement_timeout = '3s'; SET default_transaction_read_only = on")
        found = session.execute(_LOCKS, (side.dataset,)).fetchall()
    held = [
        f"session {pid} ({name}, user {user}{f', {state}, for {age} s' if state else ''}) holds {mode}"
        for pid, name, user, state, age, mode in found
    ]  # of another user's session, only those see the state who may
    yield _check(what, "wrong" if held else "ok", "; ".join(held) or "no session holds a lock that stops a run")


def disks(paths: Mapping[str, Path]) -> Iterator[Check]:
    """Check the room on the disks of this machine that the run writes to."""
    for name, path in paths.items():
        with suppress(OSError, StopIteration):
            folder = next(one for one in (path, *path.parents) if one.is_dir())
            free = shutil.disk_usage(folder).free
            yield _check(f"room for {name}", "ok" if free >= LEAST_FREE else "wrong", f"{_size(free)} free at {folder}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"


_LAST: Final = """
    SELECT id, finished_at FROM catalog.runs WHERE pipeline = %s AND status = 'completed' ORDER BY "offset" DESC LIMIT 1
"""
_ELSEWHERE: Final = """
    SELECT pipeline, count(*), max(at) FROM catalog.errors
    WHERE fingerprint = %s AND pipeline IS DISTINCT FROM %s AND at > now() - interval '1 day'
    GROUP BY pipeline ORDER BY max(at) DESC LIMIT 4
"""
_KNOWN: Final = """
    SELECT schema, version FROM catalog.schema_versions AS one WHERE dataset = %s ORDER BY version DESC LIMIT 1
"""


def history(catalog: psycopg.Connection[Any], pipeline: str, fingerprint: str) -> Iterator[Check]:
    """Say when the pipeline last succeeded, and which others have the same error."""
    last = catalog.execute(_LAST, (pipeline,)).fetchone()
    said = f"run {last[0]} completed at {last[1]:%Y-%m-%d %H:%M:%S} UTC" if last else "no run has completed yet"
    yield _check("last success", "ok" if last else "unknown", said)
    others = catalog.execute(_ELSEWHERE, (fingerprint, pipeline)).fetchall()
    named = ", ".join(str(name or "a discovery") for name, _, _ in others)
    what = "same error elsewhere, in the last day"
    yield _check(what, "wrong" if others else "ok", f"{named} failed in the same way" if others else "none")


def known_columns(catalog: psycopg.Connection[Any], dataset: str) -> tuple[list[dict[str, Any]] | None, int | None]:
    """Return the columns of a dataset as the catalog has them, and their version."""
    found = catalog.execute(_KNOWN, (dataset,)).fetchone()
    return (list(found[0]["fields"]), int(found[1])) if found else (None, None)
