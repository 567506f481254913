"""What is left of a pipeline that is deleted, and what a run says when it may not publish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataflows.connectors.contract import PublishOrder
from dataflows.data.counters import Counters
from dataflows.data.tables import Column
from dataflows.runs.publish import committed, drop_state, publish, superseded, too_many_error
from penstock.errors import BadData, Fenced, TooManyRefused, Unavailable


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
        (
            ("target", "23514", "a row breaks a check (constraint `cheap`) [SQLSTATE 23514]"),
            ", most often by `target`: a row breaks a check (constraint `cheap`) [SQLSTATE 23514]",
        ),
        (("target", "not_null", "`price` is NULL"), ", most often by `target` (not_null): `price` is NULL"),
        (None, "5 %"),
    ],
)
def test_the_commonest_letters_are_reported_without_a_value(found: Any, said: str) -> None:
    limit = SimpleNamespace(dead_letter=SimpleNamespace(fail_above=0.05))
    letters = SimpleNamespace(commonest=lambda _run: found, close=lambda: None)
    job = SimpleNamespace(
        spec=SimpleNamespace(errors=limit, transforms=[SimpleNamespace(name="cast")]),
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


def test_a_step_that_is_called_as_the_target_shows_no_value() -> None:
    letters = SimpleNamespace(commonest=lambda _run: ("target", "bad_text", "`secret value` is no numeric"))
    letters.close = lambda: None
    step = SimpleNamespace(name="target")
    limit = SimpleNamespace(dead_letter=SimpleNamespace(fail_above=0.05))
    job = SimpleNamespace(
        spec=SimpleNamespace(errors=limit, transforms=[step]),
        continued=False,
        letters="dsn",
        pipeline="orders",
        run="r1",
    )
    job.open_letters = lambda: letters
    assert "secret" not in too_many_error(cast("Any", job), {"dead": 1, "rows_in": 2}, None).what


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


class Published:
    """A target that is asked to publish, with the rows of its run; keeps the orders."""

    def __init__(self, base: Counters, now: Counters, *, ended: bool = False, found: int = 0) -> None:
        self.run = SimpleNamespace(base=base, ended=ended)
        self.state = SimpleNamespace(run=lambda run: self.run if run == "r1" else None, counters=lambda: now)
        self.found = found
        self.orders: list[PublishOrder] = []

    def duplicates(self, run: str, unique: Any) -> int:
        assert (run, unique) == ("r1", ["id"])
        return self.found

    def publish(self, order: PublishOrder) -> dict[str, Any]:
        self.orders.append(order)
        return {}


BASE = Counters(rows_in=100, rows_out=0, filtered=0, dead=100, bytes=0)
HALF = BASE + Counters(rows_in=10, rows_out=5, filtered=0, dead=5, bytes=0)


def publishes(
    target: Published, *, limit: float = 0.5, write: str = "replace", unique: bool = False, **given: Any
) -> dict[str, Any]:
    """Publish run `r1`; return what its order records."""
    job = SimpleNamespace(
        run="r1",
        write=write,
        continued=write != "replace",
        pipeline="orders",
        letters=None,
        spec=SimpleNamespace(errors=SimpleNamespace(dead_letter=SimpleNamespace(fail_above=limit))),
        rules=SimpleNamespace(validation=SimpleNamespace(unique=["id"] if unique else [])),
    )
    source = SimpleNamespace(
        columns=[Column("id", "bigint"), Column("xmin", "xid", hidden=True)], identity=given.pop("identity", None)
    )
    survey = SimpleNamespace(
        mapping=SimpleNamespace(targets=("id",)),
        method="swap",
        source=source,
        target=SimpleNamespace(columns=[Column("id", "bigint")]),
        inferred=given.pop("inferred", False),
    )
    clean = given.pop("clean", False)
    rest = {"resumed": False, "keys": None, "notes": ()} | given
    prepared = SimpleNamespace(survey=survey, generation=7, upper="9", **rest)
    publish(cast("Any", job), cast("Any", prepared), cast("Any", target), clean=clean)
    (order,) = target.orders
    found: Any = (order.run, order.generation, order.position, order.columns, order.method)
    assert found == ("r1", 7, "9", ("id",), "swap")
    return dict(order.extra)


def test_a_result_says_what_the_run_has_seen() -> None:
    summary = [Column("id", "bigint").summary()]
    seen = {"source": summary, "target": summary}
    assert publishes(Published(BASE, HALF)) == {"schemas": seen, "resumed": False}
    found = publishes(
        Published(BASE, HALF), resumed=True, keys=3, notes=("one",), identity="7", inferred=True, clean=True
    )
    assert found == {
        "schemas": seen | {"identity": "7", "inferred": True}, "resumed": True, "keys": 3, "notes": ["one"],
    }  # fmt: skip


@pytest.mark.parametrize(("write", "continued"), [("replace", False), ("append", True)])
def test_dead_letters_of_this_run_up_to_their_limit_are_published(write: str, continued: bool) -> None:
    """Those of earlier runs do not count."""
    assert "refused_too_many" not in publishes(Published(BASE, HALF), write=write)
    for given in ({"clean": True}, {"ended": True}):
        target = Published(BASE, HALF, ended="ended" in given)
        assert "refused_too_many" not in publishes(target, write=write, limit=0.4, clean="clean" in given)
    target = Published(BASE, HALF)
    if continued:
        assert publishes(target, write=write, limit=0.4)["refused_too_many"] is True
    else:
        with pytest.raises(TooManyRefused, match="5 of 10 rows"):
            publishes(target, write=write, limit=0.4)
        assert target.orders == []


def test_a_replace_whose_rows_are_not_unique_is_not_published() -> None:
    target = Published(BASE, HALF, found=3)
    for clean in (True, False):
        with pytest.raises(BadData, match="3 values of `id` occur more than once"):
            publishes(target, unique=True, clean=clean)
    assert target.orders == []
    publishes(target, unique=False)
    publishes(Published(BASE, HALF, found=3), unique=True, write="append")
    publishes(Published(BASE, HALF), unique=True)
    publishes(Published(BASE, HALF, found=3, ended=True), unique=True)
