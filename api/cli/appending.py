"""`penstock topics create NAME` and `append NAME`: topics of users on the log, and events in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from shlex import quote
from typing import BinaryIO, Final

from pydantic import TypeAdapter, ValidationError

from api.cli.main import State
from api.client import Client, connected
from dataflows.connectors.formats.contract import MAX_VALUE_BYTES
from penstock.clock import now
from penstock.errors import BadData, NotFound, PenstockError, Refused, UsageError, did_you_mean
from penstock.models.base import Duration, duration_text
from penstock.topics.log import Message
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import TOPICS, Topic

__all__ = ["append_events", "create_topic"]

BLOCK_BYTES: Final = 1 << 20
"""Lines of standard input that are appended together."""


def create_topic(state: State, name: str, partitions: int | None, keep: str | None) -> None:
    """Create the topic on the log of the settings, or say that it is there.

    Raises:
        UsageError: the name or an option is not valid.
        Refused: the log is on Kafka, or the topic is there in another form.
    """
    topic = Topic(name, "as its writers choose", partitions or 1, _duration(keep))
    with connected(state.settings, runs=False) as client:
        log = _log(client, topic.name)
        there, _ = log.topics().get(topic.name, (None, ""))
        if there is not None and there != topic:
            what = f"is there already, with {_shape(there)}, not {_shape(topic)}"
            raise Refused(what, where=f"topic {topic.name}", hint="choose another name")
        log.create(topic)
        dsn = client.site.log_url if client.site.server else "…the database of PENSTOCK_LOG_URL…"
    state.output.data({"topic": topic.name, "partitions": topic.partitions, "keep": keep, "made": there is None})
    state.output.say(f"topic {topic.name}: {_shape(topic)}{'' if there is None else ', as before'}")
    state.output.say(f"In connections.yaml:  events: {{type: topics, dsn: {json.dumps(dsn, ensure_ascii=False)}}}")
    state.output.hint(f"penstock topics append {quote(topic.name)} < events.jsonl")


def append_events(state: State, name: str | None, key: str | None) -> None:
    """Append the lines of standard input, each a JSON object, as they come; say how many.

    Raises:
        BadData: a line is not a JSON object, or has no column `key`; the lines before it are appended.
    """
    if not name:
        raise UsageError("`topics append` needs a topic", hint="penstock topics append NAME < events.jsonl")
    count = 0
    with connected(state.settings, runs=False) as client:
        log = _log(client, name)
        client.site.check(client.log)
        known = log.topics()
        if name not in known:
            mine = [one for one in known if one not in TOPICS]
            hint = did_you_mean(name, mine) or f"penstock topics create {quote(name)}"
            raise NotFound("no such topic", value=name, hint=hint)
        try:
            for batch in _batches(sys.stdin.buffer, key):
                log.append(known[name][0], batch)
                count += len(batch)
        except PenstockError:
            state.output.errors.print(f"{_counted(count)} appended to {name} before that:")
            raise
    state.output.data({"topic": name, "appended": count})
    state.output.say(f"{_counted(count)} appended to {name}.")
    state.output.hint(f"penstock topics tail {quote(name)}")


def _log(client: Client, name: str) -> PostgresLog:
    if name in TOPICS:
        raise UsageError("is a topic of Penstock's own", value=name, hint="choose another name")
    if not isinstance(client.log, PostgresLog):
        hint = "make the topic with Kafka's own tools, and read it by a connection of `type: kafka`"
        raise Refused("the log is on Kafka, which has no topics of yours", where=f"topic {name}", hint=hint)
    return client.log


def _shape(topic: Topic) -> str:
    parts = "1 partition" if topic.partitions == 1 else f"{topic.partitions} partitions"
    return f"{parts}, kept {duration_text(topic.retention_time) if topic.retention_time else 'for good'}"


def _counted(count: int) -> str:
    return "1 event was" if count == 1 else f"{count:,} events were"


def _duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        found: timedelta = TypeAdapter(Duration).validate_python(text)
    except ValidationError as error:
        hint = "write a duration such as 12h, 7d or 1y"
        raise UsageError("is not a duration", where="--keep", value=text, hint=hint) from error
    if found <= timedelta(0):
        raise UsageError("keeps nothing", where="--keep", value=text, hint="leave it out to keep messages for good")
    return found


def _batches(lines: BinaryIO, key: str | None) -> Iterator[list[Message]]:
    """Yield the events of what can be read at once; those before a bad line too."""
    number, rest = 0, b""
    while rest is not None:
        block = lines.read1(BLOCK_BYTES)  # type: ignore[attr-defined]  # standard input is buffered
        *whole, last = (rest + block).split(b"\n")
        if not block:
            whole, last = [*whole, last], None
        batch: list[Message] = []
        at = now()
        for line in whole:
            number += 1
            if line.strip():
                try:
                    batch.append(Message(_key(line, key, number), line, at))
                except BadData:
                    if batch:
                        yield batch
                    raise
        if batch:
            yield batch
        rest = last
        if rest is not None and len(rest) > MAX_VALUE_BYTES:
            where = f"line {number + 1} of standard input"
            raise BadData(
                f"is longer than {MAX_VALUE_BYTES >> 20} MiB", where=where, hint="no stream reads such an event"
            )


def _key(line: bytes, key: str | None, number: int) -> bytes | None:
    """Return the key of an event, which is checked to be a JSON object."""
    where, hint = f"line {number} of standard input", "write one JSON object a line"
    try:
        event = json.loads(line)
    except ValueError as error:
        raise BadData("is not JSON", where=where, hint=hint) from error
    if not isinstance(event, dict):
        raise BadData("is not a JSON object", where=where, hint=hint)
    if key is None:
        return None
    if key not in event:
        raise BadData(f"has no column {key}", where=where, hint="name another --key, or none")
    value = event[key]
    if value is None:
        return None
    return (value if isinstance(value, str) else json.dumps(value)).encode()
