"""The HTTP server of `penstock up`: `/healthz` and `/readyz` for probes, `/metrics`, and webhooks below `/hooks/`.

One thread serves all clients. Each has a few seconds for its request, and of too many the oldest is dropped: slow or
silent clients take neither threads nor files from the process, and a probe is answered all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

from api.hooks import MAX_BODY, PREFIX, Answer, Hooks, failure
from api.prometheus import CONTENT_TYPE
from penstock.errors import PenstockError, PortInUse, SettingsError

__all__ = ["Health"]

SECONDS: Final = 5.0
"""Seconds from a connection to its end, at most."""
MAX_CLIENTS: Final = 64
MAX_HEAD: Final = 8192
"""Bytes of a request's line and headers."""
BACKLOG: Final = 128
MAX_DIGITS: Final = 15
"""Digits of a Content-Length that is looked at."""
MAX_SCRAPES: Final = 4
"""Scrapes that wait for their answer, at most."""
MAX_HOOKS: Final = 8
"""Requests to webhooks that wait for their answer, at most."""


class Health:
    """Binds its port when it is created, and answers once started. `ready` is the answer of `/readyz`.

    Webhooks are answered by `hooks`, in a thread of their own; without it there are none. So is `/metrics`, by
    `measures`.

    Raises:
        PortInUse: another process listens there.
    """

    def __init__(self, host: str, port: int, hooks: Hooks | None = None) -> None:
        self._hooks, self._hooking = hooks, 0
        self._hooks_thread = ThreadPoolExecutor(1, "hooks")
        self.measures: Callable[[], str] | None = None
        self._measures_thread, self._measuring = ThreadPoolExecutor(1, "measures"), 0
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
                line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = line.partition(" ")[2].partition(" ")[0].partition("?")[0]
                if self._hooks is not None and path.startswith(PREFIX):
                    status, text = await self._hook(self._hooks, line, path.removeprefix(PREFIX), lines, reader)
                    writer.write(_response(status, text.encode() + b"\n", "application/json"))
                elif path == "/metrics" and line.startswith("GET ") and self.ready.is_set():
                    writer.write(await self._measured())
                else:
                    writer.write(self._probe(line, path))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._clients.pop(writer, None)

    async def _hook(self, hooks: Hooks, line: str, name: str, lines: list[str], reader: asyncio.StreamReader) -> Answer:
        """Answer a request to a webhook; its body is read only if it is not too large."""
        pairs = (one.partition(":") for one in lines if one)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = headers.get("content-length", "")
        if not line.startswith("POST "):
            return failure(405, "usage", "only POST")
        if not (length.isascii() and length.isdigit() and len(length) <= MAX_DIGITS):
            return failure(411 if not length else 413, "usage", f"Content-Length is at most {MAX_BODY}")
        if int(length) > MAX_BODY:
            return failure(413, "too_large", f"a body has at most {MAX_BODY} bytes")
        if not hooks.admits():
            return failure(429, "too_many", "try again in a few seconds")
        body = await reader.readexactly(int(length))
        if not self.ready.is_set() or self._hooking >= MAX_HOOKS:
            return failure(503, "unavailable", "try again later")
        self._hooking += 1
        bodies = [body]
        try:
            work = self._hooks_thread.submit(lambda: hooks.answer(name, headers, bodies[0]))
            del body
            work.add_done_callback(lambda _: bodies.clear())  # one that is given up stays in the thread's queue
            return await asyncio.wrap_future(work)
        finally:
            self._hooking -= 1

    async def _measured(self) -> bytes:
        """Answer a scrape; of too many at once some are refused, so that a slow database holds up few."""
        if self.measures is None or self._measuring >= MAX_SCRAPES:
            return _response(503, b"try again later\n", "text/plain")
        self._measuring += 1
        try:
            text = await asyncio.get_running_loop().run_in_executor(self._measures_thread, self.measures)
        except PenstockError as error:
            return _response(503, f"{error.what}\n".encode(), "text/plain")
        finally:
            self._measuring -= 1
        return _response(200, text.encode(), CONTENT_TYPE)

    def _probe(self, line: str, path: str) -> bytes:
        """Answer a probe."""
        method = line.partition(" ")[0]
        known = {"/healthz": True, "/readyz": self.ready.is_set(), "/metrics": self.ready.is_set()}.get(path)
        status, text = (
            (405, b"only GET and HEAD\n")
            if method not in {"GET", "HEAD"}
            else (404, b"not found\n")
            if known is None
            else (200, b"ok\n")
            if known
            else (503, b"not ready\n")
        )
        return _response(status, text, "text/plain", with_text=method != "HEAD")

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
        if self._hooks is not None:
            self._hooks_thread.submit(self._hooks.close)
        self._hooks_thread.shutdown()
        self._measures_thread.shutdown(wait=False, cancel_futures=True)


def _response(status: int, text: bytes, kind: str, *, with_text: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (text if with_text else b"")
