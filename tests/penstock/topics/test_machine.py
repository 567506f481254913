"""The specification is a list: after any operations a log reads like plain lists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from penstock.errors import LogError
from penstock.topics import CONTROL, Message, Topic, TopicLog

START = datetime(2026, 1, 1, tzinfo=UTC)
SPANS = st.integers(0, 3).map(lambda hours: timedelta(hours=hours))
PLACES = st.sampled_from([0, 1])


class LogMachine(RuleBasedStateMachine):
    """Two partitions of a trimmed topic, and `control`; time advances by itself."""

    open_log: Callable[[], TopicLog]
    topic: Topic

    @initialize()
    def open(self) -> None:
        self.log = self.open_log()
        self.now = START
        # Examples share one database: each starts from the offsets that it finds.
        self.base = [self.log.end(self.topic, part) for part in range(2)]
        self.control_start = self.log.end(CONTROL, 0)
        self.lists: list[list[Message]] = [[], []]
        self.control: list[Message] = []
        self.number = 0

    def _messages(self, count: int) -> list[Message]:
        self.number += count
        return [Message(key=None, value=b"%d" % (self.number - n), at=self.now) for n in range(count)]

    @rule(part=PLACES, count=st.integers(1, 5))
    def append(self, part: int, count: int) -> None:
        messages = self._messages(count)
        first = self.base[part] + len(self.lists[part])
        assert self.log.append(self.topic, messages, partition=part) == [(part, first + n) for n in range(count)]
        self.lists[part] += messages

    @rule(count=st.integers(1, 5))
    def append_to_control(self, count: int) -> None:
        messages = self._messages(count)
        first = self.control_start + len(self.control)
        assert self.log.append(CONTROL, messages) == [(0, first + n) for n in range(count)]
        self.control += messages

    @rule(part=PLACES, offset=st.integers(0, 30), limit=st.integers(1, 10))
    def read(self, part: int, offset: int, limit: int) -> None:
        at = self.base[part] + offset
        if at < self.log.begin(self.topic, part):
            try:
                self.log.read(self.topic, part, at, limit)
            except LogError:
                return
            raise AssertionError("read what was trimmed away")
        found = self.log.read(self.topic, part, at, limit)
        assert [stored.message for stored in found] == self.lists[part][offset : offset + limit]

    @rule(part=PLACES, back=st.integers(0, 12))
    def seek(self, part: int, back: int) -> None:
        wanted = self.now - timedelta(hours=back)
        before = self.log.begin(self.topic, part)
        found = self.log.seek_time(self.topic, part, wanted)
        begins = {max(begin, self.base[part]) for begin in (before, self.log.begin(self.topic, part))}
        assert found < self.base[part] or found in {self._first_since(wanted, part, begin) for begin in begins}

    def _first_since(self, wanted: datetime, part: int, begin: int) -> int:
        """Return the first offset from `begin` on of a time; a broker may show for a moment what it has trimmed."""
        kept = range(begin, self.base[part] + len(self.lists[part]))
        return next((at for at in kept if self.lists[part][at - self.base[part]].at >= wanted), kept.stop)

    @rule(span=SPANS)
    def time_passes(self, span: timedelta) -> None:
        self.now += span

    @rule()
    def trim(self) -> None:
        self.log.trim(self.topic, self.now)
        young = self.now - (self.topic.retention_time or timedelta())
        for part, messages in enumerate(self.lists):
            gone = messages[: max(0, self.log.begin(self.topic, part) - self.base[part])]
            assert all(message.at < young for message in gone)

    @rule()
    def crash(self) -> None:
        self.log.close()
        self.log = self.open_log()

    @invariant()
    def ends_and_control_are_as_told(self) -> None:
        if hasattr(self, "log"):
            for part, messages in enumerate(self.lists):
                assert self.log.end(self.topic, part) == self.base[part] + len(messages)
            found = self.log.read(CONTROL, 0, self.control_start, 1000)
            assert [stored.message for stored in found] == self.control

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()


def test_a_log_behaves_like_plain_lists(
    request: pytest.FixtureRequest, open_log: Callable[[], TopicLog], small: Topic
) -> None:
    class Machine(LogMachine):
        pass

    Machine.open_log, Machine.topic = staticmethod(open_log), small
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=6 if request.node.callspec.params["open_log"] == "kafka" else 20,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
