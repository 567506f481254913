"""The record: the one form of commands, events, timers and policies on the control topic."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from msgspec import Meta, field

from penstock.errors import LogError
from penstock.ids import named_id, new_id
from penstock.topics.log import Message

__all__ = ["AGENT", "YEARS", "Kind", "Record", "decode", "encode"]

Kind = Literal["command", "event", "timer", "policy"]
AGENT = "agent:"
"""Prefix of the actor of a decision's records; the agent's name follows."""

_TRACEPARENT = "traceparent"
YEARS: Final = range(1970, 2200)
"""Years of every time on the log: arithmetic with them cannot leave what a date can be."""
LARGEST: Final = 8 * 1024 * 1024
"""Bytes of a record at most: it is not written if it is larger, and not read."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """One record. The log adds its offset; a record is never rewritten.

    `cause` is (offset, index): for a decision's record the offset of the record that it answers and its index in the
    decision, which together with the agent identify it; for any other the offset of its cause, and 0. `brain` is the
    generation of the control process that decided, and None on everything else.

    A msgspec struct like the messages, because each command creates, writes and reads several. What is read is
    validated, what is created here is not. Its `__dict__` holds the payload's model once `families.body` has made it.
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
    payload: dict[str, Any] = field(default_factory=lambda: {})  # noqa: PIE807 - with a bare `dict` an empty payload would be left out

    @property
    def agent(self) -> str | None:
        """The agent whose decision this is part of, if any."""
        return self.actor.removeprefix(AGENT) if self.brain is not None and self.actor.startswith(AGENT) else None

    def replaced(self, **changes: Any) -> Self:
        """Return the record with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain builtins, as the log stores them; what is not set is left out."""
        plain: dict[str, Any] = msgspec.json.decode(_encoded(self))
        return plain

    def answer(self, offset: int, type_: str, key: str, payload: dict[str, Any], *, at: datetime, actor: str) -> Record:
        """Return an event that this record, at `offset`, led to; a repeated report gets the same id."""
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
    """Return the record as a message: JSON, keyed by its key, its trace context in the headers too.

    Raises:
        LogError: it is larger than `LARGEST`.
    """
    headers = ((_TRACEPARENT, record.traceparent.encode()),) if record.traceparent else ()
    value = _encoded(record)
    if len(value) > LARGEST:
        hint = f"a record has at most {LARGEST} bytes"
        raise LogError("the record is too large", where=record.type, value=len(value), hint=hint)
    return Message(key=record.key.encode(), value=value, headers=headers, at=record.at)


def decode(message: Message) -> Record:
    """Return the record in `message`, its payload not yet validated; readers use `door.records_of`.

    Raises:
        LogError: it contains no record; another program wrote to the topic.
    """
    try:
        if len(message.value) > LARGEST:
            raise _unreadable(f"it has {len(message.value)} bytes")
        if not message.value.startswith(_BEGIN):
            _Named.decode(message.value)  # a record without an id would get another one each time it is read
        return _decoded(message.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
        raise _unreadable(what) from error


def _unreadable(what: str) -> LogError:
    return LogError(f"contains no record: {what}", where="a message", hint="only Penstock may write to this topic")


class _WithId(msgspec.Struct):
    id: str


_BEGIN: Final = b'{"id":"'
_Named: Final = msgspec.json.Decoder(_WithId)
_encoded: Final = msgspec.json.Encoder().encode
_decoded: Final = msgspec.json.Decoder(Record).decode
