"""Health and readiness over HTTP, for probes: `/healthz` and `/readyz`, nothing else."""

from __future__ import annotations

import errno
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from penstock.errors import PortInUse, SettingsError

__all__ = ["Health"]


class Health:
    """Binds its port when it is created, and answers once started. `ready` is the answer of `/readyz`.

    Raises:
        PortInUse: another process listens there.
    """

    def __init__(self, host: str, port: int) -> None:
        self.ready = threading.Event()
        self._thread: threading.Thread | None = None
        ready = self.ready

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                well = {"/healthz": True, "/readyz": ready.is_set()}.get(self.path)
                status, text = (
                    (404, b"not found\n") if well is None else (200, b"ok\n") if well else (503, b"not ready\n")
                )
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Log nothing: a probe comes every few seconds."""

        where = f"{host}:{port}"
        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
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
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Start to answer; earlier requests wait until then. Call it once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._thread is not None:
            self._server.shutdown()
        self._server.server_close()
