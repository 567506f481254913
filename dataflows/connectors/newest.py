"""Common part of sources that are only read as streams: in place of a batch, a preview of the newest messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.formats.decoding import Decoder
from dataflows.connectors.formats.guessing import guessed, word_of
from dataflows.connectors.formats.message_contract import Subjects
from dataflows.connectors.formats.messages import SAMPLE_MESSAGES, Message
from dataflows.connectors.reading import chunks
from dataflows.data.chunks import Chunk
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from penstock.errors import Refused, Unavailable, Unreachable
from penstock.models.formats import AvroFormat
from penstock.models.profiles import DatasetProfile, Partitions, about

__all__ = ["NewestReader", "OnlyStreams"]


class OnlyStreams:
    """The contract's methods for batches, of a source that has no end: one split for previews, and no window."""

    place: Place
    _guessed_from: Sequence[Message] | None = None
    """The messages from which the format was guessed, until the columns are."""
    _count: int | None = None
    _key_format: str | None = None
    _value_format: str | None = None
    _named: ClassVar[str] = "a topic"
    """Noun for such a source in errors."""
    _parts: ClassVar[str] = "partition"
    """Noun for what it is divided into."""

    def newest(self, count: int) -> Sequence[Message]:
        """Return about `count` of the newest messages."""
        raise NotImplementedError

    def extent(self) -> tuple[int | None, int]:
        """Return about how many messages there are, None if it is not known, and the number of partitions."""
        raise NotImplementedError

    def registry(self) -> Subjects | None:
        """Return the registry of schemas of the connection, if there is one."""
        return None

    def guess_format(self) -> None:
        """Read messages in the format of the newest, if the pipeline names none; before `describe`.

        Raises:
            Unavailable: the registry does not answer, and they may be Avro.
        """
        if self.place.format is not None:
            return
        registry, found = self.registry(), self.newest(SAMPLE_MESSAGES)
        try:
            form = guessed(found, self.place.object, registry)
            self._key_format = word_of([one.key() for one in found], registry)
            word = word_of([one.value() for one in found], registry)
        except Unreachable as error:  # the registry alone: topics that need none can be described
            raise Unavailable(error.what, where=error.where, hint=error.hint) from error
        self._value_format = "avro" if isinstance(form, AvroFormat) else word
        self._guessed_from, self.place = found, replace(self.place, format=form)

    def sampled(self) -> Sequence[Message]:
        """Return messages to infer columns from: those from which the format was guessed, else the newest."""
        found, self._guessed_from = self._guessed_from, None
        found = self.newest(SAMPLE_MESSAGES) if found is None else found
        self._count = sum(one.value() is not None for one in found)
        return found

    def looked_at(self) -> int | None:
        """Return the number of messages in which the columns were seen."""
        return self._count

    def profile(self) -> DatasetProfile:
        """Return about how many messages there are, the partitions, and the formats that were guessed."""
        count, parts = self.extent()
        return DatasetProfile(
            rows=about(count),
            format=self._value_format,
            key_format=self._key_format,
            partitions=Partitions(by=self._parts, count=parts),
        )

    def split_key(self, table: Table) -> Column | None:
        return None

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        where = f"{self.place.pipeline}: spec.mode"
        raise Refused(f"{self._named} cannot be read as a batch", where=where, hint="write mode: stream")

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        return (Split(first),)

    def hold(self, table: Table, limit: timedelta) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class NewestReader:
    """Reads one chunk; `newest` returns about that many of the newest messages."""

    order: ReadOrder
    decoder: Decoder
    newest: Callable[[int], Sequence[Message]]

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the messages of the split, whichever it is."""
        count = self.order.batch_rows
        return chunks(slot, split, iter((self.decoder(self.newest(count)[:count]),)))

    def close(self) -> None:
        """Do nothing: no session is kept."""
