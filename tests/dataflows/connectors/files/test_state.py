"""The state that a folder's log keeps for a pipeline, among those of its neighbours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.files.log import FolderLog
from dataflows.connectors.files.manifest import published, staged
from dataflows.connectors.files.state import FilesState
from dataflows.connectors.files.store import LocalStore
from dataflows.connectors.state import Claim, Loaded, RunRow
from dataflows.data.counters import Counters
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import Fenced, Unavailable

COUNTED = Counters(rows_in=7, rows_out=4, filtered=2, dead=1, bytes=50)
SPLITS = (Split(0, None, "10"), Split(1, "10", "20"), Split(2, "20", None))
BEGUN = {"t/0": "1", "t/1": "1"}


@pytest.fixture
def state(tmp_path: Path) -> FilesState:
    return FilesState("u1", "items", FolderLog(LocalStore(tmp_path, "here"), "out", "here"), "here", ".csv")


def claimed(state: FilesState, run: str = "r1") -> int:
    claim = state.claim(("00",), run)
    assert isinstance(claim, Claim)
    return claim.generation


def planned(
    state: FilesState, run: str = "r1", write: str = "append", splits: tuple[Split, ...] = SPLITS, base: Any = None
) -> int:
    generation = claimed(state, run)
    with state.owned(generation):
        state.write_plan(RunRow(run, write, "id", "1", "9", base or Counters()), splits)
    return generation


def commit(state: FilesState, generation: int, split: int, run: str = "r1", *, rows: bool = True) -> None:
    path = staged(state.uid, run, split, generation, ".csv")
    state.commit(run, generation, split, COUNTED, {"path": path, "rows": 4, "bytes": 9} if rows else None)


def finish(state: FilesState, generation: int, run: str = "r1", position: str | None = "9") -> None:
    with state.owned(generation):
        state.finish(run, position, {"run": run})


def seen(state: FilesState) -> FilesState:
    """Return the state as another process reads it from the log."""
    return replace(state, log=FolderLog(state.log.store, state.log.folder, "here"))


def test_a_split_is_committed_once_by_the_latest_generation_of_an_unfinished_run(state: FilesState) -> None:
    assert (state.exists(), state.current().number, state.next_split("r1")) == (False, 0, 0)
    older = planned(state)
    generation = claimed(state)
    assert (generation, state.exists(), state.next_split("r1")) == (older + 1, True, 3)
    for number, split, run in ((older, 0, "r1"), (generation, 3, "r1"), (generation, 0, "r2")):
        with pytest.raises(Fenced):
            commit(state, number, split, run)
    with pytest.raises(Unavailable, match="deleted or emptied"):
        commit(state, generation + 1, 0)
    assert (state.pending("r1"), state.counters()) == ((SPLITS, 3), Counters())
    commit(state, generation, 1)
    with pytest.raises(Fenced):
        commit(state, generation, 1)
    commit(state, generation, 2, rows=False)
    twice = COUNTED + COUNTED
    for one in (state, seen(state)):
        assert (one.pending("r1"), one.counters(), len(one.files("r1"))) == ((SPLITS[:1], 3), twice, 1)
        assert (one.committed("r1", older), one.committed("r1", generation)) == (None, twice)
        assert (one.committed("r1", None), one.committed("r2", None)) == (twice, None)
        assert one.loaded() == Loaded()
    finish(state, generation)
    with pytest.raises(Fenced):
        commit(state, generation, 0)
    assert (state.committed("r1", None), state.loaded()) == (None, Loaded("append", "id", "9"))


def test_what_the_runs_of_a_pipeline_have_done_is_apart_by_source(state: FilesState) -> None:
    other, generation = replace(state, source="others"), planned(state, "r0")
    finish(state, generation, "r0")
    row = state.run("r0")
    assert row is not None
    assert (row.ended, state.finished(), state.claim(("00",), "r0")) == (True, row, row)
    with state.owned(generation):  # an ended run has fenced no other
        pass
    generation = planned(state, "r1")
    planned(other, "r2")
    assert (other.finished(), state.run("none")) == (None, None)
    found = [one and one.run for one in (state.unfinished("x"), state.unfinished("r1"), other.unfinished("x"))]
    assert found == ["r1", None, "r2"]
    assert (state.counters(), other.loaded()) == (Counters(), Loaded())
    with pytest.raises(Fenced), state.owned(generation):
        pytest.fail("a claim for another source takes over, too")
    generation = planned(state, "r3", base=COUNTED)
    with state.owned(generation):
        state.take_over("r1", "r3")
    found = [one and one.run for one in (state.unfinished("x"), state.finished())]
    assert (found, state.pending("r1")) == (["r3", "r0"], ((), 0))
    older = state.run("r1")
    assert older is not None
    assert (older.state, older.taken_over_by) == ("superseded", "r3")
    commit(state, generation, 0, "r3")
    assert state.committed("r3", None) == COUNTED - COUNTED
    with state.owned(generation):
        state.supersede("r3", "r4")
    older = state.run("r3")
    assert older is not None
    assert (older.state, state.unfinished("x"), state.files("r3")) == ("superseded", None, [])


def test_a_change_stands_only_once_its_context_has_ended(state: FilesState) -> None:
    generation = claimed(state)
    with pytest.raises(AssertionError, match="outside of `owned`"):
        state.forget("r1")
    with pytest.raises(KeyError), state.owned(generation):  # noqa: PT012 - the first change is to be undone
        state.write_plan(RunRow("r1", "append", None, None, None, Counters()), SPLITS)
        assert state.run("r1") is not None
        raise KeyError
    assert (state.run("r1"), seen(state).run("r1")) == (None, None)
    late = seen(state)
    with pytest.raises(Fenced), late.owned(generation):  # noqa: PT012 - taken over between the two
        late.write_plan(RunRow("r1", "append", None, None, None, Counters()), SPLITS)
        claimed(state, "r2")
    assert (state.run("r1"), late.run("r1")) == (None, None)


def test_a_claim_after_one_that_another_process_has_made_is_the_next(state: FilesState) -> None:
    """It decides by what the log says when its entry is written."""
    other = seen(state)
    planned(other, "r0")
    assert claimed(state) == 2
    finish(other, planned(other, "r0"), "r0")
    ended = state.claim(("00",), "r0")
    assert isinstance(ended, RunRow)
    assert claimed(state) == 4, "an ended run has raised nothing"
    refresh, late = state.log.refresh, [other]

    def refreshed() -> Any:
        """Return what was read before another process has claimed the pipeline."""
        found = refresh()
        if late:
            claimed(late.pop())
        return found

    state.log = Refreshed(state.log, refreshed)  # type: ignore[assignment]
    assert claimed(state) == 6


class Refreshed:
    """A log that is read in another way."""

    def __init__(self, log: FolderLog, refresh: Any) -> None:
        self.log, self.refresh = log, refresh

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


def stream(state: FilesState, run: str = "r1") -> int:
    generation = planned(state, run, splits=())
    with state.owned(generation):
        state.begin(BEGUN)
    return generation


def move(state: FilesState, generation: int, split: int, *moves: tuple[str, str, str], run: str = "r1") -> None:
    file = {"path": f"part-{split}", "rows": 4, "bytes": 9}
    state.move(run, generation, split, COUNTED, file, [Move(*one) for one in moves])


def test_a_stream_moves_its_own_positions(state: FilesState) -> None:
    assert (state.positions(), state.last_split()) == ({}, 0)
    neighbours = [replace(state, source="Items"), replace(state, uid="u2")]
    for one in neighbours:
        stream(one, f"r-{one.source}")
    generation = stream(state)
    move(state, generation, 8, ("t/0", "1", "5"))
    assert (state.positions(), state.last_split()) == ({"t/0": "5", "t/1": "1"}, 8)
    move(seen(state), generation, 9, ("t/0", "5", "6"), ("t/1", "1", "2"))
    assert (state.positions(), state.last_split()) == ({"t/0": "6", "t/1": "2"}, 9)
    assert state.counters() == COUNTED + COUNTED
    assert [one["path"] for one in state.current().files] == ["part-8", "part-9"]
    with state.owned(generation):
        state.begin(BEGUN | {"t/2": "7"})
    assert state.positions() == {"t/0": "6", "t/1": "2", "t/2": "7"}
    with state.owned(generation):
        state.restart({"t/1": "0"})
    assert (state.positions(), state.last_split()) == ({"t/1": "0"}, 9)
    assert [(one.positions(), one.last_split()) for one in neighbours] == [(BEGUN, 0)] * 2
    state.drop()
    assert (state.positions(), neighbours[1].positions()) == ({}, BEGUN)


def test_no_position_moves_from_where_it_does_not_stand_nor_by_another_generation(state: FilesState) -> None:
    generation = stream(state)
    right = ("t/0", "1", "5")
    for number, run, moves in (
        (generation, "r1", [("t/0", "0", "5")]),
        (generation, "r1", [("t/0", "5", "1")]),
        (generation, "r1", [("t/3", "1", "5")]),
        (generation, "r1", [right, ("t/1", "2", "3")]),
        (generation - 1, "r1", [right]),
        (generation, "r2", [right]),
    ):
        with pytest.raises((Fenced, Unavailable)):
            move(state, number, 1, *moves, run=run)
        found = (state.positions(), state.last_split(), state.counters(), state.current().files)
        assert found == (BEGUN, 0, Counters(), []), moves
    move(state, generation, 1, right)
    with pytest.raises(Fenced):
        move(state, generation, 1, right)
    finish(state, generation)
    with pytest.raises(Fenced):
        move(state, generation, 2, ("t/1", "1", "2"))


def test_the_streams_of_others_and_those_of_the_past_are_known(state: FilesState) -> None:
    assert (state.other_streams(), state.past_streams()) == ([], {})
    stream(replace(state, uid="u3"))
    stream(replace(state, uid="u2"))
    planned(replace(state, uid="u4"))
    stream(replace(state, source="Items"))
    planned(replace(state, source="batch"), "r2")
    stream(state)
    assert state.other_streams() == ["u2", "u3"]
    assert state.past_streams() == {("Items", None): BEGUN}
    replace(state, uid="u3").drop()
    assert state.other_streams() == ["u2"]


def test_columns_are_forgotten_only_without_rows(state: FilesState) -> None:
    columns, generation = [{"name": "id", "type": "bigint"}], planned(state, write="replace")
    for _ in range(2):
        with state.owned(generation):
            state.make_table(columns)
        assert (state.current().columns, state.current().ending) == (columns, ".csv")
        with state.owned(generation):
            state.unmake_table()
        assert state.current().columns is None
    with state.owned(generation):
        state.make_table(columns)
    commit(state, generation, 0)
    with state.owned(generation):
        state.unmake_table()
    assert state.current().columns == columns
    first = state.files("r1")[0]["path"]
    finish(state, generation, position=None)
    generation = planned(state, "r2", "replace")
    finish(state, generation, "r2", None)
    table = state.current()
    assert (table.files, table.replaced, state.loaded()) == ([], [published(first)], Loaded("replace", "id", None))
    with state.owned(generation):
        state.record_swept(["other", published(first)])
    assert state.current().replaced == []


@pytest.mark.parametrize("table", [False, True])
def test_a_dropped_pipeline_has_no_state_and_cannot_be_claimed(state: FilesState, table: bool) -> None:
    alone = replace(state, uid="u4")
    generation = planned(alone)
    commit(alone, generation, 0)
    finish(alone, generation)
    planned(state)
    alone.drop_with(table=table)
    number = state.current().number
    alone.drop_with(table=True)
    assert (state.current().number, len(state.current().files)) == (number, 0 if table else 1)
    assert (alone.counters(), alone.loaded(), alone.run("r1")) == (Counters(), Loaded(), None)
    for number in (generation, generation + 1):
        with pytest.raises(Fenced), alone.owned(number):
            pytest.fail("a dropped pipeline must be fenced")
        with pytest.raises(Fenced):
            commit(alone, number, 1)
    with pytest.raises(Fenced, match="was deleted"):
        alone.claim(("00",), "r2")
    assert state.run("r1") is not None
