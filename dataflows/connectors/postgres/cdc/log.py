"""Changes one by one, in the order of their commits, where the sink keeps more than the last state of each row.

`History` has a row for each state of a key, with the time of its commit; `Log` a row for each change, as an event.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from dataflows.connectors.postgres.cdc.fold import ROW_BYTES, Fold, Key, Layout, Row, Values, csv_line, quoted
from dataflows.connectors.postgres.cdc.pgoutput import Begin, Change, Unchanged
from dataflows.data.changes import DELETE, TRUNCATE, UNCHANGED

__all__ = ["History", "Log", "microseconds"]

_START: Final = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(at: datetime) -> int:
    """Return a time as microseconds of Unix time."""
    return (at - _START) // timedelta(microseconds=1)


def _text(time: int) -> bytes:
    return f"{_START + timedelta(microseconds=time):%Y-%m-%d %H:%M:%S.%f}+00".encode()


def _size(row: Row | None) -> int:
    return ROW_BYTES + (row.size if row else 0)


@dataclass(slots=True)
class History(Fold):
    """The states of each key that commits left, in order. What a change leaves out is taken from the state before it.

    A commit that is not later than the one before it, as after a clock was set, is taken for one a microsecond later:
    the order of commits is the server's, not that of its clock.
    """

    time: int = 0
    """Time of the last commit, in microseconds of Unix time."""
    _states: dict[tuple[Key | None, int], Row | None] = field(default_factory=dict)
    """Row (None: it is deleted) by key (None: all rows are deleted) and time; only a commit's last state counts."""

    def __len__(self) -> int:
        return len(self._states)

    def begin(self, transaction: Begin) -> None:
        self.time = max(transaction.time, self.time + 1)

    def truncate(self) -> None:
        self._rows.clear()
        while self._states and next(reversed(self._states))[1] == self.time:
            _, row = self._states.popitem()
            self.size -= _size(row)
        self._states[None, self.time] = None
        self.size += _size(None)

    def _put(self, key: Key, row: Row | None) -> None:
        self._rows[key] = row
        if (at := (key, self.time)) in self._states:
            self.size -= _size(self._states[at])
        self._states[at] = row
        self.size += _size(row)

    def rows(self, names: Sequence[str], key: Sequence[int]) -> Iterator[bytes]:
        """Yield a line of CSV for each state: the columns `names`, the time, and what it does."""
        for (of, time), row in self._states.items():
            at = _text(time)
            if row is not None and of is not None:
                yield csv_line([*row.values, at], self.change_of(row, of, names))
                continue
            values: Values = [None] * len(names)
            for place, one in zip(key, of or (), strict=False):
                values[place] = one
            yield csv_line([*values, at], TRUNCATE if of is None else DELETE)


@dataclass(slots=True)
class Log:
    """Each change as an event. One that changes the key is two: the row of the old key is deleted, and one inserted.

    `columns` are those of the table that are read, `extra` those of `LOG_COLUMNS`.
    """

    columns: Sequence[str]
    extra: Sequence[str]
    size: int = 0
    times: tuple[float, float] | None = None
    _transaction: Begin = field(default_factory=lambda: Begin(0, 0))
    _number: int = 0
    _lines: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._lines)

    def begin(self, transaction: Begin) -> None:
        """Begin a transaction; its changes follow."""
        self._transaction, self._number = transaction, 0

    def committed(self, at: float) -> None:
        """Add the time of a commit."""
        first, last = self.times or (at, at)
        self.times = min(first, at), max(last, at)

    def truncate(self) -> None:
        """Add the event that all rows were deleted."""
        self._put("truncate", [None] * len(self.columns))

    def add(self, change: Change, layout: Layout) -> None:
        """Add a change of the table."""
        new, old = change.new, change.old
        if new is None:
            assert old is not None  # noqa: S101 - the server sends no deletion without
            self._put("delete", layout.read(old, whole=change.whole))
            return
        if old is not None:  # without the whole old row, only its key stands for what was not sent
            new = tuple(
                old[at] if isinstance(one, Unchanged) and (change.whole or at in layout.key) else one
                for at, one in enumerate(new)
            )
        if old is not None and layout.key and layout.key_of(old) != layout.key_of(new):
            self._put("delete", layout.read(old, whole=change.whole))
            self._put("insert", layout.read(new))
            return
        self._put(change.kind, layout.read(new))

    def _put(self, op: str, values: Values) -> None:
        self._number += 1
        of = self._transaction
        unsent = [name for name, one in zip(self.columns, values, strict=True) if isinstance(one, Unchanged)]
        said = {
            "_op": op.encode(),
            "_lsn": b"%d" % of.commit,
            "_seq": b"%d" % self._number,
            "_committed_at": _text(of.time),
            UNCHANGED: json.dumps(unsent).encode() if unsent else None,
        }
        given = [said[name] for name in self.extra]
        line = b",".join(quoted(one) if isinstance(one, bytes) else b"" for one in (*values, *given))
        self._lines.append(line)
        self.size += len(line)

    def rows(self) -> Iterator[bytes]:
        """Yield a line of CSV for each event: the columns of the table, then `extra`."""
        return iter(self._lines)
