"""Streams from the command line while `penstock up` runs: begun, paused, changed, killed, and exact after all of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import psutil
import pytest

from api.starter import WAREHOUSE
from tests.api.project import Project, until
from tests.kafka import KafkaServer

pytestmark = pytest.mark.xdist_group("kafka")

_numbers = count(1)
STREAM = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  mode: stream
  source: {{connection: bus, object: {name}, format: {{type: jsonl, columns: {{id: bigint, name: text}}}}}}
  sink: {{connection: warehouse, object: public.{name}, write: append}}
  limits: {{linger: 20ms}}
  errors: {{retry: {{base: 200ms, max: 1s}}}}
"""


def ids(project: Project, name: str) -> list[int]:
    found = project.sql(WAREHOUSE, f"SELECT to_regclass('public.{name}')")
    if found[0][0] is None:
        return []
    return [row[0] for row in project.sql(WAREHOUSE, f"SELECT id FROM {name} ORDER BY ctid")]


def send(kafka: KafkaServer, name: str, *numbers: int) -> None:
    kafka.send(name, *(json.dumps({"id": one, "name": f"event {one}"}).encode() for one in numbers))


@pytest.fixture
def made(running: Project, kafka: KafkaServer, tmp_path: Path) -> Callable[[], str]:
    """Create a topic, and apply a stream of it; return the name of both."""

    def make() -> str:
        name = f"stream{next(_numbers)}"
        kafka.create(name)
        (tmp_path / "bus.yaml").write_text(f"bus: {{type: kafka, bootstrap: '{kafka.bootstrap}'}}\n")
        connections = running.folder / "connections.yaml"
        if "bus:" not in connections.read_text():
            connections.write_text(connections.read_text() + (tmp_path / "bus.yaml").read_text())
        (tmp_path / f"{name}.yaml").write_text(STREAM.format(name=name))
        running.done("apply", connections, tmp_path / f"{name}.yaml")
        return name

    return make


def status_of(project: Project, name: str) -> str:
    """Return the status of the newest run of a pipeline."""
    found = project.done("runs", name)
    return str(found[0]["status"]) if found else ""


def test_a_stream_runs_from_its_apply_on_and_is_shown(
    running: Project, made: Callable[[], str], kafka: KafkaServer
) -> None:
    name = made()
    send(kafka, name, *range(10))
    until(lambda: ids(running, name) == list(range(10)), "ten rows")
    assert status_of(running, name) == "running"
    until(lambda: (running.done("status", name)["stream"] or {}).get("watermark"), "the gauges")
    until(lambda: running.done("status", name)["stream"].get("behind") == 0, "the end of the topic")
    assert "0 messages behind, newest event" in running.do("status", name).out
    kept = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penstock:letters'"
    until(lambda: running.sql(WAREHOUSE, kept) == [(0,)], "no session with the catalog: many streams share its server")
    assert "event 9" in running.do("preview", name, "--rows", "2").out
    said = running.do("plan", name)
    assert said.code == 0, said.err
    assert f"{name}: append into public.{name}, rows as they come" in said.out


def test_a_paused_stream_a_new_version_and_a_drained_one_read_on(
    running: Project, made: Callable[[], str], kafka: KafkaServer, tmp_path: Path
) -> None:
    name = made()
    send(kafka, name, 1, 2)
    until(lambda: ids(running, name) == [1, 2], "two rows")
    running.done("pause", name)
    until(lambda: pids(running, name) == set(), "the end of the run")
    send(kafka, name, 3, 4)
    time.sleep(1)
    assert ids(running, name) == [1, 2]
    running.done("resume", name)
    until(lambda: ids(running, name) == [1, 2, 3, 4], "four rows")
    file = tmp_path / f"{name}.yaml"
    file.write_text(file.read_text() + "  transforms: [{name: even, filter: 'id % 2 = 0'}]\n")
    before = len(running.done("runs", name))
    running.done("apply", file)
    until(lambda: [one["status"] for one in running.done("runs", name)][:-before] == ["running"], "another run")
    assert running.done("runs", name)[1]["status"] == "stopped"
    send(kafka, name, 5, 6)
    until(lambda: ids(running, name) == [1, 2, 3, 4, 6], "the even one")
    send(kafka, name, *range(100, 300))
    running.done("drain", name)
    until(lambda: running.done("status", name)["pipeline"]["status"] == "paused", "the end of the drain")
    assert ids(running, name) == [1, 2, 3, 4, 6, *range(100, 300, 2)]
    assert status_of(running, name) == "completed"
    assert running.do("run", name, "--from", "nonsense").code == 2


def test_a_killed_stream_comes_back_exact(running: Project, made: Callable[[], str], kafka: KafkaServer) -> None:
    name = made()
    for begin in range(0, 50, 10):
        send(kafka, name, *range(begin, begin + 10))
        upto = begin + 10
        until(lambda: len(ids(running, name)) >= upto, f"{upto} rows")  # noqa: B023 - called before the loop goes on
        for pid in pids(running, name):
            psutil.Process(pid).kill()
    send(kafka, name, 50)
    until(lambda: ids(running, name) == list(range(51)), "all rows, once, in order")


def pids(project: Project, name: str) -> set[int]:
    """Return the processes of the open attempts of a pipeline."""
    events = project.do("events", "--since", "5m", "--type", "task.started", "--json").lines
    return {one["payload"]["pid"] for one in events if one["payload"].get("pipeline") == name and _alive(one)}


def _alive(event: dict[str, dict[str, int]]) -> bool:
    return psutil.pid_exists(event["payload"]["pid"])


def test_a_recreated_topic_fails_its_stream_and_the_error_says_how_to_restart_it(
    running: Project, made: Callable[[], str], kafka: KafkaServer
) -> None:
    name = made()
    send(kafka, name, 1, 2)
    until(lambda: ids(running, name) == [1, 2], "two rows")
    kafka.delete(name)
    kafka.create(name)
    until(lambda: status_of(running, name) == "failed", "a failed run")
    assert "was deleted and made again" in running.done("runs", name)[0]["error"]["what"]
    assert ids(running, name) == [1, 2]
    send(kafka, name, 7)
    refused = running.do("run", name, "--from", "earliest")
    assert refused.code == 1
    assert f"{name}/0 begins at offset 0 of another topic; it stood at 2 of the old one" in refused.err
    assert "note:" in running.do("run", name, "--from", "earliest", "--reset").out
    until(lambda: ids(running, name) == [1, 2, 7], "the new topic's row")
