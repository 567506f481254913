"""Real receivers of alerts on loopback: an HTTP server and a mail server that answer as a test says."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

Answer = tuple[int, dict[str, str]]


@dataclass
class Web:
    """A server that keeps what is posted to it; it answers with `answers` first, then with 204."""

    answers: list[Answer | float] = field(default_factory=list)
    """Status and headers, or the seconds for which it hangs once it has taken what came."""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers by names in lower case, and body of each request that it has taken."""
    asked: list[str] = field(default_factory=list)
    """The paths of all requests, whatever was answered."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            web.asked.append(self.path)
            answer = web.answers.pop(0) if web.answers else (204, {})
            hangs, answer = (answer, (204, {})) if isinstance(answer, float) else (0.0, answer)
            if answer[0] < 300:
                headers = {name.lower(): value for name, value in self.headers.items()}
                web.requests.append((self.path, headers, body))
            time.sleep(hangs)
            try:
                self.send_response(answer[0])
                for name, value in answer[1].items():
                    self.send_header(name, value)
                self.end_headers()
            except OSError:  # the client has closed the connection
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    return Handler


@contextmanager
def web_server(tls: SSLContext | None = None) -> Iterator[Web]:
    """Run a server on a free port."""
    web = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(web))
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mail:
    """A mail server that keeps messages; `answers` are given to messages first, `refused` to recipients."""

    answers: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    messages: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    """Recipients and content."""
    hangs: bool = False
    port: int = 0

    async def handle_RCPT(  # noqa: N802 - the name that the server calls
        self, _: SMTP, __: Session, envelope: Envelope, address: str, ___: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, _: SMTP, __: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        if self.hangs:
            await asyncio.sleep(60)
        answer = self.answers.pop(0) if self.answers else "250 ok"
        if answer.startswith("2"):
            assert isinstance(envelope.content, bytes)
            message = message_from_bytes(envelope.content, policy=default)
            self.messages.append((list(envelope.rcpt_tos), message))
        return answer


@contextmanager
def mail_server(
    *, tls: SSLContext | None = None, starttls: SSLContext | None = None, login: tuple[str, str] | None = None
) -> Iterator[Mail]:
    """Run a mail server on a free port, encrypted from the first byte, by STARTTLS, or not."""
    mail = Mail()

    def allows(_: Any, __: Any, ___: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(
            handled=False, success=login is not None and (data.login.decode(), data.password.decode()) == login
        )

    options: dict[str, Any] = {"ssl_context": tls} if tls else {}
    options |= {"tls_context": starttls, "require_starttls": True} if starttls else {}
    options |= {"authenticator": allows, "auth_required": True} if login else {}
    options |= {"auth_require_tls": starttls is not None}
    controller = Controller(mail, hostname="127.0.0.1", port=_free_port(), **options)
    controller.start()
    mail.port = controller.port
    try:
        yield mail
    finally:
        controller.stop()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
