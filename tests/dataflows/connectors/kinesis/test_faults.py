"""A stream of Kinesis under load, whose process is killed and whose shards change at random moments."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tests.dataflows.conftest import result
from tests.dataflows.connectors.kinesis.conftest import FORM, Shards
from tests.dataflows.connectors.kinesis.test_streams import FIELDS

pytestmark = pytest.mark.xdist_group("kinesis")

KEYS = 12
LONG = (pytest.mark.chaos, pytest.mark.timeout(1800))
THROTTLE = {"__type": "ProvisionedThroughputExceededException", "message": "Rate exceeded"}
EXPIRED = {"__type": "ExpiredIteratorException", "message": "Iterator expired"}


class Load(threading.Thread):
    """Sends the next number to each key in turn, about 100 a second."""

    def __init__(self, made: Shards) -> None:
        super().__init__(name="load", daemon=True)
        self.made, self.over, self.sent = made, threading.Event(), 0

    def stop(self) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(0.1):
            for key in range(KEYS):
                self.made.send(self.sent, key=f"key-{key}")
            self.sent += 1


def reshard(made: Shards, chance: random.Random) -> None:
    """Split a shard, or merge two neighbours."""
    places = {
        name: (int(one["HashKeyRange"]["StartingHashKey"]), int(one["HashKeyRange"]["EndingHashKey"]))
        for name, one in made.kinesis.shards(made.stream).items()
        if "EndingSequenceNumber" not in one["SequenceNumberRange"]
    }
    following = {low: name for name, (low, _) in places.items()}
    pairs = [(name, following[high + 1]) for name, (_, high) in places.items() if high + 1 in following]
    if len(places) < 2 or (len(places) < 6 and chance.random() < 0.5):
        made.split(chance.choice(sorted(places)))
    else:
        made.kinesis.merge(made.stream, *chance.choice(sorted(pairs)))


@pytest.mark.parametrize("seconds", [pytest.param(90, marks=LONG)])
@pytest.mark.parametrize("seed", [pytest.param(one, marks=LONG) for one in (1, 2)])
def test_random_kills_and_reshardings_lose_double_and_mix_up_nothing(
    stream: Callable[..., Shards], request: pytest.FixtureRequest, seconds: int, seed: int
) -> None:
    made, chance, attempts = stream(), random.Random(seed), count(1)
    assert made.launchers is not None
    source = {"connection": "bus", "object": made.stream, "format": FORM}
    load = Load(made)
    request.addfinalizer(load.stop)
    load.start()
    end, kills = time.monotonic() + seconds, 0
    while True:
        task = made.task(attempt=next(attempts), source=source, mapping={"fields": FIELDS})
        task |= {"drain": str(made.folder / "drain")}
        pid = made.launchers.start(task)
        if time.monotonic() > end:
            break
        time.sleep(chance.uniform(1, 4))
        reshard(made, chance)
        made.kinesis.ask(do="fault", action="GetRecords", answer=chance.choice([THROTTLE, EXPIRED, "empty"]), times=3)
        time.sleep(chance.uniform(0, 2))
        os.kill(pid, signal.SIGKILL)
        if (end_of := made.launchers.wait(pid)) != {"code": -9}:
            pytest.fail(f"a run failed: {result(task)}: {end_of}")
        made.kinesis.ask(do="well")
        kills += 1
    load.stop()
    made.kinesis.ask(do="well")
    Path(task["drain"]).touch()
    ended = made.launchers.ended(pid, task)
    assert ended["status"] == "completed", ended
    rows = made.rows("id, k, shard")
    for key in range(KEYS):
        assert [one for one, k, _ in rows if k == f"key-{key}"] == list(range(load.sent))
    assert kills >= seconds // 10
    assert len({shard for *_, shard in rows}) > 4
