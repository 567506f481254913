"""Connections that take alerts, and the routes of policies that name them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.errors import InvalidDocument
from penstock.models.connection import parse_connection, parse_connections
from penstock.models.policy import AgentPolicy
from penstock.models.policy_checks import contradictions
from penstock.models.routes import issues_of_routes

PAGE = Path(__file__).parents[2] / "docs/alert-routes.md"
MAIL = {"type": "smtp", "host": "mail.example.com", "from": "a@example.com", "to": ["b@example.com"]}


def test_the_examples_of_the_page_fit_together() -> None:
    connections, policy = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found = parse_connections(yaml.safe_load(connections))
    parsed = AgentPolicy.parse(yaml.safe_load(policy))
    assert list(issues_of_routes(parsed, {name: one.type for name, one in found.items()})) == []
    assert [one.path for one in issues_of_routes(parsed, {})] == [f"spec.monitor.routes[{n}]" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("connection", "path", "what"),
    [
        ({"type": "slack", "url": "https://hooks.slack.com/services/x8sGh2kLmN4pQr6tUv8wXy0z"}, "url", "secret"),
        ({"type": "webhook", "url": "https://u:pa55@a.example.com/"}, "url", "literal password"),
        ({"type": "webhook", "url": "https://a.example.com/?token=abc"}, "url", "literal secret"),
        ({"type": "webhook", "url": "https://a.example.com/${env:HOME}"}, "url", "refers to neither"),
        ({"type": "webhook", "url": "ftp://a.example.com/"}, "url", "is not a URL"),
        ({"type": "webhook", "url": "https://a.example.com/", "headers": {"X-Api-Key": "abc"}}, "headers", "secret"),
        ({"type": "webhok", "url": "https://a.example.com/"}, "", "did you mean `webhook`?"),
        ({"type": "webhook", "url": "https://a.example.com/", "timeout": "2m"}, "timeout", "less than or equal to 1m"),
        ({**MAIL, "to": []}, "to", "at least 1"),
        ({**MAIL, "to": ["b@example.com\r\nBcc: c@example.com"]}, "to[0]", "is not an e-mail address"),
        ({**MAIL, "user": "a"}, "", "together"),
        ({**MAIL, "user": "a", "password": "${env:PENSTOCK_SECRET_A}", "tls": "none"}, "", "in the clear"),
        ({**MAIL, "user": "a", "password": "pa55"}, "password", "is a literal secret"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_path(connection: dict[str, Any], path: str, what: str) -> None:
    with pytest.raises(InvalidDocument) as found:
        parse_connection("oncall", connection)
    (issue,) = found.value.issues
    assert (issue.path, what in issue.message) == (f"oncall.{path}".rstrip("."), True), issue


@pytest.mark.parametrize("tls", ["starttls", "tls", "none"])
def test_ports_of_mail_servers_are_the_usual_ones(tls: str) -> None:
    found = parse_connection("mail", {**MAIL, "tls": tls})
    assert getattr(found, "at_port") == {"starttls": 587, "tls": 465, "none": 25}[tls]  # noqa: B009 - of this type only


def test_a_route_is_named_once() -> None:
    policy = AgentPolicy.parse({"metadata": {"name": "p"}, "spec": {"monitor": {"routes": ["log", "log"]}}})
    (issue,) = contradictions(policy)
    assert issue.path == "spec.monitor.routes[1]"
