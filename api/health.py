"""Health and readiness over HTTP, for probes: `/healthz` and `/readyz`, nothing else.

One thread serves all clients. Each has a few seconds for its request, and of too many the oldest is dropped: slow or
silent clients take neither threads nor files from the process, and a probe is answered all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from types import TracebackType
from typing import Final, Self

from penstock.errors import PortInUse, SettingsError

__all__ = ["Health"]

SECONDS: Final = 5.0
"""Seconds from a connection to its end, at most."""
MAX_CLIENTS: Final = 64
MAX_HEAD: Final = 8192
"""Bytes of a request's line and headers."""
BACKLOG: Final = 128


class Health:
    """Binds its port when it is created, and answers once started. `ready` is the answer of `/readyz`.

    Raises:
        PortInUse: another process listens there.
    """

    def __init__(self, host: str, port: int) -> None:
        self.ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: dict[asyncio.StreamWriter, None] = {}
        where = f"{host}:{port}"
        try:
            self._socket = socket.create_server((host, port), backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = "choose another one by --port or PENSTOCK_PORT, 0 for a free one"
                raise PortInUse("another process listens on this port", where=where, hint=hint) from error
            raise SettingsError(
                f"cannot listen: {error.strerror}", where=where, hint="set PENSTOCK_HOST and PENSTOCK_PORT"
            ) from error

    @property
    def url(self) -> str:
        """Its address."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Start to answer; earlier requests wait until then. Call it once."""
        if self._thread is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="health", daemon=True)
            self._thread.start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        serving = asyncio.start_server(
            self._answer, sock=self._socket, limit=MAX_HEAD, backlog=BACKLOG, start_serving=True
        )
        server = loop.run_until_complete(serving)
        loop.run_forever()
        server.close()
        for writer in self._clients:
            writer.transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CLIENTS:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.transport.abort()
        self._clients[writer] = None
        try:
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head.split(b"\r\n", 1)[0].decode("latin-1")))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._clients.pop(writer, None)

    def _response(self, line: str) -> bytes:
        method, _, rest = line.partition(" ")
        known = {"/healthz": True, "/readyz": self.ready.is_set()}.get(rest.partition(" ")[0].partition("?")[0])
        status, text = (
            ("405 Method Not Allowed", b"only GET and HEAD\n")
            if method not in {"GET", "HEAD"}
            else ("404 Not Found", b"not found\n")
            if known is None
            else ("200 OK", b"ok\n")
            if known
            else ("503 Service Unavailable", b"not ready\n")
        )
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if method == "HEAD" else text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._thread is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by an error
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._socket.close()
