"""Slots of a pipeline: whether one still has what comes next, and the end of those that are not needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dataflows.connectors.postgres.cdc.names import slot_prefix
from dataflows.connectors.postgres.cdc.positions import REBUILD
from dataflows.connectors.postgres.cdc.replication import lsn_number, lsn_text
from dataflows.connectors.postgres.session import Session, one_row, translated
from penstock.errors import Refused, Unavailable

__all__ = ["Slot", "check_slot", "copy_slot", "drop_slot", "drop_slots", "find", "free", "newest", "written"]

END_MILLISECONDS: Final = 5000


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as the server describes it; `status` is lost if the server has deleted what it needs."""

    name: str
    pid: int | None
    confirmed: int
    status: str
    retained: int
    """Bytes of WAL that it keeps the server from deleting."""
    room: int | None = None
    """Bytes that can be written before the server deletes what it needs; None without a limit."""
    reason: str | None = None
    """Why the server has made it invalid, in its own word."""


_SLOT: Final = """
SELECT slot_name::text, active_pid, coalesce(confirmed_flush_lsn, '0/0')::text,
  coalesce(to_jsonb(s) ->> 'wal_status', 'reserved'),
  greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(restart_lsn, pg_current_wal_lsn())))::bigint,
  safe_wal_size, to_jsonb(s) ->> 'invalidation_reason'
FROM pg_replication_slots s WHERE slot_type = 'logical' AND database = current_database()"""


def written(session: Session, where: str) -> int:
    """Return how far the server's WAL is written."""
    with translated(where):
        return lsn_number(one_row(session, "SELECT pg_current_wal_flush_lsn()::text")[0])


def find(session: Session, name: str, where: str) -> Slot | None:
    """Return the slot of that name, or None."""
    with translated(where):
        row = session.execute(f"{_SLOT} AND slot_name = %s", (name,)).fetchone()
    return None if row is None else _slot(row)


def newest(session: Session, uid: str, where: str) -> Slot | None:
    """Return the slot that the pipeline made last, or None."""
    prefix = slot_prefix(uid)
    query = f"{_SLOT} AND starts_with(slot_name, %s) ORDER BY length(slot_name) DESC, slot_name DESC LIMIT 1"
    with translated(where):
        row = session.execute(query, (prefix,)).fetchone()
    return None if row is None else _slot(row)


def _slot(row: tuple[Any, ...]) -> Slot:
    name, pid, confirmed, *rest = row
    return Slot(name, pid, lsn_number(confirmed), *rest)


def check_slot(slot: Slot | None, name: str, at: int, written: int, where: str, *, shared: bool = False) -> None:
    """Refuse a slot that does not have what comes after `at`; `written` is the end of the server's WAL.

    A slot that is `shared` is not kept for a member that does not come back.

    Raises:
        Refused: it is missing, lost, or begins later; says how much of the WAL is lost.
    """
    behind = f"{max(0, written - at):,} bytes of the WAL after {lsn_text(at)}"
    if at > written:
        what = f"the server's WAL ends at {lsn_text(written)}, before {lsn_text(at)}, which was read: it was restored"
        raise Refused(what, where=where, hint=REBUILD)
    if slot is None:
        what = f"replication slot {name} is gone: changes in {behind} are lost"
        raise Refused(what, where=where, hint=REBUILD)
    if slot.status == "lost":
        raise _lost(slot, behind, where)
    if slot.confirmed > at:
        lost = f"changes in {slot.confirmed - at:,} bytes of the WAL after {lsn_text(at)} are lost"
        if shared:
            what = f"replication slot {name} of the set was not kept for a table that was not read for long: {lost}"
            raise Refused(what, where=where, hint=REBUILD)
        what = f"replication slot {name} was made again or moved: it begins at {lsn_text(slot.confirmed)}, and {lost}"
        raise Refused(what, where=where, hint=REBUILD)


def _lost(slot: Slot, behind: str, where: str) -> Refused:
    deleted = slot.reason in {None, "wal_removed"}
    why = f"the server has deleted WAL that replication slot {slot.name} needs"
    if not deleted:
        why = f"the server has made replication slot {slot.name} invalid ({slot.reason})"
    setting = {"idle_timeout": "idle_replication_slot_timeout", "wal_removed": "max_slot_wal_keep_size"}
    name = setting.get(slot.reason or "wal_removed")
    hint = f"{REBUILD}; raise {name} so that it does not happen again" if name else REBUILD
    return Refused(f"{why}: changes in {behind} are lost", where=where, hint=hint)


def free(session: Session, name: str, where: str) -> None:
    """End the session that still streams from the slot: one of an earlier attempt of this pipeline.

    Raises:
        Unavailable: it does not end.
    """
    slot = find(session, name, where)
    if slot is None or slot.pid is None:
        return
    with translated(where):
        session.execute("SELECT pg_terminate_backend(%s, %s)", (slot.pid, END_MILLISECONDS))
    slot = find(session, name, where)
    if slot is not None and slot.pid is not None:
        what = f"replication slot {name} is in use by session {slot.pid}"
        raise Unavailable(what, where=where, hint="end it, or try again")


def copy_slot(session: Session, name: str, new: str, where: str) -> None:
    """Make a slot that has what another one has, in place of one of its name."""
    if find(session, new, where) is not None:
        drop_slot(session, new, where)
    with translated(where):
        session.execute("SELECT pg_copy_logical_replication_slot(%s, %s, false)", (name, new))


def drop_slot(session: Session, name: str, where: str) -> None:
    """Drop a slot, and end the session that uses it."""
    free(session, name, where)
    with translated(where):
        session.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def drop_slots(session: Session, uid: str, spared: str | None, below: int | None, where: str) -> None:
    """Drop the pipeline's slots of generations below `below`, None for all, but for the one that is `spared`."""
    prefix = slot_prefix(uid)
    with translated(where):
        query = "SELECT slot_name::text FROM pg_replication_slots WHERE starts_with(slot_name, %s)"
        names = [name for (name,) in session.execute(query, (prefix,)).fetchall()]
    for name in names:
        if name != spared and (below is None or int(name.removeprefix(prefix)) < below):
            drop_slot(session, name, where)
