"""Messages as rows: the columns of their values, and what else is known of each, under hidden names.

A message without a value (a tombstone) is a row without columns if the pipeline reads `_deleted`, and a dead letter if
it does not: nothing disappears.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import ReadOrder
from dataflows.connectors.formats.contract import MAX_VALUE_BYTES, RefusedRow, Rows
from dataflows.connectors.formats.lines import BadLine
from dataflows.connectors.formats.message_contract import MessageFormat, Values
from dataflows.connectors.formats.messages import BUILT, Message, place_shown, shown_bytes, unreadable
from dataflows.connectors.formats.types import cast_exactly

__all__ = ["Decoder", "decoder_of"]

Built = Mapping[str, Callable[[Sequence[Message]], pa.Array]]
"""How columns of what is known of messages are made."""
Shown = Callable[[Message], tuple[str, dict[str, Any]]]


def decoder_of(
    order: ReadOrder, form: MessageFormat, where: str, built: Built = BUILT, shown: Shown = place_shown
) -> Decoder:
    """Return the decoder of messages of a format to what is ordered; `built` and `shown` are those of their system."""
    assert order.schema is not None  # noqa: S101 - messages are never read undecoded
    columns = order.table.columns
    own = {one.name for one in columns if not one.hidden}
    hidden = {name: make for name, make in built.items() if name in order.schema.names and name not in own}
    names = {*order.schema.names} - {*hidden}
    values = form.values({one.name: one for one in columns if one.name in names}, columns)
    return Decoder(order.schema, hidden, values, where, shown)


@dataclass(frozen=True)
class Decoder:
    """Decodes messages to batches of `schema`.

    `hidden` makes those of its columns that are not of the values; `shown` says where a message is that cannot be read,
    in words and as values of its dead letter.
    """

    schema: pa.Schema
    hidden: Built
    values: Values
    where: str
    shown: Shown = place_shown

    def __call__(self, messages: Sequence[Message]) -> Rows:
        """Return the rows of the messages, in order, and what cannot be read among them."""
        wrong = [BadLine(at, *why) for at, one in enumerate(messages) if (why := self._why_not(one)) is not None]
        bad = {one.line for one in wrong}
        places = [at for at in range(len(messages)) if at not in bad] if bad else range(len(messages))
        table, more = self.values([messages[at].value() for at in places])
        wrong += [BadLine(places[one.line], one.code, one.what, one.column) for one in more]
        bad |= {places[one.line] for one in more}
        kept = [one for at, one in enumerate(messages) if at not in bad] if bad else messages
        refused = (self._refused(messages[one.line], one) for one in _first(wrong))
        return Rows(self._batch(table, kept), tuple(refused))

    @cached_property
    def _takes_tombstones(self) -> bool:
        return "_deleted" in self.hidden

    def _why_not(self, message: Message) -> tuple[str, str] | None:
        value = message.value()
        if value is None and not self._takes_tombstones:
            return "tombstone", "the message has no value"
        if value is not None and len(value) > MAX_VALUE_BYTES:
            return "too_long", f"the message is longer than {MAX_VALUE_BYTES >> 20} MiB"
        return unreadable(message, self.hidden)

    def _batch(self, table: pa.Table, messages: Sequence[Message]) -> pa.RecordBatch:
        arrays = [
            self.hidden[one.name](messages)
            if one.name in self.hidden
            else cast_exactly(table.column(one.name).combine_chunks(), one, self.where)
            for one in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, names=self.schema.names)

    def _refused(self, message: Message, wrong: BadLine) -> RefusedRow:
        place, values = self.shown(message)
        known = {"_raw": shown_bytes(message.value()), "_key": shown_bytes(message.key()), **values}
        return RefusedRow(wrong.code, f"{place}: {wrong.what}", known)


def _first(wrong: Sequence[BadLine]) -> list[BadLine]:
    """Return the first of each line, in order of the lines."""
    found: dict[int, BadLine] = {}
    for one in wrong:
        found.setdefault(one.line, one)
    return [found[line] for line in sorted(found)]
