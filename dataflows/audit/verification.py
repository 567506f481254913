"""Verification of a log: its seals, and each decision, made again from the first record on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agents.judging import Judge, Judgement, is_same, outcome_of, rules_of
from agents.protocol import Agent
from catalog.projection import without_collection
from dataflows.audit.recorded import Page, Pages, indexed
from penstock.records import Reading, Record
from penstock.records.seals import Problem, Seal, SealCheck
from penstock.topics.log import TopicLog

__all__ = ["Difference", "Verification", "gist", "verified"]

SHOWN: Final = 100
"""Differences that are kept, of decisions by today's rules and of older ones each; the others are counted."""

UNDECIDED: Final = 1000
"""Records at the end of a log that agents may not have read yet: a decision about one of them may be still to come."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision on the log that today's rules would not make, or the other way round."""

    agent: str
    offset: int
    """Of the cause."""
    cause: str
    subject: str
    rules: int | None
    """Version of the rules that decided, also if they decided nothing; None if it is not known."""
    today: int
    recorded: str
    decided: str

    @property
    def is_older(self) -> bool:
        """True if other rules than today's decided it, which is no fault."""
        return self.rules != self.today and self.rules is not None


@dataclass(slots=True)
class Verification:
    """What was compared, and what differs."""

    records: int = 0
    seals: int = 0
    sealed: int = 0
    copies: int = 0
    problems: list[Problem] = field(default_factory=list)
    decisions: Counter[str] = field(default_factory=Counter)
    """Decisions by agent."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Decisions of agents that this release does not have."""
    older: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)

    def join(self, other: Verification) -> None:
        """Add what was found about other agents on the same log, whose seals were compared here."""
        self.decisions.update(other.decisions)
        self.unknown = Counter({name: self.unknown[name] for name in self.unknown.keys() & other.unknown.keys()})
        older, differing = self.older + other.older, self.differing + other.differing
        found = sorted([*self.differences, *other.differences], key=lambda one: one.offset)
        self.older, self.differing, self.differences = 0, 0, []
        for one in found:
            self.add(one)
        self.older, self.differing = older, differing  # not all of them are kept

    @property
    def is_good(self) -> bool:
        """True if nothing was altered, and today's rules decide what is recorded of them."""
        return not self.problems and not self.differing

    def add(self, found: Difference) -> None:
        """Note a difference."""
        self.older += found.is_older
        self.differing += not found.is_older
        if (self.older if found.is_older else self.differing) <= SHOWN:
            self.differences.append(found)


def verified(
    log: TopicLog,
    agents: Sequence[Agent],
    end: int,
    copies: Sequence[Seal] = (),
    *,
    told: Callable[[int], None] = lambda _: None,
) -> Verification:
    """Verify the log up to `end`: compare each seal, and each decision with what `agents` decide now.

    `copies` are seals that were kept elsewhere. `told` learns how many records were verified so far. Memory is bounded
    but for 20 bytes a decision.
    """
    pages = Pages(log, end)
    index = indexed(pages)
    seals = SealCheck(index.seals, copies)
    judges = [(one, max(index.last(one.agent.name), end - UNDECIDED)) for one in index.judges(agents)]
    found, reading = Verification(index.records, len(index.seals), copies=len(copies)), Reading()
    for page in pages:
        seals.take(page.stored)
        with without_collection():
            _verify(found, judges, reading, page)
        told(page.end)
    seals.end()
    known = {one.name for one in agents}
    found.unknown.update({name: len(one.causes) for name, one in index.agents.items() if name not in known})
    found.problems, found.sealed = seals.problems, seals.sealed
    return found


def _verify(found: Verification, judges: Sequence[tuple[Judge, int]], reading: Reading, page: Page) -> None:
    """Verify the decisions about the records of a page; of each judge, nothing need be decided after an offset."""
    for cause in page.causes(reading):
        for judge, decided in judges:
            judgement = judge.follow(cause)
            if judgement is not None and (judgement.recorded or cause.offset <= decided):
                _compare(found, judge.agent, judgement)


def _compare(found: Verification, agent: Agent, judgement: Judgement) -> None:
    found.decisions[agent.name] += bool(judgement.recorded)
    if is_same(judgement):
        return
    record = judgement.cause.record
    found.add(
        Difference(
            agent=agent.name,
            offset=judgement.cause.offset,
            cause=record.type,
            subject=record.key,
            rules=_rules(judgement),
            today=agent.rules,
            recorded=gist(judgement.recorded),
            decided=gist(judgement.decided),
        )
    )


def _rules(judgement: Judgement) -> int | None:
    """Return the version that decided; decisions for nothing and defects have none of their own."""
    recorded = judgement.recorded
    has_none = not recorded or recorded[0].type == "agent.faulted"
    return judgement.in_force if has_none else rules_of(judgement)


def gist(records: Sequence[Record]) -> str:
    """Return a decision in a few words."""
    if not records:
        return "nothing"
    action, kinds = records[0].payload.get("action", ""), Counter(record.type for record in records[1:])
    parts = ", ".join(f"{count} {type_}" if count > 1 else type_ for type_, count in kinds.items())
    return f"{action} {outcome_of(records)}".strip() + (f": {parts}" if parts else "")
