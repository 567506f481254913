"""Alerts on their way to real receivers, by processes of which any may die."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.clock import now
from tests.agents.control_plane import pipeline, policy
from tests.dataflows.flows.installation import Flow, Installation, until
from tests.dataflows.work.receivers import Web, web_server

SECRET = "t0k3n-Of-The-Receiver"


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as made:
        yield made


@pytest.fixture
def watched(installation: Installation, web: Web) -> Iterator[Installation]:
    """An installation with a pipeline whose alerts go to a webhook."""
    installation.start("control", "projector", "scheduler")
    hook = {"type": "webhook", "url": web.url, "timeout": "1s", "secret": "${env:PENSTOCK_SECRET_HOOK}"}
    installation.done("connection.put", name="oncall", connection=hook)
    shop = {"type": "sqlite", "path": "/shop.db"}
    for name in ("shop", "house"):
        installation.done("connection.put", name=name, connection=shop)
    installation.done("policy.publish", policy=policy("p", monitor={"routes": ["log", "oncall"]}))
    installation.done("pipeline.apply", pipeline=pipeline("orders"))
    yield installation
    assert SECRET not in "".join(str(one.payload) for one in installation.records())


def score(installation: Installation, size: float) -> None:
    """Record how unusual the last number of rows was, as a worker does."""
    payload: dict[str, Any] = {"pipeline": "orders", "metric": "rows_out", "at": now().isoformat(), "value": 100 + size}
    installation.send("series.scored", **payload, expected=100.0, spread=1.0, score=size, samples=50)


def worker(installation: Installation) -> Flow:
    return installation.start("worker", PENSTOCK_SECRET_HOOK=SECRET)


def told(web: Web) -> list[tuple[str, str]]:
    """Return the event and the id of each notice that the receiver has taken."""
    return [(json.loads(body)["event"], headers["idempotency-key"]) for _, headers, body in web.requests]


def test_a_notice_whose_worker_is_killed_comes_again_and_in_order(watched: Installation, web: Web) -> None:
    first = worker(watched)
    web.answers.append(0.9)  # it takes the notice, and its answer comes too late
    score(watched, -5.0)
    until(lambda: len(web.asked) == 1, "the first notice")
    first.kill()
    score(watched, 0.0)
    watched.await_records("alert.closed", 1)
    worker(watched)
    until(lambda: len(web.requests) == 3, "the same notice once more, then that it is over")
    (opened, id_), again, (closed, other) = told(web)
    assert (opened, again, closed) == ("alert.opened", ("alert.opened", id_), "alert.closed")
    assert id_ != other
    receipts = watched.await_records("alert.delivered", 2)
    assert [(one.payload["event"], one.payload["attempts"]) for one in receipts] == [
        ("alert.opened", 2),
        ("alert.closed", 1),
    ]
    watched.projected()
    ((delivered,),) = watched.catalog("SELECT delivered FROM catalog.alerts")
    assert (delivered["oncall"]["event"], delivered["oncall"]["status"]) == ("alert.closed", "sent")


def test_a_receiver_that_refuses_is_an_error_and_no_alert(watched: Installation, web: Web) -> None:
    worker(watched)
    web.answers.append((403, {}))
    score(watched, -5.0)
    (receipt,) = watched.await_records("alert.delivered", 1)
    assert (receipt.payload["status"], receipt.payload["attempts"]) == ("failed", 1)
    watched.projected()
    ((pipeline_, error),) = watched.catalog("SELECT pipeline, error FROM catalog.errors")
    assert (pipeline_, error["what"], error["where"]) == (
        None,
        "the receiver refuses access (403)",
        "connection oncall",
    )
    assert watched.of("incident.opened") == watched.of("diagnosis.requested") == []
    assert len(watched.of("alert.opened")) == 1


def test_a_receiver_that_was_down_gets_its_notice_later(watched: Installation, web: Web) -> None:
    worker(watched)
    web.answers += [(503, {}), 2.0]
    score(watched, -5.0)
    until(lambda: len(web.asked) == 1, "the first attempt")
    assert watched.done("route.try", route="oncall")["task"], "another notice need not wait for it"
    failed = watched.await_records("task.failed", 2)
    assert [one.payload["error"]["what"].partition(" w")[0] for one in failed] == [
        "the receiver answers 503",
        "the receiver did not answer",
    ]
    until(lambda: "alert.opened" in dict(told(web)), "the notice")
    assert watched.await_records("alert.delivered", 1)[0].payload["attempts"] == 2
