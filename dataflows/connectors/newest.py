"""Common part of sources that are only read as streams: in place of a batch, a preview of the newest messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.connectors.formats.decoding import Decoder
from dataflows.connectors.formats.messages import Message
from dataflows.connectors.reading import chunks
from dataflows.data.chunks import Chunk
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from penstock.errors import Refused

__all__ = ["NewestReader", "OnlyStreams"]


class OnlyStreams:
    """The contract's methods for batches, of a source that has no end: one split for previews, and no window."""

    place: Place
    _named: ClassVar[str] = "a topic"
    """Noun for such a source in errors."""

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
