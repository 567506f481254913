"""Run COPY over the raw socket of a session: the bytes of one server go to the other unchanged.

A row of ``COPY … TO STDOUT`` is a message of ``d``, length and bytes; so is a row of ``COPY … FROM STDIN``. libpq would
parse these messages row by row, with the interpreter locked. Here libpq only opens and authenticates the connection:
the query and its whole answer go over the same socket, and the messages are not parsed.

To detect the end without parsing, the query is followed by a second one that selects a random number made for this
query. No stored row can contain it, so the COPY ends where the answer to the second query begins.

This requires an unencrypted socket (no TLS, no GSS encryption), see `plain`; everything else goes through libpq.
Source: PostgreSQL's documentation, "Frontend/Backend Protocol", Message Formats.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final
from uuid import uuid4

from dataflows.connectors.postgres.session import IDLE_SECONDS, Session, state_error, translated
from penstock.errors import BadData, PenstockError, Unreachable

__all__ = ["Deframer", "framed", "plain", "put_messages", "receive", "receive_rows"]

BLOCK: Final = 1 << 20
HELD: Final = 4096
"""Bytes at the end of the received data that are kept back until they are known not to contain the end."""
ERROR_BYTES: Final = 1 << 16
"""Bytes at the end of a broken stream that are searched for the server's error."""
HEADER: Final = 5
"""Bytes before a message's body: its kind, and its length, which includes the four bytes of the length itself."""
_READY: Final = b"Z\x00\x00\x00\x05"
_BETWEEN: Final = re.compile(rb"\nd\x00...", re.DOTALL)
_DONE: Final = re.compile(rb"c\x00\x00\x00\x04C\x00\x00\x00.COPY (\d+)\x00\Z", re.DOTALL)


def plain(session: Session) -> bool:
    """True if the session's socket carries unencrypted messages."""
    connection = session.pgconn
    if connection.ssl_in_use:
        return False
    if not connection.host or connection.host.startswith(b"/"):
        return True
    with translated("a session"):
        query = "SELECT 1 FROM pg_stat_gssapi WHERE pid = pg_backend_pid() AND encrypted"
        return session.execute(query).fetchone() is None


@contextmanager
def _bare(session: Session) -> Iterator[socket.socket]:
    """Open the session's socket for direct use, while libpq does not use it."""
    with closing(socket.socket(fileno=os.dup(session.pgconn.socket))) as bare:
        bare.settimeout(0)
        yield bare


def receive(
    session: Session, query: str, check: Callable[[], None], where: str, size: int = BLOCK, mark: str | None = None
) -> Iterator[memoryview | int]:
    """Yield blocks of about `size` bytes of a ``COPY … TO STDOUT``: raw messages, cut anywhere; last the row count.

    The caller owns each block. `check` is called at least every 0.2 s while waiting; an error that it raises ends the
    read and leaves the session unusable. In a transaction, `mark` is its savepoint: the second query first rolls back
    to it, since after an error it would get no answer otherwise.
    """
    number = uuid4().hex.encode()
    back = b"ROLLBACK TO SAVEPOINT " + mark.encode() + b"; " if mark else b""
    ask = b"".join(_query(text) for text in (query.encode(), back + b"SELECT '" + number + b"'::pg_catalog.text AS n"))
    answer, size = _answer(number, b"ROLLBACK" if mark else b""), max(size, HELD)
    with _bare(session) as bare:
        _send(bare, memoryview(ask), check, where)
        block, begin, held = bytearray(size + 2 * HELD), -1, 0
        while True:
            held += _receive_into(bare, memoryview(block)[held:], check, where, block, held)
            if begin < 0 and held >= HEADER:  # the first message describes the columns
                begin = 1 + int.from_bytes(block[1:HEADER]) if block.startswith(b"H") else 0
            if block.endswith(answer, 0, held - 1):
                upto, rows = _end(block, held - 1 - len(answer), where)
                yield memoryview(block)[begin:upto]
                yield rows
                return
            if held > size + HELD:
                following = bytearray(size + 2 * HELD)
                following[:HELD] = memoryview(block)[held - HELD : held]
                yield memoryview(block)[begin : held - HELD]
                block, begin, held = following, 0, HELD


def _receive_into(
    bare: socket.socket, into: memoryview, check: Callable[[], None], where: str, block: bytearray, held: int
) -> int:
    while True:
        try:
            count = bare.recv_into(into)
        except BlockingIOError:
            if not select.select([bare], [], [], IDLE_SECONDS)[0]:
                check()
            continue
        except OSError as error:
            raise Unreachable("the connection was lost", where=where, hint="try again") from error
        if count == 0:
            raise _error(bytes(block[max(0, held - ERROR_BYTES) : held]), where)
        return count


def _query(text: bytes) -> bytes:
    return b"Q" + struct.pack(">I", len(text) + 5) + text + b"\x00"


def _answer(number: bytes, before: bytes) -> bytes:
    """Return the answer to the second query except its last byte, the state of the transaction."""
    column = b"n\x00" + struct.pack(">IHIhih", 0, 0, 25, -1, -1, 0)
    row = struct.pack(">HI", 1, len(number)) + number
    parts = [(b"T", struct.pack(">H", 1) + column), (b"D", row), (b"C", b"SELECT 1\x00")]
    if before:
        parts.insert(0, (b"C", before + b"\x00"))
    return b"".join(kind + struct.pack(">I", len(body) + 4) + body for kind, body in parts) + _READY


def _end(block: bytearray, upto: int, where: str) -> tuple[int, int]:
    """Return where the rows end and how many there are; `upto` is the end of the answer to the COPY.

    Raises:
        PenstockError: the COPY ended by an error.
    """
    said = bytes(block[max(0, upto - ERROR_BYTES) : upto])
    said = said[: -len(_READY) - 1]
    found = _DONE.search(said[-64:])
    if found is None:
        raise _error(said, where)
    return upto - len(_READY) - 1 - (found.end() - found.start()), int(found[1])


def _error(said: bytes, where: str) -> PenstockError:
    """Return the error whose message ends `said`; without one, the connection was lost."""
    at = said.find(b"E")
    while at >= 0:
        length = int.from_bytes(said[at + 1 : at + 5])
        if at + 1 + length == len(said) and said.endswith(b"\x00\x00"):
            fields = {part[:1]: part[1:] for part in said[at + 5 : -2].split(b"\x00")}
            if {b"S", b"C", b"M"} <= fields.keys():
                return state_error(
                    fields[b"C"].decode("ascii", "replace"), fields[b"M"].decode(errors="replace"), where
                )
        at = said.find(b"E", at + 1)
    return Unreachable("the connection was lost", where=where, hint="try again")


def put_messages(session: Session, messages: memoryview, check: Callable[[], None], where: str) -> None:
    """Send messages, cut anywhere, of a COPY that libpq has begun and for which its buffer is empty.

    libpq receives the answers of the server and returns them when the COPY ends.
    """
    with _bare(session) as bare:
        _send(bare, messages, check, where, lambda: _listen(session, where))


def _listen(session: Session, where: str) -> None:
    with translated(where):
        session.pgconn.consume_input()


def _send(
    bare: socket.socket,
    data: memoryview,
    check: Callable[[], None],
    where: str,
    heard: Callable[[], None] | None = None,
) -> None:
    sent = 0
    while sent < len(data):
        try:
            sent += bare.send(data[sent:])
        except BlockingIOError:
            readable, writable, _ = select.select([bare] if heard else [], [bare], [], IDLE_SECONDS)
            if readable and heard:
                heard()
            if not writable:
                check()
        except OSError as error:
            raise Unreachable("the connection was lost", where=where, hint="try again") from error


def receive_rows(
    session: Session, query: str, check: Callable[[], None], where: str, size: int = BLOCK, mark: str | None = None
) -> Iterator[bytes | int]:
    r"""Like `receive`, for a COPY in CSV or text format: yield whole rows without message headers.

    Such a row ends in a newline and contains no NUL, so ``\n d NUL`` occurs only between two messages, and in the
    length of a row of exactly 0x0a6400 bytes. A row of 16 MB or more has no NUL there, so it cannot be separated.

    Raises:
        BadData: a row of 16 MB or more.
    """
    rest, rows = b"\n", 0
    for block in receive(session, query, check, where, size, mark):
        if isinstance(block, int):
            text, count = _BETWEEN.subn(b"\n", rest)
            if rows + count != block:
                hint = "leave its large columns out of the mapping"
                raise BadData("a row of 16 MB or more cannot be decoded", where=where, hint=hint)
            if len(text) > 1:
                yield text[1:]
            yield block
            return
        rest += block
        upto = _boundary(rest)
        if upto > 0:
            text, count = _BETWEEN.subn(b"\n", memoryview(rest)[:upto])
            rows += count
            rest = rest[upto - 1 :]
            yield text[1:]


def _boundary(data: bytes) -> int:
    """Return the start of the last message; 0 if there is only one."""
    at = data.rfind(b"\nd\x00", 1, len(data) - 3)
    if at > 0 and data[at - 3 : at] == b"\nd\x00":  # part of the length of the message that begins there
        at -= 3
    return at + 1 if at > 0 else 0


def framed(rows: bytes) -> memoryview:
    """Return whole rows as ONE message: the server ignores where rows begin within messages."""
    return memoryview(b"d" + struct.pack(">I", len(rows) + 4) + rows)


class Deframer:
    """Extracts the rows from messages, for a session whose socket is encrypted; keeps an incomplete message."""

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, messages: memoryview) -> bytes:
        data = self._rest + messages
        at, parts = 0, []
        while at + 5 <= len(data):
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5])
            if end > len(data):
                break
            parts.append(data[at + 5 : end])
            at = end
        self._rest = data[at:]
        return b"".join(parts)
