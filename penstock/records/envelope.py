"""The record: the one shape in which commands, events, timers and policies stand on the control topic."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from msgspec import Meta, field

from penstock.errors import LogError
from penstock.ids import named_id, new_id
from penstock.topics.log import Message

__all__ = ["AGENT", "Kind", "Record", "decode", "encode"]

Kind = Literal["command", "event", "timer", "policy"]
AGENT = "agent:"
"""How the actor of a decision's records begins; what follows is the agent's name."""

_TRACEPARENT = "traceparent"
REMEMBERED_BYTES = 16 * 1024
"""Records up to this size are remembered for a moment after they were decoded."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One record. The log adds its offset; nothing in it is ever rewritten.

    `cause` is (offset, index): for a decision's record the offset of the record that it answers and its place in the
    decision, which together with the agent name it; for any other the offset of what led to it, and 0. `brain` is the
    generation of the control process that decided, and None on everything else.

    A msgspec struct like the messages: one is made, written and read several times for each command. What is read is
    checked, what is made here is not.
    """

    id: str = field(default_factory=new_id)
    kind: Kind = field(default_factory=lambda: "event")
    type: Annotated[str, Meta(pattern=r"^[a-z_]+\.[a-z_]+\Z")]
    key: str
    at: Annotated[datetime, Meta(tz=True)]
    actor: str
    cause: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]] | None = None
    correlation: str | None = None
    traceparent: str | None = None
    version: Annotated[int, Meta(ge=1)] = field(default_factory=lambda: 1)
    brain: Annotated[int, Meta(ge=0)] | None = None
    payload: dict[str, Any] = field(default_factory=lambda: {})  # noqa: PIE807 - by a bare `dict` an empty one is left out

    @property
    def agent(self) -> str | None:
        """The agent whose decision this is part of, if it is."""
        return self.actor.removeprefix(AGENT) if self.brain is not None and self.actor.startswith(AGENT) else None

    def replaced(self, **changes: Any) -> Self:
        """The record with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain builtins, as the log holds them; what is not set is left out."""
        plain: dict[str, Any] = msgspec.json.decode(_encoded(self))
        return plain

    def answer(self, offset: int, type_: str, key: str, payload: dict[str, Any], *, at: datetime, actor: str) -> Record:
        """A fact that this record, standing at `offset`, led to; its id is the same when it is told again."""
        return Record(
            id=named_id(actor, offset, type_, key),
            type=type_,
            key=key,
            at=at,
            actor=actor,
            cause=(offset, 0),
            correlation=self.correlation or self.id,
            traceparent=self.traceparent,
            payload=payload,
        )


def encode(record: Record) -> Message:
    """The record as a message: JSON, keyed by its key, its trace context in the headers too."""
    headers = ((_TRACEPARENT, record.traceparent.encode()),) if record.traceparent else ()
    return Message(key=record.key.encode(), value=_encoded(record), headers=headers, at=record.at)


def decode(message: Message) -> Record:
    """The record in `message`.

    Raises:
        LogError: it holds no record; someone else wrote to the topic.
    """
    try:
        return _repeated(message.value) if len(message.value) <= REMEMBERED_BYTES else _decoded(message.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
        hint = "only Penstock may write to this topic"
        raise LogError(f"holds no record: {what}", where="a message", hint=hint) from error


_encoded: Final = msgspec.json.Encoder().encode
_decoded: Final = msgspec.json.Decoder(Record).decode
_repeated = lru_cache(maxsize=2048)(_decoded)
"""Several flows of one process read the same records a moment apart: each is decoded once."""
