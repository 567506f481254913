"""Lineage sent to a receiver of OpenLineage: real runs, a real HTTP server, which is away or refuses."""

from __future__ import annotations

import dataclasses
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from api.starter import WAREHOUSE
from catalog.openlineage import named
from dataflows.process.site import Site
from dataflows.runtime.flows import run_flows
from penstock import postgres
from penstock.errors import SettingsError
from penstock.models import DatasetRef
from penstock.settings import load
from tests.api.conftest import Make
from tests.api.project import Project, until


class Receiver(ThreadingHTTPServer):
    """Takes events, and answers each with the next of the `answers` for its job, then with 201."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.answers: dict[str, list[int]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/v1/lineage"

    def of(self, job: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["job"]["name"] == job]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answers = self.server.answers.get(document["job"]["name"])
        answer = answers.pop(0) if answers else 201
        if answer < 300:
            self.server.events.append(document)
        self.server.keys.add(self.headers["authorization"])
        self.send_response(answer)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def sending(project: Project, url: str, key: str = "") -> Iterator[Callable[[], None]]:
    """Run the lineage flow over the log of a project that is up; yield a wait until it is as far as the catalog."""
    settings = dataclasses.replace(load(project.folder), openlineage=url, openlineage_key=key)
    stop, failed = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            with Site(settings) as site:
                run_flows(["openlineage"], site, stop)
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with Site(settings) as site, postgres.connect(site.catalog_dsn, "test") as session:
            begun = "SELECT FROM ops.settings WHERE name = 'openlineage'"
            until(lambda: session.execute(begun).fetchone() is not None or failed, "the flow to begin")

            def caught_up() -> None:
                (end,) = session.execute("SELECT next FROM catalog.position WHERE id = 'control'").fetchone() or (0,)
                far = "SELECT FROM ops.settings WHERE name = 'openlineage' AND (value ->> 'next')::bigint >= %s"
                until(lambda: session.execute(far, [end]).fetchone() is not None or failed, "the flow to catch up")

            yield caught_up
    finally:
        stop.set()
        thread.join()
    assert failed == []


def test_the_start_and_the_end_of_a_run_are_sent(
    running: Project, receiver: Receiver, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_OPENLINEAGE_KEY", "token-1")
    made("sent")
    with sending(running, receiver.url, "${env:PENSTOCK_SECRET_OPENLINEAGE_KEY}"):
        running.done("run", "sent", "--watch")
        until(lambda: len(receiver.of("sent")) == 2, "both events")
    start, end = receiver.of("sent")
    assert receiver.keys == {"Bearer token-1"}
    assert [start["eventType"], end["eventType"]] == ["START", "COMPLETE"]
    assert datetime.fromisoformat(start["eventTime"]) < datetime.fromisoformat(end["eventTime"])
    assert uuid.UUID(start["run"]["runId"]) == uuid.UUID(end["run"]["runId"])
    (read,), (written,) = end["inputs"], end["outputs"]
    assert read["name"] == "sample_shop.public.orders"
    assert written["name"] == "sample_warehouse.public.sent"
    assert read["namespace"] == written["namespace"]
    assert read["namespace"].startswith("postgres://")
    columns = {one["name"] for one in read["facets"]["schema"]["fields"]}
    for origins in written["facets"]["columnLineage"]["fields"].values():
        assert {one["field"] for one in origins["inputFields"]} <= columns
    rows = running.sql(WAREHOUSE, "SELECT count(*) FROM sent")[0][0]
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == rows > 0
    for facets in (end["run"]["facets"], end["job"]["facets"], read["facets"], written["facets"]):
        for facet in facets.values():
            assert facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/")
            assert facet["_producer"].startswith("urn:penstock:")


def test_a_receiver_that_is_away_gets_every_event_once_it_is_back(
    running: Project, receiver: Receiver, made: Make
) -> None:
    receiver.answers["away"] = [503, 401, 429, 201, 422]
    made("away")
    with sending(running, receiver.url) as caught_up:
        running.done("run", "away", "--watch")
        until(lambda: not receiver.answers["away"], "the answers")
        caught_up()  # what ends before its position is stored is sent again
    assert [one["eventType"] for one in receiver.of("away")] == ["START"], "what is refused is left out"
    found = running.done("errors", "--incidents", "--all")
    (one,) = [one for one in found if one["incident"].get("component") == "openlineage"]
    assert one["reason"] == "openlineage works again"
    assert "answers (401) Unauthorized" in one["what"], "503 may pass"
    kinds = [fault["kind"] for fault in running.done("errors") if "lineage is not sent" in fault["error"]["what"]]
    assert sorted(kinds) == ["permission", "transient", "transient"], "each kind of error once"
    running.done("run", "away", "--watch")
    with sending(running, receiver.url):
        until(lambda: len(receiver.of("away")) == 3, "the events of the time between")
    assert [one["eventType"] for one in receiver.of("away")] == ["START", "START", "COMPLETE"]


def test_the_failure_of_a_run_is_sent_without_values(running: Project, receiver: Receiver, made: Make) -> None:
    made("failing")
    running.sql(WAREHOUSE, "DROP TABLE failing; CREATE TABLE failing (other int)")
    with sending(running, receiver.url):
        running.do("run", "failing", "--watch")
        until(lambda: len(receiver.of("failing")) == 2, "both events")
    end = receiver.of("failing")[-1]
    assert end["eventType"] == "FAIL"
    assert end["run"]["facets"]["errorMessage"]["programmingLanguage"] == "python"


@pytest.mark.parametrize(
    ("connection", "object_", "expected"),
    [
        ({"type": "postgres", "dsn": "postgresql://u@db:5433/shop"}, "a.t", ("postgres://db:5433", "shop.a.t")),
        ({"type": "postgres", "dsn": "postgresql://u@db/shop"}, "t", ("postgres://db:5432", "shop.public.t")),
        ({"type": "postgres", "dsn": "${env:PENSTOCK_SECRET_DSN}"}, "t", ("penstock://a", "t")),
        ({"type": "postgres", "dsn": "host=${env:PENSTOCK_SECRET_H} dbname=x"}, "t", ("penstock://a", "t")),
        ({"type": "mariadb", "host": "db", "database": "shop"}, "t", ("mysql://db:3306", "shop.t")),
        ({"type": "mysql", "socket": "/run/my.sock"}, "shop.t", ("penstock://a", "shop.t")),
        ({"type": "kafka", "bootstrap": "k1:9092, k2:9092"}, "orders", ("kafka://k1:9092", "orders")),
        ({"type": "s3", "url": "s3://lake/raw/"}, "orders/*.csv", ("s3://lake", "raw/orders/*.csv")),
        ({"type": "files", "root": "/data"}, "orders/*.csv", ("file", "/data/orders/*.csv")),
        ({"type": "duckdb", "path": "/data/a.duckdb"}, "main.t", ("duckdb:///data/a.duckdb", "main.t")),
        ({"type": "kinesis", "region": "eu-west-1"}, "orders", ("kinesis://eu-west-1", "orders")),
        ({"type": "topics", "dsn": "postgresql://u@db/shop"}, "events", ("penstock://a", "events")),
        ({"type": "http", "url": "https://api"}, "orders", ("penstock://a", "orders")),
    ],
)
def test_datasets_have_the_names_that_other_tools_give_them(
    connection: dict[str, Any], object_: str, expected: tuple[str, str]
) -> None:
    found = named(DatasetRef(connection="a", object=object_), {"a": connection})
    assert (found["namespace"], found["name"]) == expected


def test_without_a_receiver_the_flow_is_refused(running: Project) -> None:
    with Site(load(running.folder)) as site, pytest.raises(SettingsError, match="no receiver of lineage"):
        run_flows(["openlineage"], site, threading.Event())


@pytest.mark.parametrize("url", ["lineage.example.org", "https://u:p@host/x", "ftp://host/x"])
def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="must be a URL without a login"):
        load(tmp_path, {"PENSTOCK_OPENLINEAGE": url})
