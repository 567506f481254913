"""The columns of the changes that come, compared with those that the run began with.

The server says how a table's columns are before the first change that has them so, and says nothing of what an ALTER
did to the rows that were there. The catalog keeps the one value that rows got which are older than a column, until all
rows are rewritten: so a column may come, and a type that only allows more. Anything else is refused by name before
a row is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dataflows.connectors.postgres.cdc.catalog import Shape
from dataflows.connectors.postgres.cdc.fold import Layout
from dataflows.connectors.postgres.cdc.pgoutput import Relation
from dataflows.connectors.postgres.cdc.positions import REBUILD, Position
from penstock.errors import ColumnChanged, Refused, SchemaMismatch, Unavailable

__all__ = ["Layouts", "check_columns", "check_rows", "no_key"]

WHOLE: Final = "f"
"""Replica identity that sends the whole old row."""


@dataclass
class Layouts:
    """Relations by their number. `names` are read, `key` are those of the key; `look` returns the table as it is."""

    names: Sequence[str]
    key: Sequence[str]
    shape: Shape
    where: str
    look: Callable[[Position], Shape]
    """Raises Refused if the table, or what publishes it, is not that of the position any more."""
    named: bool = False
    """True if the pipeline names the columns that it reads."""
    _at: Position | None = field(default=None, init=False)
    _begun: Position | None = field(default=None, init=False)
    _doubt: tuple[int, int] | None = field(default=None, init=False)
    """A file of the table that no change explains yet, and the end of the WAL in which one may be."""
    _of: dict[int, Layout] = field(default_factory=dict, init=False)

    @property
    def left_out(self) -> Callable[[str], bool]:
        """Return what is true of a column that the pipeline leaves out."""
        return lambda name: self.named and name not in self.names

    @property
    def position(self) -> Position:
        """Where the run began, with the columns that are read from then on."""
        assert self._at is not None  # noqa: S101 - set before the first change
        return self._at

    @property
    def begun(self) -> Position:
        """Where the run began, with the columns that were read until then."""
        assert self._begun is not None  # noqa: S101 - set before the first change
        return self._begun

    def begin(self, at: Position) -> None:
        """Begin at a position. A column that is gone may be one that the pipeline leaves out, if it names its columns.

        Raises:
            Refused: a column is read whose values the rows at the sink lack.
        """
        check_columns(at, self.shape, self.where, self.left_out)
        for name in self.names:
            if name in at.read:
                continue
            if name in at.columns:
                what = f"column `{name}` was not read before: the rows that were written lack its values"
                raise Refused(what, where=self.where, hint=f"leave it out of the mapping; or {REBUILD}")
            self._check_new(name, at)
        now = self.shape
        self._begun = at
        keys = now.keys_of(self.key) if set(at.keys) & set(now.keys_of(self.key)) else at.keys
        self._at = replace(at, columns=now.kept, read=tuple(self.names), numbered=now.numbered, keys=keys)

    def _check_new(self, name: str, at: Position) -> None:
        """Refuse a column of which rows may have values that neither a change nor the catalog tells."""
        found = self.shape.columns[name]
        if found.number <= at.numbered:
            what = "it was there before, under another name or computed by the server"
        elif any(at.numbered < one < found.number for one in self.shape.gaps):
            what = "it is new, and so was a column that was dropped since, maybe of the same name"
        else:
            return
        raise _changed(name, what, self.where)

    def of(self, relation: int) -> Layout | None:
        """Return the layout of a relation; None if it is another table's."""
        return self._of.get(relation)

    def check(self) -> Shape:
        """Look whether the table, and what publishes it, is still that of the position; return it."""
        now = self.look(self.position)
        check_columns(self.position, now, self.where, self.left_out)
        check_rows(self.position, now, self.where)
        if self.position.file == now.file or self.position.emptied in now.filed_by:
            self._doubt = None
        elif self._doubt is None or self._doubt[0] != now.file:
            self._doubt = now.file, now.written
        return now

    def stream_from(self, slot: str) -> None:
        """Take the positions that follow as ones of another slot."""
        self._at = replace(self.position, slot=slot)

    def emptied(self, xid: int) -> None:
        """Take a transaction that has emptied the table."""
        self._at = replace(self.position, emptied=str(xid))

    def doubted(self, upto: int) -> bool:
        """True while the table has a new file, and what was read up to `upto` may not tell why yet.

        Raises:
            Refused: all is read that could: its rows were rewritten, maybe with other values.
        """
        if self._doubt is None or upto < self._doubt[1]:
            return self._doubt is not None
        before = self._doubt
        self.check()
        if self._doubt == before:
            what = "the table's rows were rewritten (by ALTER TABLE, VACUUM FULL or CLUSTER), which no change tells"
            raise Refused(what, where=self.where, hint=f"they may have other values; {REBUILD}")
        return self._doubt is not None

    def add(self, relation: Relation) -> None:
        """Take the columns of the changes that follow.

        Raises:
            Unavailable: there are columns that the run does not know; the next attempt begins with them.
            Refused, SchemaMismatch: columns were changed in a way that no change tells.
        """
        if relation.id != self.shape.id:
            return
        sent = {one.name: at for at, one in enumerate(relation.columns)}
        types = {one.name: (one.type_id, one.modifier) for one in relation.columns}
        known = self.shape.columns
        differ = [
            name for name in types if name in known and types[name] != (known[name].type_id, known[name].modifier)
        ]
        now = self._compare(list(types.keys() - known.keys()), differ)
        self._check_order([one.name for one in relation.columns])
        named = {one.name for one in relation.columns if one.in_identity or relation.identity == WHOLE}
        if lacks := [name for name in self.key if name not in named]:
            what = f"the table's replica identity was changed: it names no row by `{lacks[0]}`"
            hint = f"let it be the primary key, or FULL, as before; {REBUILD}"
            raise SchemaMismatch(what, where=self.where, hint=hint)
        if self.shape.identity is None and relation.identity != WHOLE:
            if now.identity is not None:
                what = "the table's replica identity is FULL no more"
                raise Unavailable(what, where=self.where, hint="the stream begins again")
            what = "updates came that may leave out values: the table's replica identity was not FULL then"
            raise Refused(what, where=self.where, hint=REBUILD)
        places = tuple(sent.get(name) for name in self.names)
        older = {name: known[name].filled for name in self.names if name not in sent}
        filled = tuple(one.encode() if (one := older.get(name)) is not None else None for name in self.names)
        self._of[relation.id] = Layout(tuple(self.names), places, tuple(sent[name] for name in self.key), filled)

    def _check_order(self, sent: Sequence[str]) -> None:
        """Refuse columns that had other names: the server sends them in the order in which they were made."""
        known = self.shape.columns
        order = [known[name].number for name in sent if name in known]
        lacks = [name for name in self.names if name not in sent]
        if order != sorted(order) or (lacks and len(order) < len(sent)):
            name = (
                lacks[0]
                if lacks
                else next(n for n, at in zip(sent, sorted(order), strict=False) if n in known and known[n].number != at)
            )
            raise _changed(name, "it had another name for a time, or was made when another one was dropped", self.where)

    def _compare(self, new: Sequence[str], differ: Sequence[str]) -> Shape:
        """Compare with the table as it is now; columns that the changes lack may have been added after them.

        Not only where the columns differ: one that was dropped and made again looks the same.
        """
        now = self.check()
        for name in differ:
            known, found = self.shape.columns[name], now.columns.get(name)
            if found is not None and found.type != known.type:  # it allows more, or `check` would have refused it
                raise Unavailable(
                    f"column `{name}` is now {found.type}", where=self.where, hint="the stream begins again"
                )
            if (before := self.begun.columns.get(name)) is None or not allows_more(before[1], known.type):
                raise _changed(name, "its type was changed", self.where)
        if any(name in now.columns for name in new):
            names = ", ".join(f"`{name}`" for name in sorted(new))
            raise Unavailable(f"the table has a new column: {names}", where=self.where, hint="the stream begins again")
        return now


def check_columns(at: Position, now: Shape, where: str, left_out: Callable[[str], bool] = lambda _: False) -> None:
    """Refuse a table whose rows have changed since the position without a change that says so.

    Columns that are `left_out` from then on may have been dropped, or be anything.

    Raises:
        ColumnChanged: a column that was read is gone, made again, renamed, or of another type.
    """
    for name in at.read:
        if name not in at.columns or left_out(name):
            continue
        number, kind = at.columns[name]
        found = now.columns.get(name)
        other = next((new for new, one in now.columns.items() if one.number == number and new != name), None)
        if other is not None:
            raise _changed(name, f"it is called `{other}` now", where, "renames")
        if found is None:
            raise _changed(name, "it was dropped", where, "lost")
        if found.number != number:
            raise _changed(name, "it was dropped and made again", where, "lost")
        if found.type != kind and not allows_more(kind, found.type):
            raise _changed(name, f"its type was {kind} and is {found.type}", where, "types")


_SIZED: Final = re.compile(r"(character varying|numeric)(?:\((\d+)(?:,(\d+))?\))?")


def allows_more(before: str, after: str) -> bool:
    """True if each value of a type is one of the other, in the same text, so that the server rewrites no row."""
    if after == "text":
        return before.startswith("character varying")
    one, other = _SIZED.fullmatch(before), _SIZED.fullmatch(after)
    if one is None or other is None or one[1] != other[1] or one[2] is None:
        return False
    return other[2] is None or (one[3] == other[3] and int(one[2]) <= int(other[2]))


def check_rows(at: Position, now: Shape, where: str) -> None:
    """Refuse a table whose changes do not say all.

    Raises:
        Refused: other tables inherit from it; or its key is not unique, or was not since the position.
    """
    if now.parent:
        what = "a table inherits from it now, whose changes do not come"
        raise Refused(what, where=where, hint=f"take it away (NO INHERIT), then {REBUILD}")
    if at.keys and not set(at.keys) & set(now.keys):
        raise no_key(where)


def no_key(where: str) -> Refused:
    """Return the error of a table whose changes do not say which row they mean."""
    what = "the key is not unique any more, or was not for a time: its constraint was dropped or made DEFERRABLE"
    return Refused(what, where=where, hint=f"let the key be unique and NOT NULL, then {REBUILD}")


def _changed(name: str, what: str, where: str, rule: str = "types") -> ColumnChanged:
    what = f"column `{name}` cannot be followed: {what}, which no change tells"
    return ColumnChanged(what, where=where, hint=REBUILD, rule=rule)
