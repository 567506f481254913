"""Messages of `pgoutput`, the server's own plugin for logical decoding, in version 1 of its protocol.

Values are the server's texts. Source: PostgreSQL's documentation, "Logical Replication Message Formats".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from penstock.errors import PenstockError

__all__ = [
    "UNCHANGED",
    "Begin",
    "Change",
    "Commit",
    "Relation",
    "RelationColumn",
    "Truncate",
    "Tuple",
    "Unchanged",
    "parse",
]


class Unchanged:
    """A value that was not sent, as it is stored out of line (TOAST) and the update did not change it."""

    __slots__ = ()


UNCHANGED: Final = Unchanged()
Tuple = tuple[bytes | Unchanged | None, ...]
"""One value for each column of the relation; None is NULL."""


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column as the following changes have it."""

    name: str
    in_identity: bool
    type_id: int
    modifier: int


@dataclass(frozen=True, slots=True)
class Relation:
    """The columns of a table, sent before its first change and again once they have changed."""

    id: int
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A row inserted (no `old`), updated, or deleted (no `new`).

    `old` is None if an update left the columns of the replica identity as they are. Unless `whole`, it has only those.
    """

    relation: int
    kind: str
    new: Tuple | None
    old: Tuple | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables that were emptied."""

    relations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """The beginning of a transaction; `xid` is its number, `commit` the place of its commit.

    `time` is that of the commit, in microseconds of Unix time.
    """

    xid: int
    commit: int
    time: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a transaction; `end` is where the next one may begin, `at` its time in seconds of Unix time."""

    end: int
    at: float


EPOCH: Final = 946_684_800
"""1 January 2000, from which PostgreSQL counts, in Unix time."""
_COMMIT: Final = struct.Struct(">cBQQq")
_RELATION: Final = struct.Struct(">cI")
_COLUMN: Final = struct.Struct(">Ii")
_LENGTH: Final = struct.Struct(">I")
_COUNT: Final = struct.Struct(">H")
_TRUNCATE: Final = struct.Struct(">cIB")
_START: Final = struct.Struct(">cQqI")
_BEGIN: Final = b"B"
_IGNORED: Final = b"YOM"


def parse(data: bytes) -> Relation | Change | Truncate | Commit | Begin | None:
    """Parse one message; None is a message without meaning here.

    Raises:
        PenstockError: a message of another protocol.
    """
    kind = data[:1]
    if kind in b"IUD":
        return _change(data, kind)
    if kind == b"C":
        _, _, _, end, microseconds = _COMMIT.unpack_from(data)
        return Commit(end, EPOCH + microseconds / 1_000_000)
    if kind == _BEGIN:
        _, commit, microseconds, xid = _START.unpack_from(data)
        return Begin(xid, commit, EPOCH * 1_000_000 + microseconds)
    if kind == b"R":
        return _relation(data)
    if kind == b"T":
        count = _TRUNCATE.unpack_from(data)[1]
        return Truncate(struct.unpack_from(f">{count}I", data, _TRUNCATE.size))
    if kind in _IGNORED:
        return None
    raise PenstockError(f"the server sent a message of kind {kind!r}", where="logical replication", hint="report this")


def _change(data: bytes, kind: bytes) -> Change:
    relation, at = int.from_bytes(data[1:5]), 5
    old, whole = None, False
    if kind != b"I" and data[at : at + 1] in b"KO":
        whole = data[at : at + 1] == b"O"
        old, at = _tuple(data, at + 1)
    if kind == b"D":
        return Change(relation, "delete", None, old, whole)
    new, _ = _tuple(data, at + 1)
    return Change(relation, "insert" if kind == b"I" else "update", new, old, whole)


def _tuple(data: bytes, at: int) -> tuple[Tuple, int]:
    """Return the values that begin at `at`, and where they end."""
    (count,) = _COUNT.unpack_from(data, at)
    at += 2
    values: list[bytes | Unchanged | None] = []
    for _ in range(count):  # hot loop: once for each value
        kind = data[at]
        if kind == 116:  # noqa: PLR2004 - t: a text
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5])
            values.append(data[at + 5 : end])
            at = end
        else:
            values.append(None if kind == 110 else UNCHANGED)  # noqa: PLR2004 - n: NULL
            at += 1
    return tuple(values), at


def _relation(data: bytes) -> Relation:
    id_, at = _RELATION.unpack_from(data)[1], _RELATION.size
    schema, at = _text(data, at)
    name, at = _text(data, at)
    identity = chr(data[at])
    (count,) = _COUNT.unpack_from(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        in_identity = bool(data[at] & 1)
        column, at = _text(data, at + 1)
        columns.append(RelationColumn(column, in_identity, *_COLUMN.unpack_from(data, at)))
        at += _COLUMN.size
    return Relation(id_, f"{schema or 'pg_catalog'}.{name}", identity, tuple(columns))


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1
