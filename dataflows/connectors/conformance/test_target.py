"""Promises of every target: rows, position and counters change together, and only the latest claim may write."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dataflows.connectors import (
    Column,
    Counters,
    Fenced,
    Filling,
    Growing,
    PenstockError,
    Refused,
    RunRow,
    Split,
    Unavailable,
    Unique,
    Widening,
)
from dataflows.connectors.conformance.case import ALL, HALVES, NAMES, SLOT, Case, Pipeline, made_rows

Make = Callable[[str], Pipeline]
FIRST, SECOND = ALL[:30], ALL[30:]


@pytest.fixture
def pipeline(case: Case) -> Iterator[Make]:
    """Fixture: make a pipeline into the object under test, which is dropped afterwards."""
    made: list[Pipeline] = []

    def make(write: str) -> Pipeline:
        made.append(case.pipeline(write))
        return made[-1]

    yield make
    for one in made:
        one.drop()


MODES = pytest.mark.parametrize("write", ["append", "replace", "merge"])


@MODES
def test_a_table_is_created_with_the_columns_and_described_again(pipeline: Make, write: str) -> None:
    made = pipeline(write)
    with made.target() as target:
        assert target.describe() is None
    with made.run("r1"), made.target() as target:
        table = target.describe()
    assert table is not None
    assert tuple(one.name for one in table.columns if not one.hidden) == NAMES


@MODES
def test_a_run_ends_with_its_rows_counters_and_position(pipeline: Make, write: str) -> None:
    made = pipeline(write)
    with made.run("r1") as run:
        run.write(0, FIRST)
        run.write(1, SECOND)
        state = run.target.state
        assert state.pending("r1") == ((), 2)
        assert [one.rows_out for one in run.committed] == [30, 30], "each commit is reported"
        result = run.publish("60" if write == "append" else None)
        assert (result["rows_in"], result["rows_out"], result["splits"]) == (60, 60, 2)
        assert state.counters() == Counters(60, 60, bytes=state.counters().bytes)
        loaded = state.loaded()
        assert (loaded.write, loaded.partly) == (write, False)
        assert (loaded.cursor, loaded.position) == (("id", "60") if write == "append" else (None, None))
    assert made.rows() == ALL


@MODES
def test_a_run_that_ended_is_neither_claimed_nor_published_again(pipeline: Make, write: str) -> None:
    made = pipeline(write)
    result = made.finish("r1", ALL)
    with made.target() as target:
        ended = target.state.claim((SLOT,), "r1")
        assert isinstance(ended, RunRow)
        assert ended.ended
        assert ended.result == result
        latest = target.state.finished()
        assert latest is not None
        assert latest.run == "r1"
    assert made.rows() == ALL


@MODES
def test_an_interrupted_run_continues_with_the_remaining_splits(pipeline: Make, write: str) -> None:
    made = pipeline(write)
    with made.run("r1") as run:
        run.write(0, FIRST)
        with pytest.raises(Refused):
            run.publish()
    with made.run("r1") as again:
        state = again.target.state
        assert again.generation > run.generation
        assert state.pending("r1") == (HALVES[1:], 2)
        committed = state.committed("r1", again.generation)
        assert committed is not None
        assert committed.rows_out == 30
        assert state.committed("r1", run.generation) is None
        assert write != "replace" or again.target.can_go_on("r1")
        again.write(1, SECOND)
        assert again.publish("60" if write == "append" else None)["rows_out"] == 60
    assert made.rows() == ALL


@MODES
def test_a_split_without_its_marker_leaves_nothing(pipeline: Make, write: str) -> None:
    made = pipeline(write)
    with made.run("r1", [Split(0)]) as run, run.writer() as writer:
        writer.write(run.chunk(0, FIRST))
    with made.run("r1") as run:
        assert run.target.state.pending("r1") == ((Split(0),), 1)
        assert run.target.state.counters() == Counters()
        run.write(0, SECOND)
        run.publish()
    assert made.rows() == SECOND


@MODES
def test_a_split_that_does_not_add_up_is_not_committed(pipeline: Make, write: str) -> None:
    made = pipeline(write)
    with made.run("r1", [Split(0)]) as run:
        with pytest.raises(PenstockError):
            run.write(0, FIRST, marked=len(FIRST) - 1)
        assert run.committed == []
    with made.target() as target:
        assert target.state.pending("r1") == ((Split(0),), 1)


@MODES
@pytest.mark.parametrize("successor", ["r1", "r2"])
def test_an_older_generation_changes_nothing(pipeline: Make, write: str, successor: str) -> None:
    """An older generation changes nothing, neither after a later attempt of its run, nor after another run's claim."""
    made = pipeline(write)
    with made.run("r1", [Split(0)]) as old, old.writer() as writer:
        writer.write(old.chunk(0, FIRST))
        with made.run(successor, [Split(0)]) as new:
            with pytest.raises(PenstockError):  # its table may not exist any more
                old.end(writer, 0, len(FIRST))
            new.write(0, SECOND)
            new.publish()
        with pytest.raises((Fenced, Unavailable)), old.target.state.owned(old.generation):
            pytest.fail("an older generation may own nothing")
        with pytest.raises((Fenced, Unavailable)):
            old.publish()
    assert made.rows() == SECOND


def test_a_replace_becomes_visible_at_once_when_published(pipeline: Make) -> None:
    made = pipeline("replace")
    made.finish("r1", FIRST)
    with made.run("r2", [Split(0)]) as run:
        run.write(0, SECOND)
        assert made.rows() == FIRST
        run.publish()
    assert made.rows() == SECOND


def test_an_abandoned_replace_leaves_the_old_rows(pipeline: Make) -> None:
    made = pipeline("replace")
    made.finish("r1", FIRST)
    with made.run("r2", [Split(0)]) as run:
        run.write(0, SECOND)
        with run.target.state.owned(run.generation):
            run.target.abandon("r2")
            run.target.state.forget("r2")
        assert run.target.state.run("r2") is None
    assert made.rows() == FIRST


def test_an_append_adds_to_what_is_there(pipeline: Make) -> None:
    made = pipeline("append")
    made.finish("r1", FIRST)
    made.finish("r2", SECOND)
    assert made.rows() == ALL


def test_a_merge_updates_rows_with_the_key_and_inserts_others(pipeline: Make) -> None:
    made = pipeline("merge")
    made.finish("r1", FIRST)
    changed = made_rows(range(20, 40), "changed")
    made.finish("r2", changed)
    assert made.rows() == [*FIRST[:19], *changed]


def test_a_pipeline_that_was_dropped_is_not_claimed_again(pipeline: Make) -> None:
    made = pipeline("replace")
    made.finish("r1", ALL)
    made.drop()
    with made.target() as target:
        assert target.describe() is None
        target.state.make()
        with pytest.raises(Fenced):
            target.state.claim((SLOT,), "r2")


def test_columns_can_be_added_once_or_twice(pipeline: Make) -> None:
    made = pipeline("append")
    with made.run("r1") as run:
        if not isinstance(run.target, Growing):
            pytest.skip("it adds no columns")
        for _ in range(2):
            with run.target.state.owned(run.generation):
                run.target.add_columns((Column("note", "text"),))
        table = run.target.describe()
        assert table is not None
        assert [one.name for one in table.columns if not one.hidden] == [*NAMES, "note"]


def test_types_can_grow_once_or_twice(pipeline: Make) -> None:
    made = pipeline("append")
    with made.run("r1") as run:
        if not isinstance(run.target, Growing) or not isinstance(run.target, Widening):
            pytest.skip("its types do not grow")
        with run.target.state.owned(run.generation):
            run.target.add_columns((Column("size", "integer"),))
        for _ in range(2):
            with run.target.state.owned(run.generation):
                run.target.widen_columns((Column("size", "bigint"), Column("id", "bigint")))
        table = run.target.describe()
        assert table is not None
        columns = [table.column(name) for name in ("size", "id")]
        assert [(one.type, one.nullable) for one in columns if one is not None] == [("bigint", True)] * 2


def test_a_column_can_be_added_with_a_value(pipeline: Make) -> None:
    made = pipeline("append")
    with made.run("r1", [Split(0)]) as run:
        if not isinstance(run.target, Filling):
            pytest.skip("it fills no columns")
        run.write(0, FIRST)
        assert run.target.filled_statements(Column("size", "integer"), "5")
        with run.target.state.owned(run.generation):
            run.target.add_filled(Column("size", "integer"), "5")
        table = run.target.describe()
        column = table.column("size") if table is not None else None
        assert column is not None
        assert (column.type, column.nullable, column.default) == ("integer", True, False)


def test_values_that_occur_more_than_once_are_counted(pipeline: Make) -> None:
    made = pipeline("replace")
    with made.run("r1", [Split(0)]) as run:
        if not isinstance(run.target, Unique):
            pytest.skip("it counts no duplicates")
        run.write(0, [(1, "twice", 0.0), (2, "twice", 0.0), (3, "once", 0.0), (4, None, 0.0), (5, None, 0.0)])
        assert run.target.duplicates("r1", ("name",)) == 1
        assert run.target.duplicates("r1", ("id",)) == 0
