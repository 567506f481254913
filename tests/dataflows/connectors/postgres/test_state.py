"""Each condition of the fence of a commit to PostgreSQL works without the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from dataflows.connectors.idle_sessions import IDLE_SESSIONS
from dataflows.connectors.postgres.reader import PostgresReader
from dataflows.connectors.postgres.session import connect, translated
from dataflows.connectors.postgres.state import PostgresState
from dataflows.connectors.postgres.tables import TableName, describe
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.counters import Counters
from dataflows.data.splits import Split
from penstock.errors import Fenced

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy

COUNTED = Counters(rows_in=2, rows_out=2)


@pytest.fixture
def state(copy: Callable[..., Copy]) -> Iterator[PostgresState]:
    made = copy("append")
    with closing(connect(made.dsn, where="here", name="tests")) as session:
        found = PostgresState(made.uid, "public.items", TableName.parse(made.target), "here", session)
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
