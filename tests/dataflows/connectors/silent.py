"""A peer that falls silent: a TCP proxy that stops to forward, while the system goes on to acknowledge every packet."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg


@dataclass
class SilentProxy:
    """Forwards connections to `to` (an address, or the path of a socket) until it falls silent."""

    to: tuple[str, int] | str
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    trigger: bytes | None = None
    """It falls silent when a client sends this."""
    silent: threading.Event = field(default_factory=threading.Event)
    sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.socket(socket.AF_UNIX if isinstance(self.to, str) else socket.AF_INET)
                far.connect(self.to)
                self.sockets += [near, far]
                threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError, ValueError, KeyError), selectors.DefaultSelector() as ready:
            for one, other in ((near, far), (far, near)):
                ready.register(one, selectors.EVENT_READ, other)
            while True:
                for key, _ in ready.select(0.05):
                    data = b"" if self.silent.is_set() else key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if self.trigger is not None and self.trigger in data:
                        self.silent.set()
                    if self.silent.is_set():
                        return  # both connections stay open
                    if not data:
                        near.close()
                        far.close()
                        return
                    key.data.sendall(data)
                if self.silent.is_set():
                    return

    def close(self) -> None:
        for one in (self.listener, *self.sockets):
            one.close()


def proxy_of(connection: dict[str, Any]) -> tuple[SilentProxy, dict[str, Any]]:
    """Return a proxy to the server of a connection, and the connection through it."""
    if connection["type"] == "postgres":
        parts = psycopg.conninfo.conninfo_to_dict(connection["dsn"])
        host, port = str(parts["host"]), int(parts.get("port") or 5432)
        proxy = SilentProxy(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port))
        dsn = psycopg.conninfo.make_conninfo(connection["dsn"], host="127.0.0.1", port=proxy.port)
        return proxy, connection | {"dsn": dsn}
    proxy = SilentProxy((connection["host"], int(connection["port"])))
    return proxy, connection | {"port": proxy.port}
