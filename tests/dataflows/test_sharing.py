"""Whether a stream can be read by several processes, and which numbers their splits have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataflows.connectors.state import RunRow
from dataflows.data.counters import Counters
from dataflows.runs.sharing import Numbers, check_apart, check_shared, processes, shared_note
from penstock.errors import Refused


class Plain:
    """A source of one partition, and a state of one slot."""

    def last_split(self) -> int:
        return 4


class Parts(Plain):
    """A source of so many partitions, which includes only the place `inside`."""

    def __init__(self, count: int = 3) -> None:
        self.count = count

    def partitions(self) -> int:
        return self.count

    def picks(self, partition: str) -> bool:
        raise AssertionError(partition)

    def includes(self, place: Any) -> bool:
        return bool(place.object == "inside")


class Changes(Plain):
    """A source of changes."""

    identity = None
    unsent = frozenset[str]()

    def filled(self, *_: object) -> dict[str, str]:
        raise AssertionError

    def forget(self) -> None:
        raise AssertionError


class Shared(Plain):
    """A state that several processes write."""

    def part_splits(self) -> dict[str, int]:
        raise AssertionError

    make_positions = positions = begin = restart = part_splits


def job(workers: int, sink: str = "t", settings: Any = ("kafka", "mysql")) -> Any:
    source, target = (SimpleNamespace(type=one) for one in settings)
    return SimpleNamespace(
        pipeline="orders",
        workers=workers,
        source=SimpleNamespace(object="topic", settings=source),
        sink=SimpleNamespace(object=sink, settings=target),
    )


def test_several_processes_need_a_source_and_a_sink_that_can_be_shared() -> None:
    for workers, source, state in (
        (1, Plain(), Plain()),
        (2, Parts(), Shared()),
        (2, Changes(), Plain()),
    ):
        check_shared(job(workers), cast("Any", source), cast("Any", state))
    with pytest.raises(Refused, match="a stream of a kafka connection is read by one process"):
        check_shared(job(2), cast("Any", Plain()), cast("Any", Shared()))
    with pytest.raises(Refused, match="a stream is written to mysql by one process") as found:
        check_shared(job(2), cast("Any", Parts()), cast("Any", Plain()))
    assert found.value.hint == "leave out limits.workers"


def test_a_stream_never_reads_what_it_writes() -> None:
    same = ("kafka", "kafka")
    for source, sink, settings in (
        (Parts(), "inside", ("kafka", "mysql")),
        (Parts(), "outside", same),
        (Plain(), "inside", same),
    ):
        check_apart(job(1, sink, settings), cast("Any", source))
    with pytest.raises(Refused, match="would read its own rows again"):
        check_apart(job(1, "inside", same), cast("Any", Parts()))


@pytest.mark.parametrize(
    ("workers", "source", "count", "note"),
    [
        (1, Parts(), 1, None),
        (2, Parts(), 2, None),
        (3, Parts(), 3, None),
        (4, Parts(), 3, "topic: its 3 partitions are read by as many processes, in place of 4"),
        (2, Parts(1), 1, "topic: its 1 partition is read by as many processes, in place of 2"),
        (1, Plain(), 1, None),
        (1, Changes(), 1, None),
        (2, Changes(), 1, "up to 2 sessions read the snapshot of topic, one the changes"),
    ],
)
def test_there_are_no_more_processes_than_partitions(workers: int, source: Any, count: int, note: str | None) -> None:
    assert (processes(job(workers), source), shared_note(job(workers), source)) == (count, note)


def test_numbers_of_splits_are_kept_with_the_run_unless_one_process_has_them() -> None:
    assert (Numbers(5).stored, Numbers(5, 2).stored, str(Numbers(5))) == (None, "5/2", "5/1")

    def of(lower: str | None) -> RunRow:
        return RunRow("r1", "append", None, lower, None, Counters())

    found = [Numbers.of_run(run, cast("Any", Plain())) for run in (None, of(None), of("7/3"))]
    assert found == [Numbers(5), Numbers(5), Numbers(7, 3)]


@pytest.mark.parametrize(
    ("first", "of", "committed", "open_"),
    [
        (8, 1, [3, 7], [8]),
        (8, 1, [3, 7, 9], [10]),
        (8, 4, [3, 7], [8, 9, 10, 11]),
        (8, 4, [3, 7, 13, 9, 16], [20, 17, 10, 11]),
        (0, 2, [], [0, 1]),
    ],
)
def test_the_split_that_each_process_may_have_begun(
    first: int, of: int, committed: list[int], open_: list[int]
) -> None:
    assert Numbers(first, of).uncommitted(committed) == open_
