"""Sessions with MySQL and MariaDB: pinned settings, bounded waits, and errors that never repeat a row's value.

PyMySQL logs in and frames the packets. This module waits for the socket itself, so that a callback can end each wait.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from pymysql import err
from pymysql.connections import Connection
from pymysql.constants import CLIENT, COMMAND
from pymysql.protocol import MysqlPacket, OKPacketWrapper

from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.mysql.errors import LOST, NO_SERVER, penstock_error
from dataflows.connectors.mysql.wire import Packets
from dataflows.connectors.sql import names
from penstock.errors import PenstockError, Unreachable
from penstock.models.connection import MysqlConnection
from penstock.models.secrets import resolve

__all__ = ["LOCK_SECONDS", "Session", "connect", "quoted"]

CONNECT_SECONDS: Final = 10.0
LOCK_SECONDS: Final = 20.0
IDLE_SECONDS: Final = 0.2
RECEIVE: Final = 1 << 20
PIECE: Final = 1 << 18
DAY: Final = 86_400
STRICT: Final = (
    "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_AUTO_VALUE_ON_ZERO,"
    "NO_ENGINE_SUBSTITUTION"
)
ALL_ROWS: Final = 2**64 - 1
VERSIONED: Final = (10, 3, 4)
"""First version of MariaDB with tables that keep old rows."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
quoted: Final = partial(names.quoted, mark="`")
"""Return the names as one quoted SQL identifier."""


def _never_stop() -> None:
    """Default check; never interrupts."""


class _Wire(Connection):  # type: ignore[misc] # the library has no types
    """PyMySQL's connection, which calls `check` every 0.2 s while it waits; an error raised there ends the wait."""

    def __init__(self, seconds: float, **settings: Any) -> None:
        self.check: Callable[[], None] = _never_stop
        self.held = bytearray()
        self._until: float | None = time.monotonic() + seconds
        super().__init__(**settings, connect_timeout=seconds, read_timeout=seconds, write_timeout=seconds)
        self._until = None
        self._read_timeout = self._write_timeout = self._current_timeout = IDLE_SECONDS
        self._sock.settimeout(IDLE_SECONDS)

    def connect(self, sock: socket.socket | None = None) -> None:
        """Connect; close the socket if no server answers, which the library does not do."""
        if sock is None and self.unix_socket:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(self.connect_timeout)
            try:
                sock.connect(self.unix_socket)
            except OSError as error:
                sock.close()
                raise err.OperationalError(NO_SERVER, "no server answers at the socket") from error
            self._secure = True
        super().connect(sock)

    def _create_ssl_ctx(self, sslp: dict[str, Any]) -> ssl.SSLContext:
        """Return a context that checks the server's certificate and name, or neither.

        The library would load the system's certificates also for no check, which takes 50 ms for each session, and
        check no name with them.
        """
        if sslp.get("verify_mode") or sslp.get("ca"):
            context: ssl.SSLContext = super()._create_ssl_ctx(sslp)
            context.check_hostname = bool(sslp.get("check_hostname"))
            return context
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if "cert" in sslp:
            context.load_cert_chain(sslp["cert"], sslp.get("key"))
        return context

    def fill(self, size: int = RECEIVE) -> bytes:
        """Wait for bytes."""
        while True:
            try:
                found: bytes = self._sock.recv(size)
            except TimeoutError:
                self._waited()
                continue
            except OSError as error:
                raise self._lost() from error
            if not found:
                raise self._lost()
            return found

    def _waited(self) -> None:
        if self._until is not None and time.monotonic() > self._until:
            raise self._lost()
        self.check()

    def _lost(self) -> err.OperationalError:
        self._force_close()
        return err.OperationalError(LOST, "the connection was lost")

    def _read_bytes(self, num_bytes: int) -> bytes:
        while len(self.held) < num_bytes:
            self.held += self.fill(max(num_bytes - len(self.held), 1 << 14))
        found = bytes(self.held[:num_bytes])
        del self.held[:num_bytes]
        return found

    def _write_bytes(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except TimeoutError:
                self._waited()
            except OSError as error:
                raise self._lost() from error

    @property
    def spoken(self) -> bool:
        """True if the server has sent an unsolicited message."""
        return self._sock is None or bool(select.select([self._sock], [], [], 0)[0])


class Session:
    """Session with the server; its errors are Penstock's."""

    def __init__(self, wire: _Wire, where: str) -> None:
        self.wire, self.where = wire, where
        version = str(wire.server_version)
        self.mariadb = "mariadb" in version.lower()
        found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", version.removeprefix("5.5.5-"))
        self.version = tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the library's errors as Penstock's."""
        try:
            yield
        except err.Error as error:
            raise penstock_error(error, self.where) from None
        except RuntimeError as error:  # raised if the login needs another package
            if "cryptography" not in str(error):
                raise
            hint = "use TLS, or a Unix socket"
            raise Unreachable("the login needs an encrypted connection", where=self.where, hint=hint) from None

    def literal(self, value: Any) -> str:
        """Return the value as an SQL literal."""
        return str(self.wire.escape(value, self.wire.encoders))

    def text(self, statement: str, values: Sequence[Any]) -> str:
        """Return a statement with its values in the place of each ``?``."""
        if not values:
            return statement
        parts = statement.split("?")
        return "".join(part + made for part, made in zip(parts, [*map(self.literal, values), ""], strict=True))

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement and return all rows; few are expected. Each ``?`` is a value."""
        with self.translated(), self.wire.cursor() as cursor:
            cursor.execute(self.text(statement, values))
            return list(cursor.fetchall())

    def value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Return the first value of the first row; None without rows."""
        found = self.rows(statement, values)
        return found[0][0] if found else None

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement and return the number of rows inserted, deleted or actually changed."""
        with self.translated(), self.wire.cursor() as cursor:
            cursor.execute(self.text(statement, values))
            return max(0, int(cursor.rowcount))

    def limit(self, seconds: float) -> None:
        """Let the server end each later query after so many seconds."""
        self.change(
            f"SET SESSION max_statement_time = {seconds:g}"
            if self.mariadb
            else f"SET SESSION max_execution_time = {round(seconds * 1000)}"
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction; after a statement that commits implicitly, a new one begins."""
        self.change("SET autocommit = 0")
        try:
            yield
            self.change("COMMIT")
        except BaseException:
            with contextlib.suppress(PenstockError):
                self.change("ROLLBACK")
            raise
        finally:
            with contextlib.suppress(PenstockError):
                self.change("SET autocommit = 1")

    def together(self, statements: Sequence[str], sent: Callable[[], None]) -> None:
        """Send several statements as one message, so that the process cannot be stopped between them."""
        with self.translated():
            self.wire._execute_command(COMMAND.COM_QUERY, "; ".join(statements))
            sent()
            self.wire._read_query_result()
            while self.wire._result.has_next:
                self.wire.next_result()

    def stream(self, query: str, size: int, rows: int) -> Iterator[tuple[bytes, list[int]]]:
        """Yield the rows of a query, with their offsets, in blocks of about `size` bytes and at most `rows` rows."""
        wire, packets = self.wire, Packets()
        with self.translated():
            wire._execute_command(COMMAND.COM_QUERY, query)
            columns = wire._read_packet().read_length_encoded_integer()
            for _ in range(columns + 1):  # the last one ends the column definitions
                wire._read_packet()
        packets.held, wire.held = wire.held, bytearray()
        while packets.last is None:
            packets.scan(rows)
            if packets.last is None and packets.at < size and len(packets.found) < rows:
                with self.translated():
                    packets.held += wire.fill()
            elif packets.found:
                yield packets.take()
        wire._result = None
        packet = MysqlPacket(packets.last, wire.encoding)
        if packet.is_error_packet():
            with self.translated():
                packet.raise_for_error()

    def begin_load(self, statement: str) -> None:
        """Send a ``LOAD DATA LOCAL``; `load` sends its rows."""
        with self.translated():
            self.wire._execute_command(COMMAND.COM_QUERY, statement)
            packet = self.wire._read_packet()
            if not packet.is_load_local_packet():
                message = "the server did not ask for the rows"
                raise AssertionError(message)

    def load(self, data: bytes | memoryview) -> None:
        """Send a piece of the rows."""
        view = memoryview(data)
        with self.translated():
            for start in range(0, len(view), PIECE):
                self.wire.write_packet(bytes(view[start : start + PIECE]))

    def end_load(self) -> tuple[int, int]:
        """End the load; return the numbers of rows accepted and of warnings."""
        with self.translated():
            self.wire.write_packet(b"")
            packet = OKPacketWrapper(self.wire._read_packet())
        return int(packet.affected_rows), int(packet.warning_count)

    def warned(self) -> RowRefused:
        """Return the first warning of the server, without its values."""
        found = self.rows("SHOW WARNINGS LIMIT 1")
        code, text = (int(found[0][1]), str(found[0][2])) if found else (0, "")
        wrong = penstock_error(err.DataError(code, text), self.where)
        if isinstance(wrong, RowRefused):
            return wrong
        return RowRefused(wrong.what, where=self.where, hint=wrong.hint, state=str(code))

    @property
    def id(self) -> int:
        """Connection id on the server."""
        return int(self.wire.thread_id())

    @property
    def spoken(self) -> bool:
        """True if the server has sent an unsolicited message: it ended the session, or refuses the data."""
        return bool(self.wire.spoken)

    def close(self) -> None:
        """Close the session, which rolls back an open transaction and aborts a running query."""
        self.wire._force_close()


def connect(  # noqa: PLR0913 - the settings of a session, by name
    settings: MysqlConnection,
    where: str,
    *,
    database: str | None,
    secrets: Any = None,
    write: bool = False,
    lock: float = LOCK_SECONDS,
    seconds: float = CONNECT_SECONDS,
    check: Callable[[], None] = _never_stop,
) -> Session:
    """Open a session in autocommit with the pinned settings; it waits `lock` seconds for locks.

    Raises:
        AccessDenied: wrong password, unknown user, missing right.
        Unreachable: the server does not answer, or has no such database.
    """
    password = resolve(settings.password, where=where, secrets=secrets) if settings.password else ""
    place = {"unix_socket": settings.socket} if settings.socket else {"host": settings.host, "port": settings.port}
    try:
        wire = _Wire(
            seconds,
            **place,
            **_tls(settings),
            user=settings.user,
            password=password.encode(),
            database=database,
            charset="utf8mb4",
            autocommit=True,
            local_infile=True,
            program_name="penstock",
            client_flag=CLIENT.MULTI_STATEMENTS,
        )
    except err.Error as error:
        raise penstock_error(error, where) from None
    except RuntimeError:
        hint = "use TLS, or a Unix socket"
        raise Unreachable("the login needs an encrypted connection", where=where, hint=hint) from None
    made = Session(wire, where)
    _keep_alive(wire)
    made.change(f"SET SESSION {', '.join(_pinned(made, max(1, int(lock)), STRICT if write else ''))}")
    made.change("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    wire.check = check
    return made


def _pinned(session: Session, waits: int, mode: str) -> Iterator[str]:
    """Yield the settings that a server's defaults or `init_connect` must not change.

    Some of them would make the server leave out rows without a word, or take rows that break a constraint.
    """
    yield (
        f"sql_mode = '{mode}', time_zone = '+00:00', innodb_lock_wait_timeout = {waits}, lock_wait_timeout = {waits}, "
        f"net_read_timeout = {DAY}, net_write_timeout = {DAY}, wait_timeout = {DAY}, sql_safe_updates = 0, "
        f"sql_big_selects = 1, sql_select_limit = {ALL_ROWS}, sql_auto_is_null = 0, unique_checks = 1, "
        "foreign_key_checks = 1, max_error_count = 64, sql_notes = 1, completion_type = 'NO_CHAIN', "
        "group_concat_max_len = 1048576"
    )
    yield "max_statement_time = 0, check_constraint_checks = 1" if session.mariadb else "max_execution_time = 0"
    if session.mariadb and session.version >= VERSIONED:
        yield "system_versioning_asof = DEFAULT"


def _tls(settings: MysqlConnection) -> dict[str, Any]:
    tls = settings.tls
    if tls is None or tls.mode == "prefer":
        return {}
    if tls.mode == "disable":
        return {"ssl_disabled": True}
    files = {"ca": tls.ca, "cert": tls.cert, "key": tls.key}
    checks = {"check_hostname": tls.mode == "verify", "verify_mode": tls.mode == "verify"}
    return {"ssl": {**{name: path for name, path in files.items() if path}, **checks}}


def _keep_alive(wire: Any) -> None:
    if wire._sock.family != socket.AF_UNIX:
        for name, value in KEEPALIVE.items():
            wire._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
