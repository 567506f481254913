"""The door of every reader of a topic: what is not a record of this release never gets past it.

A message that is no record, or whose payload is not what its type says, stays on the log. Every reader gets a stand-in
for it, of a type that no fold knows, so that all readers skip it alike; the lifecycle agent answers the stand-in with
`record.unreadable`, which reports it once. The same happens to a decision whose writer did not hold the lock of the
control process, as the log itself stamped it. Commands are the exception: the agent that answers a command validates
its payload, so that the sender gets a refusal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.errors import InvalidDocument, PenstockError
from penstock.ids import named_id
from penstock.records.envelope import YEARS, Record, decode
from penstock.records.reading import mark
from penstock.records.seals import SEAL, SEAL_LOCK
from penstock.topics.log import UNSTAMPED, Message, Stored, lock_number
from penstock.topics.table import CONTROL, route

if TYPE_CHECKING:
    from penstock.records.families import RecordType

__all__ = ["BRAIN_LOCK", "LATER", "UNREADABLE", "decision_in", "marks_of", "records_of"]

UNREADABLE: Final = "unreadable"
"""Type of the stand-in for what cannot be read; no record on a log can have it, because it has no dot."""
LATER: Final = "later"
"""Type of the stand-in for a record of a known type in the version of a later release: skipped, and not reported."""

BRAIN_LOCK: Final = "control"
"""Name of the lock that the active control process holds; decisions of other sessions do not count."""
_BRAINS: Final = {UNSTAMPED, lock_number(BRAIN_LOCK)}
_SEALERS: Final = {UNSTAMPED, lock_number(SEAL_LOCK)}

LONGEST: Final = 640
"""Characters of an id, key or actor: what an index of PostgreSQL takes, with four bytes each."""
_INT32, _INT64 = 2**31, 2**63
_CACHED_BYTES: Final = 16 * 1024
"""Records up to this size are cached after decoding."""
_SHOWN: Final = 200
"""Characters of a reason, at most."""


class _Problem(NamedTuple):
    """Why a message does not pass: the stand-in's type, the record's type if it has one, and the reason."""

    stand_in: str
    type: str | None
    reason: str


def records_of(stored: Iterable[Stored]) -> list[tuple[int, Record]]:
    """Return a record for each message in `stored`, with its offset: valid, a command, unknown, or a stand-in.

    Each is decoded and validated once, also if several flows of a process read it moments apart. Never raises.
    """
    return [(one.offset, _read(one)) for one in stored]


def _read(one: Stored) -> Record:
    value = one.message.value
    found = _cached(value) if len(value) <= _CACHED_BYTES else _checked(value)
    if isinstance(found, Record):
        reason = _misplaced(found, one)
        if reason is None:
            return found
        found = _Problem(UNREADABLE, found.type if _type_of(found) else None, reason)
    return _stand_in(one, found)


def decision_in(one: Stored) -> Record | None:
    """Return the record of a decision, a control process or a seal at its place; None for any other.

    The payload of a decision is not validated, which takes most of the time: who counts on it reads it by `records_of`.
    """
    value = one.message.value
    if b'"brain' not in value and b"log.sealed" not in value:
        return None
    try:
        record = decode(one.message)
    except PenstockError:
        return None
    if record.agent is None:
        return _read(one)
    return record if _misplaced(record, one) is None else None


def _misplaced(record: Record, one: Stored) -> str | None:
    """Return why the record may not stand at its place on the log, or may not have been written by its session."""
    by_control = route(record.type) is CONTROL  # a measurement has its cause on another topic
    if by_control and record.cause is not None and record.cause[0] >= one.offset:
        return "its cause does not come before it"
    known = _type_of(record)
    if known is not None and known.decided and (record.agent is None or record.cause is None):
        return "it is not part of an agent's decision"
    if (record.agent is not None or record.type == "brain.started") and one.lock not in _BRAINS:
        return "its writer does not hold the lock of the control process"
    if record.type == SEAL and one.lock not in _SEALERS:
        return "its writer does not hold the lock of the one who seals"
    return None


def marks_of(one: Stored) -> set[str]:
    """Return the marks that a reader may know the message by: the record's, and that of its stand-in."""
    marks = {mark(_stand_in(one, _Problem(UNREADABLE, None, "")))}
    with suppress(PenstockError):
        marks.add(mark(decode(one.message)))
    return marks


def _stand_in(one: Stored, problem: _Problem) -> Record:
    value, at = one.message.value, one.message.at
    payload = {"offset": one.offset, "type": problem.type, "reason": problem.reason, "size": len(value)}
    return Record(
        id=named_id(UNREADABLE, one.offset, hashlib.sha256(value).hexdigest()),
        type=problem.stand_in,
        key=str(one.offset),
        at=at if at.year in YEARS else _EPOCH,
        actor="log",
        payload={name: value for name, value in payload.items() if value is not None},
    )


def _checked(value: bytes) -> Record | _Problem:
    """Return the record in `value`, its payload validated and of the current version, or why there is none."""
    try:
        record = decode(Message(key=None, value=value, at=_EPOCH))
    except Exception as error:  # noqa: BLE001 - no message whatever may stop a reader
        return _Problem(UNREADABLE, None, _reason(error))
    known = _type_of(record)
    if reason := _flaw(record, known):
        return _Problem(UNREADABLE, known.name if known else None, reason)
    if known is None or known.kind == "command":
        return record
    if record.version > known.version:
        return _Problem(LATER, known.name, f"it is of version {record.version}, which a later release wrote")
    return _validated(record)


def _validated(record: Record) -> Record | _Problem:
    from penstock.records.families import body, current  # noqa: PLC0415 - see `_type_of`

    try:
        record = current(record)
        body(record)
    except Exception as error:  # noqa: BLE001 - as above
        return _Problem(UNREADABLE, record.type, _reason(error))
    return record


def _type_of(record: Record) -> RecordType | None:
    from penstock.records.families import TYPES  # noqa: PLC0415 - slow; a client that only sends commands reads nothing

    return TYPES.get(record.type)


_cached: Final = lru_cache(maxsize=2048)(_checked)


def _flaw(record: Record, known: RecordType | None) -> str | None:
    """Return what is wrong with the envelope; None if nothing is."""
    names = {"id": record.id, "key": record.key, "actor": record.actor, "correlation": record.correlation or ""}
    for name, text in names.items():
        if len(text) > LONGEST:
            return f"its {name} has {len(text)} characters"
    if not record.id:
        return "its id is empty"
    if record.at.year not in YEARS:
        return f"its time is in the year {record.at.year}"
    if max(record.version, (record.cause or (0, 0))[1]) >= _INT32 or (record.brain or 0) >= _INT64:
        return "a number of its envelope is too large"
    if known is not None and record.kind != known.kind:
        return f"it is of kind {record.kind}, not {known.kind}"
    return None


def _reason(error: Exception) -> str:
    """Return a sentence about `error` without any value of the record."""
    if isinstance(error, InvalidDocument):
        paths = ", ".join(issue.path or "payload" for issue in error.issues[:5])
        return _line(f"its payload does not match its type, at {paths}")
    if isinstance(error, PenstockError):
        return _line(error.what)
    return _line(f"it cannot be read: {type(error).__name__}")


def _line(text: str) -> str:
    return str(PenstockError(text[:_SHOWN]))


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
