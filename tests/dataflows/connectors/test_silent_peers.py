"""A source or sink that is connected and silent ends the attempt by name; the next one completes exactly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataflows.connectors.http.conftest import api, apis, pull
from tests.dataflows.connectors.silent import SilentProxy, proxy_of

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers
    from tests.dataflows.connectors.conftest import Flow, SourceFile, System
    from tests.dataflows.connectors.http.conftest import Pull

    Flows = Callable[..., Flow]
    Proxied = Callable[[System], tuple[SilentProxy, System]]

__all__ = ["api", "apis", "pull"]

SERVERS = ("postgres", "mysql")


@pytest.fixture
def proxied() -> Iterator[Proxied]:
    """Put a proxy before a system."""
    proxies = []

    def make(system: System) -> tuple[SilentProxy, System]:
        proxy, connection = proxy_of(system.connection)
        proxies.append(proxy)
        return proxy, replace(system, connection=connection)

    yield make
    for proxy in proxies:
        proxy.close()


QUICK = ("grace",)
"""An attempt that hangs is ended soon; without it, as in production, after `GRACE_SECONDS`."""


def stalls(
    flow: Flow, point: str, proxy: SilentProxy, limit: str = "1s", without: tuple[str, ...] = QUICK
) -> dict[str, Any]:
    """Run up to a point, silence the peer there, and return the error of the attempt."""
    flow.spec["limits"] = flow.spec.get("limits", {}) | {"stalled": limit}
    task = flow.task("r1")
    pid = flow.launchers.stopped(task, point, without)
    proxy.silent.set()
    found = flow.woken(pid, task)
    assert found["status"] == "failed", found
    error = dict(found["error"])
    assert (error["code"], error["transient"]) == ("unavailable.stalled", True), error
    assert f"limits: {{stalled: {limit}}}" in error["hint"], error
    return error


@pytest.mark.parametrize("kind", SERVERS)
def test_a_source_that_falls_silent(
    new_system: Callable[[str], System],
    proxied: Proxied,
    source_file: SourceFile,
    into: Flows,
    out_of: Flows,
    kind: str,
) -> None:
    system = new_system(kind)
    source_file.add(60)
    into(system, "append").completed("r0")
    proxy, behind = proxied(system)
    flow = out_of(behind, "append")
    error = stalls(flow, "read.block:0", proxy, without=() if kind == "mysql" else QUICK)
    assert error["what"].startswith("the source gave no rows for "), error
    assert error["where"] == f"items: connection {kind}", error
    flow.connections[kind] = system.connection
    flow.completed("r1")
    assert source_file.rows("SELECT id FROM back ORDER BY id") == source_file.rows("SELECT id FROM items ORDER BY id")


NO_ROWS, NOT_PUBLISHED = "the sink took no rows for ", "the sink did not publish the rows for "


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        ("postgres", ("flow.begin", "2s", NO_ROWS)),
        ("mysql", ("flow.begin", "2s", NO_ROWS)),
        ("postgres", ("commit.mid_copy:1", "1s", NO_ROWS)),
        ("mysql", ("publish.begin", "1s", NOT_PUBLISHED)),
    ],
)
def test_a_sink_that_falls_silent(
    new_system: Callable[[str], System],
    proxied: Proxied,
    source_file: SourceFile,
    into: Flows,
    kind: str,
    at: tuple[str, str, str],
) -> None:
    point, limit, what = at
    system = new_system(kind)
    source_file.add(60)
    proxy, behind = proxied(system)
    flow = into(behind, "append")
    error = stalls(flow, point, proxy, limit)
    assert error["what"].startswith(what), error
    flow.connections[kind] = system.connection
    flow.completed("r1")
    flow.completed("r2")
    assert (system.ids(), system.leftovers(flow.uid)) == (source_file.ids(), [])


def test_a_source_that_falls_silent_before_several_processes(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append", workers=2, split_rows=100)
    proxy, through = proxy_of({"type": "postgres", "dsn": made.dsn})
    task = made.task("r1")
    proxy.trigger = b"COPY"
    task["connections"] = task["connections"] | {"shop": through}
    task["pipeline"]["spec"]["limits"]["stalled"] = "2s"
    found = launchers.run(task, without=QUICK)
    assert found["error"]["code"] == "unavailable.stalled", found
    assert found["error"]["what"].startswith("the source gave no rows for "), found
    proxy.close()
    assert launchers.run(made.task("r1"))["status"] == "completed"
    assert made.differences() == {"lost": 0, "doubled": 0}


def until(over: threading.Event) -> Callable[[], None]:
    """Return a response that comes only after `over`."""

    def wait() -> None:
        over.wait(30)

    return wait


def test_an_api_that_falls_silent(pull: Callable[..., Pull]) -> None:
    made = pull(rows=90)
    over = threading.Event()
    task = made.task("r1")
    task["pipeline"]["spec"]["limits"] = {"stalled": "1s"}
    pid = made.launchers.stopped(task, "read.block:0", QUICK)
    made.api.failing += [until(over)] * 20
    found = made.launchers.woken(pid, task)
    over.set()
    assert found["error"]["code"] == "unavailable.stalled", found
    assert found["error"]["what"].startswith("the source gave no rows for "), found
    made.api.failing.clear()
    made.completed("r1")
    assert made.rows() == made.wanted()


def test_a_run_that_moves_slowly_is_not_stalled(pull: Callable[..., Pull]) -> None:
    made = pull(rows=90, endpoint={})
    made.api.failing += [lambda: time.sleep(0.6)] * 2
    task = made.task("r1")
    task["pipeline"]["spec"]["limits"] = {"stalled": "1s"}
    assert made.launchers.run(task)["status"] == "completed"
    assert made.rows() == made.wanted()


def test_what_has_not_moved_is_reported(pull: Callable[..., Pull]) -> None:
    made = pull(rows=40)
    over = threading.Event()
    task = made.task("r1")
    pid = made.launchers.stopped(task, "read.block:0", QUICK)
    made.api.failing += [until(over)] * 20
    timer = threading.Timer(1.6, over.set)
    timer.start()
    assert made.launchers.woken(pid, task)["status"] == "completed"
    lines = [json.loads(line) for line in Path(task["result"] + ".log").read_text().splitlines() if line[:1] == "{"]
    assert next(line["idle"] for line in lines if line["idle"]) == 1
    assert lines[-1]["idle"] is None
