"""Fold the changes of whole transactions to one for each key: what the target has to do to get from before to after.

A row that was inserted and deleted is a deletion; one whose key was changed is a deletion and a row. A value that was
not sent is taken from the change before it, and stays unknown only if the target has to have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from dataflows.connectors.postgres.cdc.pgoutput import Begin, Change, Tuple, Unchanged
from dataflows.connectors.postgres.cdc.positions import REBUILD
from dataflows.data.changes import DELETE, TRUNCATE, keep
from penstock.errors import PenstockError, Refused

__all__ = ["ROW_BYTES", "Fold", "Key", "Layout", "Row", "Values", "csv_line", "quoted"]

ROW_BYTES: Final = 200
"""Approximate bytes of a row in addition to its values."""
Key = tuple[bytes | Unchanged | None, ...]
Values = list[bytes | Unchanged | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions in a relation of the columns that are read (None: not there), and of those of the key."""

    names: tuple[str, ...]
    places: tuple[int | None, ...]
    key: tuple[int, ...]
    """Places of the key's columns in the relation."""
    filled: tuple[bytes | None, ...] = ()
    """Values of the columns that the relation does not have yet."""

    def key_of(self, values: Tuple) -> Key:
        return tuple(values[at] for at in self.key)

    def read(self, values: Tuple, *, whole: bool = True) -> Values:
        """Return the values of the columns that are read; of a row that is not whole, only those that were sent."""
        found = [None if at is None else values[at] for at in self.places]
        if whole and None in self.places and self.filled:
            return [self.filled[n] if at is None else found[n] for n, at in enumerate(self.places)]
        return found


@dataclass(slots=True)
class Row:
    """The last state of a key: its values, and the key under which the target has those that are unknown."""

    values: Values
    kept_at: Key | None
    size: int = 0


@dataclass(slots=True)
class Fold:
    """Changes in the order of their commits, folded; `size` is about their bytes."""

    where: str
    size: int = 0
    truncated: bool = False
    times: tuple[float, float] | None = None
    """Times of the first and the last commit, in seconds of Unix time."""
    _rows: dict[Key, Row | None] = field(default_factory=dict)
    """By key; None if it was deleted."""

    def __len__(self) -> int:
        return len(self._rows) + self.truncated

    def begin(self, transaction: Begin) -> None:
        """Begin a transaction; its changes follow."""

    def committed(self, at: float) -> None:
        """Add the time of a commit."""
        first, last = self.times or (at, at)
        self.times = min(first, at), max(last, at)

    def truncate(self) -> None:
        """Forget what was there before."""
        self._rows.clear()
        self.truncated, self.size = True, 0

    def add(self, change: Change, layout: Layout) -> None:
        """Add a change of the table."""
        if change.new is None:
            assert change.old is not None  # noqa: S101 - the server sends no deletion without
            key = layout.key_of(change.old)
            self._leaves(key, change, layout)
            self._put(key, None)
            return
        new, old = change.new, change.old
        if old is not None:
            given = old if change.whole else self._only_key(old, new, layout)
            new = tuple(b if isinstance(a, Unchanged) else a for a, b in zip(new, given, strict=True))
        key = layout.key_of(new)
        if any(isinstance(one, Unchanged) for one in key):
            what = "an update came without the key of its row"
            raise PenstockError(what, where=self.where, hint="is the primary key the table's replica identity?")
        before = key if old is None else layout.key_of(old)
        values = layout.read(new)
        row = Row(values, None)
        if change.kind == "update":
            self._leaves(before, change, layout)
            self._fill(row, before)
        row.size = sum(len(one) for one in values if isinstance(one, bytes))
        if before != key:
            self._put(before, None)
        if (change.kind == "insert" or before != key) and self._rows.get(key) is not None:
            raise self._not_unique()
        self._put(key, row)

    def _leaves(self, key: Key, change: Change, layout: Layout) -> None:
        """Refuse a change of a row that is not the one which was put at its key."""
        if key not in self._rows:
            return
        known = self._rows[key]
        if known is not None and (not change.whole or change.old is None):
            return
        old = layout.read(change.old) if known is not None and change.old is not None else []
        pairs = zip(known.values, old, strict=True) if known is not None else ()
        if known is None or any(one != other for one, other in pairs if not isinstance(one, Unchanged)):
            raise self._not_unique()

    def _not_unique(self) -> Refused:
        what = "two rows had the same key: its constraint was dropped or is DEFERRABLE"
        return Refused(f"{what}, so that changes do not say which row they mean", where=self.where, hint=REBUILD)

    @staticmethod
    def _only_key(old: Tuple, new: Tuple, layout: Layout) -> Tuple:
        """Return the old values that stand for ones that were not sent: those of the key."""
        return tuple(old[at] if at in layout.key else new[at] for at in range(len(new)))

    def _fill(self, row: Row, before: Key) -> None:
        unknown = [at for at, one in enumerate(row.values) if isinstance(one, Unchanged)]
        if not unknown:
            return
        known = self._rows.get(before)
        if known is None:
            row.kept_at = before
            return
        for at in unknown:
            row.values[at] = known.values[at]
        if any(isinstance(one, Unchanged) for one in row.values):
            row.kept_at = known.kept_at

    def _put(self, key: Key, row: Row | None) -> None:
        """Take the state of a key after a change: its row, or None."""
        known = self._rows.get(key)
        self.size += (row.size if row else 0) - (known.size if known else 0)
        self.size += 0 if key in self._rows else ROW_BYTES
        self._rows[key] = row

    def rows(self, names: Sequence[str], key: Sequence[int]) -> Iterator[bytes]:
        """Yield a line of CSV for each row, with its change as the last column.

        `names` are the columns, `key` says which of them are the key, in its order. Unquoted and empty is NULL.
        """
        if self.truncated:
            yield b"," * len(names) + quoted(TRUNCATE.encode())
        for of, row in self._rows.items():
            if row is None:
                values: Values = [None] * len(names)
                for at, one in zip(key, of, strict=True):
                    values[at] = one
                yield csv_line(values, DELETE)
            else:
                yield csv_line(row.values, self.change_of(row, of, names))

    @staticmethod
    def change_of(row: Row, key: Key, names: Sequence[str]) -> str | None:
        """Return what a row does: None if all its values are known."""
        if row.kept_at is None:
            return None
        columns = [name for name, one in zip(names, row.values, strict=True) if isinstance(one, Unchanged)]
        moved = [one.decode() for one in row.kept_at if isinstance(one, bytes)] if row.kept_at != key else None
        return keep(columns, moved)


def csv_line(values: Values, change: str | None) -> bytes:
    """Return a line of CSV with the change as its last value; unquoted and empty is NULL."""
    parts = [quoted(one) if isinstance(one, bytes) else b"" for one in values]
    parts.append(b"" if change is None else quoted(change.encode()))
    return b",".join(parts)


def quoted(value: bytes) -> bytes:
    """Return a value of CSV in quotes, so that an empty text is no NULL."""
    return b'"' + (value.replace(b'"', b'""') if b'"' in value else value) + b'"'
