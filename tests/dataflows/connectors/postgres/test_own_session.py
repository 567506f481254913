"""A target lends its session to the only writer of a run, and gets it back, or another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from psycopg import pq

from dataflows.connectors.postgres.own_session import OwnSession
from dataflows.connectors.postgres.session import Session, connect, one_message, send


@pytest.fixture
def own(database: str) -> Iterator[OwnSession]:
    with closing(OwnSession(lambda name: connect(database, where="here", name=name), "first")) as found:
        found.session.execute("CREATE TABLE t (a int)")
        yield found


def name_of(session: Session) -> str:
    row = session.execute("SHOW application_name").fetchone()
    assert row is not None
    return str(row[0])


def test_what_a_writer_leaves_open_is_rolled_back(own: OwnSession) -> None:
    with own.lent("second") as session:
        assert session is own.session
        one_message(session, "BEGIN; INSERT INTO t VALUES (1)", "here")
    assert own.session is session
    assert own.session.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_only_one_writer_has_it_at_a_time(own: OwnSession) -> None:
    with own.lent("second") as session, own.lent("third") as none:
        assert (session, none) == (own.session, None)
    with own.lent("fourth") as again:
        assert again is session


def test_a_session_in_a_transaction_is_not_lent(own: OwnSession) -> None:
    with own.session.transaction(), own.lent("second") as none:
        assert none is None


def test_a_session_whose_copy_was_broken_off_is_replaced_by_one_of_the_same_name(own: OwnSession) -> None:
    with own.lent("second") as session:
        assert session is not None
        send(session, "COPY t FROM STDIN", pq.ExecStatus.COPY_IN, "here")
    assert session.closed
    assert (own.session is not session, name_of(own.session)) == (True, "second")
    assert own.session.execute("SELECT count(*) FROM t").fetchone() == (0,)
    with own.lent("second") as again:
        assert again is own.session
