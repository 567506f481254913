"""Where a stream begins in the partitions of a topic, and whether its positions still stand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dataflows.connectors.kafka.positions import Position as OfKafka
from dataflows.connectors.partitions import (
    check_position,
    given_offsets,
    part_name,
    part_number,
    shift_of,
    topic_of,
)
from dataflows.connectors.topics.positions import Position as OfLog
from penstock.errors import Refused

ENDS = {0: (5, 9), 1: (0, 3), 2: (2, 2)}


@dataclass(frozen=True)
class At:
    offset: int
    topic: str = "t1"


def test_the_name_of_a_partition_has_its_topic_and_number() -> None:
    name = part_name("eu/orders", 12)
    assert (topic_of(name), part_number(name)) == ("eu/orders", 12)


@pytest.mark.parametrize(
    ("at", "ends", "said"),
    [
        (At(5, "t0"), (5, 9), "made again"),
        (At(5), None, "is gone"),
        (At(4), (5, 9), "1 messages of orders/0 were deleted"),
        (At(10), (5, 9), "ends at offset 9, before the position 10"),
    ],
)
def test_a_position_that_is_not_valid_any_more_is_refused(at: At, ends: tuple[int, int] | None, said: str) -> None:
    with pytest.raises(Refused, match=said):
        check_position(at, "orders/0", "t1", ends, "orders")


def test_a_position_is_kept_as_text_that_later_releases_read() -> None:
    for position, text in (
        (OfKafka(7, -1, "t1"), '{"offset":7,"epoch":-1,"topic":"t1"}'),
        (OfLog(7, "t1"), '{"offset":7,"topic":"t1"}'),
    ):
        assert (str(position), type(position).parse(text)) == (text, position)


def test_a_position_may_be_at_both_ends() -> None:
    for offset in (5, 9):
        check_position(At(offset), "orders/0", "t1", (5, 9), "orders")


def test_offsets_are_as_given_or_where_it_stands_or_the_first() -> None:
    assert given_offsets({}, {1: 2}, ENDS, "orders") == {0: 5, 1: 2, 2: 2}
    for given in ("5", "9"):
        assert given_offsets({"0": given}, {0: 7, 1: 2}, ENDS, "orders") == {0: int(given), 1: 2, 2: 2}


@pytest.mark.parametrize("given", [{"3": "1"}, {"x": "1"}, {"-1": "0"}, {"0": "4"}, {"0": "10"}, {"0": "x"}])
def test_an_offset_or_partition_that_is_not_there_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(Refused, match="partition"):
        given_offsets(given, {}, ENDS, "orders")


@pytest.mark.parametrize(
    ("stands", "begins", "said"),
    [
        (None, At(5), None),
        (At(5), At(5), None),
        (At(5), At(1005), "orders/0 skips 1,000 messages: from offset 1005 on, in place of 5"),
        (At(5), At(4), "orders/0 repeats 1 messages: from offset 4 on, in place of 5"),
        (At(5, "t0"), At(5), "orders/0 begins at offset 5 of another topic; it stood at 5 of the old one"),
    ],
)
def test_what_a_stream_skips_or_repeats_is_reported(stands: At | None, begins: At, said: str | None) -> None:
    assert shift_of("orders/0", stands, begins) == said
