"""COPY over the raw socket: all bytes arrive, however they are cut, and the end is detected exactly."""

from __future__ import annotations

import csv
import io
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from dataflows.connectors.postgres.session import Session, connect, send
from dataflows.connectors.postgres.wire import Deframer, framed, plain, put_messages, receive, receive_rows
from penstock.errors import BadData, PenstockError, Unavailable, Unreachable

WHERE = "shop"


def nothing() -> None:
    pass


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    with closing(connect(database, where=WHERE, name="tests")) as made:
        assert plain(made)
        yield made


def payload(blocks: list[memoryview]) -> bytes:
    return Deframer()(memoryview(b"".join(blocks)))


def received(session: Session, query: str, size: int = 1 << 20) -> tuple[list[memoryview], int]:
    *blocks, count = receive(session, query, nothing, WHERE, size)
    assert isinstance(count, int)
    return [block for block in blocks if isinstance(block, memoryview)], count


@pytest.mark.parametrize("size", [1, 100, 5000, 1 << 20])
def test_the_bytes_are_those_that_the_driver_gets(session: Session, size: int) -> None:
    query = "COPY (SELECT g, repeat('x', g % 300), NULL FROM generate_series(1, 3000) g) TO STDOUT (FORMAT binary)"
    blocks, count = received(session, query, size)
    with session.cursor().copy(query) as copy:
        assert payload(blocks) == b"".join(copy)
    assert count == 3000
    assert session.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows(session: Session, rows: int) -> None:
    for form in ("binary", "csv"):
        blocks, count = received(session, f"COPY (SELECT 7 FROM generate_series(1, {rows})) TO STDOUT (FORMAT {form})")
        assert count == rows
        assert (payload(blocks) == b"7\n" * rows) is (form == "csv")


def test_the_end_mark_within_the_data_is_ignored(session: Session) -> None:
    fake = b"c\x00\x00\x00\x04C\x00\x00\x00\x0cCOPY 1\x00Z\x00\x00\x00\x05I"
    session.execute("CREATE TEMP TABLE t (b bytea)")
    session.execute("INSERT INTO t SELECT %s FROM generate_series(1, 2000)", (fake * 20,))
    blocks, count = received(session, "COPY t TO STDOUT (FORMAT binary)", 700)
    assert count == 2000
    assert payload(blocks).count(fake) == 40_000


def test_an_error_before_between_and_after_rows_is_reported(session: Session) -> None:
    for query in (
        "COPY (SELECT 1 FROM missing) TO STDOUT",
        "COPY (SELECT 1/(g - 1) FROM generate_series(1, 9) g) TO STDOUT",
        "COPY (SELECT 1/(g - 200000), repeat('x', 99) FROM generate_series(1, 300000) g) TO STDOUT (FORMAT binary)",
    ):
        with pytest.raises(PenstockError) as found:
            list(receive(session, query, nothing, WHERE))
        assert ("42P01" in str(found.value)) or ("22012" in str(found.value))
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_the_end_of_a_session_is_reported(session: Session, database: str) -> None:
    query = "COPY (SELECT g, pg_sleep(0.001) FROM generate_series(1, 100000) g) TO STDOUT"

    def end() -> None:
        time.sleep(0.3)
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (session.info.backend_pid,))

    threading.Thread(target=end).start()
    with pytest.raises((Unavailable, Unreachable)):
        list(receive(session, query, nothing, WHERE))


def test_a_read_that_has_to_wait_can_be_ended(session: Session) -> None:
    def stop() -> None:
        raise Unavailable("enough")

    began = time.monotonic()
    with pytest.raises(Unavailable, match="enough"):
        list(receive(session, "COPY (SELECT pg_sleep(20)) TO STDOUT", stop, WHERE))
    assert time.monotonic() - began < 5


def test_messages_go_from_one_session_into_another(session: Session, database: str) -> None:
    session.execute("CREATE TABLE a AS SELECT g, repeat('y', g % 500) AS t FROM generate_series(1, 20000) g")
    session.execute("CREATE TABLE b (g int, t text)")
    with closing(connect(database, where=WHERE, name="tests")) as sink:
        send(sink, "COPY b FROM STDIN (FORMAT binary)", psycopg.pq.ExecStatus.COPY_IN, WHERE)
        for block in receive(session, "COPY a TO STDOUT (FORMAT binary)", nothing, WHERE, 3000):
            if isinstance(block, memoryview):
                put_messages(sink, block, nothing, WHERE)
        sink.pgconn.put_copy_end()
        sink.pgconn.get_result()
    query = "SELECT count(*) FROM (SELECT * FROM a EXCEPT ALL SELECT * FROM b) x"
    assert session.execute(query).fetchone() == (0,)


def texts(session: Session, query: str, size: int) -> tuple[bytes, int]:
    *blocks, count = receive_rows(session, query, nothing, WHERE, size)
    assert isinstance(count, int)
    whole = [block for block in blocks if isinstance(block, bytes)]
    assert all(block.endswith(b"\n") for block in whole)
    return b"".join(whole), count


@pytest.mark.parametrize("size", [50, 1000, 1 << 20])
def test_rows_come_without_message_headers(session: Session, size: int) -> None:
    session.execute("CREATE TEMP TABLE t (n int, x text)")
    words = ["", "d", "\n", "\nd", "d\n", "\nd\x01\x02\x03\x04x", '"\nd"', ",", "d" * 300, "\n" * 260, "ä\n", None]
    with session.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(at, words[at % len(words)]) for at in range(1000)])
    text, count = texts(session, "COPY (SELECT x, n FROM t ORDER BY n) TO STDOUT (FORMAT csv)", size)
    assert count == 1000
    rows = list(csv.reader(io.StringIO(text.decode(), newline="")))
    assert rows == [[words[at % len(words)] or "", str(at)] for at in range(1000)]


@pytest.mark.parametrize("length", [0x0A6400, 0x000A64, 0x0A0A0A, 0x640A00, 0x0A640A])
def test_a_length_that_looks_like_an_end_of_row_is_ignored(session: Session, length: int) -> None:
    text = f"repeat('x', {length - 4 - 1})"
    query = f"COPY (SELECT {text} FROM generate_series(1, 3)) TO STDOUT (FORMAT csv)"
    for size in (length, length + 5, 1 << 20):
        found, count = texts(session, query, size)
        assert (found, count) == ((b"x" * (length - 5) + b"\n") * 3, 3)


def test_a_row_that_is_too_large_to_be_separated_is_refused(session: Session) -> None:
    query = "COPY (SELECT repeat('x', 17000000) FROM generate_series(1, 2)) TO STDOUT (FORMAT csv)"
    with pytest.raises(BadData, match="16 MB"):
        texts(session, query, 1 << 20)


def test_whole_rows_may_travel_as_one_message(session: Session) -> None:
    assert bytes(framed(b"abc")) == b"d" + struct.pack(">I", 7) + b"abc"
    session.execute("CREATE TABLE c (x text)")
    send(session, "COPY c FROM STDIN", psycopg.pq.ExecStatus.COPY_IN, WHERE)
    put_messages(session, framed(b"one\ntwo\n"), nothing, WHERE)
    session.pgconn.put_copy_end()
    while session.pgconn.get_result() is not None:
        pass
    assert session.execute("SELECT count(*) FROM c").fetchone() == (2,)
