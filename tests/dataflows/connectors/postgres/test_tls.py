"""Copies over encrypted sessions, whose messages only libpq can read and write."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg import conninfo

from dataflows.connectors.postgres.session import connect
from dataflows.connectors.postgres.wire import plain
from tests.dataflows.connectors.certificates import Certificates
from tests.reaper import short_folder

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    folder = short_folder()
    folder.chmod(0o755)  # for the pooler's account
    made = Certificates.make(folder)
    for file in (made.certificate, made.key):
        file.chmod(0o644)
    yield made
    shutil.rmtree(folder)


@pytest.fixture
def encrypted(pooler: Callable[..., Path], certificates: Certificates) -> Callable[[str], str]:
    """Return the DSN of encrypted sessions with a database."""

    def make(dsn: str) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pooler(
            dsn,
            "pool_mode = session",
            "listen_addr = 127.0.0.1",
            "client_tls_sslmode = require",
            f"client_tls_key_file = {certificates.key}",
            f"client_tls_cert_file = {certificates.certificate}",
            port=port,
        )
        parts = conninfo.conninfo_to_dict(dsn)
        return conninfo.make_conninfo(
            host="127.0.0.1", port=port, user=parts["user"], dbname=parts["dbname"], sslmode="require"
        )

    return make


@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("arrow", [False, True])
def test_all_rows_pass_over_encrypted_sessions(
    copy: Callable[..., Copy], launchers: Launchers, encrypted: Callable[[str], str], write: str, arrow: bool
) -> None:
    made = copy(write, arrow=arrow)
    made.dsn = encrypted(made.dsn)
    with closing(connect(made.dsn, where="here", name="tests")) as session:
        assert not plain(session)
    for run, rows in (("r1", 600), ("r2", 605 if write == "replace" else 5)):
        done = launchers.run(made.task(run))
        assert (done["status"], done["error"]) == ("completed", None)
        assert done["counters"]["rows_in"] == rows
        assert made.differences() == {"lost": 0, "doubled": 0}
        made.add(5)
    made.session.execute("DELETE FROM items WHERE id > 600")


def test_a_row_that_the_server_refuses_is_named_over_encrypted_sessions(
    copy: Callable[..., Copy], launchers: Launchers, encrypted: Callable[[str], str]
) -> None:
    made = copy("append")
    made.dsn = encrypted(made.dsn)
    made.session.execute(f"ALTER TABLE {made.target} ADD CONSTRAINT few CHECK (id <> 300)")
    error = launchers.run(made.task("r1"))["error"]
    assert (error["code"], "few" in error["what"]) == ("data.bad", True), error
    assert made.differences()["doubled"] == 0
