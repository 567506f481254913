"""Encryption: used where the server offers it, and checked where the connection says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.mysql.session import Session, connect
from penstock.errors import Unreachable
from penstock.models.connection import MysqlConnection
from tests.dataflows.connectors.certificates import Certificates
from tests.mariadb import MysqlServer

Open = Callable[..., Session]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def open_session(mariadb: MysqlServer) -> Open:
    """Open a session by TCP, with some settings of `tls`."""

    def make(host: str = "localhost", **tls: Any) -> Session:
        settings = mariadb.connection("mysql", host=host) | ({"tls": tls} if tls else {})
        return connect(MysqlConnection.parse(settings), "here", database=None, secrets=mariadb.home)

    return make


@pytest.fixture(scope="module")
def encrypting(mariadb: MysqlServer, certificates: Certificates) -> Iterator[Certificates]:
    """Let the server offer TLS; its certificate names `localhost` only."""
    files = {"ssl-cert": certificates.certificate, "ssl-key": certificates.key}
    for name, file in files.items():
        (mariadb.home / name).write_bytes(file.read_bytes())
        (mariadb.home / name).chmod(0o644)
    mariadb.stop()
    mariadb.start(*(f"--{name}={mariadb.home / name}" for name in files))
    yield certificates
    mariadb.stop()
    mariadb.start()


def encrypted(session: Session) -> bool:
    with closing(session):
        return bool(session.rows("SHOW STATUS LIKE 'Ssl_cipher'")[0][1])


def test_a_server_without_encryption_is_used_unless_it_is_required(open_session: Open) -> None:
    for tls in ({}, {"mode": "prefer"}, {"mode": "disable"}):
        assert not encrypted(open_session(**tls))
    for mode in ("require", "verify"):
        with pytest.raises(Unreachable):
            open_session(mode=mode)


@pytest.mark.parametrize("tls", [{}, {"mode": "require"}])
def test_encryption_without_a_check_loads_no_certificates(
    encrypting: Certificates, open_session: Open, tls: dict[str, str]
) -> None:
    session = open_session("127.0.0.1", **tls)
    assert session.wire.ctx.cert_store_stats()["x509"] == 0
    assert encrypted(session)
    assert not encrypted(open_session(mode="disable"))


def test_the_servers_certificate_and_name_are_checked(
    encrypting: Certificates, open_session: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"mode": "verify", "ca": str(encrypting.authority)}
    assert encrypted(open_session(**known))
    with pytest.raises(Unreachable):
        open_session("127.0.0.1", **known)
    with pytest.raises(Unreachable):
        open_session(mode="verify")
    monkeypatch.setenv("SSL_CERT_FILE", str(encrypting.authority))  # now the system knows it
    assert encrypted(open_session(mode="verify"))
    with pytest.raises(Unreachable):
        open_session("127.0.0.1", mode="verify")
