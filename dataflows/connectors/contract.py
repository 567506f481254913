"""What a system must offer to be a source or a sink; what it may offer beyond that is in `abilities`.

A connector is one class with a `model` (what `connections.yaml` says of it), and `source` and `target`, either of which
may refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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

__all__ = [
    "Connector",
    "Method",
    "Owner",
    "Place",
    "ReadOrder",
    "Reader",
    "Source",
    "SplitReader",
    "Target",
    "Writer",
    "WriterOrder",
]


@dataclass(frozen=True, slots=True)
class Place:
    """One object of one connection, as a pipeline names it; `settings` may hold references to secrets, no secrets."""

    pipeline: str
    connection: str
    settings: Any
    object: str
    secrets: Path | None = None
    format: Format | None = None
    """How files are read or written, where the pipeline says it."""

    @property
    def where(self) -> str:
        """Where an error with this system is."""
        return f"{self.pipeline}: connection {self.connection}"


class SplitReader(Protocol):
    """Reads splits over a session of its own."""

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        """The chunks of a split and its closing marker.

        Raises:
            BadData: a value that Arrow cannot hold exactly.
        """

    def close(self) -> None:
        """Give back what is held."""


def _nothing() -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class ReadOrder:
    """What a reader has to do: Arrow batches of `schema`, at most `batch_rows` rows each, or, without it, undecoded.

    `check` is called at least each 0.2 s while the source keeps it waiting, and ends the read by raising. `held` is
    what `Source.hold` gave in the process that planned.
    """

    table: Table
    columns: Sequence[str]
    key: Column | None
    schema: pa.Schema | None
    batch_rows: int
    check: Callable[[], None]
    held: str | None = None
    as_text: bool = False
    """Of undecoded rows: in the form that holds texts, for types whose bytes mean nothing elsewhere."""
    released: Callable[[], None] = _nothing
    """To be called when what is held cannot be read at any more: the splits from there on are at times of their own."""


class Source(Protocol):
    """One object that rows are read from, open for planning."""

    @property
    def form(self) -> str | None:
        """The form in which it can hand out undecoded rows, such as ``pgcopy``; None if it cannot."""

    def describe(self) -> Table:
        """What it looks like now.

        Raises:
            MissingTable: it is not there, with the name that comes nearest.
        """

    def split_key(self, table: Table) -> Column | None:
        """The column that full reads are split by; None where they are split by something else, or not at all."""

    def window(self, table: Table, cursor: Column, last: str | None, rule: CursorRule) -> Window:
        """The window of this run: above `last`, up to what no more rows can come below of, and older than the lag."""

    def plan(self, table: Table, key: Column | None, window: Window, rows: int, first: int) -> tuple[Split, ...]:
        """Splits of about `rows` rows each, numbered from `first`; together they hold each row of the window once.

        `key` is the cursor's column, or `split_key`. Bounds are texts that only this source has to understand.
        """

    def hold(self, table: Table, limit: timedelta) -> str | None:
        """Keep one point in time open that all readers of the run can read at; None where there is no such thing.

        It is open for as long as this object is, and at most for `limit`. It comes after `window` and `plan`. Nothing
        else is asked of this object after that.
        """

    def reader(self, order: ReadOrder) -> SplitReader:
        """A reader with a session of its own."""

    def close(self) -> None:
        """End the session."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose state a sink keeps: the pipeline, the name of the source's object, and how the pipeline writes.

    `generation` is 0 before the claim. `patience` is how long a lock may be waited for, in seconds. `reloads`: the
    run's rows come into a shadow, whatever the write mode, and take the place of the target's at the end.
    """

    uid: str
    source: str
    write: SinkSpec
    generation: int = 0
    patience: float | None = None
    reloads: bool = False

    @property
    def shadowed(self) -> bool:
        """Whether the run's rows are gathered in a shadow."""
        return self.reloads or self.write.write == "replace"


@dataclass(frozen=True, slots=True)
class WriterOrder:
    """What a writer of one slot has to do: `columns` of the batches that come, into the place that `into` names."""

    into: str
    columns: tuple[Column, ...]
    arrow: bool
    """True if Arrow batches come, False if undecoded bytes of the form that both sides know."""
    slot: str
    run: str
    generation: int
    check: Callable[[], None]
    committed: Callable[[Counters], None]
    version: str | None = None
    """The column that says which of two rows with the same key is newer, in merge and scd2."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a run's shadow takes the place of the target's rows, and the reasons why."""

    name: Literal["rename", "refill", "window"]
    reasons: tuple[str, ...] = ()
    column: Column | None = None
    """Of a window: the column whose values tell which rows of the target are replaced."""


class Target(Protocol):
    """One object that rows are written to, with what is remembered beside it."""

    state: State

    @property
    def form(self) -> str | None:
        """The form of undecoded rows that it takes; None if it takes none."""

    def describe(self) -> Table | None:
        """What it looks like now, its types in PostgreSQL's spelling; None if it is not there yet."""

    def check(self, table: Table | None, columns: tuple[Column, ...]) -> Method | None:
        """Refuse, before anything is changed, what cannot be written; how a `replace` would be published.

        `columns` are those that would be made where `table` is None.

        Raises:
            Refused, SchemaMismatch: by name.
        """

    def make(self, columns: tuple[Column, ...]) -> None:
        """Make the table, if it is missing. Its key is that of the pipeline's sink, if that has one."""

    def create_load_table(self, run: str, generation: int) -> str:
        """Make ready what the run's rows go to, and drop what others left; its name, for writers.

        In `replace` this is a shadow of the run's own.
        """

    def load_table(self, run: str) -> str:
        """The name that `create_load_table` returned to whoever owns the run."""

    def can_go_on(self, run: str) -> bool:
        """Whether what an earlier attempt of a `replace` loaded is still there and fits."""

    def abandon(self, run: str) -> None:
        """Drop what an earlier attempt of the run loaded. Inside `state.owned`."""

    def finishing(self, columns: tuple[Column, ...]) -> Callable[[pa.RecordBatch], pa.RecordBatch] | None:
        """A last step that brings batches to the form that the writer sends, on the flow's thread; None if none."""

    def writer(self, order: WriterOrder) -> Writer:
        """A writer with a session of its own, which carries the generation."""

    def publish(
        self,
        run: str,
        generation: int,
        position: str | None,
        columns: tuple[str, ...],
        told: dict[str, Any],
        method: Method | None,
    ) -> dict[str, Any]:
        """Make the run's rows the target's, move the cursor to `position` and record the result; that result.

        `method` is what `check` returned, or `in_window`. `told` joins the run's counters in it.
        A run that has ended is not published again: its result is returned.

        Raises:
            Fenced: a newer run took over.
            Refused: splits are missing.
        """

    def drop(self, *, table: bool) -> None:
        """Forget a deleted pipeline; with `table`, drop what it wrote to as well."""

    def close(self) -> None:
        """End the session."""


class Connector(Protocol):
    """One kind of system."""

    model: type[Model]
    """What `connections.yaml` says of such a connection, beside its `type`."""
    takes_format: bool
    """True if its objects are files, which a pipeline may say the `format` of."""

    @staticmethod
    def named(place: Place) -> str:
        """What positions call the object, for as long as it is the same one; nothing is connected for it."""

    @staticmethod
    def source(place: Place) -> Source:
        """The object as a source.

        Raises:
            Refused: this system, or this object, cannot be read from.
        """

    @staticmethod
    def target(place: Place, owner: Owner) -> Target:
        """The object as a sink.

        Raises:
            Refused: this system cannot be written to, or not by this write mode.
        """


class Reader(Protocol):
    """The chunks of one slot, in order, each split closed by its marker."""

    def chunks(self) -> Iterator[Chunk]:
        """All of them."""

    def close(self) -> None:
        """Give back what is held."""


class Writer(Protocol):
    """Takes the chunks of one slot and commits each split at its marker."""

    def open(self) -> None: ...
    def write(self, chunk: Chunk) -> None: ...
    def idle(self) -> None: ...
    def done(self) -> None: ...
    def close(self) -> None: ...
