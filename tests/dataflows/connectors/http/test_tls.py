"""APIs by https: their certificates and names are checked."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dataflows.connectors.http import client
from penstock.errors import Refused
from tests.dataflows.connectors.certificates import Certificates

if TYPE_CHECKING:
    from tests.dataflows.connectors.http.conftest import Api, Pull


def by_tls(pull: Callable[..., Pull], api: Api, folder: Path) -> tuple[Pull, Certificates]:
    """Let the API answer by TLS, with a certificate of its own authority."""
    certificates = Certificates.make(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    api.server.socket = context.wrap_socket(api.server.socket, server_side=True)
    return pull(connection={"url": f"https://localhost:{api.server.server_address[1]}/v1"}), certificates


def test_sessions_of_a_process_load_the_certificates_once(
    pull: Callable[..., Pull], api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, certificates = by_tls(pull, api, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    client._tls.cache_clear()
    try:
        for _ in range(2):
            with closing(made.open()) as source:
                assert [one.name for one in source.describe().columns] == ["id", "name", "at"]
        assert client._tls.cache_info().misses == 1
        assert (client._tls().verify_mode, client._tls().check_hostname) == (ssl.CERT_REQUIRED, True)
    finally:
        client._tls.cache_clear()


def test_a_certificate_that_is_not_trusted_is_told_and_not_tried_again(
    pull: Callable[..., Pull], api: Api, tmp_path: Path
) -> None:
    made, _ = by_tls(pull, api, tmp_path)
    with closing(made.open()) as source, pytest.raises(Refused, match="certificate is not accepted"):
        source.describe()
