"""Health and readiness: probes are answered whatever other clients do."""

from __future__ import annotations

import resource
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from api import health as module
from api.health import MAX_CLIENTS, Health
from api.hooks import MAX_BODY, Answer, Hooks
from penstock.settings import load


@pytest.fixture
def health() -> Iterator[Health]:
    with Health("127.0.0.1", 0) as made:
        made.start()
        yield made


def connect(health: Health) -> socket.socket:
    parts = urlsplit(health.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def ask(health: Health, request: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    with connect(health) as client:
        client.sendall(request)
        answer = b""
        while block := client.recv(4096):
            answer += block
    return answer


def test_it_answers_get_and_head_and_nothing_else(health: Health) -> None:
    assert ask(health).startswith(b"HTTP/1.1 200 OK\r\n")
    assert ask(health).endswith(b"\r\n\r\nok\n")
    assert ask(health, b"GET /readyz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 503 ")
    health.ready.set()
    assert ask(health, b"HEAD /readyz?x=1 HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
    assert ask(health, b"GET /../etc HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert ask(health, b"POST /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert ask(health, b"\xff\x00\r\n\r\n").startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("count", [200, pytest.param(1500, marks=pytest.mark.chaos)])
def test_slow_clients_change_nothing(health: Health, count: int) -> None:
    """They send half a request and wait; a probe is answered at once, by the same thread, with few open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 500)), hard))
    process, threads = psutil.Process(), threading.active_count()
    try:
        with ExitStack() as stack:
            for _ in range(count):
                client = stack.enter_context(connect(health))
                client.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            begin = time.monotonic()
            assert ask(health).endswith(b"ok\n")
            assert time.monotonic() - begin < 1
            assert threading.active_count() <= threads
            port = urlsplit(health.url).port
            held = [one for one in process.net_connections("tcp") if one.laddr.port == port and one.raddr]
            assert len([one for one in held if one.status == "ESTABLISHED"]) <= MAX_CLIENTS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_silent_client_is_dropped_in_time(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)
    with connect(health) as client:
        begin = time.monotonic()
        with suppress(ConnectionResetError):
            assert client.recv(10) == b""
        assert time.monotonic() - begin < 5


def test_an_endless_head_is_dropped(health: Health) -> None:
    with connect(health) as client, pytest.raises((ConnectionResetError, BrokenPipeError)):
        _send_for_ever(client)


def _send_for_ever(client: socket.socket) -> None:
    while True:
        client.sendall(b"X: " + b"y" * 4000 + b"\r\n")


def test_a_webhook_that_hangs_keeps_nothing_of_the_requests_that_were_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 30)
    hold, asked = threading.Event(), threading.Event()

    class Hanging(Hooks):
        def answer(self, *_: object, **__: object) -> Answer:
            asked.set()
            hold.wait(60)
            return 202, ""

        def admits(self) -> bool:
            return True

    request = b"POST /hooks/a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % MAX_BODY + b"x" * MAX_BODY
    with Health("127.0.0.1", 0, Hanging(load(tmp_path), print)) as made:
        made.start()
        made.ready.set()
        tracemalloc.start()
        try:
            with connect(made) as first:
                first.sendall(request)
                assert asked.wait(30)
            monkeypatch.setattr(module, "SECONDS", 0.2)
            for _ in range(10):
                with suppress(ConnectionError):
                    assert ask(made, request) == b""
            assert tracemalloc.get_traced_memory()[0] < 4 * MAX_BODY
        finally:
            tracemalloc.stop()
            hold.set()
