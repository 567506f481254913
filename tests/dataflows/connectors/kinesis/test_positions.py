"""Positions in the shards of a stream are read as they were written."""

from __future__ import annotations

import pytest

from dataflows.connectors.kinesis.positions import Position, part_name, shard_number, shard_of

BEGUN = Position("made at 7", 100, at=90)


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (Position("s", 1), '{"stream":"s","seen":1}'),
        (Position("s", 1, at=0), '{"stream":"s","seen":1,"at":0}'),
        (Position("s", 1, "49590338271490256608559692538361571095921575989136588898"), None),
        (Position("s", 1, "7").at_end(), '{"stream":"s","seen":1,"sequence":"7","ended":true}'),
    ],
)
def test_a_position_round_trips(position: Position, text: str | None) -> None:
    assert Position.parse(str(position)) == position
    assert text is None or str(position) == text


def test_a_position_moves_behind_a_record_and_to_the_end_of_a_closed_shard() -> None:
    assert not BEGUN.ended
    assert BEGUN.behind("12", 110) == Position("made at 7", 110, "12")
    assert BEGUN.at_end() == Position("made at 7", 100, at=90, ended=True)
    assert [BEGUN.seen_until(moment).seen for moment in (99, 101)] == [100, 101]


def test_the_name_of_a_shard_has_its_stream_and_number() -> None:
    assert shard_of(part_name("eu/orders", "shardId-000000000012")) == "shardId-000000000012"
    assert [shard_number(one) for one in ("shardId-000000000012", "shardId-x", "7")] == [12, 0, 7]
