"""An object store that is not reached: its host, its certificate, or the server."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from obstore.exceptions import GenericError
from obstore.store import S3Store

from dataflows.connectors.files.s3_errors import translation
from penstock.errors import NotFound, PenstockError, Refused, Unreachable
from tests.dataflows.connectors.certificates import Certificates


def error_at(endpoint: str) -> PenstockError:
    store = S3Store(
        "lake",
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="a",
        secret_access_key="b",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    with pytest.raises(GenericError) as caught:
        list(store.list())
    return translation(caught.value, "orders: connection lake")


@contextmanager
def encrypted(folder: Path) -> Iterator[str]:
    """A server whose certificate this machine does not trust."""
    certificates = Certificates.make(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


def test_an_object_store_that_is_not_reached_says_why(tmp_path: Path) -> None:
    with encrypted(tmp_path) as url:
        found = error_at(url)
    assert (type(found), found.transient) == (Refused, False)
    assert "certificate" in found.what
    found = error_at("http://no-such-host.invalid")
    assert (type(found), found.what) == (NotFound, "there is no such host")
    assert type(error_at("http://127.0.0.1:1")) is Unreachable
