"""A position in the changes of a table, as text that later releases read."""

from __future__ import annotations

from dataclasses import replace

from dataflows.connectors.postgres.cdc.positions import HISTORY, LOG, MIRROR, PENDING, Position

AT = Position(0x1A0000002B, "7", 1, "slot", 9, 8, {"id": (1, "bigint"), "n": (3, "text")}, ("id",), 4, (5, 6), 77)
TEXT = (
    '{"lsn":"1A/2B","system":"7","timeline":1,"slot":"slot","table":9,"published":8,'
    '"columns":{"id":[1,"bigint"],"n":[3,"text"]},"read":["id"],"numbered":4,"keys":[5,6],"file":77,"emptied":null'
)


def test_a_position_is_kept_as_text_with_a_time_only_if_it_has_one() -> None:
    timed = AT.at(AT.lsn, 7)
    for position, text in ((AT, TEXT + "}"), (timed, TEXT + ',"time":7}')):
        assert (str(position), Position.parse(text)) == (text, position)
    assert Position.parse(PENDING) is None
    assert timed.at(0x2B) == replace(AT, lsn=0x2B)


def test_what_the_sink_has_follows_from_its_keys_and_its_time() -> None:
    found = [one.kind for one in (AT, replace(AT, time=0), replace(AT, keys=()), replace(AT, keys=(), time=0))]
    assert found == [MIRROR, HISTORY, LOG, LOG]
