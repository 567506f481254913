"""What a stream shows of itself: rows/s, lag, watermark, latencies, and what holds it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from api.cli.gauges import percentile, shown
from dataflows.data.movement import SINK, SOURCE, Movement
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from dataflows.runs import gauges as module
from dataflows.runs.gauges import Gauges, measuring
from penstock.clock import now
from penstock.errors import Unreachable
from penstock.records.execution import LATENCIES, StreamProgress


def split(number: int, *, oldest: float, newest: float) -> Split:
    """Return a split whose events happened so many seconds ago."""
    at = now().timestamp()
    move = Move("t/0", str(number - 1), str(number))
    return Split(number, moves=(move,), times=(at - oldest, at - newest))


def test_rows_are_counted_by_their_time_from_event_to_commit() -> None:
    gauges = Gauges(Movement())
    gauges.committed(split(1, oldest=0.9, newest=0.6), 100)
    gauges.committed(split(2, oldest=400, newest=400), 7)
    gauges.committed(split(3, oldest=2.0, newest=0.5), 30)
    counts = dict(zip((*LATENCIES, None), gauges.as_dict()["latencies"], strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {1.0: 110, 2.5: 20, None: 7}
    assert percentile(list(counts.values()), 0.5) == 1.0
    assert percentile(list(counts.values()), 0.9) == 2.5
    assert percentile(list(counts.values()), 0.99) is None


def test_all_latencies_of_an_attempt_add_up() -> None:
    gauges = Gauges(Movement())
    gauges.committed(split(1, oldest=0.9, newest=0.6), 100)
    gauges.committed(split(2, oldest=400, newest=400), 7)
    gauges.committed(Split(3, moves=split(3, oldest=0, newest=0).moves), 50)
    found = gauges.as_dict()
    assert sum(found["latency_parts"].values()) == 107, "of the others no time is known"
    assert found["latency_seconds"] == pytest.approx(100 * 0.75 + 7 * 400, rel=0.01)


def test_the_watermark_is_the_newest_event_that_is_committed_and_never_goes_back() -> None:
    gauges = Gauges(Movement())
    assert gauges.as_dict()["watermark"] is None
    first, second = split(1, oldest=5, newest=3), split(2, oldest=60, newest=50)
    assert first.times is not None
    gauges = Gauges(Movement())
    for one in (first, second):
        gauges.committed(one, 1)
    assert gauges.as_dict()["watermark"][:19] == f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(first.times[1]))}"


@pytest.mark.parametrize("newest", [1.8e12, 1.8e300, -1e13])
def test_a_time_that_no_date_has_leaves_the_watermark_out(newest: float) -> None:
    gauges = Gauges(Movement())
    gauges.committed(Split(1, moves=(Move("t/0", "0", "1"),), times=(newest, newest)), 1)
    shown = gauges.as_dict()
    assert (shown["watermark"], shown["rate"]) == (None, 0.1)


def test_partitions_that_were_found_on_the_way_are_behind_too() -> None:
    gauges = Gauges(Movement(), {"t/0": "7"}, lambda positions: {name: 9 - int(at) for name, at in positions.items()})
    gauges.begun({"t/0": "0", "t/1": "4"})
    gauges.measure()
    assert gauges.as_dict()["behind_parts"] == {"t/0": 2, "t/1": 5}


def test_partitions_are_late_at_once_and_have_messages_each() -> None:
    for unit, total in (("messages", 12), ("milliseconds", 7)):
        gauges = Gauges(
            Movement(), {"t/0": "7", "t/1": "5"}, lambda at: {name: int(one) for name, one in at.items()}, unit
        )
        gauges.measure()
        assert gauges.as_dict()["behind"] == total


@pytest.mark.parametrize(
    ("waits", "behind", "expected"),
    [((SINK,), 5, "sink"), ((SOURCE,), 5, "source"), ((), 5, "transform"), ((SOURCE, SINK), 0, None)],
)
def test_the_bottleneck_is_what_a_stream_that_is_behind_waits_for(
    waits: tuple[str, ...], behind: int, expected: str | None
) -> None:
    gauges = Gauges(movement := Movement(), {"t/0": "1"}, lambda _: {"t/0": behind})
    gauges.measure()
    if not waits:
        assert gauges.as_dict()["bottleneck"] == expected
    for what in waits:
        with movement.wait(what):
            assert gauges.as_dict()["bottleneck"] == expected


def test_several_processes_show_as_one_stream() -> None:
    """Its watermark is that of the process that is furthest back; a bottleneck is what most of them wait for."""
    gauges = Gauges(Movement(), {"t/0": "1"}, lambda _: {"t/0": 5})
    gauges.waiting = lambda: [{SINK}, {SINK, SOURCE}, {SOURCE}]
    gauges.measure()
    first, second = split(1, oldest=5, newest=3), split(2, oldest=60, newest=50)
    for process, one in enumerate((first, second)):
        gauges.committed(one, 10, process)
    shown = gauges.as_dict()
    assert second.times is not None
    assert shown["watermark"][:19] == time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second.times[1]))
    assert (shown["rate"], sum(shown["latencies"]), shown["bottleneck"]) == (2.0, 20, "sink")


def test_what_is_behind_is_measured_while_the_reader_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.01)
    asked: list[Mapping[str, str]] = []
    answered = threading.Event()

    def behind(positions: Mapping[str, str]) -> Mapping[str, int]:
        asked.append(positions)
        if len(asked) == 1:
            raise Unreachable("no broker answers")
        if len(asked) == 2:
            raise KeyError("t/100")
        if len(asked) > 3:
            answered.set()
        return {f"t/{part}": part for part in range(100)}

    gauges = Gauges(Movement(), {"t/0": "7"}, behind)
    with measuring(gauges):
        assert answered.wait(10)
    gauges.committed(split(8, oldest=0, newest=0), 1)
    gauges.measure()
    time.sleep(0.01)
    told = gauges.as_dict()
    assert (asked[0], asked[-1]) == ({"t/0": "7"}, {"t/0": "8"})
    assert told["behind"] == sum(range(100))
    assert set(told["behind_parts"]) == {f"t/{part}" for part in range(36, 100)}, "those that are furthest behind"


def test_gauges_are_told_in_one_line() -> None:
    stream = StreamProgress(rate=1234.4, behind=56, latencies=(90, 9, 1), bottleneck="sink")
    line = "1,234 rows/s, 56 messages behind, from event to commit ≤ 10 ms for half of the rows"
    assert shown(stream, now()) == f"{line}, ≤ 25 ms for 99 %, held up by the sink"


def test_a_time_of_the_future_does_not_drive_the_watermark(caplog: pytest.LogCaptureFixture) -> None:
    gauges, at = Gauges(Movement()), now().timestamp()
    gauges.committed(Split(1, times=(at - 60, at - 50)), 2)
    for number, times in enumerate([(at - 40, at + 1e9), (at + 1e9, at + 2e9), (at - 70, at + 1e9)], start=2):
        gauges.committed(Split(number, times=times), 2)
    assert gauges.as_dict()["watermark"] == datetime.fromtimestamp(at - 40, UTC).isoformat()
    assert [one.message.partition(",")[0] for one in caplog.records] == ["an event has a time of the future"]
    gauges.committed(Split(5, times=(at, at + 60)), 1)
    gauges._shown = (0.0, {})
    assert gauges.as_dict()["watermark"] == datetime.fromtimestamp(at + 60, UTC).isoformat()
