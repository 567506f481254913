"""Errors by fingerprint, incidents, and connections that are held back, as records have left them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from api.cli.errors import error_lines
from catalog.faults import breakers, errors_of, faults, incidents, templates
from penstock.postgres import connect
from tests.agents.control_plane import ERROR, classified_as

DIAGNOSIS = {
    "cause": "server of sink house: no server listens",
    "confidence": 0.95,
    "hint": "start it",
    "checks": [{"what": "server of sink house", "found": "wrong", "evidence": "no server listens"}],
}


@pytest.fixture
def session(catalog: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(connect(catalog, "tests")) as made:
        yield made


def raised(fact: Any, id_: str, pipeline: str, minute: int = 0, **found: Any) -> Any:
    payload = {"source": "w", "pipeline": pipeline, "run": f"run of {id_}", "task": "t1", "attempt": 1, "error": ERROR}
    return fact("error.raised", payload | {"classified": classified_as("transient", **found)}, id=id_, minute=minute)


def test_errors_of_one_fingerprint_are_counted_together_with_what_was_found_and_done(
    fold: Any, fact: Any, session: psycopg.Connection[Any]
) -> None:
    fold(raised(fact, "e1", "orders"), raised(fact, "e2", "items", 1), raised(fact, "e3", "items", 2, fingerprint="f2"))
    found = {"raised": "e1", "task": "t1", "pipeline": "orders", "fingerprint": "f1"}
    fold(fact("error.diagnosed", found | {"diagnosis": DIAGNOSIS}))
    chosen = {**found, "attempt": 1, "action": "retry", "reason": "it may pass", "failures": 1}
    fold(fact("strategy.chosen", chosen))
    for outcome in ("resolved", "failed", "resolved"):
        ended = {"fingerprint": "f1", "pipeline": "orders", "action": "retry", "outcome": outcome}
        fold(fact("strategy.ended", ended))
    first, second = faults(session, None, 10)[::-1]
    assert (first.fingerprint, first.count, first.pipelines) == ("f1", 2, ["orders", "items"])
    assert first.outcomes == {"retry": {"resolved": 2, "failed": 1}}
    assert first.diagnosis is not None
    assert first.diagnosis["cause"] == DIAGNOSIS["cause"]
    assert (second.fingerprint, second.count) == ("f2", 1)
    assert [one.fingerprint for one in faults(session, "orders", 10)] == ["f1"]
    assert len(faults(session, "house", 10)) == 2, "by connection"
    (one,) = errors_of(session, "run of e1", 10)
    assert (one.strategy or {})["action"] == "retry"
    assert [error.id for error in errors_of(session, "f1", 10)] == ["e2", "e1"]
    (other,) = errors_of(session, "e2", 10)
    assert other.diagnosis == one.diagnosis, "of the same task and kind of error"
    assert templates(session, str(ERROR["code"])) == {"f1": "nothing answers", "f2": "nothing answers"}
    lines = list(error_lines({"held": [], "error": one, "incidents": []}, brief=False))
    assert [line.replace("[bold]", "").replace("[/bold]", "") for line in lines] == [
        "cause: server of sink house: no server listens",
        "what to do: start it",
        "  [red]wrong[/red] server of sink house: no server listens",
        "decided: retry: it may pass",
    ]


def test_an_incident_counts_its_repeats_until_it_is_closed(
    fold: Any, fact: Any, session: psycopg.Connection[Any]
) -> None:
    opened: dict[str, Any] = {
        "id": "i1",
        "fingerprint": "f1",
        "connection": "house",
        "kind": "transient",
        "what": "nothing answers",
    }
    opened |= {"proposals": [{"action": "retry", "confidence": 0.95, "what": "it may pass"}]}
    chosen = {"raised": "e1", "task": "t1", "pipeline": "orders", "attempt": 1, "fingerprint": "f1"}
    chosen |= {"action": "escalate", "reason": "no attempt is left", "incident": "i1"}
    fold(raised(fact, "e1", "orders"), fact("incident.opened", opened), fact("strategy.chosen", chosen))
    (one,) = incidents(session, "house")
    assert (one.id, one.repeats, one.pipeline) == ("i1", 1, None)
    assert faults(session, None, 1)[0].incidents == 1
    assert list(error_lines({"held": [], "error": None, "incidents": [one]}))[1] == (
        "  proposed: retry (0.95): it may pass"
    )
    fold(fact("incident.closed", {"id": "i1", "reason": "pipeline orders works"}))
    assert incidents(session) == []
    assert [one.reason for one in incidents(session, open_only=False)] == ["pipeline orders works"]


def test_connections_that_are_held_back_are_shown_until_they_are_let_go(
    fold: Any, fact: Any, session: psycopg.Connection[Any]
) -> None:
    held = {"connection": "house", "status": "open", "failures": 5, "reason": "5 failures in a row: nothing answers"}
    fold(fact("breaker.changed", held | {"until": "2026-01-01T00:00:30Z"}))
    (one,) = breakers(session, ["house", "shop"])
    (line,) = error_lines({"held": [one], "error": None, "incidents": []})
    assert "connection house is held back until 00:00:30 UTC" in line
    fold(fact("breaker.changed", held | {"status": "closed", "failures": 0}))
    assert breakers(session, ["house"]) == []


def test_what_is_about_an_error_or_incident_that_is_not_there_leaves_no_trace(
    fold: Any, fact: Any, session: psycopg.Connection[Any]
) -> None:
    about = {"raised": "e9", "task": "t1", "pipeline": "orders", "fingerprint": "f9"}
    fold(
        fact("error.diagnosed", about | {"diagnosis": DIAGNOSIS}),
        fact("strategy.chosen", about | {"attempt": 1, "action": "escalate", "reason": "x", "incident": "i9"}),
        fact("strategy.ended", {"fingerprint": "f9", "pipeline": "o", "action": "retry", "outcome": "failed"}),
        fact("incident.closed", {"id": "i9", "reason": "x"}),
    )
    for table in ("errors", "faults", "incidents"):
        assert session.execute(f"SELECT count(*) FROM catalog.{table}").fetchone() == (0,)
