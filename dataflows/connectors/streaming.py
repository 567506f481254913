"""The part of the contract that a source fulfils to be read as a stream: partitions, positions, and reading on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

import pyarrow as pa

from dataflows.connectors.contract import Place, ReadOrder
from dataflows.data.chunks import Chunk
from dataflows.data.splits import Split

__all__ = [
    "Beginning",
    "ChangeReading",
    "ChangeSource",
    "LagReporting",
    "Partitioned",
    "Restartable",
    "Restarted",
    "Selective",
    "Share",
    "SlotHealth",
    "SlotReporting",
    "StreamOrder",
    "StreamReader",
    "Streaming",
]

Beginning = Literal["earliest", "latest"] | datetime
"""Beginning of a stream without a position; partitions that are added later begin at the earliest."""


@dataclass(frozen=True, slots=True)
class Share:
    """Part of a stream that one of `of` readers reads: each partition whose number is `number` modulo `of`."""

    number: int = 0
    of: int = 1

    def __contains__(self, partition: int) -> bool:
        return partition % self.of == self.number


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """Order for the reader of one slot: read on from `positions`, those of its `share` only.

    A split is closed once it has `read.batch_rows` rows, or `linger` seconds after its first row was read. Splits are
    numbered from `first`, in steps of `share.of`. `begin` stores where new partitions begin, before anything is read
    from them; `moved` is called whenever the source has answered, also if it had nothing new. Once `draining` is true,
    the reader ends after what the source has at that moment.
    """

    read: ReadOrder
    slot: str
    first: int
    positions: Mapping[str, str]
    linger: float
    begin: Callable[[Mapping[str, str]], None]
    moved: Callable[[], None]
    generation: int = 0
    """The run's generation at the sink."""
    key: tuple[str, ...] = ()
    """The source's columns by which the sink finds rows; empty if it does not, or their values are changed."""
    draining: Callable[[], bool] = lambda: False
    named: bool = False
    """True if the pipeline names the columns that it reads, so that one of before may be gone."""
    share: Share = Share()
    readers: int = 1
    """Sessions that may read a snapshot at once."""


class StreamReader(Protocol):
    """Reads one slot of a stream, over a session of its own."""

    @property
    def splits(self) -> Mapping[int, Split]:
        """The splits that are read and not committed yet."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield chunks until it is drained, each split closed by a marker that carries its moves.

        Raises:
            Refused: what the positions stand on is gone: the source was made again, or has deleted what comes next.
            BadData: a row that cannot be a dead letter.
        """

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the chunks of a split that was read before, once more, then its marker."""

    def committed(self, number: int) -> None:
        """Learn that the sink has committed a split, and all before it; may be called from any thread."""

    def close(self) -> None:
        """Release the session."""


@runtime_checkable
class ChangeReading(Protocol):
    """A reader of changes, which keeps those that the sink has not committed yet."""

    def changed(self, number: int) -> Sequence[pa.RecordBatch] | None:
        """Return the rows of such a split, without those that are refused at the source; None of a snapshot."""

    def place(self, number: int) -> str | None:
        """Return where the transactions of such a split end, as the source names places; None if it does not say."""


@runtime_checkable
class Streaming(Protocol):
    """A source that can be read as a stream."""

    def beginnings(self, known: Mapping[str, str], begin: Beginning) -> Mapping[str, str]:
        """Return the positions at which the partitions begin that have none in `known`, and check those that have.

        Raises:
            Refused: a known position does not stand on what the source has now.
        """

    def stream(self, order: StreamOrder) -> StreamReader:
        """Return a reader with a session of its own."""


@runtime_checkable
class Partitioned(Protocol):
    """A source whose partitions several readers can share: each reads those of its order's `share`, new ones too."""

    def partitions(self) -> int:
        """Return how many partitions there are now."""


@runtime_checkable
class Selective(Protocol):
    """A source of what bears certain names, which may be made later or be left out: topics, files of a folder."""

    def picks(self, partition: str) -> bool:
        """Return True if the partition of that stored name is one of the source's now."""

    def includes(self, place: Place) -> bool:
        """Return True if it reads what a sink of the same system writes to that place."""


@runtime_checkable
class ChangeSource(Protocol):
    """A source whose stream is the changes of a table's rows, each with a column `CHANGE`."""

    @property
    def identity(self) -> tuple[str, ...] | None:
        """Columns by which an update or a deletion names its row; None if it sends the whole row."""

    @property
    def unsent(self) -> AbstractSet[str]:
        """Columns whose values an update that does not change them may leave out."""

    def filled(self, known: Mapping[str, str], columns: Collection[str]) -> Mapping[str, str | None]:
        """Return those of `columns` that are new since the positions, with the value of all older rows, as text."""

    def forget(self) -> None:
        """Drop what was made at the source for the pipeline, which was deleted."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """Positions of a stream that begins again, and for each partition what that repeats or skips, in words."""

    positions: Mapping[str, str]
    shifts: Sequence[str]


@runtime_checkable
class Restartable(Protocol):
    """A source whose streams can begin again, whatever they have read."""

    def restarted(self, known: Mapping[str, str], begin: Beginning | Mapping[str, str]) -> Restarted:
        """Return where each partition begins; `begin` may name positions as users write them, by partition.

        Raises:
            Refused: there is no such partition or position.
        """


@runtime_checkable
class LagReporting(Protocol):
    """A source that knows how much of it a stream has yet to read."""

    @property
    def lag_unit(self) -> str:
        """Unit of the count: messages, bytes, or milliseconds."""

    def behind(self, positions: Mapping[str, str]) -> Mapping[str, int]:
        """Return how much each partition has beyond its position; called from a thread of its own."""


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """Data that a source retains for a stream until the sink has them, as its server describes it.

    `status` is PostgreSQL's `wal_status`: reserved, extended (beyond `max_wal_size`), unreserved (deleted soon), lost.
    """

    name: str
    active: bool
    """True if a session streams from it."""
    status: str
    retained: int
    """Bytes of WAL that it keeps the server from deleting."""
    room: int | None
    """Bytes that can be written before the server gives the slot up; None if it never does."""


@runtime_checkable
class SlotReporting(Protocol):
    """A source that keeps what a stream has not read yet, in a slot."""

    def slot(self) -> SlotHealth | None:
        """Return the stream's slot, None if there is none; may be called from a thread of its own."""

    def give_up(self, name: str) -> None:
        """Drop a slot, if it is there: what it kept is lost to the stream, which has to be rebuilt."""
