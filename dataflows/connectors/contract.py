"""Contract that a system fulfils to be a source or a sink; optional abilities are in `abilities`.

A connector is one class with a `model` (its settings in `connections.yaml`), and `source` and `target`, either of which
may refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from dataflows.connectors.state import State
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from penstock.models.base import Model
from penstock.models.formats import Format
from penstock.models.pipeline import Sink as SinkSpec
from penstock.models.transforms import Clean

__all__ = [
    "Connector",
    "Method",
    "Owner",
    "Place",
    "PublishOrder",
    "ReadOrder",
    "Reader",
    "Shared",
    "Source",
    "SplitReader",
    "Standing",
    "Target",
    "Writer",
    "WriterOrder",
]


@dataclass(frozen=True, slots=True)
class Shared:
    """What a stream shares with the other members of its set, the one with that `id`.

    `folder` is where their processes meet on this machine; None for a process that only looks.
    """

    id: str
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """One object of one connection, as a pipeline names it; `settings` may refer to secrets, but contain none."""

    pipeline: str
    connection: str
    settings: Any
    object: str
    secrets: Path | None = None
    format: Format | None = None
    """Format of files, if the pipeline sets it."""
    clean: Clean | None = None
    """Cleaning of values as rows are read."""
    patience: float | None = None
    """Longest wait in seconds for another run that has locked a database file; None = a few seconds."""
    topics: tuple[str, ...] = ()
    """The names of several topics, which `object` names together."""
    pattern: str | None = None
    """Whole names of topics match it, also of later ones."""
    stream: str | None = None
    """The pipeline's id if it is a stream, and the place its source; what a source makes for it is named after it."""
    shared: Shared | None = None
    """What it shares, if it is a member of a set."""
    write: str = "merge"
    """How the pipeline writes. A source of changes sends the last state of each row, each one (`scd2`), or each change
    (`append`)."""

    @property
    def where(self) -> str:
        """Location that errors of this system name."""
        return f"{self.pipeline}: connection {self.connection}"


class SplitReader(Protocol):
    """Reads splits over a session of its own."""

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """Yield the chunks of a split, then its closing marker.

        Raises:
            BadData: a value that Arrow cannot represent exactly.
        """

    def close(self) -> None:
        """Release the session."""


def _ignore() -> None:
    """Default callback; does nothing."""


@dataclass(frozen=True, slots=True)
class ReadOrder:
    """Order for a reader: Arrow batches of `schema`, at most `batch_rows` rows each; without a schema, undecoded bytes.

    Call `check` at least every 0.2 s while waiting for the source; it ends the read by raising. `snapshot` is what
    `Source.hold` returned in the process that planned the run.
    """

    table: Table
    columns: Sequence[str]
    key: Column | None
    schema: pa.Schema | None
    batch_rows: int
    check: Callable[[], None]
    snapshot: str | None = None
    as_text: bool = False
    """True if undecoded rows come as text, for types whose binary form has no meaning in another database."""
    released: Callable[[], None] = _ignore
    """Callback for when the snapshot is lost: every later split is read at a point in time of its own."""


class Source(Protocol):
    """One object that rows are read from, open for planning."""

    @property
    def form(self) -> str | None:
        """Form of the undecoded rows that it can provide, such as ``pgcopy``; None if it cannot."""

    def describe(self) -> Table:
        """Return its columns and keys as they are now.

        Raises:
            MissingTable: it does not exist; with the most similar name.
        """

    def split_key(self, table: Table) -> Column | None:
        """Return the column whose ranges split full reads; None if they are split otherwise, or not at all."""

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        """Return the window of this run: above `last`, older than the lag, and up to where no more rows can appear."""

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        """Return splits of about `rows` rows each, numbered from `first`, which cover each row of the window once.

        `key` is the cursor's column, or `split_key`. Bounds are text that only this source interprets.
        """

    def hold(self, table: Table, limit: timedelta) -> str | None:
        """Open a snapshot that all readers of the run can use, and return its name; None if the system has none.

        It stays open as long as this object, and at most for `limit`. It is called after `window` and `plan`; after
        it, only `reader` and `close` are called.
        """

    def reader(self, order: ReadOrder) -> SplitReader:
        """Return a reader with a session of its own."""

    def close(self) -> None:
        """End the session."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Owner of a sink's state: the pipeline, the name of the source's object, and the write mode.

    `generation` is 0 before the claim. `patience` is the longest wait for a lock, in seconds. `reloads`: the run's
    rows are loaded into a shadow table, whatever the write mode, and replace the target's at the end.
    """

    uid: str
    source: str
    write: SinkSpec
    generation: int = 0
    patience: float | None = None
    reloads: bool = False
    changes: bool = False
    """True if the source sends changes, which also delete rows."""
    mark: str | None = None
    """Column of the target that marks rows whose key the source does not have; NULL in each row that is written."""
    prunes: bool = False
    """True if rows whose key the source does not have are deleted."""
    redrives: str | None = None
    """The pipeline whose dead letters the run redrives, by uid."""

    @property
    def deletes(self) -> bool:
        """True if rows of the target are deleted one by one."""
        return self.changes or self.prunes or self.write.delete is not None

    @property
    def shadowed(self) -> bool:
        """True if the run's rows are loaded into a shadow table."""
        return self.reloads or self.write.write == "replace"


@dataclass(frozen=True, slots=True)
class Standing:
    """Condition of a commit next to a stream that writes the same rows: that of the pipeline with the id `uid`.

    The writer locks the stream's position in its transaction, so that the stream cannot commit, then calls `check` with
    the number of its split, which raises `RowRefused` if what the stream has committed until then forbids the commit.
    """

    uid: str
    check: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class WriterOrder:
    """Order for the writer of one slot: write batches of `columns` into the load table `into`."""

    into: str
    columns: tuple[Column, ...]
    arrow: bool
    """True for Arrow batches, False for undecoded bytes in the form that both sides know."""
    slot: str
    run: str
    generation: int
    check: Callable[[], None]
    committed: Callable[[Counters], None]
    version: str | None = None
    """The column that says which of two rows with the same key is newer, in merge and scd2."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """For columns that have their values from one column of the source: its name."""
    alone: bool = False
    """True if it is the only writer of its process, and nothing else uses the target while it is open."""
    empties: bool = False
    """True if the run's only split goes into the load table and has many rows: what is there may be emptied first."""
    standing: Standing | None = None
    """Condition of each commit, of changes that are redriven. Only a target with the ability `Lockable` obeys it."""


@dataclass(frozen=True, slots=True)
class Method:
    """Method by which a run's shadow table replaces the target's rows, and the reasons for it."""

    name: Literal["rename", "refill", "window"]
    reasons: tuple[str, ...] = ()
    column: Column | None = None
    """For `window`: the column that selects the rows of the target to replace."""


@dataclass(frozen=True, slots=True)
class PublishOrder:
    """Order to publish the rows of a run and record its end."""

    run: str
    generation: int
    position: str | None
    """The cursor's new position."""
    columns: tuple[str, ...]
    extra: dict[str, Any]
    """Additional content of the recorded result."""
    method: Method | None
    """Method that `check` or `in_window` returned."""


class Target(Protocol):
    """One object that rows are written to, and the state kept next to it."""

    state: State

    @property
    def form(self) -> str | None:
        """Form of undecoded rows that it accepts; None if it accepts none."""

    def describe(self) -> Table | None:
        """Return its columns and keys, types in PostgreSQL's spelling; None if it does not exist yet."""

    def check(self, table: Table | None, columns: tuple[Column, ...]) -> Method | None:
        """Refuse what cannot be written, before anything is changed; return how a `replace` would be published.

        `columns` are those that the rows have; if `table` is None, those of the table that would be created.

        Raises:
            Refused, SchemaMismatch: by name.
        """

    def make(self, columns: tuple[Column, ...]) -> None:
        """Create the table if it is missing, with the key of the pipeline's sink, if that has one."""

    def create_load_table(self, run: str, generation: int) -> str:
        """Create the table that the run loads, drop leftovers of other runs, and return its name for writers.

        In `replace` this is a shadow table of the run's own.
        """

    def load_table(self, run: str) -> str:
        """Return the name that `create_load_table` returned to the owner of the run."""

    def can_go_on(self, run: str) -> bool:
        """True if the rows that an earlier attempt of a `replace` loaded still exist and fit."""

    def abandon(self, run: str) -> None:
        """Drop the rows that an earlier attempt of the run loaded. Inside `state.owned`."""

    def finishing(self, columns: tuple[Column, ...]) -> Callable[[pa.RecordBatch], pa.RecordBatch] | None:
        """Return the last step, which converts batches to the writer's form on the flow's thread; None if none."""

    def writer(self, order: WriterOrder) -> Writer:
        """Return a writer with a session of its own, which carries the generation."""

    def publish(self, order: PublishOrder) -> dict[str, Any]:
        """Publish the run's rows, move the cursor, record the result and return it: the run's counters and `extra`.

        A run that has ended is not published again: its result is returned.

        Raises:
            Fenced: a newer run took over.
            Refused: splits are missing.
        """

    def drop(self, *, table: bool) -> None:
        """Delete the state of a deleted pipeline; with `table`, drop its target too."""

    def close(self) -> None:
        """End the session."""


class Connector(Protocol):
    """One kind of system."""

    model: type[Model]
    """Settings of such a connection in `connections.yaml`, apart from its `type`."""
    takes_format: bool
    """True if its objects are files, so that a pipeline may set `format`."""

    @staticmethod
    def named(place: Place) -> str:
        """Return the name of the object in stored positions, without connecting; it never changes."""

    @staticmethod
    def source(place: Place) -> Source:
        """Open the object as a source.

        Raises:
            Refused: this system, or this object, cannot be read from.
        """

    @staticmethod
    def target(place: Place, owner: Owner) -> Target:
        """Open the object as a sink.

        Raises:
            Refused: this system cannot be written to, or not by this write mode.
        """


class Reader(Protocol):
    """Reader of the chunks of one slot, in order, each split closed by its marker."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks."""

    def close(self) -> None:
        """Release the session."""


class Writer(Protocol):
    """Writer of the chunks of one slot; commits each split at its marker. Mostly a `SplitWriter` around a sink."""

    def open(self) -> None:
        """Connect."""

    def write(self, chunk: Chunk) -> None:
        """Write a chunk; at the marker of a split, commit it."""

    def idle(self) -> None:
        """Check the session while there is nothing to write; called a few times a second."""

    def done(self) -> None:
        """Check that no split is open: all chunks have been written."""

    def close(self) -> None:
        """Release the session; an open split is rolled back."""
