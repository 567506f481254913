"""The flows with their topics on Kafka: the same promises, whatever dies."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock.topics.table import CONTROL
from tests.agents.control_plane import pipeline
from tests.agents.control_plane import postgres as connection
from tests.dataflows.flows.installation import (
    ForkServer,
    Installation,
    Load,
    kill_again_and_again,
    take_lock_from,
    until,
)
from tests.kafka import KafkaServer
from tests.reaper import short_folder

pytestmark = pytest.mark.xdist_group("kafka-log")
BRAIN = ("control", "projector", "scheduler")
_prefixes = itertools.count(1)


@pytest.fixture
def busy(
    fresh: Callable[..., str], tmp_path: Path, fork_server: ForkServer, kafka: KafkaServer
) -> Iterator[Installation]:
    """An installation on Kafka with commands on the log that create connections and the pipelines p0 to p2."""
    url = f"kafka://{kafka.bootstrap}?prefix=flows{next(_prefixes)}.&replication=1"
    installation = Installation(tmp_path, fresh(catalog=True), url, fork_server)
    for name in ("shop", "house"):
        installation.send("connection.put", name=name, connection=connection(name))
    for number in range(3):
        installation.send("pipeline.apply", pipeline=pipeline(f"p{number}"))
    yield installation
    installation.close()


def test_commands_are_answered_and_seen_in_the_catalog(busy: Installation, fresh: Callable[..., str]) -> None:
    flow = busy.spawn("control", "projector", "scheduler")
    busy.done("pipeline.pause", name="p1")
    busy.all_answered()
    busy.projected()
    assert busy.catalog("SELECT name, status, version FROM catalog.pipelines ORDER BY name") == [
        ("p0", "active", 1),
        ("p1", "paused", 1),
        ("p2", "active", 1),
    ]
    busy.check_answers()
    busy.check_catalog(fresh(catalog=True))
    flow.send(signal.SIGTERM)
    assert flow.ended() == 0, flow.said


def test_three_kills_under_load_answer_every_command_exactly_once(busy: Installation) -> None:
    kill_again_and_again(busy, times=3, rate=50, seed=1)


@pytest.mark.chaos
def test_fifty_kills_under_load_answer_every_command_exactly_once(busy: Installation) -> None:
    kill_again_and_again(busy, times=50, rate=50, seed=2)


@pytest.fixture
def own() -> Iterator[KafkaServer]:
    """A broker that a test may kill."""
    server = KafkaServer(short_folder())
    server.make()
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.home)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.chaos)])
def test_a_broker_killed_under_load_loses_and_doubles_no_answer(
    own: KafkaServer, fresh: Callable[..., str], tmp_path: Path, fork_server: ForkServer, times: int
) -> None:
    url = f"kafka://{own.bootstrap}?replication=1"
    with closing(Installation(tmp_path, fresh(catalog=True), url, fork_server)) as busy:
        for name in ("shop", "house"):
            busy.send("connection.put", name=name, connection=connection(name))
        for number in range(3):
            busy.send("pipeline.apply", pipeline=pipeline(f"p{number}"))
        flow = busy.start("control", "projector")
        load = Load(busy, rate=40)
        load.start()
        for _ in range(times):
            busy.loaded(30)
            own.kill()
            own.start()
        busy.loaded(30)
        load.stop()
        busy.all_answered()
        busy.projected()
        busy.check_answers()
        busy.check_catalog(fresh(catalog=True))
        assert flow.running, "it waited for the broker"


def test_of_two_concurrent_brains_only_the_later_counts(busy: Installation) -> None:
    first = busy.start("control")
    busy.all_answered()
    first.send(signal.SIGSTOP)
    waiting = [busy.send("pipeline.pause", name="p0")]
    take_lock_from(busy, "control")
    second = busy.start("control")
    until(lambda: busy.brains() == 2, "the second brain")
    waiting.append(busy.send("pipeline.resume", name="p0"))
    busy.all_answered()
    first.send(signal.SIGCONT)
    waiting.append(busy.send("pipeline.pause", name="p0"))
    assert first.ended() == 1, first.said
    busy.all_answered()
    later = max(offset for offset, record in enumerate(busy.records()) if record.type == "brain.started")
    assert {busy.answers()[id_][0].brain for id_ in waiting} == {later}
    busy.check_answers()
    assert second.running


def test_a_standby_takes_over_the_moment_the_active_one_dies(busy: Installation) -> None:
    first = busy.start("control", "projector")
    busy.all_answered()
    busy.start("control", "projector")
    busy.done("pipeline.pause", name="p0")
    assert busy.brains() == 1
    first.kill()
    busy.done("pipeline.resume", name="p0")
    busy.all_answered()
    busy.projected()
    assert busy.brains() == 2
    busy.check_answers()
    assert busy.log.end(CONTROL, 0) == len(busy.records())


@pytest.mark.parametrize(
    ("names", "lost"),
    [
        pytest.param(BRAIN, "penstock:%", marks=pytest.mark.chaos),
        (BRAIN, "penstock:control"),
        pytest.param(BRAIN, "penstock:projector", marks=pytest.mark.chaos),
        pytest.param(BRAIN, "penstock:scheduler", marks=pytest.mark.chaos),
        (("worker",), "penstock:worker-%"),
    ],
    ids=lambda one: one if isinstance(one, str) else "+".join(one),
)
def test_a_lost_session_of_the_locks_ends_the_flow_with_one_line(
    busy: Installation, names: tuple[str, ...], lost: str
) -> None:
    flow = busy.start(*names)
    if names == BRAIN:
        busy.all_answered()
        busy.projected()
    else:
        until(lambda: _end(busy, "penstock:nothing", lost), "its lock")
        busy.start(*BRAIN)
        busy.all_answered()
    assert _end(busy, lost)
    if names == BRAIN:
        busy.send("pipeline.pause", name="p0")
    assert flow.ended() == 1
    (line,) = [line for line in flow.said.splitlines() if line.strip()]
    assert "ERROR" in line
    assert "unavailable" in line or "fenced" in line


def _end(busy: Installation, name: str, there: str = "") -> int:
    """End the sessions of that name in the catalog's database; return their number and that of those of `there`."""
    query = (
        "SELECT count(*) FILTER (WHERE application_name LIKE %s AND pg_terminate_backend(pid)"
        " OR application_name LIKE %s) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name <> 'penstock:tests' AND pid <> pg_backend_pid()"
    )
    ((count,),) = busy.catalog(query, name, there)
    return int(count)
