"""Each condition of the fence of a commit to PostgreSQL works without the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from dataflows.connectors.idle_sessions import IDLE_SESSIONS
from dataflows.connectors.postgres import offsets
from dataflows.connectors.postgres import state as postgres_state
from dataflows.connectors.postgres.own_session import OwnSession
from dataflows.connectors.postgres.reader import PostgresReader
from dataflows.connectors.postgres.session import Session, connect, translated
from dataflows.connectors.postgres.state import PostgresState
from dataflows.connectors.postgres.tables import TableName, describe
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.counters import Counters
from dataflows.data.splits import Split
from dataflows.data.state import StateChange
from penstock.errors import Fenced, Unavailable
from tests.dataflows.flows.installation import until

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy

COUNTED = Counters(rows_in=2, rows_out=2)


@pytest.fixture
def state(copy: Callable[..., Copy]) -> Iterator[PostgresState]:
    made = copy("append")
    with closing(OwnSession(lambda name: connect(made.dsn, where="here", name=name), "tests")) as own:
        found = PostgresState(made.uid, "public.items", TableName.parse(made.target), "here", own)
        found.make()
        yield found


def claimed(state: PostgresState) -> int:
    """Claim a run with two splits; return its generation."""
    claim = state.claim(("00",), "r1")
    assert isinstance(claim, Claim)
    if state.run("r1") is None:
        with state.owned(claim.generation):
            plan = RunRow("r1", "append", "id", None, "60", Counters())
            state.write_plan(plan, (Split(0), Split(1)))
    return claim.generation


def commit(state: PostgresState, split: int, generation: int) -> None:
    with translated("here"):
        state.session.execute(state.fence("00", split, "r1", generation, COUNTED))


def test_an_older_generation_commits_no_open_split(state: PostgresState) -> None:
    generation = claimed(state)
    with pytest.raises(Fenced):
        commit(state, 0, generation - 1)
    assert (len(state.pending("r1")[0]), state.counters()) == (2, Counters())


def test_a_split_is_committed_once(state: PostgresState) -> None:
    generation = claimed(state)
    commit(state, 0, generation)
    with pytest.raises(Fenced):
        commit(state, 0, generation)
    assert (state.pending("r1")[0], state.counters()) == ((Split(1),), COUNTED)


def test_an_older_generation_sees_no_counters_and_owns_nothing(state: PostgresState) -> None:
    older, generation = claimed(state), claimed(state)
    commit(state, 0, generation)
    assert (state.committed("r1", older), state.committed("r1", generation)) == (None, COUNTED)
    with pytest.raises(Fenced), state.owned(older):
        pytest.fail("an older generation owns nothing")


@pytest.mark.parametrize("does", ["claim", "drop"])
def test_claims_and_deletions_of_a_pipeline_wait_for_each_other(
    state: PostgresState, copy: Callable[..., Copy], does: str
) -> None:
    """The first claim, which they wait for, has no row yet to lock."""
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with closing(connect(copy("append").dsn, where="here", name="tests")) as other, ThreadPoolExecutor(1) as threads:
        with other.transaction():
            other.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"penstock.claim.{state.uid}",))
            done = threads.submit(lambda: state.claim(("00",), "r1") if does == "claim" else state.drop())
            end = time.monotonic() + 30
            while other.execute(waits).fetchone() == (0,):
                assert time.monotonic() < end
                assert not done.done()
        assert isinstance(done.result(), Claim) == (does == "claim")


def test_a_claim_waits_for_the_end_of_the_run_and_does_not_begin_it_again(
    state: PostgresState, copy: Callable[..., Copy]
) -> None:
    """It waits for its own pipeline only: another one's rows stay locked all the while."""
    generation, dsn = claimed(state), copy("append").dsn
    other = replace(state, uid=f"{state.uid[:-1]}x")
    claimed(other)
    with (
        closing(OwnSession(lambda name: connect(dsn, where="here", name=name), "worker")) as ending,
        closing(connect(dsn, where="here", name="another")) as busy,
        ThreadPoolExecutor(1) as threads,
        busy.transaction(),
    ):
        busy.execute(f"SELECT FROM {state.plain('positions')} WHERE pipeline = '{other.uid}' FOR UPDATE")
        worker = replace(state, given=ending)
        with worker.owned(generation):
            worker.finish("r1", "60", {"rows": 2})
            done = threads.submit(state.claim, ("00",), "r1")
            end = time.monotonic() + 30
            while busy.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):
                assert time.monotonic() < end
                assert not done.done()
        found = done.result()
        assert isinstance(found, RunRow)
        assert (found.ended, found.result) == (True, {"rows": 2})


def test_a_claim_that_another_session_locks_out_says_so(
    state: PostgresState, copy: Callable[..., Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = claimed(state)
    monkeypatch.setattr(postgres_state, "FENCE_TRIES", 1)
    monkeypatch.setattr(postgres_state, "_CLAIM", postgres_state._CLAIM.replace("3000", "50"))
    with closing(connect(copy("append").dsn, where="here", name="another")) as busy, busy.transaction():
        busy.execute(f"SELECT FROM {state.plain('positions')} WHERE pipeline = '{state.uid}' FOR UPDATE")
        with pytest.raises(Unavailable, match="another session locks"):
            state.claim(("00",), "r1")
    with state.owned(generation):
        pass


def test_the_pieces_of_steps_are_kept_replaced_and_forgotten_for_one_pipeline(state: PostgresState) -> None:
    other = replace(state, uid=f"{state.uid[:-1]}x")

    def keep(of: PostgresState, split: int, *changes: StateChange) -> None:
        with state.session.transaction():
            for statement in of.keeping(split, changes):
                state.session.execute(statement)

    assert state.pieces() == {}
    for _ in range(2):
        state.make_pieces()
    keep(other, 1, StateChange("s", ("o",)))
    keep(state, 7, StateChange("s", ("x", "y")), StateChange("t", ("z",)))
    keep(state, 8, StateChange("s", ("w",)))
    assert state.pieces() == {"s": [(7, "x"), (7, "y"), (8, "w")], "t": [(7, "z")]}
    keep(state, 9, StateChange("s", ("v",), whole=True))
    assert state.pieces() == {"s": [(9, "v")], "t": [(7, "z")]}
    with state.session.transaction():
        state.forget_pieces()
    assert (state.pieces(), other.pieces()) == ({}, {"s": [(1, "o")]})


def test_a_claim_ends_only_the_sessions_of_older_runs(
    state: PostgresState, copy: Callable[..., Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_state, "LOCK_SECONDS", 0.2)
    generation = claimed(state)
    own = state.session.execute("SHOW application_name").fetchone()
    assert own == (f"penstock:{state.uid}:{generation}",)  # by which a later claim finds this session, too
    names = [f"penstock:{state.uid}:{number}" for number in (generation, 0, generation + 1, generation + 9, "worker")]
    names += [f"penstock:{state.uid[:-1]}:{generation}", f"penstock:{state.uid}0:{generation}"]
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(connect(copy("append").dsn, where="here", name=name))) for name in names]
        assert claimed(state) == generation + 1
        assert [alive(session) for session in opened] == [False] + [True] * 6
        # any of them may have been stopped during a commit, and then holds the rows' locks
        opened[1].execute(f"BEGIN; SELECT 1 FROM {state.plain('positions')} FOR UPDATE")
        assert claimed(state) == generation + 2
        assert [alive(session) for session in opened] == [False] * 4 + [True] * 3
    with closing(connect(copy("append").dsn, where="here", name=f"penstock:{state.uid}:0")) as last:
        state.drop()
        assert not alive(last)


def alive(session: Session) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_a_session_with_pending_results_is_not_reused(
    copy: Callable[..., Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IDLE_SESSIONS, "wanted", True)
    made = copy("append")
    with closing(connect(made.dsn, where="here", name="tests")) as session:
        table = describe(session, TableName("public", "items"), "here")
    reader = PostgresReader(made.dsn, table, ("id",), table.column("id"), "here", 1000, None, lambda: None)
    blocks = reader.read("00", Split(0))
    next(blocks)
    used = reader._session
    assert used is not None
    reader.close()
    assert used.closed


def test_two_streams_that_begin_at_once_make_one_table_of_positions(
    state: PostgresState, copy: Callable[..., Copy]
) -> None:
    made, schema = copy("append"), state.sink.schema
    state.session.execute(f"DROP TABLE IF EXISTS {schema}._penstock_offsets")
    with closing(connect(made.dsn, where="here", name="tests")) as first, ThreadPoolExecutor() as pool:
        with first.transaction():
            offsets.make(first, schema)
            pid = state.session.info.backend_pid
            second = pool.submit(state.make_positions)
            waits = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
            until(lambda: first.execute(waits, (pid,)).fetchone() == (1,), "its lock")
        second.result(10)
    assert state.positions() == {}
