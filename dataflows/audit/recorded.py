"""The log as an audit reads it: by pages, any number of which can be read again, in bounded memory.

An agent follows a decision at once, and its records come later on the log. So a first pass notes where the decision
about each cause is, 20 bytes for each, and a second one reads it ahead.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

from agents.judging import Judge
from agents.protocol import Agent, Cause
from catalog.projection import without_collection
from penstock.records import Reading, Record, decision_in, records_of
from penstock.records.seals import SEAL, Seal
from penstock.topics.log import Stored, TopicLog, read_between
from penstock.topics.table import CONTROL

__all__ = ["Index", "Page", "Pages", "indexed"]

PAGE: Final = 2000
"""Messages of a page."""
KEPT: Final = 8
"""Pages that are kept: a decision is seldom further away from its cause."""


class Page(NamedTuple):
    """Messages of the log, and the record of each."""

    stored: list[Stored]
    records: list[tuple[int, Record]]

    @property
    def end(self) -> int:
        """Offset after the last message; 0 for none."""
        return self.stored[-1].offset + 1 if self.stored else 0

    def causes(self, reading: Reading) -> Iterator[Cause]:
        """Yield the records that count for `reading`, which has read all pages before."""
        return (Cause(offset, record) for offset, record in self.records if reading.keep(offset, record))


class Pages:
    """Pages of the log up to `end`; the last ones that were used are kept."""

    def __init__(self, log: TopicLog, end: int) -> None:
        self._log, self.end = log, end
        self._kept: OrderedDict[int, Page] = OrderedDict()

    def __iter__(self) -> Iterator[Page]:
        """Yield every page in order."""
        for begin in range(0, self.end, PAGE):
            yield self._page(begin)

    def messages(self) -> Iterator[list[Stored]]:
        """Yield every message in order, by pages whose records are not read."""
        for begin in range(0, self.end, PAGE):
            yield self._stored(begin, min(begin + PAGE, self.end))

    def records(self, offset: int, count: int) -> list[Record]:
        """Return `count` records from `offset` on."""
        found: list[Record] = []
        while len(found) < count:
            at = offset + len(found)
            page = self._page(at - at % PAGE)
            first = page.records[0][0] if page.records else at
            more = [record for _, record in page.records[at - first : at - first + count - len(found)]]
            if not more:
                break
            found += more
        return found

    def _page(self, begin: int) -> Page:
        page = self._kept.get(begin)
        if page is None:
            stored = self._stored(begin, min(begin + PAGE, self.end))
            with without_collection():
                page = self._kept[begin] = Page(stored, records_of(stored))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(begin)
        return page

    def _stored(self, begin: int, end: int) -> list[Stored]:
        return read_between(self._log, CONTROL, 0, begin, end)


class _Decisions:
    """Where the decisions of one agent are: by ascending cause the offset of the first record, and their number."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.causes, self.firsts, self.counts = array("q"), array("q"), array("i")
        self._next = 0
        self.upcoming = 0
        """The least cause that may have a decision, of those not yet asked for."""

    def note(self, cause: int, offset: int) -> None:
        if self.causes and self.causes[-1] == cause:
            self.counts[-1] += 1
            return
        self.causes.append(cause)
        self.firsts.append(offset)
        self.counts.append(1)

    def find(self, cause: int) -> tuple[int, int]:
        """Return first offset and number of the records about `cause`; to be asked in the order of causes."""
        while self._next < len(self.causes) and self.causes[self._next] < cause:
            self._next += 1
        self.upcoming = self.causes[self._next] if self._next < len(self.causes) else sys.maxsize
        if self.upcoming != cause:
            return 0, 0
        return self.firsts[self._next], self.counts[self._next]


class Index:
    """Where decisions and seals are, and each agent's first offset."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.agents: dict[str, _Decisions] = {}
        self.seals: list[Seal] = []
        self.records = 0

    def take(self, reading: Reading, offset: int, record: Record) -> None:
        """Note the next record of a decision, a control process or a seal."""
        if record.type == "brain.started":
            begin = offset if self.agents else 0
            for name in record.payload["agents"]:
                self.agents.setdefault(name, _Decisions(begin))
        elif record.type == SEAL:
            self.seals.append(Seal(record.payload["begin"], record.payload["upto"], record.payload["digest"], offset))
        if not reading.keep(offset, record) or record.agent is None or record.cause is None:
            return
        if record.agent in self.agents:
            self.agents[record.agent].note(record.cause[0], offset)

    def begin(self, agent: str) -> int:
        """Return the agent's first offset; the end of the log if no control process has named it."""
        return self._decisions(agent).begin

    def last(self, agent: str) -> int:
        """Return the offset of the last record that the agent has decided anything about; -1 for none."""
        causes = self._decisions(agent).causes
        return causes[-1] if causes else -1

    def judges(self, agents: Iterable[Agent]) -> list[Judge]:
        """Return a pass of each agent over the log, which compares with what is recorded here."""
        return [Judge(one, self.begin(one.name), partial(self._about, self._decisions(one.name))) for one in agents]

    def _decisions(self, agent: str) -> _Decisions:
        return self.agents.get(agent) or _Decisions(self._pages.end)

    def _about(self, decisions: _Decisions, cause: int) -> list[Record]:
        """Return the records of an agent's decision about the record at `cause`; [] if there is none."""
        if cause < decisions.upcoming:
            return []
        first, count = decisions.find(cause)
        return self._pages.records(first, count) if count else []


def indexed(pages: Pages) -> Index:
    """Return the index of a log, read once to its end."""
    index, reading = Index(pages), Reading()
    for stored in pages.messages():
        index.records += len(stored)
        for one in stored:
            if (record := decision_in(one)) is not None:
                index.take(reading, one.offset, record)
    return index
