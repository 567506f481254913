"""The state that every sink in a database stores for a pipeline; the state of other pipelines is never touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.duckdb.connector import DuckdbConnector
from dataflows.connectors.mysql.connector import MysqlConnector
from dataflows.connectors.mysql.state import MysqlState
from dataflows.connectors.postgres import ledger as postgres_ledger
from dataflows.connectors.postgres.session import connect, translated
from dataflows.connectors.postgres.state import PostgresState
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql import ledger as sql_ledger
from dataflows.connectors.sqlite.connector import SqliteConnector
from dataflows.connectors.state import Claim, Loaded, RunRow
from dataflows.data.counters import Counters
from dataflows.data.splits import Split
from penstock.errors import Fenced
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink
from tests.dataflows.connectors.mysql.conftest import MysqlServer

SLOTS = ("00", "01")
COUNTED = Counters(rows_in=7, rows_out=4, filtered=2, dead=1, bytes=50)
SPLITS = (Split(0, None, "10"), Split(1, "10", "20"), Split(2, "20", None))


@dataclass
class Memory:
    """The state of a pipeline, and those of its neighbours in the same tables."""

    state: Any
    other_sink: Any

    def near(self) -> list[Any]:
        """Return the states of the same pipeline for another source and sink, and of another pipeline."""
        return [replace(self.state, source="others"), self.other_sink, replace(self.state, uid="u2")]

    def commit(self, generation: int, split: int, run: str = "r1", slot: str = "00", state: Any = None) -> None:
        """Commit a split without rows."""
        made = state or self.state
        if isinstance(made, PostgresState):
            with translated("here"), made.session.transaction():
                made.session.execute(made.fence(slot, split, run, generation, COUNTED))
        elif isinstance(made, MysqlState):
            with made.session.transaction():
                for statement in made.fencing(slot, split, run, generation, COUNTED):
                    made.session.change(statement)
        else:
            with made.session.transaction():
                made.fence(slot, split, run, generation, COUNTED)

    def claim(self, run: str = "r1", state: Any = None) -> int:
        """Claim a run; return its generation."""
        claim = (state or self.state).claim(SLOTS, run)
        assert isinstance(claim, Claim)
        return claim.generation

    def plan(self, run: str = "r1", write: str = "append", state: Any = None, base: Counters | None = None) -> int:
        """Claim a run and plan its three splits; return its generation."""
        made = state or self.state
        generation = self.claim(run, made)
        with made.owned(generation):
            made.write_plan(RunRow(run, write, "id", "1", "9", base or Counters(), split_key="k"), SPLITS)
        return generation

    def finish(self, run: str, generation: int, position: str | None, state: Any = None) -> None:
        """Finish a run."""
        made = state or self.state
        with made.owned(generation):
            made.finish(run, position, {"run": run})


def seen(state: Any, run: str = "r1") -> tuple[Any, ...]:
    """Return everything that a state reports."""
    runs = (state.run(run), state.unfinished("x"), state.finished())
    return runs, state.pending(run), state.counters(), state.loaded(), state.committed(run, None), state.next_split(run)


@pytest.fixture(params=["postgres", "mysql", "sqlite", "duckdb"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memory]:
    value = request.getfixturevalue
    if request.param == "postgres":
        with closing(connect(value("new_database")(), where="here", name="tests")) as session:
            made = PostgresState("u1", "items", TableName("public", "t"), "here", session)
            yield remembered(made, replace(made, sink=TableName("public", "t2")))
        return
    settings: dict[str, Any] = {"type": request.param, "path": str(tmp_path / "file")}
    if request.param == "mysql":
        server: MysqlServer = value("mariadb")
        settings = server.connection(database=value("new_schema")())
    connector: Any = {"sqlite": SqliteConnector, "duckdb": DuckdbConnector, "mysql": MysqlConnector}[request.param]
    home = value("mariadb").home if request.param == "mysql" else tmp_path
    place = Place("items", "to", parse_connection("to", settings), "t", home)
    spec = Sink.parse({"connection": "to", "object": "t", "write": "append"})
    with closing(connector.target(place, Owner("u1", "items", spec))) as target:
        yield remembered(target.state, replace(target.state, sink="t2"))


def remembered(state: Any, other_sink: Any) -> Memory:
    assert not state.exists()
    state.make()
    assert state.exists()
    state.make()
    return Memory(state, other_sink)


@pytest.fixture
def beside(memory: Memory) -> Iterator[None]:
    """Plan the same run for each neighbour, and commit a part; assert that their states are unchanged at the end."""
    for state in memory.near():
        run = "r1" if state.uid == "u2" else f"r1-{state.source}-{state.sink}"
        generation = memory.plan(run, state=state, base=COUNTED)
        memory.commit(generation, 1, run, state=state)
    runs = [(state, "r1" if state.uid == "u2" else f"r1-{state.source}-{state.sink}") for state in memory.near()]
    before = [seen(state, run) for state, run in runs]
    yield
    assert [seen(state, run) for state, run in runs] == before


def test_a_claim_raises_the_generation_of_the_whole_pipeline_and_of_no_other(memory: Memory) -> None:
    first = memory.claim()
    source, sink, pipeline = memory.near()
    assert (memory.claim(state=source), memory.claim(state=sink), memory.claim(state=pipeline)) == (
        first + 1,
        first + 2,
        first,
    )
    assert memory.claim() == first + 3
    for state, generation in ((memory.state, first + 2), (source, first + 1), (sink, first + 4)):
        with pytest.raises(Fenced), state.owned(generation):
            pytest.fail("another generation owns nothing")
    for state, generation in ((memory.state, first + 3), (source, first + 3), (pipeline, first)):
        with state.owned(generation):
            pass
    with pytest.raises(Fenced), replace(memory.state, uid="u3").owned(0):
        pytest.fail("what was never claimed is owned by nobody")


def test_an_error_inside_owned_is_rolled_back(memory: Memory) -> None:
    generation = memory.claim()
    with pytest.raises(KeyError), memory.state.owned(generation):  # noqa: PT012 - the first statement is to be undone
        memory.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), SPLITS)
        raise KeyError
    assert (memory.state.run("r1"), memory.state.pending("r1")) == (None, ((), 0))


@pytest.mark.usefixtures("beside")
def test_a_plan_round_trips(memory: Memory) -> None:
    assert seen(memory.state) == ((None, None, None), ((), 0), Counters(), Loaded(), None, 0)
    memory.plan()
    row = RunRow("r1", "append", "id", "1", "9", Counters(), split_key="k")
    assert seen(memory.state) == ((row, row, None), (SPLITS, 3), Counters(), Loaded(), Counters(), 3)
    assert memory.state.unfinished("r1") is None


def test_a_plan_of_many_splits_is_complete(memory: Memory) -> None:
    generation = memory.claim()
    splits = tuple(Split(number, str(number), str(number + 1)) for number in range(1201))
    with memory.state.owned(generation):
        memory.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), splits[::-1])
    assert memory.state.pending("r1") == (splits, 1201)


@pytest.mark.usefixtures("beside")
def test_a_split_is_committed_once_and_by_its_own_generation_run_and_slot(memory: Memory) -> None:
    older = memory.plan()
    generation = memory.claim()
    for number, split, run, slot in (
        (older, 0, "r1", "00"),
        (generation + 1, 0, "r1", "00"),
        (generation, 3, "r1", "00"),
        (generation, 0, "r2", "00"),
        (generation, 0, "r1", "02"),
    ):
        with pytest.raises(Fenced):
            memory.commit(number, split, run, slot)
    assert (memory.state.pending("r1"), memory.state.counters()) == ((SPLITS, 3), Counters())
    memory.commit(generation, 1)
    with pytest.raises(Fenced):
        memory.commit(generation, 1)
    memory.commit(generation, 2, slot="01")
    twice = COUNTED + COUNTED
    assert (memory.state.pending("r1"), memory.state.counters()) == ((SPLITS[:1], 3), twice)
    assert (memory.state.committed("r1", older), memory.state.committed("r1", generation)) == (None, twice)
    assert (memory.state.committed("r1", None), memory.state.committed("r2", None)) == (twice, None)


@pytest.mark.usefixtures("beside")
def test_a_run_takes_over_the_splits_of_an_unfinished_one(memory: Memory) -> None:
    generation = memory.plan()
    memory.commit(generation, 1)
    assert memory.state.loaded() == Loaded("append", "id", None, partly=True)
    generation = memory.claim("r2")
    with memory.state.owned(generation):
        memory.state.write_plan(RunRow("r2", "append", "id", "1", "9", Counters()), ())
        memory.state.take_over("r1", "r2")
    older = memory.state.run("r1")
    assert (older.state, older.taken_over_by, memory.state.pending("r1")) == ("superseded", "r2", ((), 0))
    assert memory.state.pending("r2") == ((SPLITS[0], SPLITS[2]), 3)
    assert (memory.state.unfinished("x").run, memory.state.unfinished("r2")) == ("r2", None)
    assert memory.state.committed("r1", None) is None
    assert memory.state.claim(SLOTS, "r1") == older
    with memory.state.owned(generation):
        memory.state.forget("r2")
    assert (memory.state.run("r2"), memory.state.pending("r2"), memory.state.run("r1")) == (None, ((), 0), older)


@pytest.mark.usefixtures("beside")
def test_no_append_continues_from_rows_of_an_abandoned_run(memory: Memory) -> None:
    generation = memory.plan()
    memory.commit(generation, 1)
    with memory.state.owned(generation):
        memory.state.supersede("r1", "r2")
        memory.state.mark_partial()
    assert (memory.state.pending("r1"), memory.state.loaded()) == (((), 0), Loaded("replace", None, None))


@pytest.mark.usefixtures("beside")
def test_a_finished_run_moves_the_cursor_and_is_not_run_again(memory: Memory) -> None:
    generation = memory.plan(base=COUNTED)
    for split in SPLITS:
        memory.commit(generation, split.number)
    memory.finish("r1", generation, "9")
    row = memory.state.run("r1")
    assert (row.state, row.result, row.write, row.base) == ("finished", {"run": "r1"}, "append", COUNTED)
    assert (memory.state.finished(), memory.state.unfinished("x")) == (row, None)
    assert (memory.state.loaded(), memory.state.pending("r1")) == (Loaded("append", "id", "9"), ((), 0))
    assert memory.state.committed("r1", None) is None
    assert memory.state.claim(SLOTS, "r1") == row
    with memory.state.owned(generation):  # an ended run has fenced no other
        pass
    generation = memory.plan("r2", base=memory.state.counters())
    memory.commit(generation, 0, "r2")
    assert memory.state.committed("r2", generation) == COUNTED
    memory.finish("r2", generation, None)
    assert (memory.state.finished().run, memory.state.loaded()) == ("r2", Loaded("append", "id", "9"))
    memory.finish("r3", memory.plan("r3", "merge"), "12")
    assert memory.state.loaded() == Loaded("merge", "id", "12")
    memory.finish("r4", memory.plan("r4", "replace"), None)
    assert memory.state.loaded() == Loaded("replace", "id", None)


def test_an_unfinished_replace_has_loaded_nothing(memory: Memory) -> None:
    generation = memory.plan(write="replace")
    memory.commit(generation, 0)
    assert memory.state.loaded() == Loaded()
    generation = memory.plan("r2")
    assert memory.state.loaded() == Loaded()
    memory.commit(generation, 0, "r2")
    assert memory.state.loaded() == Loaded("append", "id", None, partly=True)


def test_the_last_runs_and_all_unfinished_ones_are_kept(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_ledger, "KEPT_RUNS", 2)
    monkeypatch.setattr(sql_ledger, "KEPT_RUNS", 2)
    memory.plan("r0")
    other = replace(memory.state, uid="u2")
    for number in range(3):
        memory.finish(f"o{number}", memory.plan(f"o{number}", state=other), "9", other)
    for number in range(1, 6):
        memory.finish(f"r{number}", memory.plan(f"r{number}"), "9")
    kept = [run for run in ("r0", "r1", "r2", "r3", "r4", "r5") if memory.state.run(run)]
    assert kept == ["r0", "r4", "r5"]
    assert [run for run in ("o0", "o1", "o2") if other.run(run)] == ["o1", "o2"]


@pytest.mark.usefixtures("beside")
def test_a_dropped_pipeline_is_forgotten_and_cannot_be_claimed(memory: Memory) -> None:
    alone = replace(memory.state, uid="u4")
    generation = memory.plan(state=alone)
    memory.commit(generation, 0, state=alone)
    alone.drop()
    assert (alone.pending("r1"), alone.counters(), alone.loaded()) == (((), 0), Counters(), Loaded())
    assert (alone.run("r1"), alone.unfinished("x"), alone.finished()) == (None, None, None)
    with pytest.raises(Fenced):
        alone.claim(SLOTS, "r2")
    with pytest.raises(Fenced), alone.owned(generation):
        pytest.fail("a dropped pipeline is owned by nobody")
    with pytest.raises(Fenced):
        memory.commit(generation, 1, state=alone)
