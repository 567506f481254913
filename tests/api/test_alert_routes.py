"""Routes of alerts on the command line: tried before they are needed, and refused where they lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli.alerts import _received, _undelivered
from catalog.alerts import Alert
from penstock.clock import now
from tests.api.project import Project, until
from tests.dataflows.work.receivers import Web, web_server

POLICY = """
apiVersion: penstock/v1
kind: AgentPolicy
metadata: {{name: routed}}
spec:
  applies: {{kind: routed}}
  monitor: {{routes: [log, {route}]}}
"""


@pytest.fixture
def hook(running: Project, tmp_path: Path) -> Iterator[Web]:
    """A receiver, which the connection `hook` leads to."""
    with web_server() as web:
        path = tmp_path / "connections.yaml"
        path.write_text(f"hook: {{type: webhook, url: '{web.url}'}}\n")
        running.done("apply", path)
        yield web


def test_a_route_is_tried_and_says_what_its_receiver_answers(running: Project, hook: Web) -> None:
    assert running.done("alerts", "try", "hook")["status"] == "sent"
    assert len(hook.requests) == 1
    hook.answers.append((403, {}))
    said = running.do("alerts", "try", "hook")
    assert (said.code, "the receiver refuses access (403)" in said.error) == (1, True)
    shown = until(lambda: running.done("errors", "hook"), "its error")
    assert "the receiver refuses access (403)" in str(shown)
    said = running.do("alerts", "try", "hok")
    assert (said.code, "did you mean `hook`?" in said.err) == (3, True), said.err
    said = running.do("alerts", "try", "shop")
    assert (said.code, "which takes no alerts" in said.error) == (1, True)


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize(
    ("route", "what"),
    [("hok", "there is no connection 'hok'; did you mean `hook`?"), ("shop", "connection 'shop' is of type postgres")],
)
def test_a_policy_that_routes_to_nowhere_is_refused(running: Project, tmp_path: Path, route: str, what: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(route=route))
    said = running.do("apply", path)
    assert (said.code, "spec.monitor.routes[1]" in said.err, what in said.err) == (2, True, True), said.err
    path.write_text(POLICY.format(route="hook"))
    running.done("apply", path)
    running.done("apply", path)


def test_a_route_that_was_not_told_is_named() -> None:
    def alert(**delivered: str) -> Alert:
        at = now()
        receipts = {route: {"status": status} for route, status in delivered.items()}
        values: dict[str, Any] = {
            "id": "a",
            "cause": "c",
            "pipeline": None,
            "kind": "fresh",
            "metric": None,
            "severity": "warning",
        }
        values |= {"status": "open", "summary": "late", "alert": {}, "since": at, "opened_at": at, "last_at": at}
        more: dict[str, Any] = {"closed_at": None, "reason": None, "snooze": None, "offset": 1, "delivered": receipts}
        return Alert(**values, **more)

    (line,) = _undelivered([alert(mail="sent", hook="failed"), alert(hook="failed"), alert(hook="sent")])
    assert line == "[red]hook[/red] was not told of 2 alerts: `penstock errors hook` says why"


@pytest.mark.parametrize(
    ("receipt", "said"),
    [
        ({"status": "sent", "attempts": 1}, "opened, sent 0 s ago"),
        (
            {"status": "failed", "attempts": 30, "error": {"what": "the receiver answers 503"}},
            "opened, given up 0 s ago after 30 attempts: the receiver answers 503",
        ),
    ],
)
def test_a_receipt_says_what_became_of_a_notice(receipt: dict[str, Any], said: str) -> None:
    assert _received({"event": "alert.opened", "at": now().isoformat(), **receipt}) == said
