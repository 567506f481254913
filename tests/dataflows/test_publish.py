"""What is left of a pipeline that is deleted, and what a run says when it may not publish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataflows.runs.publish import committed, drop_state, superseded, too_many_error
from penstock.errors import Fenced, Unavailable


class End:
    """A target and a source of changes; keeps what is done to it."""

    identity = None
    unsent = frozenset[str]()

    def __init__(self) -> None:
        self.done: list[Any] = []

    def filled(self, *_: object) -> dict[str, str]:
        return {}

    def drop(self, *, table: bool) -> None:
        self.done.append(("drop", table))

    def forget(self) -> None:
        self.done.append("forget")

    def close(self) -> None:
        self.done.append("close")


@pytest.mark.parametrize("changes", [True, False])
def test_a_deleted_pipeline_leaves_nothing_at_its_sink_nor_of_changes_at_its_source(changes: bool) -> None:
    target, source = End(), End()
    job = SimpleNamespace(open_target=lambda: target, open_source=lambda: source, changes=changes)
    drop_state(cast("Any", job))
    assert target.done == [("drop", False), "close"]
    assert source.done == (["forget", "close"] if changes else [])
    drop_state(cast("Any", job), table=True)
    assert target.done[2:] == [("drop", True), "close"]


@pytest.mark.parametrize("continued", [True, False])
def test_too_many_dead_letters_are_counted_against_their_limit(continued: bool) -> None:
    limit = SimpleNamespace(dead_letter=SimpleNamespace(fail_above=0.05))
    job = SimpleNamespace(
        spec=SimpleNamespace(errors=limit), continued=continued, letters=None, pipeline="orders", run="r1"
    )
    error = too_many_error(cast("Any", job), {"dead": 1200, "rows_in": 2000}, None)
    assert "1,200 of 2,000 rows went to the dead letters, more than 5 %" in error.what
    assert ("what was committed stays" in str(error)) == continued
    assert ("nothing was published" in str(error)) != continued


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (("cast", "bad_text", "`price` is no numeric, nor is `id`"), ", most often by `cast` (bad_text) at `price`"),
        (("cast", "bad_text", "`secret value` is no numeric"), ", most often by `cast` (bad_text)"),
        (None, "5 %"),
    ],
)
def test_the_commonest_letters_are_reported_without_a_value(found: Any, said: str) -> None:
    limit = SimpleNamespace(dead_letter=SimpleNamespace(fail_above=0.05))
    letters = SimpleNamespace(commonest=lambda _run: found, close=lambda: None)
    job = SimpleNamespace(
        spec=SimpleNamespace(errors=limit),
        continued=False,
        letters="dsn",
        pipeline="orders",
        run="r1",
        open_letters=lambda: letters,
    )
    survey = SimpleNamespace(
        mapping=SimpleNamespace(targets=["price"]), source=SimpleNamespace(columns=[SimpleNamespace(name="id")])
    )
    counted = {"dead": 1, "rows_in": 2}
    for prepared in (SimpleNamespace(survey=survey), None):
        what = too_many_error(cast("Any", job), counted, cast("Any", prepared)).what
        assert what.endswith(said if prepared else said.removesuffix(" at `price`"))


class State:
    """State of a pipeline that a newer run may have taken over."""

    def __init__(self, error: Exception | None = None, *, exists: bool = True) -> None:
        self.error, self.there = error, exists

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        assert generation == 7
        if self.error:
            raise self.error
        yield

    def exists(self) -> bool:
        if self.error:
            raise self.error
        return self.there

    def committed(self, run: str, generation: int | None) -> tuple[str, int | None]:
        return run, generation


def job_of(state: State) -> Any:
    target = SimpleNamespace(state=state, close=lambda: None)
    return SimpleNamespace(run="r1", open_target=lambda **_: target)


def test_a_run_is_superseded_only_if_that_is_known() -> None:
    assert superseded(job_of(State(Fenced("newer", where="t"))), 7)
    assert not superseded(job_of(State(Unavailable("lost", where="t"))), 7)
    assert not superseded(job_of(State()), 7)


def test_what_was_committed_is_asked_of_the_runs_own_generation() -> None:
    prepared = cast("Any", SimpleNamespace(generation=7))
    assert committed(job_of(State()), prepared) == cast("Any", ("r1", 7))
    assert committed(job_of(State()), None) == cast("Any", ("r1", None))
    assert committed(job_of(State(exists=False)), prepared) is None
    assert committed(job_of(State(Unavailable("lost", where="t"))), prepared) is None
