"""Connections, and the driver's errors as ours: without secrets or row values."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import conninfo
from psycopg.errors import lookup

from penstock import postgres
from penstock.errors import (
    AccessDenied,
    BadData,
    MissingColumn,
    MissingTable,
    NotFound,
    OutOfSpace,
    PenstockError,
    SettingsError,
    Unavailable,
    Unreachable,
)

SECRET = "s3cr3t-pa55"


@contextmanager
def answering(text: str, state: str) -> Iterator[int]:
    """Serve a failed log-in on a loopback port."""
    fields = b"SFATAL\0VFATAL\0C" + state.encode() + b"\0M" + text.encode() + b"\0\0"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize(
    ("text", "state", "kind"),
    [
        ('password authentication failed for user "shop"', "28P01", AccessDenied),
        ('no pg_hba.conf entry for host "127.0.0.1"', "28000", AccessDenied),
        ('role "shop" does not exist', "28000", AccessDenied),
        ('database "shop" does not exist', "3D000", NotFound),
        ("sorry, too many clients already", "53300", Unavailable),
        ("the database system is starting up", "57P03", Unavailable),
        ("could not write init file: No space left on device", "53100", OutOfSpace),
    ],
)
def test_a_refused_log_in_is_named_without_the_password(text: str, state: str, kind: type[PenstockError]) -> None:
    with answering(text, state) as port:
        dsn = f"postgresql://shop:{SECRET}@127.0.0.1:{port}/shop?sslmode=disable&gssencmode=disable"
        with pytest.raises(kind) as raised:
            postgres.connect(dsn, "test")
    assert type(raised.value) is kind
    assert f"shop@127.0.0.1:{port}/shop: {text}" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.hint


def test_nothing_listening_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"shop@127\.0\.0\.1:{port}/shop: .*refused.*; check that the server runs"):
        postgres.connect(f"postgresql://shop:{SECRET}@127.0.0.1:{port}/shop", "test")


def test_no_such_host_is_unreachable() -> None:
    with pytest.raises(Unreachable, match=r"host\.invalid"):
        postgres.connect("postgresql://shop@host.invalid/shop", "test")


@pytest.mark.parametrize("dsn", [f"host=x {SECRET}", f"postgresql://u:{SECRET}@h:port:1/d?x", f"{SECRET}"])
def test_a_dsn_that_cannot_be_parsed_is_not_repeated(dsn: str) -> None:
    with pytest.raises(SettingsError, match="cannot be parsed") as raised:
        postgres.connect(dsn, "test")
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_missing_database_of_a_real_server_is_named(database: str) -> None:
    with pytest.raises(NotFound, match='database "nowhere" does not exist'):
        postgres.connect(conninfo.make_conninfo(database, dbname="nowhere"), "test")


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT * FROM nowhere", MissingTable),
        ("SELECT nothing FROM things", MissingColumn),
        ("INSERT INTO things VALUES ('secret-value', 1)", BadData),
        ("INSERT INTO things VALUES (1, NULL)", BadData),
        ("INSERT INTO things VALUES (7, 1), (7, 2)", BadData),
        ("SET lock_timeout = 1; SELECT pg_advisory_lock(1)", Unavailable),
        ("SELECT pg_terminate_backend(pg_backend_pid())", Unavailable),
        ("SET ROLE nobody_there", PenstockError),
    ],
)
def test_a_failed_statement_is_named_without_values(database: str, statement: str, kind: type[PenstockError]) -> None:
    with postgres.connect(database, "holder") as holder, postgres.connect(database, "test") as session:
        holder.execute("SELECT pg_advisory_lock(1)")
        session.execute("CREATE TABLE things (id integer PRIMARY KEY, size integer NOT NULL)")
        with pytest.raises(psycopg.Error) as raised:
            session.execute(statement)
    found = postgres.translated(raised.value, where="things")
    assert isinstance(found, kind)
    assert str(found).startswith("things: ")
    assert "secret-value" not in str(found)
    assert "(7)" not in str(found)


def test_a_full_disk_is_distinguished_from_other_resource_errors() -> None:
    assert type(postgres.translated(lookup("53100")("could not extend file"))) is OutOfSpace
    assert type(postgres.translated(lookup("53200")("out of memory"))) is Unavailable


def test_a_session_carries_its_name(database: str) -> None:
    with postgres.connect(database, "penstock:test") as session:
        assert session.execute("SHOW application_name").fetchone() == ("penstock:test",)
        assert session.autocommit
