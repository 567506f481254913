"""The protocol of agents: pure functions over records.

An agent never does I/O or reads the clock; it reads only the log: *now* is the time of the record that it answers. Its
state is plain builtins, so that a snapshot survives when a class moves; `evolve` returns a new state and leaves the old
one unchanged, so that a fault changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from agents.limits import UNUSED, Used
from agents.policies import Policies
from penstock.models.domain import AgentDecision
from penstock.models.scope import Scope
from penstock.records import Record

__all__ = ["Agent", "Cause", "Decision", "Draft", "State", "Thread"]

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """The record that an agent answers, with its offset, and what the agent did on its own before it."""

    offset: int
    record: Record
    used: Used = UNUSED

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
class Thread:
    """The command, tick or change that a record goes back to, and its trace."""

    correlation: str | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that a decision asks for; the fold adds id, time, cause and brain."""

    type: str
    key: str
    payload: dict[str, Any]
    thread: Thread | None = None
    """What the record belongs to, where that is not what its cause belongs to."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The effects an agent wants, and why. It becomes ONE append: `agent.decided`, then the effects in order.

    `needs` names what a policy may forbid (``drop_table``); `labels` select the policy; `asked` is the id of
    the command it answers or of what it ends, or None if the agent acts on its own (only then autonomy, thresholds and
    limits apply). `scope` is what it touches, which limits count.
    """

    why: AgentDecision
    effects: tuple[Draft, ...] = ()
    needs: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    asked: str | None = None
    scope: Scope | None = None


class Agent(Protocol):
    """Two functions, a name, what concerns it, and the version of the rules.

    Raise that whenever `decide` decides otherwise.
    """

    name: str
    rules: int

    @property
    def concerns(self) -> frozenset[str]:
        """Types of the records that change its state or that it reacts to; of others it hears nothing but commands."""
        ...

    def initial(self) -> State:
        """Return the state before the first record."""
        ...

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        """Decide what to do about `cause`, by the state BEFORE it."""
        ...

    def evolve(self, state: State, record: Record) -> State:
        """Return the state after `record`, from any writer; for a record it ignores, `state` itself."""
        ...
