"""Points of metrics: every resolution is exact, in whatever order values come, and kept as the policy says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.metric_points import MAX_PARTS, OTHER, SECONDS, WIDTHS, Sample, add, bucket, cutoff, sweep
from catalog.metrics import Point, series
from penstock.errors import UsageError
from penstock.models.policy import RETENTION, AgentPolicy, Resolution
from penstock.postgres import connect

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
EMPTY = """TRUNCATE catalog.policies, catalog.pipelines, ops.metric_series, ops.metrics_1s, ops.metrics_1m,
ops.metrics_1h"""


@pytest.fixture(scope="module")
def session(new_catalog: Any) -> Iterator[psycopg.Connection[Any]]:
    with closing(connect(new_catalog(), "tests")) as made:
        made.execute("SET synchronous_commit TO off")
        yield made


@pytest.fixture
def empty(session: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    session.execute(EMPTY)
    return session


def points(session: Any, metric: str, step: int, since: datetime, now: datetime = NOW, **more: Any) -> list[Point]:
    name = more.pop("pipeline", "orders")
    return series(session, metric, name, since, now + timedelta(seconds=1), timedelta(seconds=step), now=now, **more)


def accepted(session: psycopg.Connection[Any], name: str, kept: dict[Resolution, int], **labels: str) -> None:
    """Put a policy in force, as the projection does."""
    retention = {resolution: f"{seconds}s" for resolution, seconds in kept.items()}
    spec = {"applies": labels, "monitor": {"retention": retention}}
    policy = AgentPolicy.parse({"metadata": {"name": name}, "spec": spec}).to_dict()
    session.execute(
        """INSERT INTO catalog.policies (name, policy, changed) VALUES (%s, %s::jsonb, 0)
        ON CONFLICT (name) DO UPDATE SET policy = excluded.policy""",
        [name, json.dumps(policy)],
    )


def labelled(session: psycopg.Connection[Any], name: str, **labels: str) -> None:
    session.execute(
        "INSERT INTO catalog.pipelines (uid, name, labels, changed) VALUES (%s, %s, %s::jsonb, 0)",
        [name, name, json.dumps(labels)],
    )


times = st.integers(0, 2 * 3600).map(lambda seconds: NOW - timedelta(seconds=seconds, microseconds=seconds % 7))
values = st.tuples(times, st.integers(1, 1000))


@settings(max_examples=15)
@given(st.lists(st.lists(values, min_size=1, max_size=8), max_size=5))
def test_every_resolution_is_the_sum_of_the_same_values_in_whatever_order_they_come(
    session: psycopg.Connection[Any], batches: list[list[tuple[datetime, int]]]
) -> None:
    session.execute(EMPTY)
    for batch in batches:
        add(session, [Sample.seen("orders", "lag", at, value) for at, value in batch], NOW)
    everything = [one for batch in batches for one in batch]
    for step in (1, 60, 300, 3600):
        found = points(session, "lag", step, NOW - timedelta(hours=2, minutes=1), percentile=100)
        expected: dict[datetime, list[tuple[datetime, int]]] = {}
        for at, value in everything:
            expected.setdefault(bucket(at, step), []).append((at, value))
        assert [one.at for one in found] == sorted(expected)
        for one in found:
            numbers = [value for _, value in expected[one.at]]
            last = max(at for at, _ in expected[one.at])
            assert (one.count, one.sum, one.min, one.max) == (
                len(numbers), sum(numbers), min(numbers), max(numbers),
            )  # fmt: skip
            assert one.last in {value for at, value in expected[one.at] if at == last}
            assert one.percentile == one.max


PIPELINES: dict[str, dict[str, str]] = {"orders": {}, "gold": {"tier": "gold"}}


@dataclass
class Plain:
    """What must be there: every value at each resolution, by where its point begins, and what a policy is."""

    now: datetime = NOW
    policies: dict[str, dict[Resolution, int]] = field(default_factory=dict)
    sums: dict[tuple[str, Resolution], dict[datetime, int]] = field(
        default_factory=lambda: {(name, one): {} for name in PIPELINES for one in SECONDS}
    )
    expired: dict[tuple[str, Resolution], set[datetime]] = field(
        default_factory=lambda: {(name, one): set() for name in PIPELINES for one in SECONDS}
    )
    """Points that were too old when they were written or swept: a policy that keeps more need not show them again."""

    def kept(self, pipeline: str, resolution: Resolution) -> timedelta:
        names = ("gold", "all") if pipeline == "gold" else ("all",)
        rules = next((self.policies[name] for name in names if name in self.policies), {})
        return timedelta(seconds=rules[resolution]) if resolution in rules else RETENTION[resolution]

    def oldest(self, pipeline: str, resolution: Resolution) -> datetime:
        return cutoff(self.now, self.kept(pipeline, resolution), resolution)

    def write(self, pipeline: str, at: datetime, value: int) -> None:
        for one, length in SECONDS.items():
            begin, sums = bucket(at, length), self.sums[pipeline, one]
            sums[begin] = sums.get(begin, 0) + value
            if begin <= self.oldest(pipeline, one):
                self.expired[pipeline, one].add(begin)

    def sweep(self) -> None:
        for (pipeline, one), sums in self.sums.items():
            self.expired[pipeline, one] |= {begin for begin in sums if begin <= self.oldest(pipeline, one)}

    def longest(self, resolution: Resolution) -> timedelta:
        every = [
            timedelta(seconds=rules.get(resolution, RETENTION[resolution].total_seconds()))
            for rules in self.policies.values()
        ]
        return max(every + ([] if "all" in self.policies else [RETENTION[resolution]]))

    def check(self, shown: dict[datetime, float], pipeline: str, step: int) -> None:
        dividing = [one for one in SECONDS if step % SECONDS[one] == 0]
        used = max(dividing, key=lambda one: (self.longest(one), SECONDS[one]))
        all_, sure = dict[datetime, int](), dict[datetime, int]()
        for begin, value in self.sums[pipeline, used].items():
            if begin > self.oldest(pipeline, used):
                all_[bucket(begin, step)] = all_.get(bucket(begin, step), 0) + value
                if begin not in self.expired[pipeline, used]:
                    sure[bucket(begin, step)] = sure.get(bucket(begin, step), 0) + value
        assert shown.keys() <= all_.keys(), "older than the policy keeps it"
        assert sure.keys() <= shown.keys(), "younger, and lost"
        assert all(sure.get(at, 0) <= value <= all_[at] for at, value in shown.items())


kept_for = st.fixed_dictionaries(
    {}, optional={one: st.sampled_from([1, 90, 3600, 40_000, 200_000, 10**7]) for one in SECONDS}
)
moves = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(sorted(PIPELINES)), st.integers(0, 200_000), st.integers(1, 9)),
    st.tuples(st.just("policy"), st.sampled_from(["all", "gold"]), kept_for),
    st.tuples(st.just("wait"), st.sampled_from([1, 61, 5000, 90_000, 10**6])),
    st.tuples(st.just("sweep")),
)


@settings(max_examples=20)
@given(st.lists(moves, min_size=4, max_size=14))
def test_property_14_metrics_are_retained_according_to_configured_policy(
    session: psycopg.Connection[Any], story: list[tuple[Any, ...]]
) -> None:
    session.execute(EMPTY)
    for name, labels in PIPELINES.items():
        labelled(session, name, **labels)
    plain = Plain()

    def check(steps: Sequence[int]) -> None:
        for name, step in itertools.product(PIPELINES, steps):
            found = points(session, "rows_out", step, plain.now - timedelta(days=90), plain.now, pipeline=name)
            plain.check({one.at: one.sum for one in found}, name, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalog.metrics.MOST_POINTS", 10**9)
        for number, (what, *more) in enumerate(story):
            match what:
                case "write":
                    at = plain.now - timedelta(seconds=more[1])
                    add(session, [Sample.counted(more[0], "rows_out", at, more[2])], plain.now)
                    plain.write(more[0], at, more[2])
                case "policy":
                    plain.policies[more[0]] = more[1]
                    accepted(session, more[0], more[1], **({"tier": "gold"} if more[0] == "gold" else {}))
                case "wait":
                    plain.now += timedelta(seconds=more[0])
                case _:
                    sweep(session, plain.now)
                    plain.sweep()
                    assert_nothing_is_stored_in_vain(session, plain)
            check([(1, 60, 3600)[number % 3]])
        check([1, 60, 3600])


def assert_nothing_is_stored_in_vain(session: psycopg.Connection[Any], plain: Plain) -> None:
    """After a sweep there is no partition whose points are all too old, and no point of a pipeline that keeps less."""
    for one in SECONDS:
        for name in PIPELINES:
            oldest = session.execute(
                f"SELECT min(at) FROM ops.metrics_{one} JOIN ops.metric_series s ON s.id = series WHERE pipeline = %s",
                [name],
            ).fetchone()
            assert oldest is not None
            width = timedelta(seconds=WIDTHS[one] if plain.kept(name, one) == plain.longest(one) else 0)
            assert oldest[0] is None or oldest[0] > plain.oldest(name, one) - width


def test_a_point_stays_until_all_of_it_is_too_old(empty: psycopg.Connection[Any]) -> None:
    accepted(empty, "all", {"1s": 1, "1m": 3600})
    add(empty, [Sample.counted("orders", "rows_out", NOW, 5)], NOW)
    begin = bucket(NOW, 60)
    last = begin + timedelta(seconds=60 + 3600, microseconds=-1)
    for now, shown in ((last, 1), (last + timedelta(microseconds=1), 0)):
        sweep(empty, now)
        assert len(points(empty, "rows_out", 60, begin, now)) == shown


def test_a_percentile_of_a_histogram_is_that_of_its_values_whatever_the_step(empty: psycopg.Connection[Any]) -> None:
    durations = [0.01 * 1.07**n for n in range(120)]
    samples = [
        Sample.seen("orders", "duration", NOW - timedelta(seconds=30 * n), one) for n, one in enumerate(durations)
    ]
    add(empty, samples, NOW)
    for percent in (0, 1, 50, 95, 99, 100):
        (found,) = points(empty, "duration", 86_400, NOW - timedelta(hours=2), percentile=percent)
        exact = durations[max(0, round(120 * percent / 100) - 1)]
        assert found.percentile is not None
        assert exact / 1.42 <= found.percentile <= exact * 1.42
        assert found.mean == pytest.approx(sum(durations) / 120)


def test_a_percentile_of_a_counter_is_that_of_its_increases_per_second(empty: psycopg.Connection[Any]) -> None:
    minute = bucket(NOW, 60) - timedelta(minutes=1)
    add(empty, [Sample.counted("orders", "rows_out", minute + timedelta(seconds=n), n + 1) for n in range(30)], NOW)
    shares = {
        percent: points(empty, "rows_out", 60, minute, percentile=percent)[0].percentile for percent in (50, 75, 100)
    }
    assert shares == {50: 0, 75: 15, 100: 30}, "the other 30 seconds without rows count"
    (hour,) = points(empty, "rows_out", 3600, minute, percentile=100)
    assert (hour.sum, hour.percentile) == (465, 465 / 60), "of minutes"


def test_a_set_is_the_sum_of_its_members(empty: psycopg.Connection[Any]) -> None:
    names = ("shop/a", "shop/b", "shopping")
    add(empty, [Sample.counted(name, "rows_out", NOW, 2) for name in names], NOW)
    assert [one.sum for one in points(empty, "rows_out", 60, NOW, pipeline="shop")] == [4]
    assert [one.sum for one in points(empty, "rows_out", 60, NOW, pipeline="shop/b")] == [2]


def test_parts_beyond_the_limit_share_one_series(empty: psycopg.Connection[Any]) -> None:
    for begin in (0, 50):  # at once, and later
        parts = [f"part {n}" for n in range(begin, begin + 50)]
        add(empty, [Sample.counted("orders", "errors", NOW, 1, part) for part in parts], NOW)
    stored = empty.execute("SELECT count(*), sum(sum) FROM ops.metric_series").fetchone()
    assert stored == (MAX_PARTS + 1, 100)
    assert points(empty, "errors", 60, NOW, part=OTHER)[0].sum == 100 - MAX_PARTS


def test_values_that_cannot_be_stored_change_nothing(empty: psycopg.Connection[Any]) -> None:
    odd = Sample.seen("orders", "lag", NOW, 1.0, "with \x00 and \ud800" + "x" * 1000)
    add(
        empty,
        [Sample.seen("orders", "lag", NOW, float("nan")), Sample.seen("orders", "lag", NOW, float("inf")), odd],
        NOW,
    )
    rows = empty.execute("SELECT metric, count, length(part) FROM ops.metric_series").fetchall()
    assert rows == [("lag", 1, 200)]


def test_a_time_in_the_future_counts_as_now(empty: psycopg.Connection[Any]) -> None:
    add(empty, [Sample.counted("orders", "rows_out", NOW + timedelta(days=400), 1)], NOW)
    assert [one.at for one in points(empty, "rows_out", 1, NOW)] == [bucket(NOW, 1)]


@pytest.mark.parametrize(
    ("step", "percentile", "what"),
    [(0.5, None, "whole seconds"), (0, None, "whole seconds"), (1, None, "10,000 points"), (60, 101, "0 to 100")],
)
def test_a_query_that_makes_no_sense_is_refused(empty: Any, step: float, percentile: float | None, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        points(empty, "lag", step, NOW - timedelta(days=1), percentile=percentile)  # type: ignore[arg-type]
