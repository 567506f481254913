"""First loads of a set whose targets refer to each other by foreign keys that the sink enforces."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agents.control_plane import ERROR, FATAL, ControlPlane, pipeline_set

KINDS = ("pipeline", "cleanup", "list")
ITEMS = {"s.items": ["s.orders", "s.products"], "s.orders": ["s.customers"]}
TABLES = ("s.customers", "s.items", "s.orders", "s.products")


@pytest.fixture
def plane() -> ControlPlane:
    return made()


def made() -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.join("w1", slots=99, kinds=KINDS)
    plane.apply(pipeline_set("shop", "s.*"))
    plane.find("shop")
    return plane


def start(plane: ControlPlane, after: Any = ITEMS, tables: Sequence[str] = TABLES, page: int = 500) -> None:
    plane.done("run.start", pipeline="shop")
    plane.find("shop", *tables, after=after, page=page)


def listed(plane: ControlPlane) -> None:
    """List the set for a new version of its file; nothing is started."""
    plane.apply(pipeline_set("shop", "s.*", limits={"workers": 2}))
    plane.find("shop", *TABLES, after=ITEMS)


def end(plane: ControlPlane, table: str, error: dict[str, Any] | None = None) -> None:
    plane.end(plane.task_of(f"shop/{table}"), error)


def at_work(plane: ControlPlane) -> set[str]:
    return {name.removeprefix("shop/") for name in (*plane.running(), *plane.following())}


def ends(plane: ControlPlane) -> dict[str, tuple[str, str | None]]:
    """Return status and error of the last run of each member."""
    found = {one.payload["run"]["pipeline"].removeprefix("shop/"): one.payload for one in plane.of("run.finished")}
    return {name: (one["run"]["status"], one.get("error", {}).get("what")) for name, one in found.items()}


@pytest.mark.parametrize("page", [500, 1], ids=["in one page", "in many pages"])
def test_a_first_load_waits_for_those_that_its_target_refers_to(plane: ControlPlane, page: int) -> None:
    start(plane, page=page)
    assert at_work(plane) == {"s.customers", "s.products"}
    (run,) = [one for one in plane.of("run.created") if one.payload["run"]["pipeline"] == "shop/s.items"]
    assert run.payload["run"]["after"] == ["shop/s.orders", "shop/s.products"]
    end(plane, "s.customers", ERROR)
    assert at_work(plane) == {"s.products"}, "it is tried again"
    plane.fire(plane.of("timer.requested")[-1].key)
    end(plane, "s.customers")
    assert at_work(plane) == {"s.orders", "s.products"}
    end(plane, "s.products")
    assert at_work(plane) == {"s.orders"}
    end(plane, "s.orders")
    assert at_work(plane) == {"s.items"}
    end(plane, "s.items")
    start(plane, page=page)
    assert at_work(plane) == {*TABLES}, "later runs do not wait"
    assert not plane.of("agent.faulted")


def test_a_first_load_that_fails_ends_those_that_wait_for_it(plane: ControlPlane) -> None:
    start(plane)
    end(plane, "s.customers", FATAL)
    assert at_work(plane) == {"s.products"}, "others go on"
    found = ends(plane)
    assert found["s.orders"][1] == (
        "it waits for the first load of shop/s.customers, to which its target refers by a foreign key; that has failed"
    )
    assert "first load of shop/s.orders" in str(found["s.items"][1])
    start(plane)
    assert at_work(plane) == {"s.customers", "s.products"}
    end(plane, "s.customers")
    assert at_work(plane) == {"s.orders", "s.products"}


def test_one_member_alone_begins_the_first_loads_that_come_before_it(plane: ControlPlane) -> None:
    listed(plane)
    run = plane.run("shop/s.orders")
    assert at_work(plane) == {"s.customers"}
    assert {one.payload["run"]["pipeline"] for one in plane.of("run.created")} == {"shop/s.customers", "shop/s.orders"}
    end(plane, "s.customers")
    assert at_work(plane) == {"s.orders"}
    assert plane.task_of("shop/s.orders")["run"] == run


def test_a_first_load_that_cannot_come_is_said(plane: ControlPlane) -> None:
    listed(plane)
    plane.done("pipeline.pause", name="shop/s.customers")
    refusal = plane.refused("run.start", pipeline="shop/s.items")
    assert "that of shop/s.customers, which is not loaded yet, and is paused" in refusal["what"]
    assert refusal["what"].startswith("pipeline shop/s.orders: ")
    start(plane)
    assert at_work(plane) == {"s.products"}
    assert "is paused" in str(ends(plane)["s.orders"][1])
    assert "first load of shop/s.orders" in str(ends(plane)["s.items"][1])
    plane.done("pipeline.resume", name="shop/s.customers")
    plane.run("shop/s.customers")
    end(plane, "s.customers")
    plane.run("shop/s.orders")
    assert at_work(plane) == {"s.orders", "s.products"}
    plane.done("pipeline.stop", name="shop/s.products")
    assert "is stopped" in plane.refused("run.start", pipeline="shop/s.items")["what"]


def test_a_circle_is_refused_by_name(plane: ControlPlane) -> None:
    start(plane, {"s.orders": ["s.items"], "s.items": ["s.orders"], "s.products": ["s.items"]})
    assert at_work(plane) == {"s.customers"}
    found = ends(plane)
    assert "shop/s.orders -> shop/s.items -> shop/s.orders" in str(found["s.orders"][1])
    assert "shop/s.items -> shop/s.orders -> shop/s.items" in str(found["s.items"][1])
    assert "first load of shop/s.items" in str(found["s.products"][1])
    assert "make a circle" in plane.refused("run.start", pipeline="shop/s.products")["what"]
    start(plane, {"s.orders": ["s.items"], "s.products": ["s.items"]})
    assert at_work(plane) == {"s.customers", "s.items"}, "one of the keys was dropped"


def test_a_listing_that_cannot_ask_the_sink_changes_no_order(plane: ControlPlane) -> None:
    listed(plane)
    start(plane, None)
    assert at_work(plane) == {"s.customers", "s.products"}


def test_a_first_load_waits_for_what_the_last_listing_says(plane: ControlPlane) -> None:
    start(plane, {"s.orders": ["s.customers"]})
    plane.apply(pipeline_set("shop", "s.*", limits={"workers": 2}))
    plane.find("shop", *TABLES, after={"s.orders": ["s.products"]})
    end(plane, "s.customers", FATAL)
    assert at_work(plane) == {"s.items", "s.products"}, "the orders do not wait for the customers any more"
    end(plane, "s.products")
    assert at_work(plane) == {"s.items", "s.orders"}


def test_another_target_begins_with_a_first_load(plane: ControlPlane) -> None:
    two = ("s.customers", "s.orders")
    start(plane, tables=two)
    end(plane, "s.customers")
    moved = pipeline_set("shop", "s.*", tables={"s.customers": {"sink": {"object": "other.customers"}}})
    plane.apply(moved)
    plane.find("shop", *two, after=ITEMS)
    assert at_work(plane) == {"s.orders"}, "what has begun goes on"
    end(plane, "s.orders", FATAL)
    start(plane, tables=two)
    assert at_work(plane) == {"s.customers"}


def test_what_is_no_member_holds_up_nothing(plane: ControlPlane) -> None:
    start(plane, tables=("s.items", "s.products"))
    assert at_work(plane) == {"s.products"}
    end(plane, "s.products")
    assert at_work(plane) == {"s.items"}, "nothing loads the orders here"


def test_a_long_chain_of_foreign_keys_fails_as_a_whole() -> None:
    plane, names = made(), [f"s.t{number:03}" for number in range(60)]
    plane.lose("w1")
    plane.join("w2", slots=1, kinds=KINDS)
    start(plane, {one: [before] for before, one in pairwise(names)}, names)
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 130)
    try:
        end(plane, names[0], FATAL)
    finally:
        sys.setrecursionlimit(usual)
    assert not plane.of("agent.faulted")
    assert not plane.state("orchestrator")["runs"]


GRAPHS = st.dictionaries(st.sampled_from(TABLES), st.lists(st.sampled_from(TABLES), unique=True))


@settings(max_examples=25, deadline=None)
@given(
    graphs=st.lists(GRAPHS, min_size=1, max_size=3), chance=st.randoms(use_true_random=False), page=st.integers(1, 4)
)
def test_no_member_is_loaded_before_its_parents_and_none_waits_for_ever(
    graphs: list[dict[str, list[str]]], chance: Any, page: int
) -> None:
    plane, loaded = made(), set[str]()
    for graph in graphs:
        start(plane, graph, page=page)
        while works := sorted(at_work(plane)):
            for one in works:
                assert one in loaded or loaded >= {*graph.get(one, ())} - {one}, one
            one = chance.choice(works)
            if chance.random() < 0.3:
                end(plane, one, FATAL)
            else:
                end(plane, one)
                loaded.add(one)
        assert not plane.state("orchestrator")["runs"]
    assert not plane.of("agent.faulted")
    before = plane.states()
    plane.restart()
    assert plane.states() == before
