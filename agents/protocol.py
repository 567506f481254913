"""What an agent is: pure functions over records.

An agent never does I/O, never reads the clock, and reads nothing but the log: *now* is the time of the record that it
answers. Its state is plain builtins (so that a snapshot outlives a moved class), and `evolve` returns a new state and
leaves the old one as it was (so that a fault in the middle changes nothing).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from agents.policies import Policies
from penstock.models.domain import AgentDecision
from penstock.records import Record

__all__ = ["Agent", "Cause", "Decision", "Draft", "State"]

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """The record that an agent answers, in its place on the log."""

    offset: int
    record: Record

    @property
    def type(self) -> str:
        """The record's type."""
        return self.record.type

    @property
    def at(self) -> datetime:
        """The record's time: the agent's *now*."""
        return self.record.at

    @property
    def payload(self) -> dict[str, Any]:
        """The record's payload."""
        return self.record.payload


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that a decision asks for; the fold gives it its id, time, cause and brain."""

    type: str
    key: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """What an agent wants done, and why. It becomes ONE append: `agent.decided`, then the effects in their order.

    `needs` names what a policy may forbid (``drop_table``); `labels` say which policy judges it; `asked` is the id of
    the command it follows, and None where the agent acts by itself (only then autonomy and thresholds apply).
    """

    why: AgentDecision
    effects: tuple[Draft, ...] = ()
    needs: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    asked: str | None = None


class Agent(Protocol):
    """The two functions, the name, and the version of the rules: raise it when `decide` decides otherwise."""

    name: str
    rules: int

    def initial(self) -> State:
        """The state before the first record."""
        ...

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """What to do about `cause`, judged on the state BEFORE it."""
        ...

    def evolve(self, state: State, record: Record) -> State:
        """The state after `record`, whoever wrote it; a record it does not care for gives `state` itself."""
        ...
