"""Topics of users on the embedded log: made and filled by commands, and read by the example of a stream."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from api.demo.crash import process_of
from api.starter import WAREHOUSE
from dataflows.process.site import LOG, Site
from penstock.settings import load
from tests.api.project import Completed, Project, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "topics"
Append = Callable[..., Completed]


@pytest.fixture
def append(running: Project, monkeypatch: pytest.MonkeyPatch) -> Append:
    """Give bytes to `penstock topics append`."""

    def give(name: str, data: bytes, *options: str) -> Completed:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return running.do("topics", "append", name, *options)

    return give


def test_the_example_of_topics_survives_a_kill(running: Project, append: Append, tmp_path: Path) -> None:
    assert running.done("topics", "create", "order_events", "--partitions", "4", "--keep", "7d")["made"]
    connections = running.folder / "connections.yaml"
    (line,) = [one for one in (EXAMPLE / "connections.yaml").read_text().splitlines() if one.startswith("events:")]
    line = line.replace("host=localhost dbname=penstock_log user=penstock", running.server.dsn(LOG))
    connections.write_text(f"{connections.read_text()}{line}\n")
    running.done("apply", connections, EXAMPLE / "order_events.yaml")
    events = (EXAMPLE / "orders.jsonl").read_bytes()
    assert "6 events were appended to order_events." in append("order_events", events, "--key", "order_id").out

    def rows() -> list[tuple[object, ...]]:
        if running.sql(WAREHOUSE, "SELECT to_regclass('order_events')") == [(None,)]:
            return []
        return running.sql(WAREHOUSE, "SELECT order_id, status FROM order_events ORDER BY order_id, position")

    until(lambda: len(rows()) == 6, "the events")
    assert [status for order, status in rows() if order == 1] == ["PLACED", "PAID", "SHIPPED"]
    with Site(load(running.folder)) as site, site.open_log() as log:
        pid = process_of(log, running.done("runs", "order_events")[0]["id"])
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    more = b"".join(b'{"order_id": 9, "status": "s%d", "total": 1}\n' % one for one in range(500))
    append("order_events", more, "--key", "order_id")
    until(lambda: len(rows()) >= 506, "the events after the kill")
    assert [status for order, status in rows() if order == 9] == [f"S{one}" for one in range(500)]
    until(lambda: running.done("status", "order_events")["stream"].get("behind") == 0, "the end of the topic")
    shown = running.done("preview", "order_events", "--rows", "8")
    newest = [[row["status"] for row in step["rows"] if row["order_id"] == 9] for step in shown]
    assert newest == [["s498", "s499"], ["S498", "S499"]]
    running.done("delete", "order_events", "--yes")


def test_a_topic_is_made_once_and_listed(running: Project) -> None:
    made = running.do("topics", "create", "clicks", "--partitions", "2", "--keep", "12h")
    assert f'events: {{type: topics, dsn: "{running.server.dsn(LOG)}"}}' in made.out
    assert not running.done("topics", "create", "clicks", "--partitions", "2", "--keep", "12h")["made"]
    listed = [one for one in running.done("topics", "list") if one["topic"] == "clicks"]
    assert [(one["partition"], one["end"], one["kept"]) for one in listed] == [(0, 0, 43200.0), (1, 0, 43200.0)]
    for options, said in (
        (("clicks",), "is there already, with 2 partitions, kept 12h, not 1 partition, kept for good"),
        (("control",), "is a topic of Penstock's own"),
        (("Clicks!",), "is not a valid topic name"),
        (("more", "--keep", "soon"), "is not a duration"),
        (("more", "--keep", "0s"), "keeps nothing"),
        (("--keep", "7d"), "name the topic"),
    ):
        assert said in running.do("topics", "create", *options).error


def test_what_cannot_be_appended_is_named_by_its_line(running: Project, append: Append) -> None:
    running.done("topics", "create", "visits")
    refused = append("visits", b'{"id": 1}\n\n{"id": null}\nnot json\n{"id": 4}\n', "--key", "id")
    assert refused.error.startswith("error: line 4 of standard input: is not JSON")
    assert "2 events were appended to visits before that" in refused.err
    assert "has no column id" in append("visits", b"{}", "--key", "id").error
    assert "is not a JSON object" in append("visits", b"[1]").error
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("api.cli.appending.MAX_VALUE_BYTES", 1 << 20)
        long = b'{}\n"' + b"x" * (2 << 20)
        assert "line 2 of standard input: is longer than 1 MiB" in append("visits", long).error
    assert "did you mean `visits`?" in append("visit", b"").err
    assert "is a topic of Penstock's own" in append("control", b"{}").error
    assert "0 events were appended to visits." in append("visits", b"").out
    assert "1 event was appended to visits." in append("visits", b'{"id": "a"}', "--key", "id").out
    tailed = running.do("topics", "tail", "visits", "--json").lines
    expected = [(0, "1", {"id": 1}), (1, "", {"id": None}), (2, "", {}), (3, "a", {"id": "a"})]
    assert [(one["offset"], one["key"], one["value"]) for one in tailed] == expected


def test_a_copy_of_the_log_leaves_topics_of_users_where_they_are(project: Project) -> None:
    project.done("topics", "create", "clicks")
    with project.server.lease():
        project.server.create_database("copied")
        said = project.do("topics", "copy", "--to", project.server.dsn("copied")).out
        found = project.sql("copied", "SELECT DISTINCT topic FROM topics._counters ORDER BY topic")
    assert "Topics of your own stay where they are, and streams read them there: clicks." in said
    assert found == [("control",), ("metrics",)]
