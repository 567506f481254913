"""Dead letters that are changes of rows: which change each is, and whether a later one of its key was written since.

The stream of a pipeline notes, before it commits a split, which letters the split overtakes. A note of a split that
was not committed is void: the split is read again. So what a letter says holds for everything that the sink has.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from catalog.letters import DeadLetters

__all__ = ["Aside", "Asides"]


@dataclass(frozen=True, slots=True)
class Aside:
    """A change that was set aside as the letter of this run, split, row and step.

    `change` has `op`: write (a whole row), update (a row of which values were not sent), delete or truncate; `key`, the
    values of its key as texts, a JSON array (null if they cannot be read), and `by`, the columns of the key; `lacks`,
    the columns that were not sent; `was`, the key that the row had before, if another one; in a history `at`, the time
    since which it holds; and `place`, the end of the transactions that it came with, as the source names places.
    """

    run: str
    split: int
    row: int
    step: str
    change: Mapping[str, Any]

    @property
    def key(self) -> str | None:
        """Values of its key, as one text."""
        return self.change.get("key")

    @property
    def order(self) -> tuple[int, str]:
        """Its place among the changes of its key."""
        return self.split, str(self.change.get("at") or "")

    def holds(self, lacking: Collection[str]) -> bool:
        """True if the target lacks a value of these columns: it is set aside here, or was in a row of another key."""
        if self.change["op"] not in {"write", "update"}:
            return False
        return bool(self.change.get("was") or set(lacking) - set(self.change.get("lacks", ())))


@dataclass(frozen=True, slots=True)
class Asides:
    """The letters of one pipeline that are changes, over the session of `letters`."""

    letters: DeadLetters
    pipeline: str

    def open(self) -> list[Aside]:
        """Return those that no later change has overtaken."""
        return self._found(_OPEN)

    def _found(self, query: str, *values: object) -> list[Aside]:
        with self.letters.reported():
            return [Aside(*row) for row in self.letters.session.execute(query, (self.pipeline, *values)).fetchall()]

    def of(self, keys: Collection[str]) -> list[Aside]:
        """Return those of them that have one of these keys."""
        return self._found(f"{_OPEN} AND change ->> 'key' = ANY(%s)", list(keys))

    def values(self, one: Aside) -> dict[str, Any] | None:
        """Return the values of a letter; None if it is there no more."""
        with self.letters.reported():
            given = (self.pipeline, one.run, one.split, one.row, one.step)
            found = self.letters.session.execute(_VALUES, given).fetchone()
        return found[0] if found else None

    def begin(self, last: int, by: Sequence[str]) -> list[Aside]:
        """Void the notes of splits after the last one that is committed; return what is open then.

        If none is committed here, notes are of another sink: they stay, and all letters are returned, which the first
        snapshot overtakes. `by` are the columns of the key. Of a letter that has other ones nothing shows from
        now on what overtakes it.
        """
        with self.letters.reported():
            if last:
                self.letters.session.execute(_VOID, (self.pipeline, last))
            self.letters.session.execute(_OTHER_KEY, (self.pipeline, json.dumps(sorted(by))))
        return self.open() if last else self._found(_ALL)

    def replace(self, token: str, run: str, split: int) -> None:
        """Note, durably, that a split with all rows there are overtakes all letters but its own.

        Raises:
            Fenced: another process has taken over the letters.
        """
        with self.letters.owned(token):
            self.letters.session.execute(_REPLACE, (split, self.pipeline, run, split))

    def overtake(self, token: str, split: int, overtaken: Sequence[Aside]) -> None:
        """Note, durably, the letters that a split overtakes, in place of what was noted of it before.

        Raises:
            Fenced: another process has taken over the letters.
        """
        with self.letters.owned(token):
            session = self.letters.session
            session.execute(_AGAIN, (self.pipeline, split))
            if overtaken:
                columns = zip(*((one.run, one.split, one.row, one.step) for one in overtaken), strict=True)
                session.execute(_OVERTAKE, (split, *map(list, columns), self.pipeline))


_ALL: Final = """SELECT run, split, row, step, change FROM ops.dead_letters
WHERE pipeline = %s AND change IS NOT NULL"""
_OPEN: Final = f"{_ALL} AND overtaken IS NULL"
_VALUES: Final = """SELECT values FROM ops.dead_letters
WHERE pipeline = %s AND run = %s AND split = %s AND row = %s AND step = %s"""
_VOID: Final = "UPDATE ops.dead_letters SET overtaken = NULL WHERE pipeline = %s AND overtaken > %s"
_OTHER_KEY: Final = """UPDATE ops.dead_letters SET change = change || '{"key": null}'
WHERE pipeline = %s AND change ->> 'key' IS NOT NULL AND change -> 'by' <> %s::jsonb"""
_AGAIN: Final = "UPDATE ops.dead_letters SET overtaken = NULL WHERE pipeline = %s AND overtaken = %s"
_REPLACE: Final = """UPDATE ops.dead_letters SET overtaken = %s
WHERE pipeline = %s AND change IS NOT NULL AND (run, split) <> (%s, %s)"""
_OVERTAKE: Final = """UPDATE ops.dead_letters one SET overtaken = %s
FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::text[]) AS passed(run, split, row, step)
WHERE one.pipeline = %s AND one.overtaken IS NULL AND one.run = passed.run AND one.split = passed.split
AND one.row = passed.row AND one.step = passed.step"""
