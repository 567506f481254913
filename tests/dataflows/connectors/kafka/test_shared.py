"""One stream over several processes: the same rows in the same order, through kills, and when their number changes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.cimpl import NewPartitions

from dataflows.connectors.streaming import Share
from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import Refused
from tests.dataflows.connectors.kafka.conftest import LAKES, WAIT, Stream
from tests.dataflows.connectors.kafka.test_faults import LONG, Faulted, Load, faulted
from tests.dataflows.connectors.kafka.test_streams import letters_of

pytestmark = pytest.mark.xdist_group("kafka")

PARTITIONS = 8
EACH = 50
CHECKSUM = "SELECT count(*), sum(hashtext(id::text || name)) FROM {}"


def processes(pid: int) -> list[psutil.Process]:
    """Return the processes of a stream, without the first one, which reads nothing."""
    return psutil.Process(pid).children()


def in_processes(workers: int) -> dict[str, Any]:
    """Return the change of a pipeline that runs in so many processes."""
    return {"limits": {"linger": "20ms", "workers": workers}}


def filled(stream: Callable[..., Stream]) -> Stream:
    """Return a stream from a topic with messages in each of its partitions."""
    made = stream(partitions=PARTITIONS)
    for part in range(PARTITIONS):
        made.send(*range(part * 1000, part * 1000 + EACH), partition=part)
    return made


def drained(made: Stream, workers: int) -> list[tuple[Any, ...]]:
    """Read all messages in so many processes into an empty target; return the ids of each partition in order."""
    made.rows(f"DROP TABLE IF EXISTS {made.target}")
    made.rows(f"CREATE TABLE {made.target} (id bigint, name text, seq bigserial)")
    task = made.task(f"r{workers}", **in_processes(workers))
    task |= {"drain": str(made.folder / "drain"), "begin": {"from": "earliest", "reset": True}}
    Path(task["drain"]).touch()
    ended = made.launchers.run(task)
    assert (ended["status"], ended["error"]) == ("completed", None)
    assert ended["counters"]["rows_out"] == PARTITIONS * EACH
    query = f"SELECT array_agg(id ORDER BY seq) FROM {made.target} GROUP BY id / 1000 ORDER BY id / 1000"
    return [*made.rows(query), *made.rows(CHECKSUM.format(made.target))]


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_each_number_of_processes_gives_the_same_result(stream: Callable[..., Stream]) -> None:
    made = filled(stream)
    found = [drained(made, workers) for workers in (1, 2, 4, 8, 16)]
    assert found[0][0] == (list(range(EACH)),)
    assert all(one == found[0] for one in found)


def kill_one(one: Faulted) -> None:
    """Kill one process of the stream; the whole attempt ends, and is tried again."""
    with suppress(psutil.Error, IndexError):
        os.kill(one.chance.choice(processes(one.pid)).pid, signal.SIGKILL)


def rescale(one: Faulted, workers: int) -> None:
    """Suspend all processes, go on with another number of them, and wake the old ones after that has written."""
    zombies = [one.pid, *(each.pid for each in processes(one.pid))]
    for pid in zombies:
        os.kill(pid, signal.SIGSTOP)
    old = one.pid
    one.changes = in_processes(workers)
    before = one.made.count()
    one.start()
    end = time.monotonic() + WAIT
    while one.made.count() == before:
        one.keep_running()
        assert time.monotonic() < end
    for pid in zombies:
        with suppress(ProcessLookupError):  # its attempt was just failing
            os.kill(pid, signal.SIGCONT)
    one.old.append(old)


def until_written(one: Faulted, more: int = 200) -> None:
    """Let it run until it has written more rows."""
    goal, end = one.made.count() + more, time.monotonic() + WAIT
    while one.made.count() < goal:
        one.keep_running()
        assert time.monotonic() < end


@pytest.mark.parametrize(
    "steps", [(4, "rescale", 2, "kill", 1), pytest.param((4, *("rescale", 2, "kill", 1, "rescale", 4) * 7), marks=LONG)]
)
def test_a_stream_is_rescaled_and_its_processes_killed(
    stream: Callable[..., Stream], steps: tuple[Any, ...], record_property: Callable[[str, object], None]
) -> None:
    """After a kill the next attempt has another number of processes; in between more of them are killed."""
    made = stream(partitions=PARTITIONS)
    load = Load(made.kafka.bootstrap, made.topic, partitions=PARTITIONS)
    one = faulted(made, load)
    one.changes = in_processes(steps[0])
    load.start()
    one.start()
    until_written(one)
    for how, workers in zip(steps[1::2], steps[2::2], strict=True):
        if how == "rescale":
            rescale(one, workers)
        else:
            for _ in range(len(steps) // 20):
                kill_one(one)
                until_written(one)
            one.changes = in_processes(workers)
            kill_one(one)
        until_written(one)
    one.drained()
    found = one.counted()
    record_property("faults", {"fault": "process killed, rescaled", "events": load.sent, **found})
    assert found == {"lost": 0, "doubled": 0, "out of order": 0}
    assert one.made.rows(f"SELECT sum(id) FROM {made.target}") == [(load.sent * (load.sent - 1) // 2,)]


def test_a_stream_of_several_processes_is_one_and_stops_at_once(stream: Callable[..., Stream]) -> None:
    """Its dead letters count together, its gauges are merged, and a new partition is read by one process."""
    made = filled(stream)
    made.kafka.send(made.topic, b"nonsense", partition=3)
    rules = {"dead_letter": {"fail_above": 0.5}}
    task = made.task(errors=rules, **in_processes(2))
    pid = made.launchers.start(task)
    made.until(PARTITIONS * EACH)
    assert len(processes(pid)) == 2
    admin = made.kafka.admin()
    admin.create_partitions([NewPartitions(made.topic, PARTITIONS + 1)])[made.topic].result(WAIT)
    made.send(8000, partition=PARTITIONS)
    made.until(PARTITIONS * EACH + 1)
    end = time.monotonic() + 8
    while (line := lines_of(task)[-1])["stream"]["behind"] != 0 or len(line["stream"]["behind_parts"]) <= PARTITIONS:
        assert time.monotonic() < end, line["stream"]
        time.sleep(0.1)
    begin = time.monotonic()
    stopped = made.stop(pid, task)
    assert time.monotonic() - begin < 4  # half a second, if no other tests run
    assert stopped["error"]["what"] == "the run was asked to stop"
    assert (stopped["counters"]["rows_out"], stopped["counters"]["dead"]) == (PARTITIONS * EACH + 1, 1)
    assert (line["rows_out"], line["dead"], line["stream"]["bottleneck"]) == (PARTITIONS * EACH + 1, 1, None)
    assert line["stream"]["watermark"] is not None
    assert sorted(made.ids()) == sorted([*(part * 1000 + one for part in range(8) for one in range(EACH)), 8000])


def lines_of(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the progress that a run has reported."""
    lines = Path(task["result"] + ".log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_killed_processes_keep_each_dead_letter_once(stream: Callable[..., Stream]) -> None:
    made = stream(partitions=2)
    rules = {"dead_letter": {"fail_above": 1}}
    for part in (0, 1):
        made.send(part, partition=part)
        made.kafka.send(made.topic, f"bad {part}".encode(), partition=part)
    failed = made.launchers.run(made.task(errors=rules, **in_processes(2)), "commit.before_fence=kill")
    assert failed["error"]["what"] in {f"process {number} of the run died" for number in (0, 1)}
    task = made.task(attempt=2, errors=rules, **in_processes(2)) | {"drain": str(made.folder / "drain")}
    Path(task["drain"]).touch()
    ended = made.launchers.run(task)
    assert (ended["status"], ended["counters"]["rows_out"], ended["counters"]["dead"]) == ("completed", 2, 2)
    assert sorted(made.ids()) == [0, 1]
    assert sorted(letters_of(made)) == [("malformed", "bad 0"), ("malformed", "bad 1")]


def test_each_partition_is_read_by_one_process() -> None:
    for of in range(1, 9):
        shares = [Share(number, of) for number in range(of)]
        assert all(sum(part in share for share in shares) == 1 for part in range(100))


def planned(made: Stream, **changes: Any) -> dict[str, Any]:
    job = Job.from_task(made.task(limits={"workers": 4}, **changes), secrets=made.folder)
    with opened(job) as ends:
        return plan(job, ends)


def test_a_topic_with_fewer_partitions_has_as_many_processes(stream: Callable[..., Stream]) -> None:
    made = stream(partitions=2)
    made.send(1)
    made.send(2, partition=1)
    [note] = planned(made)["notes"]
    assert note == f"{made.topic}: its 2 partitions are read by as many processes, in place of 4"


@pytest.mark.parametrize("into", [name for name in LAKES if name != "mysql"])
def test_a_sink_that_one_process_writes_is_refused_by_name(stream: Callable[..., Stream], into: str) -> None:
    made = stream(partitions=2, into=into)
    made.send(1)
    with pytest.raises(Refused, match=f"written to {into} by one process") as refused:
        planned(made)
    assert refused.value.where == "items: spec.limits.workers"


@pytest.mark.chaos
def test_several_processes_write_to_mysql(stream: Callable[..., Stream]) -> None:
    made = stream(partitions=2, into="mysql")
    for attempt, workers in enumerate((2, 1, 2)):
        made.send(*range(attempt * 10, attempt * 10 + 10))
        made.send(*range(100 + attempt, 101 + attempt), partition=1)
        made.taken(attempt * 11 + 11, attempt=attempt + 1, **in_processes(workers))
    assert sorted(made.ids()) == [*range(30), 100, 101, 102]
