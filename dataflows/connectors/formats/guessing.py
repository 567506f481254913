"""The format of messages, guessed from some of them: Avro by their frames, JSON, text, or bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dataflows.connectors.formats.avro_values import frame_of
from dataflows.connectors.formats.lines import parse_object
from dataflows.connectors.formats.message_contract import Subjects
from dataflows.connectors.formats.messages import Message
from penstock.models.formats import AvroFormat, Format, JsonlFormat, RawFormat

__all__ = ["guessed", "word_of"]

MOST: Final = 0.5
"""Share of the values from which on they are all taken for JSON objects; the others are dead letters of a run."""


def guessed(messages: Sequence[Message], topic: str, registry: Subjects | None) -> Format:
    """Return the format in which a run would read the values; JSON, the default, if there are none.

    Raises:
        Unreachable, Unavailable, AccessDenied: the registry does not answer.
    """
    values = [value for one in messages if (value := one.value()) is not None]
    word = word_of(values, registry)
    if word is None and registry is not None and registry.latest(f"{topic}-value") is not None:
        word = "avro"
    if word == "avro":
        return AvroFormat(type="avro")
    if word in {"json", None}:
        return JsonlFormat(type="jsonl")
    return RawFormat.parse({"type": "raw", "as": word})


def word_of(values: Sequence[bytes | None], registry: Subjects | None) -> str | None:
    """Return the word for the format of some values or keys: json, avro, text or bytes; None without any."""
    given = [value for value in values if value is not None]
    if not given:
        return None
    if registry is not None and all(frame_of(one) is not None for one in given):
        ids = {frame_of(one) or 0 for one in given}
        if not any(isinstance(registry.by_id(number), str) for number in ids):
            return "avro"
    if sum(parse_object(one) is not None for one in given) > MOST * len(given):
        return "json"
    return "text" if all(map(_is_text, given)) else "bytes"


def _is_text(value: bytes) -> bool:
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False
