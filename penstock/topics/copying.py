"""Copy a log to another one, which then takes its place: every offset of a topic that is kept for ever is the same.

What the target has must be the beginning of what is copied, so that a copy that was cut off goes on, and nothing is
ever appended to another log. Its identity is written last: a part of a log is never taken for the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.errors import Refused
from penstock.topics.log import Stored, TopicLog
from penstock.topics.table import Topic

__all__ = ["Copied", "copy_log"]

_READ: Final = 2000


@dataclass(frozen=True, slots=True)
class Copied:
    """Messages of a partition that were copied, and that were there already."""

    topic: str
    partition: int
    copied: int
    present: int


def copy_log(
    source: TopicLog, target: TopicLog, topics: Sequence[Topic], report: Callable[[Topic, int], object]
) -> list[Copied]:
    """Copy `topics` and the identity; `report` is called with a topic and the number of messages copied so far.

    Nothing may append to the source during the copy. Messages of a trimmed topic get other offsets.

    Raises:
        Refused: the target has messages that the source has not.
    """
    for topic in topics:
        target.create(topic)
    places = [(topic, part) for topic in topics for part in range(topic.partitions)]
    present = {place: _present(source, target, *place) for place in places}
    found = [
        Copied(topic.name, part, _copy(source, target, topic, part, report), present[topic, part])
        for topic, part in places
    ]
    target.adopt(source.identity())
    return found


def _present(source: TopicLog, target: TopicLog, topic: Topic, part: int) -> int:
    """Return the number of messages that the target has; refuse those that the source has not."""
    end = target.end(topic, part)
    at = 0 if not topic.trimmed else end
    while at < end:
        theirs = target.read(topic, part, at, min(_READ, end - at))
        ours = source.read(topic, part, at, len(theirs))
        for mine, other in zip(ours, theirs, strict=False):
            if mine != other:
                raise _foreign(topic, part, mine.offset)
        if len(ours) < len(theirs) and not ours:
            raise _foreign(topic, part, at)
        at += min(len(ours), len(theirs))
    return end - target.begin(topic, part)


def _copy(source: TopicLog, target: TopicLog, topic: Topic, part: int, report: Callable[[Topic, int], object]) -> int:
    at = _resume(source, target, topic, part) if topic.trimmed else target.end(topic, part)
    copied = 0
    while found := source.read(topic, part, at, _READ):
        target.restore(found)
        at, copied = found[-1].offset + 1, copied + len(found)
        report(topic, copied)
    return copied


def _resume(source: TopicLog, target: TopicLog, topic: Topic, part: int) -> int:
    """Return where to go on in a trimmed topic: after the target's last message, if the source has it."""
    begin, end = source.begin(topic, part), target.end(topic, part)
    if end == target.begin(topic, part):
        return begin
    last = target.read(topic, part, end - 1, 1)[0].message
    at = max(begin, source.seek_time(topic, part, last.at))
    found: list[Stored] = source.read(topic, part, at, _READ)
    return next((one.offset + 1 for one in reversed(found) if one.message == last), at)


def _foreign(topic: Topic, part: int, offset: int) -> Refused:
    what = f"the target is not empty: offset {offset} of it is another message than here, or none"
    hint = "copy to an empty log: another database, or another `prefix`"
    return Refused(what, where=f"{topic.name}/{part}", hint=hint)
