"""The record: the one shape in which commands, events, timers and policies stand on the control topic."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from penstock.errors import LogError
from penstock.ids import named_id, new_id
from penstock.models.domain import Utc
from penstock.topics.log import Message

__all__ = ["AGENT", "Kind", "Record", "decode", "encode"]

Kind = Literal["command", "event", "timer", "policy"]
AGENT = "agent:"
"""How the actor of a decision's records begins; what follows is the agent's name."""

_TRACEPARENT = "traceparent"
REMEMBERED_BYTES = 16 * 1024
"""Records up to this size are remembered for a moment after they were decoded."""


class Record(BaseModel):
    """One record. The log adds its offset; nothing in it is ever rewritten.

    `cause` is (offset, index): for a decision's record the offset of the record that it answers and its place in the
    decision, which together with the agent name it; for any other the offset of what led to it, and 0. `brain` is the
    generation of the control process that decided, and None on everything else.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(default_factory=new_id)
    kind: Kind = "event"
    type: Annotated[str, Field(pattern=r"^[a-z_]+\.[a-z_]+$")]
    key: str
    at: Utc
    actor: str
    cause: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    correlation: str | None = None
    traceparent: str | None = None
    version: Annotated[int, Field(ge=1)] = 1
    brain: Annotated[int, Field(ge=0)] | None = None
    payload: dict[str, Any] = {}

    @property
    def agent(self) -> str | None:
        """The agent whose decision this is part of, if it is."""
        return self.actor.removeprefix(AGENT) if self.brain is not None and self.actor.startswith(AGENT) else None

    def answer(self, offset: int, type_: str, key: str, payload: dict[str, Any], *, at: datetime, actor: str) -> Record:
        """A fact that this record, standing at `offset`, led to; its id is the same when it is told again."""
        return Record(
            id=named_id(actor, offset, type_, key), type=type_, key=key, at=at, actor=actor, cause=(offset, 0),
            correlation=self.correlation or self.id, traceparent=self.traceparent, payload=payload,
        )  # fmt: skip


def encode(record: Record) -> Message:
    """The record as a message: JSON, keyed by its key, its trace context in the headers too."""
    headers = ((_TRACEPARENT, record.traceparent.encode()),) if record.traceparent else ()
    value = record.model_dump_json(exclude_none=True, exclude_defaults=False).encode()
    return Message(key=record.key.encode(), value=value, headers=headers, at=record.at)


def decode(message: Message) -> Record:
    """The record in `message`.

    Raises:
        LogError: it holds no record; someone else wrote to the topic.
    """
    try:
        return _repeated(message.value) if len(message.value) <= REMEMBERED_BYTES else _decoded(message.value)
    except ValidationError as error:
        issue = error.errors()[0]
        hint = "only Penstock may write to this topic"
        raise LogError(f"holds no record: {issue['loc']} {issue['msg']}", where="a message", hint=hint) from error


def _decoded(value: bytes) -> Record:
    return Record.model_validate_json(value)


_repeated = lru_cache(maxsize=2048)(_decoded)
"""Several flows of one process read the same records a moment apart: each is decoded once."""
