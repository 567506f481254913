"""Streams from Kinesis to PostgreSQL: exact through kills, in the order of each key while shards change."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflows.connectors.kinesis.positions import Position
from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import AccessDenied, Refused
from tests.dataflows.connectors.kinesis.conftest import FIRST, FORM, Shards

pytestmark = pytest.mark.xdist_group("kinesis")

KILLS = ("prepare.planned", "read.block", "commit.mid_copy", "commit.before_fence", "commit.sent")
FIELDS = [{"target": "id", "from": "id"}, {"target": "k", "from": "_key"}, {"target": "shard", "from": "_shard"}]


def stopped(made: Shards, task: dict[str, object], rows: int) -> dict[str, object]:
    """Run until the target has so many rows, then stop; return the result."""
    assert made.launchers is not None
    pid = made.launchers.start(task)
    made.until(rows)
    os.kill(pid, signal.SIGTERM)
    return made.launchers.ended(pid, task)


def test_five_kills_lose_and_double_nothing(stream: Callable[..., Shards]) -> None:
    made = stream(2)
    assert made.launchers is not None
    sent = 0
    for attempt, point in enumerate(KILLS, 1):
        for shard in (FIRST, "shardId-000000000001"):
            made.send(*range(sent, sent + 20), shard=shard)
            sent += 20
        assert made.launchers.run(made.task(attempt=attempt), f"{point}=kill") == {"killed": 9}
    made.send(*range(sent, sent + 20), shard=FIRST)
    sent += 20
    ended = stopped(made, made.task(attempt=9), sent)
    assert ended["error"]["what"] == "the run was asked to stop"  # type: ignore[index]
    ids = [one for (one,) in made.rows()]
    assert sorted(ids) == list(range(sent))
    for half in (0, 1):
        part = [one for one in ids if one // 20 % 2 == half]
        assert part == sorted(part)
    stands = made.query(f"SELECT position FROM w._penstock_offsets WHERE pipeline = '{made.uid}' ORDER BY part")
    assert [int(Position.parse(text).sequence or 0) > 2**128 for (text,) in stands] == [True, True]


def test_each_key_keeps_its_order_while_shards_are_split_and_merged(stream: Callable[..., Shards]) -> None:
    made = stream()
    assert made.launchers is not None
    source = {"connection": "bus", "object": made.stream, "format": FORM}
    task = made.task(source=source, mapping={"fields": FIELDS}) | {"drain": str(made.folder / "drain")}
    pid = made.launchers.start(task)
    keys, sent = [f"key-{one}" for one in range(6)], 0

    def send() -> None:
        nonlocal sent
        for key in keys:
            made.send(*range(sent, sent + 5), key=key)
        sent += 5

    send()
    made.split()
    send()
    send()
    made.until(1)
    made.kinesis.merge(made.stream, "shardId-000000000001", "shardId-000000000002")
    send()
    made.split("shardId-000000000003")
    send()
    Path(task["drain"]).touch()
    ended = made.launchers.ended(pid, task)
    assert (ended["status"], ended["counters"]["rows_out"]) == ("completed", sent * len(keys))
    rows = made.rows("id, k, shard")
    for key in keys:
        assert [one for one, k, _ in rows if k == key] == list(range(sent)), key
    assert len({shard for *_, shard in rows}) >= 4


def test_dead_letters_say_which_record(stream: Callable[..., Shards]) -> None:
    made = stream()
    assert made.launchers is not None
    made.send(1)
    made.kinesis.send(made.stream, b"no JSON", b'{"id": "x"}', b"")
    made.send(2)
    task = made.task(errors={"dead_letter": {"fail_above": 1.0}}) | {"drain": str(made.folder / "drain")}
    Path(task["drain"]).touch()
    ended = made.launchers.run(task)
    assert ended["counters"]["rows_out"] == 2, ended
    assert ended["counters"]["dead"] == 3


def test_plan_refuses_by_name(stream: Callable[..., Shards]) -> None:
    made = stream()
    made.send(1)
    what = "User: x is not authorized to perform: kinesis:GetRecords on resource: r"
    made.kinesis.ask(do="fault", action="GetRecords", answer={"__type": "AccessDeniedException", "Message": what})
    with (
        opened(job := Job.from_task(made.task(), secrets=made.folder)) as ends,
        pytest.raises(AccessDenied, match="not kinesis:GetRecords"),
    ):
        plan(job, ends)
    made.kinesis.ask(do="well")
    with opened(job) as ends:
        assert plan(job, ends)["target"] == made.target
    with pytest.raises(Refused, match="mode: stream"):
        Job.from_task(made.task(mode="batch"))
