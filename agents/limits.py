"""Limits of what agents do on their own: quiet hours, how often, how much. Pure: *now* is the time of the cause.

Each agent counts its own actions, those that it took without being asked. Counted for a policy are the actions about
whatever has the labels of its `applies`, whichever policy judged them: no change of policies resets a count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Final, NamedTuple

from penstock.models.base import duration_text
from penstock.models.policy import CAPABILITIES, DEFAULT_ZONE, AgentPolicy, BlastRadius, Constraints, Rate
from penstock.models.quiet import quiet_at
from penstock.models.scope import Scope
from penstock.records import Record

__all__ = ["ALWAYS", "UNUSED", "Used", "following_of", "held", "room_of", "scope_of"]

ALWAYS: Final = frozenset({"retry"})
"""Actions that quiet hours do not hold: a retry continues a run that a person or a schedule asked for."""
READS: Final = frozenset({"discover"})
"""Actions that change nothing; like retries, they do not count as touching anything."""
LONGEST: Final = timedelta(days=1)
"""The longest time over which a limit counts; the model of policies does not allow a longer one."""
HOUR: Final = timedelta(hours=1)
KEPT: Final = LONGEST + HOUR
"""How long actions are remembered: longer than any limit counts, for clocks of several machines differ."""
MOST: Final = 10_000
"""Actions that are remembered: about 1 MB. As long as a forgotten one would count, limits count as reached."""


class Use(NamedTuple):
    """An action that an agent took on its own: when (seconds), and what it touched."""

    at: float
    action: str
    subject: str
    table: str | None
    rows: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Used:
    """What an agent did on its own within `KEPT`, oldest first, and the time of the last one that was forgotten.

    That time counts also where clocks were a day ahead, made it forget what was not old, and are set back.
    """

    uses: tuple[Use, ...] = ()
    forgotten: float | None = None

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Used:
        """Return what `to_dict` has saved."""
        return cls(tuple(Use(*one) for one in saved.get("uses", ())), saved.get("forgotten"))

    def to_dict(self) -> dict[str, Any]:
        """Return the state as builtins."""
        return {"uses": [list(one) for one in self.uses], "forgotten": self.forgotten}

    def after(self, records: Sequence[Record]) -> Used:
        """Return the state after the records of a decision; only what was done by the agent itself counts.

        Members of a set that follow their tables are in one decision with the listing that has found it.
        """
        why = records[0].payload if records and records[0].type == "agent.decided" else {}
        used = self
        if why.get("scope") is not None and why["outcome"] == "acted":
            used = used.with_use(records[0].at, why["action"], Scope.parse(why["scope"]))
        for one in records:
            if one.type == "pipeline.updated" and one.payload.get("follows"):
                used = used.with_use(one.at, *following_of(one.payload["name"], one.payload["pipeline"]))
        return used

    def with_use(self, at: datetime, action: str, scope: Scope) -> Used:
        """Return the state after one more action."""
        now = at.timestamp()
        now = max(now, self.uses[-1].at) if self.uses else now  # clocks of several machines differ a little
        use = Use(now, action, scope.subject, scope.table, scope.rows or 0, scope.labels or {})
        old = sum(1 for _ in takewhile(lambda one: one.at <= now - KEPT.total_seconds(), self.uses))
        kept = (*self.uses, use)
        gone = max(old, len(kept) - MOST)
        return Used(kept[gone:], kept[gone - 1].at if gone else self.forgotten)

    def set_back(self, at: datetime) -> Used:
        """Return the state after clocks were set back: no action was later than `at`, which they show now."""
        now = at.timestamp()
        if not self.uses or max(self.uses[-1].at, self.forgotten or now) <= now:
            return self
        uses = tuple(one._replace(at=min(one.at, now)) for one in self.uses)
        return Used(uses, None if self.forgotten is None else min(self.forgotten, now))

    def _since(self, begin: float) -> tuple[Use, ...]:
        """Return the uses after a time; they are in order."""
        number = len(self.uses)
        while number and self.uses[number - 1].at > begin:
            number -= 1
        return self.uses[number:]

    def counted(self, policy: AgentPolicy, within: timedelta, at: datetime) -> list[Use] | None:
        """Return the uses within a time that count for a policy; None if one of them may be forgotten."""
        begin = (at - within).timestamp()
        if self.forgotten is not None and self.forgotten > begin:
            return None
        return [one for one in self._since(begin) if policy.matches(one.labels)]


UNUSED: Final = Used()


def room_of(agent: str, action: str) -> str:
    """Return the part of a policy that an action belongs to: that of its agent, or `evolution`."""
    return "evolution" if agent == "lifecycle" and action in CAPABILITIES["evolution"] else agent


def scope_of(name: str, document: dict[str, Any]) -> Scope:
    """Return what a change of a pipeline touches."""
    sink = document["spec"]["sink"]
    labels = document["metadata"].get("labels") or None
    return Scope(subject=name, table=f"{sink['connection']}:{sink['object']}", labels=labels)


def following_of(name: str, document: dict[str, Any]) -> tuple[str, Scope]:
    """Return the action by which a member of a set follows its table to another name, and what that touches."""
    rule = document["spec"].get("schema", {}).get("tables")
    return "follow_move" if rule == "apply" else "approve", scope_of(name, document)


def held(policy: AgentPolicy, used: Used, action: str, scope: Scope, at: datetime) -> str | None:
    """Return which limit of the policy keeps an agent from an action on its own; None if none does."""
    constraints = policy.spec.constraints
    if action in constraints.never:
        return f"policy {policy.name!r} never allows {action}"
    found = _quiet(constraints, action, at) or next(_reached(policy, used, action, scope, at), None)
    return found and f"policy {policy.name!r}: {found}"


def _quiet(constraints: Constraints, action: str, at: datetime) -> str | None:
    zone = constraints.timezone or DEFAULT_ZONE
    hours = None if action in ALWAYS else quiet_at(constraints.quiet_hours, zone, at)
    return hours and f"quiet hours {hours} {zone}"


def _reached(policy: AgentPolicy, used: Used, action: str, scope: Scope, at: datetime) -> Iterator[str]:
    constraints = policy.spec.constraints
    if rate := (constraints.limits or {}).get(action):  # type: ignore[call-overload]  # a name of the policy's
        yield from _rate(rate, used.counted(policy, HOUR, at), action, scope)
    if (radius := constraints.blast_radius) and _touches(action):
        yield from _radius(radius, used.counted(policy, radius.within, at), scope)


def _touches(action: str) -> bool:
    return action not in ALWAYS | READS


def _rate(rate: Rate, uses: list[Use] | None, action: str, scope: Scope) -> Iterator[str]:
    same = None if uses is None else [one for one in uses if one.action == action]
    if rate.per_hour is not None and (same is None or len(same) >= rate.per_hour):
        yield f"at most {rate.per_hour} x {action} in an hour"
    of_one = None if same is None else [one for one in same if one.subject == scope.subject]
    if rate.per_pipeline is not None and (of_one is None or len(of_one) >= rate.per_pipeline):
        yield f"at most {rate.per_pipeline} x {action} in an hour for one pipeline"


def _radius(radius: BlastRadius, uses: list[Use] | None, scope: Scope) -> Iterator[str]:
    before = None if uses is None else [one for one in uses if _touches(one.action)]
    span = f"within {duration_text(radius.within)}"
    touched = (("pipelines", radius.pipelines, "subject"), ("tables", radius.tables, "table"))
    for what, most, name in touched:
        this = getattr(scope, name)
        if most is None or this is None:
            continue
        if before is None or len({getattr(one, name) for one in before} - {None} | {this}) > most:
            yield f"agents touch at most {most} {what} {span}"
    rows = None if before is None else sum(one.rows for one in before)
    if radius.rows is not None and scope.rows and (rows is None or rows + scope.rows > radius.rows):
        yield f"agents leave out at most {radius.rows} rows {span}"
