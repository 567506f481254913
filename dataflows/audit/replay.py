"""A log judged again under other policies: which decisions would have been others, and which rows they were about.

Each decision is judged alone, on its recorded state and cause: what another one would have led to is not simulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from agents.judging import Judge, Judgement, differing, outcome_of, rules_of
from agents.policies import Policies
from agents.protocol import Agent
from catalog.projection import without_collection
from dataflows.audit.recorded import Pages, indexed
from dataflows.audit.verification import gist
from penstock.models.policy import AgentPolicy
from penstock.records import Reading, Record, decode, encode
from penstock.topics.log import TopicLog

__all__ = ["NO_CASCADE", "Flip", "Kind", "Replay", "replayed"]

NO_CASCADE: Final = (
    "each decision is judged alone, on the state and cause that are recorded; "
    "what it would have led to is not simulated"
)
CHANGES: Final = 5
"""Values of a flip that are kept."""
MOST: Final = 1000
"""Flips that are kept."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A decision that would have been another one."""

    agent: str
    offset: int
    """Of the cause."""
    at: datetime
    cause: str
    subject: str
    before: str
    after: str
    changes: tuple[str, ...]
    """Values that differ in effects that both have: ``task.queued task.priority: 10, would be 0``."""
    pipelines: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(slots=True)
class Kind:
    """Flips of one agent and action, from one outcome to another, with the pipelines that they touch."""

    count: int = 0
    pipelines: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Replay:
    """What would have been decided otherwise; of the flips only the first are kept, all are counted."""

    records: int = 0
    most: int = MOST
    """Flips that are kept, at most."""
    decisions: int = 0
    flipped: int = 0
    older: int = 0
    """Decisions of other rules than today's, which today's would not have made under the same policy either."""
    kinds: dict[tuple[str, str, str, str], Kind] = field(default_factory=dict)
    """By agent, action, outcome before and after."""
    flips: list[Flip] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    """Rows that were written by each run that a flip touches."""
    pipelines: Counter[str] = field(default_factory=Counter)
    """Flips by pipeline."""

    def join(self, other: Replay) -> None:
        """Add what was found about other agents on the same log."""
        self.decisions += other.decisions
        self.flipped += other.flipped
        self.older += other.older
        for name, kind in other.kinds.items():
            mine = self.kinds.setdefault(name, Kind())
            mine.count += kind.count
            mine.pipelines |= kind.pipelines
        self.flips = sorted([*self.flips, *other.flips], key=lambda one: one.offset)[: self.most]
        self.rows |= {run: max(rows, self.rows.get(run, 0)) for run, rows in other.rows.items()}
        self.pipelines.update(other.pipelines)


def replayed(
    log: TopicLog,
    agents: Sequence[Agent],
    end: int,
    policies: Sequence[AgentPolicy],
    most: int = MOST,
    *,
    told: Callable[[int], None] = lambda _: None,
) -> Replay:
    """Judge every decision of the log up to `end` as if `policies` had been in force in place of their namesakes.

    At most so many flips are kept. `told` learns how many records were judged so far. Memory is bounded but for 20
    bytes a decision, and the runs that flips touch.
    """
    pages = Pages(log, end)
    index = indexed(pages)
    judges = [(one, _pinned(policies)) for one in index.judges(agents)]
    found, reading = Replay(index.records, most), Reading()
    for page in pages:
        with without_collection():
            for cause in page.causes(reading):
                _count_rows(found, cause.record)
                for judge, pinned in judges:
                    if (judgement := judge.follow(cause, pinned)) is not None:
                        _compare(found, judge, judgement)
        told(page.end)
    return found


def _pinned(policies: Sequence[AgentPolicy]) -> Callable[[Policies], Policies]:
    """Return a function that puts `policies` in place of those in force at one agent, made once for each change."""
    last: list[tuple[Policies, Policies]] = []

    def pinned(found: Policies) -> Policies:
        if not last or last[0][0] is not found:
            last[:] = [(found, found.pinning(policies))]
        return last[0][1]

    return pinned


def _count_rows(found: Replay, record: Record) -> None:
    if record.type == "run.finished" and (id_ := record.payload["run"]["id"]) in found.rows:
        found.rows[id_] = record.payload["run"].get("counters", {}).get("rows_out", 0)


def _compare(found: Replay, judge: Judge, judgement: Judgement) -> None:
    found.decisions += bool(judgement.recorded)
    alone = differing(judgement.recorded, judgement.decided)
    if alone is None:
        return
    before = judgement.recorded
    if rules_of(judgement) != judge.agent.rules:
        before = judge.again(judgement)
        found.older += differing(judgement.recorded, before) is not None
        alone = differing(before, judgement.decided)
        if alone is None:
            return
    _add(found, judgement, before, alone)


def _add(found: Replay, judgement: Judgement, before: Sequence[Record], alone: Sequence[Record]) -> None:
    after, record = judgement.decided, judgement.cause.record
    pipelines, runs = _touched((*alone, record) if alone else (record, *before, *after))
    action = next((one[0].payload["action"] for one in (after, before) if one and "action" in one[0].payload), "")
    kind = found.kinds.setdefault((judgement.agent, action, outcome_of(before), outcome_of(after)), Kind())
    kind.count += 1
    kind.pipelines |= pipelines
    found.flipped += 1
    found.pipelines.update(pipelines)
    for run in runs:
        found.rows.setdefault(run, 0)
    for one in before:
        _count_rows(found, one)
    if len(found.flips) < found.most:
        flip = Flip(
            agent=judgement.agent,
            offset=judgement.cause.offset,
            at=record.at,
            cause=record.type,
            subject=record.key,
            before=gist(before),
            after=gist(after),
            changes=tuple(_changes(before, after))[:CHANGES],
            pipelines=tuple(sorted(pipelines)),
            runs=tuple(sorted(runs)),
        )
        found.flips.append(flip)


def _changes(before: Sequence[Record], after: Sequence[Record]) -> Iterator[str]:
    others = {(one.type, one.key): one for one in after[1:]}
    for one in before[1:]:
        if (other := others.get((one.type, one.key))) is not None:
            for path, was, would in _values(one.payload, decode(encode(other)).payload):
                yield f"{one.type} {path}: {was}, would be {would}"


def _values(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two payloads differ, as path and both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from _values(one.get(name), other.get(name), f"{path}.{name}" if path else name)
    elif one != other:
        yield path, _plain(one), _plain(other)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else "…"


def _touched(records: Iterable[Record]) -> tuple[set[str], set[str]]:
    """Return the pipelines and the runs that records are about."""
    pipelines, runs = set[str](), set[str]()
    for record in records:
        payload, parts = record.payload, [record.payload]
        parts += [payload[name] for name in ("task", "run") if isinstance(payload.get(name), dict)]
        pipelines |= {one["pipeline"] for one in parts if isinstance(one.get("pipeline"), str)}
        if record.type.startswith("pipeline.") and isinstance(payload.get("name"), str):
            pipelines.add(payload["name"])
        runs |= {one["run"] for one in parts if isinstance(one.get("run"), str)}
        if isinstance(payload.get("run"), dict):
            runs.add(payload["run"]["id"])
    return pipelines, runs
