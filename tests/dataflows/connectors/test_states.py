"""The state that every sink in a database or broker stores for a pipeline, isolated from that of other pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors import record_state
from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.duckdb.connector import DuckdbConnector
from dataflows.connectors.kafka.ledger import STATE_TOPIC
from dataflows.connectors.kafka.state import KafkaState
from dataflows.connectors.kafka.transactions import Transactions, transactional_id
from dataflows.connectors.kinesis.state import KinesisState
from dataflows.connectors.mysql.connector import MysqlConnector
from dataflows.connectors.mysql.state import MysqlState
from dataflows.connectors.postgres import ledger as postgres_ledger
from dataflows.connectors.postgres.own_session import OwnSession
from dataflows.connectors.postgres.session import connect, translated
from dataflows.connectors.postgres.state import PostgresState
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql import ledger as sql_ledger
from dataflows.connectors.sqlite.connector import SqliteConnector
from dataflows.connectors.state import Claim, Loaded, ParallelState, RunRow
from dataflows.data.counters import Counters
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import Fenced
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink
from tests.dataflows.connectors.kafka.in_memory import StateTopic
from tests.kafka import KafkaServer
from tests.kinesis import KinesisServer
from tests.mariadb import MysqlServer

SLOTS = ("00", "01")
COUNTED = Counters(rows_in=7, rows_out=4, filtered=2, dead=1, bytes=50)
SPLITS = (Split(0, None, "10"), Split(1, "10", "20"), Split(2, "20", None))
Moves = tuple[Move, ...]
BEGUN = {"t/0": "1", "t/1": "1"}


@dataclass
class States:
    """The state of a pipeline, and the states of its neighbours in the same tables."""

    state: Any
    other_sink: Any

    def neighbours(self) -> list[Any]:
        """Return the states of the same pipeline for another source and sink, and of another pipeline."""
        return [replace(self.state, source="others"), self.other_sink, replace(self.state, uid="u2")]

    def commit(
        self, generation: int, split: int, run: str = "r1", slot: str = "00", state: Any = None, moves: Moves = ()
    ) -> None:
        """Commit a split without rows; of a stream if it has `moves`."""
        target_state = state or self.state
        if isinstance(target_state, PostgresState):
            with translated("here"), target_state.session.transaction():
                target_state.session.execute(target_state.fence(slot, split, run, generation, COUNTED, moves))
        elif isinstance(target_state, MysqlState):
            with target_state.session.transaction():
                for statement in target_state.fencing(slot, split, run, generation, COUNTED, moves):
                    target_state.session.change(statement)
        elif isinstance(target_state, KafkaState):
            with closing(replace(target_state)) as own, closing(transactions(own, slot)) as session:
                own.check_generation(generation)
                own.send(session, own.step(run, slot, split, COUNTED, moves))
                session.commit()
        elif isinstance(target_state, KinesisState):
            with closing(replace(target_state)) as records:
                records.refresh()
                records.check_generation(generation)
                records.save(records.step(run, slot, split, COUNTED, moves), generation)
        else:
            with target_state.session.transaction():
                target_state.fence(slot, split, run, generation, COUNTED, moves)

    def claim(self, run: str = "r1", state: Any = None) -> int:
        """Claim a run; return its generation."""
        claim = (state or self.state).claim(SLOTS, run)
        assert isinstance(claim, Claim)
        return claim.generation

    def plan(self, run: str = "r1", write: str = "append", state: Any = None, base: Counters | None = None) -> int:
        """Claim a run and plan its three splits; return its generation."""
        target_state = state or self.state
        generation = self.claim(run, target_state)
        with target_state.owned(generation):
            target_state.write_plan(RunRow(run, write, "id", "1", "9", base or Counters(), split_key="k"), SPLITS)
        return generation

    def finish(self, run: str, generation: int, position: str | None, state: Any = None) -> None:
        """Finish a run."""
        target_state = state or self.state
        with target_state.owned(generation):
            target_state.finish(run, position, {"run": run})


def transactions(state: KafkaState, slot: str) -> Transactions:
    """Take over a slot, and read the state after it, as a writer does."""
    found = Transactions.begun(state.place, transactional_id(state.uid, slot), "here", lambda: None)
    state.read()
    return found


def reported(state: Any, run: str = "r1") -> tuple[Any, ...]:
    """Return everything that a state reports."""
    runs = (state.run(run), state.unfinished("x"), state.finished())
    return runs, state.pending(run), state.counters(), state.loaded(), state.committed(run, None), state.next_split(run)


DATABASES = ["postgres", "mysql", "sqlite", "duckdb"]
GROUP = pytest.mark.xdist_group("kafka")
IN_MEMORY = "kafka_in_memory"
SOON = pytest.mark.parametrize("states", [*DATABASES, IN_MEMORY, pytest.param("kafka", marks=GROUP)], indirect=True)
"""For tests of which `make test` runs those of topics, too: each claim takes transactional ids over, which is slow."""


@pytest.fixture(
    params=[
        *DATABASES,
        IN_MEMORY,
        pytest.param("kafka", marks=(GROUP, pytest.mark.chaos)),
        pytest.param("kinesis", marks=(pytest.mark.xdist_group("kinesis"), pytest.mark.chaos)),
    ]
)
def states(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[States]:
    value = request.getfixturevalue
    if request.param == "postgres":
        dsn = value("new_database")()
        with closing(OwnSession(lambda name: connect(dsn, where="here", name=name), "tests")) as own:
            target_state = PostgresState("u1", "items", TableName("public", "t"), "here", own)
            yield create_states(target_state, replace(target_state, sink=TableName("public", "t2")))
        return
    if request.param == IN_MEMORY:
        StateTopic(value("monkeypatch"))
        place = Place("items", "to", parse_connection("to", {"type": "kafka", "bootstrap": "none:1"}), "t")
        with closing(KafkaState(place, "u1", "items", "here")) as remembered:
            yield create_states(remembered, replace(remembered, place=replace(place, object="t2")))
        return
    if request.param == "kafka":
        server: KafkaServer = value("kafka")
        if STATE_TOPIC in server.admin().list_topics(timeout=10).topics:
            server.delete(STATE_TOPIC)
        place = Place("items", "to", parse_connection("to", {"type": "kafka", "bootstrap": server.bootstrap}), "t")
        with closing(KafkaState(place, "u1", "items", "here")) as kafka:
            yield create_states(kafka, replace(kafka, place=replace(place, object="t2")))
        return
    if request.param == "kinesis":
        kinesis: KinesisServer = value("kinesis")
        kinesis.forget_state()
        connection = parse_connection("to", kinesis.connection(tmp_path))
        place = Place("items", "to", connection, "t", tmp_path)
        with closing(KinesisState(place, "u1", "items", "here")) as kept:
            yield create_states(kept, replace(kept, place=replace(place, object="t2")))
        return
    settings: dict[str, Any] = {"type": request.param, "path": str(tmp_path / "file")}
    if request.param == "mysql":
        mariadb: MysqlServer = value("mariadb")
        settings = mariadb.connection(database=value("new_schema")())
    connector: Any = {"sqlite": SqliteConnector, "duckdb": DuckdbConnector, "mysql": MysqlConnector}[request.param]
    home = value("mariadb").home if request.param == "mysql" else tmp_path
    place = Place("items", "to", parse_connection("to", settings), "t", home)
    spec = Sink.parse({"connection": "to", "object": "t", "write": "append"})
    with closing(connector.target(place, Owner("u1", "items", spec))) as target:
        yield create_states(target.state, replace(target.state, sink="t2"))


def create_states(state: Any, other_sink: Any) -> States:
    assert not state.exists()
    state.make()
    assert state.exists()
    state.make()
    return States(state, other_sink)


@pytest.fixture
def unchanged_neighbours(states: States) -> Iterator[None]:
    """Plan the same run for each neighbour, and commit a part; assert that their states are unchanged at the end."""
    for state in states.neighbours():
        run = "r1" if state.uid == "u2" else f"r1-{state.source}-{state.sink}"
        generation = states.plan(run, state=state, base=COUNTED)
        states.commit(generation, 1, run, state=state)
    runs = [(state, "r1" if state.uid == "u2" else f"r1-{state.source}-{state.sink}") for state in states.neighbours()]
    before = [reported(state, run) for state, run in runs]
    yield
    assert [reported(state, run) for state, run in runs] == before


def test_what_the_result_of_a_run_says_is_nothing_without_one() -> None:
    row = RunRow("r1", "append", None, None, None, Counters())
    ended = replace(row, state="finished", result={"keys": 7})
    found = [RunRow.noted(one, name) for one in (None, row, ended) for name in ("keys", "others")]
    assert found == [None, None, None, None, 7, None]
    assert (row.ended, ended.ended, replace(row, state="superseded").ended) == (False, True, True)


def test_a_claim_raises_only_the_generation_of_its_pipeline(states: States) -> None:
    first = states.claim()
    source, sink, pipeline = states.neighbours()
    assert (states.claim(state=source), states.claim(state=sink), states.claim(state=pipeline)) == (
        first + 1,
        first + 2,
        first,
    )
    assert states.claim() == first + 3
    for state, generation in ((states.state, first + 2), (source, first + 1), (sink, first + 4)):
        with pytest.raises(Fenced), state.owned(generation):
            pytest.fail("another generation must be fenced")
    for state, generation in ((states.state, first + 3), (source, first + 3), (pipeline, first)):
        with state.owned(generation):
            pass
    with pytest.raises(Fenced), replace(states.state, uid="u3").owned(0):
        pytest.fail("an unclaimed pipeline must be fenced")


@SOON
def test_an_error_inside_owned_is_rolled_back(states: States) -> None:
    generation = states.claim()
    with pytest.raises(KeyError), states.state.owned(generation):  # noqa: PT012 - the first statement is to be undone
        states.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), SPLITS)
        raise KeyError
    assert (states.state.run("r1"), states.state.pending("r1")) == (None, ((), 0))
    with states.state.owned(generation):  # the generation is still known
        pass


@pytest.mark.usefixtures("unchanged_neighbours")
def test_a_plan_round_trips(states: States) -> None:
    assert reported(states.state) == ((None, None, None), ((), 0), Counters(), Loaded(), None, 0)
    assert not states.state.loaded().partly
    states.plan()
    row = RunRow("r1", "append", "id", "1", "9", Counters(), split_key="k")
    assert reported(states.state) == ((row, row, None), (SPLITS, 3), Counters(), Loaded(), Counters(), 3)
    assert states.state.unfinished("r1") is None


def test_a_plan_of_many_splits_is_complete(states: States) -> None:
    generation = states.claim()
    splits = tuple(Split(number, str(number), str(number + 1)) for number in range(1201))
    with states.state.owned(generation):
        states.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), splits[::-1])
    assert states.state.pending("r1") == (splits, 1201)


@pytest.mark.usefixtures("unchanged_neighbours")
def test_a_split_is_committed_once_by_its_generation_run_and_slot(states: States) -> None:
    older = states.plan()
    generation = states.claim()
    for number, split, run, slot in (
        (older, 0, "r1", "00"),
        (generation + 1, 0, "r1", "00"),
        (generation, 3, "r1", "00"),
        (generation, 0, "r2", "00"),
        (generation, 0, "r1", "02"),
    ):
        with pytest.raises(Fenced):
            states.commit(number, split, run, slot)
    assert (states.state.pending("r1"), states.state.counters()) == ((SPLITS, 3), Counters())
    states.commit(generation, 1)
    with pytest.raises(Fenced):
        states.commit(generation, 1)
    states.commit(generation, 2, slot="01")
    twice = COUNTED + COUNTED
    assert (states.state.pending("r1"), states.state.counters()) == ((SPLITS[:1], 3), twice)
    assert (states.state.committed("r1", older), states.state.committed("r1", generation)) == (None, twice)
    assert (states.state.committed("r1", None), states.state.committed("r2", None)) == (twice, None)


@SOON
@pytest.mark.usefixtures("unchanged_neighbours")
def test_a_run_takes_over_the_splits_of_an_unfinished_one(states: States) -> None:
    generation = states.plan()
    states.commit(generation, 1)
    assert states.state.loaded() == Loaded("append", "id", None, partly=True)
    generation = states.claim("r2")
    with states.state.owned(generation):
        states.state.write_plan(RunRow("r2", "append", "id", "1", "9", Counters()), ())
        states.state.take_over("r1", "r2")
    older = states.state.run("r1")
    assert (older.state, older.taken_over_by, states.state.pending("r1")) == ("superseded", "r2", ((), 0))
    assert states.state.pending("r2") == ((SPLITS[0], SPLITS[2]), 3)
    assert (states.state.unfinished("x").run, states.state.unfinished("r2")) == ("r2", None)
    assert states.state.committed("r1", None) is None
    assert states.state.claim(SLOTS, "r1") == older
    with states.state.owned(generation):
        states.state.forget("r2")
    assert (states.state.run("r2"), states.state.pending("r2"), states.state.run("r1")) == (None, ((), 0), older)


@pytest.mark.usefixtures("unchanged_neighbours")
def test_no_append_continues_from_rows_of_an_abandoned_run(states: States) -> None:
    generation = states.plan()
    states.commit(generation, 1)
    with states.state.owned(generation):
        states.state.supersede("r1", "r2")
        states.state.mark_partial()
    assert (states.state.pending("r1"), states.state.loaded()) == (((), 0), Loaded("replace", None, None))


@pytest.mark.usefixtures("unchanged_neighbours")
def test_a_finished_run_moves_the_cursor_and_is_not_run_again(states: States) -> None:
    generation = states.plan(base=COUNTED)
    for split in SPLITS:
        states.commit(generation, split.number)
    states.finish("r1", generation, "9")
    row = states.state.run("r1")
    assert (row.state, row.result, row.write, row.base) == ("finished", {"run": "r1"}, "append", COUNTED)
    assert (states.state.finished(), states.state.unfinished("x")) == (row, None)
    assert (states.state.loaded(), states.state.pending("r1")) == (Loaded("append", "id", "9"), ((), 0))
    assert states.state.committed("r1", None) is None
    assert states.state.claim(SLOTS, "r1") == row
    with states.state.owned(generation):  # an ended run has fenced no other
        pass
    generation = states.plan("r2", base=states.state.counters())
    states.commit(generation, 0, "r2")
    assert states.state.committed("r2", generation) == COUNTED
    states.finish("r2", generation, None)
    assert (states.state.finished().run, states.state.loaded()) == ("r2", Loaded("append", "id", "9"))
    states.finish("r3", states.plan("r3", "merge"), "12")
    assert states.state.loaded() == Loaded("merge", "id", "12")
    states.finish("r4", states.plan("r4", "replace"), None)
    assert states.state.loaded() == Loaded("replace", "id", None)


@pytest.mark.parametrize("states", DATABASES, indirect=True)  # no topic is written by `replace`
def test_an_unfinished_replace_has_loaded_nothing(states: States) -> None:
    generation = states.plan(write="replace")
    states.commit(generation, 0)
    assert states.state.loaded() == Loaded()
    generation = states.plan("r2")
    assert states.state.loaded() == Loaded()
    states.commit(generation, 0, "r2")
    assert states.state.loaded() == Loaded("append", "id", None, partly=True)


def test_the_last_runs_and_all_unfinished_ones_are_kept(states: States, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_ledger, "KEPT_RUNS", 2)
    monkeypatch.setattr(sql_ledger, "KEPT_RUNS", 2)
    monkeypatch.setattr(record_state, "KEPT_RUNS", 2)
    states.plan("r0")
    other = replace(states.state, uid="u2")
    for number in range(3):
        states.finish(f"o{number}", states.plan(f"o{number}", state=other), "9", other)
    for number in range(1, 6):
        states.finish(f"r{number}", states.plan(f"r{number}"), "9")
    kept = [run for run in ("r0", "r1", "r2", "r3", "r4", "r5") if states.state.run(run)]
    assert kept == ["r0", "r4", "r5"]
    assert [run for run in ("o0", "o1", "o2") if other.run(run)] == ["o1", "o2"]


@pytest.mark.usefixtures("unchanged_neighbours")
def test_a_dropped_pipeline_has_no_state_and_cannot_be_claimed(states: States) -> None:
    alone = replace(states.state, uid="u4")
    generation = states.plan(state=alone)
    states.commit(generation, 0, state=alone)
    alone.drop()
    assert (alone.pending("r1"), alone.counters(), alone.loaded()) == (((), 0), Counters(), Loaded())
    assert (alone.run("r1"), alone.unfinished("x"), alone.finished()) == (None, None, None)
    with pytest.raises(Fenced):
        alone.claim(SLOTS, "r2")
    with pytest.raises(Fenced), alone.owned(generation):
        pytest.fail("a dropped pipeline must be fenced")
    with pytest.raises(Fenced):
        states.commit(generation, 1, state=alone)


@pytest.fixture
def stream(states: States) -> States:
    """The state of a stream, among neighbours with partitions of the same names."""
    neighbours = [*states.neighbours(), replace(states.state, source="Items")]
    for state in (states.state, *neighbours):
        state.make_positions()
        with state.owned(states.claim(state=state)):
            state.begin(BEGUN)
    states.neighbours = lambda: neighbours  # type: ignore[method-assign]
    return states


@SOON
def test_a_stream_moves_its_own_positions_and_none_of_its_neighbours(stream: States) -> None:
    state, neighbours = stream.state, stream.neighbours()
    generation = stream.claim()
    stream.commit(generation, 8, moves=(Move("t/0", "1", "5"),))
    assert (state.positions(), state.last_split()) == ({"t/0": "5", "t/1": "1"}, 8)
    assert not isinstance(state, ParallelState) or state.part_splits() == {"t/0": 8, "t/1": 0}
    stream.commit(generation, 9, moves=(Move("t/0", "5", "6"), Move("t/1", "1", "2")))
    assert (state.positions(), state.last_split()) == ({"t/0": "6", "t/1": "2"}, 9)
    assert state.counters() == COUNTED + COUNTED
    with state.owned(generation):
        state.begin(BEGUN | {"t/2": "7"})
    assert state.positions() == {"t/0": "6", "t/1": "2", "t/2": "7"}
    with state.owned(generation):
        state.restart({"t/1": "0"})
    assert (state.positions(), state.last_split()) == ({"t/1": "0"}, 9)
    assert [(one.positions(), one.last_split()) for one in neighbours] == [(BEGUN, 0)] * len(neighbours)
    state.drop()
    with pytest.raises(Fenced):
        state.claim(SLOTS, "r2")
    kept = [one.positions() for one in neighbours if one.uid != state.uid]
    assert (state.positions(), kept) == ({}, [BEGUN])


def test_no_position_moves_from_where_it_does_not_stand_nor_by_another_generation(stream: States) -> None:
    state, generation = stream.state, stream.claim()
    right = Move("t/0", "1", "5")
    for number, moves in (
        (generation, (Move("t/0", "0", "5"),)),
        (generation, (Move("t/0", "5", "1"),)),
        (generation, (Move("t/3", "1", "5"),)),
        (generation, (right, Move("t/1", "2", "3"))),
        (generation, (Move("t/0", "0", "1"), Move("t/1", "0", "1"))),
        (generation - 1, (right,)),
        (generation + 1, (right,)),
    ):
        with pytest.raises(Fenced):
            stream.commit(number, 1, moves=moves)
        assert (state.positions(), state.last_split(), state.counters()) == (BEGUN, 0, Counters()), moves
    stream.commit(generation, 1, moves=(right,))
    with pytest.raises(Fenced):
        stream.commit(generation, 1, moves=(right,))


@pytest.mark.parametrize("states", DATABASES, indirect=True)  # several may append to a topic
def test_streams_of_other_pipelines_into_the_sink_are_known(states: States) -> None:
    state, other = states.state, replace(states.state, uid="u2")
    assert state.other_streams() == []
    state.make_positions()
    for one in (state, replace(states.other_sink, uid="u3"), other):
        generation = states.claim("r1", one)
        with one.owned(generation):
            one.begin(BEGUN)
            one.write_plan(RunRow("r1", "append", None, None, None, Counters()), ())
    assert (state.other_streams(), other.other_streams()) == (["u2"], ["u1"])
    assert (state.other_streams("t/0"), state.other_streams("t/9")) == (["u2"], [])


def test_what_the_pipelines_streams_have_read_before_is_known(states: States, request: pytest.FixtureRequest) -> None:
    assert (states.state.past_streams(), states.state.positions(), states.state.last_split()) == ({}, {}, 0)
    request.getfixturevalue("stream")
    past = states.state.past_streams()
    assert {source for source, sink in past if sink is None} == {"others", "Items"}
    assert {source for source, sink in past if sink is not None} == {"items"}
    assert list(past.values()) == [BEGUN] * 3
