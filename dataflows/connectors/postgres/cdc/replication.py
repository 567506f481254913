"""A session for logical replication: slots, the snapshot that belongs to one, and the stream of its changes.

psycopg has no class for it; libpq has what is needed. The server never ends such a session for silence here, since a
slow sink keeps the reader from answering; a peer that is gone is noticed by TCP's own keep-alive on both sides.
"""

from __future__ import annotations

import contextlib
import select
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import conninfo, pq, sql

from dataflows.connectors.postgres.session import IDLE_SECONDS, PINNED, next_result, result_error, translated
from penstock.clock import now
from penstock.errors import PenstockError, Unavailable, Unreachable
from penstock.postgres import KEEPALIVE

__all__ = ["Replication", "System", "lsn_number", "lsn_text"]

CONNECT_SECONDS: Final = 10
SLOT_SECONDS: Final = 600.0
"""Longest wait for the transactions that are open while a slot is made."""
_SETTINGS: Final = PINNED | {
    "wal_sender_timeout": "0",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_CHANGES: Final = ord("w")
_KEEPALIVE: Final = ord("k")
_DATA: Final = struct.Struct(">cQQq")
_ALIVE: Final = struct.Struct(">cQqB")
_STATUS: Final = struct.Struct(">cQQQqB")
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The time from which PostgreSQL counts."""


def lsn_text(number: int) -> str:
    """Return a place in the WAL as the server writes it."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """Return a place in the WAL as a number of bytes."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


@dataclass(frozen=True, slots=True)
class System:
    """The server: its identifier, the timeline, and how far its WAL is written."""

    id: str
    timeline: int
    written: int


@dataclass(slots=True)
class Replication:
    """One session; `check` is called while it waits, and ends the wait by raising."""

    session: psycopg.Connection[Any]
    where: str
    check: Callable[[], None]
    fresh: bool = field(default=True, init=False)
    """True until it has streamed or ended."""

    @classmethod
    def connected(cls, dsn: str, where: str, name: str, check: Callable[[], None]) -> Replication:
        """Connect.

        Raises:
            AccessDenied, NotFound, Unreachable: as for any session.
        """
        own = conninfo.conninfo_to_dict(dsn).get("options") or ""
        texts = " ".join(f"-c {key}={value.replace(' ', chr(92) + ' ')}" for key, value in _SETTINGS.items())
        with translated(where):
            session = psycopg.connect(
                dsn,
                autocommit=True,
                replication="database",
                application_name=name,
                client_encoding="UTF8",
                connect_timeout=CONNECT_SECONDS,
                options=f"{own} {texts}".lstrip(),
                **KEEPALIVE,  # type: ignore[arg-type]  # options of libpq, which psycopg passes on
            )
        return cls(session, where, check)

    def identify(self) -> System:
        """Return which server this is."""
        id_, timeline, written, _ = self._row("IDENTIFY_SYSTEM")
        return System(id_, int(timeline), lsn_number(written))

    def create(self, slot: str) -> tuple[int, str]:
        """Create a slot; return where its changes begin, and a snapshot of what was before them.

        The snapshot can be used by other sessions until this one is used again.

        Raises:
            Unavailable: transactions stay open for too long.
        """
        _, begin, snapshot, _ = self._row(
            f"CREATE_REPLICATION_SLOT {_name(slot)} LOGICAL pgoutput EXPORT_SNAPSHOT", SLOT_SECONDS
        )
        return lsn_number(begin), snapshot

    def start(self, slot: str, begin: int, publication: str) -> None:
        """Begin to stream what was committed from `begin` on."""
        self.fresh = False
        options = f"proto_version '1', publication_names {_literal(_name(publication))}"
        self._say(f"START_REPLICATION SLOT {_name(slot)} LOGICAL {lsn_text(begin)} ({options})")
        with translated(self.where):
            result = next_result(self.session, self.check)
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise result_error(result, self.where) if result else Unreachable("no answer", where=self.where)

    def messages(self, seconds: float) -> Iterator[tuple[bytes | None, int]]:
        """Yield the messages that are there, or come within `seconds`: (content, place), or (None, how far it is).

        Raises:
            Unreachable: the connection was lost.
            PenstockError: the error by which the server ended the stream.
        """
        connection = self.session.pgconn
        with translated(self.where):
            count, data = connection.get_copy_data(1)
            if count == 0:
                if select.select([connection.socket], [], [], seconds)[0]:
                    connection.consume_input()
                count, data = connection.get_copy_data(1)
        while count > 0:
            if data[0] == _CHANGES:
                yield bytes(data[_DATA.size :]), _DATA.unpack_from(data)[2]
            elif data[0] == _KEEPALIVE:
                yield None, _ALIVE.unpack_from(data)[1]
            with translated(self.where):
                count, data = connection.get_copy_data(1)
        if count < 0:
            self._ended()

    def confirm(self, upto: int, *, answer: bool = False) -> None:
        """Report that everything before `upto` is kept elsewhere; with `answer`, ask how far the server is."""
        at = (now() - _EPOCH) // timedelta(microseconds=1)
        with translated(self.where):
            self.session.pgconn.put_copy_data(_STATUS.pack(b"r", upto, upto, upto, at, answer))
            while self.session.pgconn.flush():
                select.select([], [self.session.pgconn.socket], [], IDLE_SECONDS)
                self.check()

    def close(self) -> None:
        """End the session; a stream ends with it."""
        self.fresh = False
        with contextlib.suppress(psycopg.Error):
            self.session.close()

    def _ended(self) -> None:
        with translated(self.where):
            result = next_result(self.session, self.check)
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise result_error(result, self.where)
        raise Unreachable("the server ended the stream of changes", where=self.where, hint="try again")

    def _say(self, command: str) -> None:
        with translated(self.where):
            self.session.pgconn.send_query(command.encode())

    def _row(self, command: str, seconds: float = 60.0) -> list[str]:
        """Return the only row that a command answers with.

        Raises:
            Unavailable: not within `seconds`.
        """
        self._say(command)
        end = time.monotonic() + seconds

        def check() -> None:
            self.check()
            if time.monotonic() > end:
                hint = "a slot waits for all transactions that are open: look at pg_stat_activity and pg_prepared_xacts"
                raise Unavailable(f"no answer to {command.partition(' ')[0]}", where=self.where, hint=hint)

        with translated(self.where):
            result = next_result(self.session, check)
            found: PenstockError | list[str] = Unreachable("no answer", where=self.where)
            if result is not None and result.status == pq.ExecStatus.TUPLES_OK:
                found = [(result.get_value(0, at) or b"").decode() for at in range(result.nfields)]
            elif result is not None:
                found = result_error(result, self.where)
            while next_result(self.session, check) is not None:
                continue
        if isinstance(found, PenstockError):
            raise found
        return found


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)
