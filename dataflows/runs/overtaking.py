"""Changes that are dead letters, and later changes of their keys: which of them go on, and which wait.

A stream writes changes in order. If one is set aside, later ones of its key go on, and overtake it: written then, it
would undo them. One that leaves out a value which the change set aside has cannot go on: the target has an older value.
It is set aside, too, with that value. So whatever is written is a state that the row had at the source.

Rows are known by their key at the source, and in a history by their time, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.streaming import ChangeReading
from dataflows.data.changes import CHANGE, COMMITTED, keep
from dataflows.data.display import json_of

if TYPE_CHECKING:
    from catalog.letters import Letter
    from catalog.overtaken import Aside, Asides

__all__ = ["BEHIND", "Changed", "Overtaking"]

BEHIND: Final = "an earlier change of its key is a dead letter, and has a value that this one leaves out"
_OPS: Final = {None: "write", "keep": "update", "delete": "delete", "truncate": "truncate"}
Identity = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One change: `was` is the key that its row had before, if another one."""

    op: str
    key: str | None
    at: str = ""
    lacks: tuple[str, ...] = ()
    was: str | None = None

    @property
    def identity(self) -> Identity:
        """What it is known by among the changes of a split."""
        return "" if self.op == "truncate" else self.key, self.at

    @property
    def found_at(self) -> str | None:
        """The key at which the target has the values that were not sent; None if it cannot be read."""
        return self.was or self.key

    def described(self, place: str | None, by: Sequence[str]) -> str:
        """Return it as a letter keeps it; `by` are the columns of the key."""
        found = {"op": self.op, "key": self.key, "at": self.at, "lacks": self.lacks, "was": self.was, "place": place}
        return json.dumps({"by": by} | {name: value for name, value in found.items() if value or name == "key"})


@dataclass(frozen=True, slots=True)
class Changed:
    """Changes as rows of the source; `key` are the columns of the key, `schema` has the types that are read."""

    key: tuple[str, ...]
    schema: pa.Schema
    numbers: AbstractSet[str] = frozenset()
    """Those of the key that are numbers at the target: 1 and 1.0 are one key there."""

    def rows(self, batch: pa.RecordBatch) -> Iterator[ChangeRow]:
        """Yield the changes of a batch."""
        keys = zip(*(self._known_by(name, batch.column(name)) for name in self.key), strict=True)
        timed = COMMITTED in batch.schema.names
        times = _texts(batch.column(COMMITTED)) if timed else [""] * batch.num_rows
        for key, at, change in zip(keys, times, batch.column(CHANGE).to_pylist(), strict=True):
            yield self._row(key, at or "", change)

    def letter(self, values: Mapping[str, Any]) -> ChangeRow:
        """Return the change that a letter with these values is; without a key if that cannot be read."""
        times = [self._read(COMMITTED, values.get(COMMITTED))] if COMMITTED in self.schema.names else [""]
        key = tuple(self._read(name, values.get(name)) for name in self.key)
        return self._row(key, times[0] or "", values.get(CHANGE))

    def _row(self, key: tuple[str | None, ...], at: str, change: str | None) -> ChangeRow:
        said = json.loads(change) if change else {}
        was = None
        if "key" in said:
            was = self._joined(tuple(self._read(*one) for one in zip(self.key, said["key"], strict=True)))
        return ChangeRow(_OPS[said.get("op")], self._joined(key), at, tuple(said.get("columns", ())), was)

    def _read(self, name: str, value: Any) -> str | None:
        from dataflows.runs.letter_source import array_of

        try:
            return self._known_by(name, array_of([value], self.schema.field(name).type))[0]
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            return None

    def _known_by(self, name: str, values: pa.Array) -> list[str | None]:
        """Return a text for each value, by which values are known that are equal at the target."""
        texts = _texts(values)
        if name not in self.numbers:
            return texts
        return [one.rstrip("0").rstrip(".") if one and "." in one else one for one in texts]

    @property
    def by(self) -> list[str]:
        """The columns of the key in the order of their names: a file may name them in another one."""
        return sorted(self.key)

    def _joined(self, key: tuple[str | None, ...]) -> str | None:
        values = dict(zip(self.key, key, strict=True))
        return None if None in key else json.dumps([values[name] for name in self.by])


def _texts(array: pa.Array) -> list[str | None]:
    """Return a text for each value, by which equal values are known."""
    try:
        return [_text(one) for one in array.to_pylist()]
    except (OverflowError, ValueError):  # times that Python cannot represent
        if len(array) == 1:
            return [str(array.cast(pa.string())[0].as_py())]
    return [text for at in range(len(array)) for text in _texts(array.slice(at, 1))]


def _text(value: object) -> str | None:
    if isinstance(value, datetime):
        utc = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        return utc.isoformat(timespec="microseconds")
    if isinstance(value, float):
        return str(value + 0.0)  # not -0
    return None if value is None else str(value)


@dataclass(slots=True)
class Overtaking:
    """What the writer of a stream has to know of changes that were set aside: all of its own are later."""

    changed: Changed
    reader: ChangeReading
    run: str
    token: str
    letters: Callable[[], Asides]
    where: str
    asides: dict[str | None, list[Aside]] = field(default_factory=dict)
    """Those that are open, by key."""
    _new: list[Aside] = field(default_factory=list, init=False)
    _rows: list[ChangeRow] = field(default_factory=list, init=False)
    _behind: frozenset[Identity] = field(default=frozenset(), init=False)
    _overtaken: list[Aside] = field(default_factory=list, init=False)
    _replaces: bool = field(default=False, init=False)

    @classmethod
    def of(
        cls,
        changed: Changed,
        reader: ChangeReading,
        run: str,
        token: str,
        letters: Callable[[], Asides],
        where: str,
        asides: Iterable[Aside],
    ) -> Overtaking:
        """Return it with the letters that are open when the run begins."""
        made = cls(changed, reader, run, token, letters, where)
        made._keep(asides)
        return made

    def begun(self, split: int) -> RowRefused | None:
        """Begin a split; return an error if a change of it has to be set aside, whatever the target says."""
        self._new, self._overtaken, self._rows, self._behind = [], [], [], frozenset()
        found = self.reader.changed(split)
        self._replaces = found is None
        if not self.asides or found is None:
            return None
        self._rows = [row for batch in found for row in self.changed.rows(batch)]
        known = self.asides.keys() & {key for row in self._rows for key in (row.key, row.was)}
        if known:  # others may have been redriven or deleted meanwhile
            self._renew([key for key in known if key is not None])
        self._behind = frozenset(row.identity for row in self._rows if row.lacks and self._holders(row))
        if not self._behind:
            return None
        return RowRefused(BEHIND, where=self.where, hint="redrive the earlier one first", state="not_kept")

    def _renew(self, keys: Collection[str]) -> None:
        for key in keys:
            del self.asides[key]
        self._keep(self.letters().of(keys))

    def _keep(self, found: Iterable[Aside]) -> None:
        for one in found:
            self.asides.setdefault(one.key, []).append(one)

    def _holders(self, row: ChangeRow) -> list[Aside]:
        """Return the changes before it for which the target lacks values that it leaves out, the latest first."""
        known = self.asides.get(row.found_at, ()) if row.found_at is not None else ()
        found = [one for one in known if one.holds(row.lacks)]
        return sorted(found, key=lambda one: one.order, reverse=True)

    def behind(self, source: pa.RecordBatch) -> frozenset[int]:
        """Return the numbers of the rows, as they were read, that have to be set aside."""
        if not self._behind:
            return frozenset()
        rows = enumerate(self.changed.rows(source))
        return frozenset(number for number, row in rows if row.lacks and row.identity in self._behind)

    def described(self, split: int, letters: Sequence[Letter], *, instead: bool) -> list[Letter]:
        """Return letters of the split with the change that each is; `instead` of those before.

        Values that it leaves out come from those before it, so that it can be written without them.
        """
        from catalog.overtaken import Aside

        found = [self._described(split, one) for one in letters]
        new = [Aside(self.run, split, one.row, one.step, json.loads(one.change or "{}")) for one in found]
        self._new = new if instead else [*self._new, *new]
        return found

    def _described(self, split: int, letter: Letter) -> Letter:
        values = json.loads(letter.values)
        row = self.changed.letter(values)
        if row.lacks and (holders := self._holders(row)):
            values |= self._given(row, holders, json.loads(values[CHANGE]).get("key"))
            row, letter = self.changed.letter(values), replace(letter, values=json_of(values))
        return replace(letter, change=row.described(self.reader.place(split), self.changed.by))

    def _given(self, row: ChangeRow, holders: Iterable[Aside], was: Sequence[str] | None) -> dict[str, Any]:
        """Return the values that a change leaves out, as far as those before it have them.

        What is before a change of the key is of another row.
        """
        given: dict[str, Any] = {}
        for one in holders:
            wanted = set(row.lacks) - set(given) - set(one.change.get("lacks", ()))
            moved = bool(one.change.get("was"))
            known = (self.letters().values(one) or {}) if wanted or moved else {}
            given |= {name: known[name] for name in wanted if name in known}
            if moved:
                was = json.loads(known.get(CHANGE) or "{}").get("key", was)
                break
        left = [name for name in row.lacks if name not in given]
        return given | {CHANGE: keep(left, was) if left else None}

    def ends(self, split: int) -> None:
        """Note what the split overtakes, before it is committed."""
        before = [one for some in self.asides.values() for one in some]
        if self._replaces and before:
            self.letters().replace(self.token, self.run, split)
        if self._replaces:
            self._overtaken = before
            return
        if not before and not (self._new and COMMITTED in self.changed.schema.names):
            return
        found = self._passed(split, before)
        if found or self._overtaken:
            self.letters().overtake(self.token, split, found)
        self._overtaken = found

    def _passed(self, split: int, before: Iterable[Aside]) -> list[Aside]:
        """Return the changes that a written one of the split overtakes: earlier ones, and in a history its own ones."""
        refused = {("" if one.change["op"] == "truncate" else one.key, one.order[1]) for one in self._new}
        rows = self._rows or [row for some in self.reader.changed(split) or () for row in self.changed.rows(some)]
        last = {None if row.op == "truncate" else row.key: row.at for row in rows if row.identity not in refused}
        found = [one for one in before if one.key in last or None in last]
        return found + [one for one in self._new if one.order[1] < max(last.get(one.key, ""), last.get(None, ""))]

    def committed(self) -> None:
        """Learn that the split is committed."""
        if not (self._new or self._overtaken):
            return
        gone = set(map(id, self._overtaken))
        every = [*(one for some in self.asides.values() for one in some), *self._new]
        self.asides = {}
        self._keep(one for one in every if id(one) not in gone)
