"""Redrives of dead letters: which letters take part, what is refused again, and the receipt.

A redrive is named by its task. It claims its letters once, and numbers them: its splits and their rows are the same at
each attempt, so that the sink's positions say which of them are written. What is refused again stays the letter that it
was, with the new reason, which is durable before its split is committed. When the sink has recorded the end, the other
letters are deleted together with the receipt, in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from catalog.letters import CHOSEN, DeadLetters, Letter, values_of
from penstock.clock import now
from penstock.models.letters import LetterChoice, LetterFix, redrive_uid

__all__ = ["SPLIT_ROWS", "Redrives", "Sent"]

SPLIT_ROWS: Final = 1000
"""Letters of a split."""
GROUPS: Final = 100
"""Fingerprints that a receipt counts one by one."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One letter on its way: why it was refused before, and the source's values as JSON."""

    step: str
    code: str
    reason: str
    values: dict[str, Any]
    change: dict[str, Any] | None = None
    """Of a change of a row: which one it is; see `catalog.overtaken`."""
    overtaken: int | None = None
    """The split by which a later change of its key was written, if one was."""


class Redrives(DeadLetters):
    """The dead letters of one pipeline, for its redrives: what is refused again stays the letter that it was."""

    def __init__(self, dsn: str, uid: str, name: str) -> None:
        """Open a session."""
        super().__init__(dsn, redrive_uid(uid), name)
        self._letters_of = uid

    def open(self) -> list[str]:
        """Return the redrives that have claimed letters and are not settled, oldest first."""
        with self.reported():
            return [id_ for (id_,) in self.session.execute(_OPEN, (self._letters_of,)).fetchall()]

    def claimed(self, redrive: str) -> int | None:
        """Return the number of letters that the redrive has claimed; None if it has not done so yet."""
        with self.reported():
            found = self.session.execute("SELECT chosen FROM ops.redrives WHERE id = %s", (redrive,)).fetchone()
        return None if found is None else found[0]

    def fix(self, redrive: str) -> LetterFix | None:
        """Return the fix of a redrive that is known."""
        with self.reported():
            row = self.session.execute("SELECT fix FROM ops.redrives WHERE id = %s", (redrive,)).fetchone()
        return LetterFix.parse(row[0]) if row and row[0] else None

    def chosen(self, choice: LetterChoice) -> list[tuple[str, str, int]]:
        """Return id, run and split of each letter of the choice that no redrive has claimed."""
        with self.reported():
            return self.session.execute(_FREE, values_of(choice, uid=self._letters_of)).fetchall()

    def claim(self, redrive: str, ids: Sequence[str], fix: LetterFix | None, rows: int = SPLIT_ROWS) -> None:
        """Claim these letters for a redrive, in the order of runs, splits and rows, `rows` to a split; once.

        Of changes of rows a split has one of each key, so that each finds what the one before it has written.
        """
        kept = None if fix is None else json.dumps(fix.to_dict())
        with self.reported(), self.session.transaction():
            values = {"redrive": redrive, "uid": self._letters_of, "ids": list(ids), "rows": rows}
            self.session.execute(_CLAIM, values)
            self._part_changes(redrive, rows)
            self.session.execute(_KNOWN, {**values, "at": now(), "fix": kept})

    def _part_changes(self, redrive: str, rows: int) -> None:
        """Begin a new split where a key comes again."""
        split = number = 0
        seen: set[str] = set()
        placed = []
        for day, id_, change in self.session.execute(_CHANGES, (self._letters_of, redrive)).fetchall():
            keys = {change[name] for name in ("key", "was") if change.get(name)}
            if keys & seen or number == rows:
                split, number, seen = split + 1, 0, set()
            placed.append((split, number, day, id_))
            number, seen = number + 1, seen | keys
        with self.session.cursor() as cursor:
            cursor.executemany(_PLACE, placed)

    def overtaken(self, redrive: str, split: int) -> list[bool]:
        """Return of each letter of a split whether a later change of its key has overtaken it."""
        values = (self._letters_of, redrive, split)
        with self.reported():
            return [found for (found,) in self.session.execute(_OVERTAKEN, values).fetchall()]

    def unknown(self, ids: Collection[str]) -> set[str]:
        """Return those of these letters of which it is not known which change they are."""
        query = "SELECT id::text FROM ops.dead_letters WHERE pipeline = %s AND id::text = ANY(%s) AND change IS NULL"
        with self.reported():
            return {id_ for (id_,) in self.session.execute(query, (self._letters_of, list(ids))).fetchall()}

    def release(self, redrive: str) -> None:
        """Give back the letters of a redrive of which nothing can have been written, and forget it."""
        with self.reported(), self.session.transaction():
            self.session.execute(_RELEASE, (self._letters_of, redrive))
            self.session.execute("DELETE FROM ops.redrives WHERE id = %s", (redrive,))

    def splits(self, redrive: str) -> list[int]:
        """Return the numbers of the redrive's splits."""
        with self.reported():
            return [number for (number,) in self.session.execute(_SPLITS, (self._letters_of, redrive)).fetchall()]

    def sent(self, redrive: str, split: int) -> list[Sent]:
        """Return the letters of a split, in order."""
        with self.reported():
            return [Sent(*row) for row in self.session.execute(_SENT, (self._letters_of, redrive, split)).fetchall()]

    def named(self, ids: Sequence[str]) -> list[Sent]:
        """Return the letters of these ids."""
        with self.reported():
            return [Sent(*row) for row in self.session.execute(_NAMED, (self._letters_of, list(ids))).fetchall()]

    def begin(self, stale: Mapping[str, Sequence[int] | None], keep: timedelta) -> str:  # noqa: ARG002 - claimed ones are kept
        """Take over the redrives; return the token that `put` requires. What open splits have said before is void."""
        token = super().begin({}, timedelta(days=36500))
        for redrive, splits in stale.items():
            with self.reported():
                self.session.execute(_VOID, (self._letters_of, redrive, splits is None, list(splits or ())))
        return token

    def put(self, token: str, run: str, split: int, found: Iterable[Letter], *, instead: bool = False) -> None:
        """Keep the new reasons of the rows of a split that were refused again, durably; `instead` of those before.

        Raises:
            Fenced: another process has taken over the redrives.
        """
        with self.reported(), self.session.transaction():
            self._check_token(token)
            if instead:
                self.session.execute(_VOID, (self._letters_of, run, False, [split]))
            rows = self.session.execute(_ROWS, (self._letters_of, run, split)).fetchall()
            again = [(one.step, one.code, one.reason, *rows[one.row]) for one in found]
            with self.session.cursor() as cursor:
                cursor.executemany(_AGAIN, again)

    def commonest(self, run: str) -> tuple[str, str, str] | None:  # noqa: ARG002 - whatever it is
        """Return None: a redrive has no limit of refused rows."""
        return None

    def settle(self, redrive: str, counted: Mapping[str, int]) -> None:
        """Delete the letters of a redrive that the sink has ended, but those that were refused again; once.

        A change that was written overtakes earlier ones of its key that stay.
        """
        with self.reported(), self.session.transaction():
            self.session.execute("SELECT FROM ops.redrives WHERE id = %s FOR UPDATE", (redrive,))
            if self.receipt(redrive) is not None:
                return
            self.session.execute(_OVERTAKE, (self._letters_of, redrive, redrive))
            groups = dict(self.session.execute(_SETTLE, (self._letters_of, redrive)).fetchall())
            self.session.execute(_RELEASE, (self._letters_of, redrive))
            receipt = json.dumps({**counted, "groups": _largest(groups)})
            self.session.execute("UPDATE ops.redrives SET receipt = %s WHERE id = %s", (receipt, redrive))

    def receipt(self, redrive: str) -> dict[str, Any] | None:
        """Return the receipt of a redrive or a deletion; None if it has not ended."""
        with self.reported():
            row = self.session.execute("SELECT receipt FROM ops.redrives WHERE id = %s", (redrive,)).fetchone()
        return None if row is None else row[0]

    def delete(self, task: str, choice: LetterChoice) -> dict[str, Any]:
        """Delete the letters of a choice; return the receipt. A repeat returns the one of before."""
        values = values_of(choice, uid=self._letters_of)
        with self.reported(), self.session.transaction():
            if (known := self.receipt(task)) is not None:
                return known
            groups = dict(self.session.execute(_DELETE, values).fetchall())
            receipt = {"deleted": sum(groups.values()), "groups": _largest(groups)}
            known = {"redrive": task, "uid": self._letters_of, "at": now(), "fix": None}
            self.session.execute(_KNOWN, known)
            self.session.execute("UPDATE ops.redrives SET receipt = %s WHERE id = %s", (json.dumps(receipt), task))
        return receipt

    def exist(self) -> bool:
        """Return True if letters of the pipeline were ever redriven or deleted."""
        with self.reported():
            found = self.session.execute("SELECT 1 FROM ops.redrives WHERE pipeline = %s LIMIT 1", (self._letters_of,))
            return found.fetchone() is not None

    def forget(self) -> None:
        """Forget the redrives of the pipeline, and prevent older ones from changing its letters."""
        super().forget()
        with self.reported():
            self.session.execute("DELETE FROM ops.redrives WHERE pipeline = %s", (self._letters_of,))

    def reloads(self) -> list[tuple[str, str, Any]]:
        """Return id, status and time of the pipeline's runs that have read rows again."""
        with self.reported():
            return self.session.execute(_RELOADS, (self._letters_of,)).fetchall()

    def before(self, ids: Collection[str], at: Any) -> set[str]:
        """Return those of these letters that are older."""
        query = "SELECT id::text FROM ops.dead_letters WHERE pipeline = %s AND id::text = ANY(%s) AND at < %s"
        with self.reported():
            return {id_ for (id_,) in self.session.execute(query, (self._letters_of, list(ids), at)).fetchall()}


def _largest(groups: Mapping[str, int]) -> dict[str, int]:
    """Return the largest groups, and the sum of the others."""
    ordered = sorted(groups.items(), key=lambda one: (-one[1], one[0]))
    others = sum(count for _, count in ordered[GROUPS:])
    return dict(ordered[:GROUPS]) | ({"others": others} if others else {})


_OPEN: Final = "SELECT id FROM ops.redrives WHERE pipeline = %s AND receipt IS NULL ORDER BY at, id"
_CLAIM: Final = """WITH begun AS (
  SELECT run, min(at) AS at FROM ops.dead_letters WHERE pipeline = %(uid)s GROUP BY run),
numbered AS (
  SELECT day, id, row_number() OVER (ORDER BY begun.at, run, split, row, step) - 1 AS n
  FROM ops.dead_letters JOIN begun USING (run)
  WHERE pipeline = %(uid)s AND id = ANY(%(ids)s::uuid[]) AND redrive IS NULL)
UPDATE ops.dead_letters AS one SET redrive = %(redrive)s, refused_again = NULL,
  redrive_split = numbered.n / %(rows)s, redrive_row = numbered.n %% %(rows)s
FROM numbered WHERE one.day = numbered.day AND one.id = numbered.id"""
_KNOWN: Final = """INSERT INTO ops.redrives (id, pipeline, at, chosen, fix)
SELECT %(redrive)s, %(uid)s, %(at)s, count(*), %(fix)s FROM ops.dead_letters
WHERE pipeline = %(uid)s AND redrive = %(redrive)s"""
_SPLITS: Final = (
    """SELECT DISTINCT redrive_split FROM ops.dead_letters WHERE pipeline = %s AND redrive = %s ORDER BY 1"""
)
_CHANGES: Final = """SELECT day, id, change FROM ops.dead_letters
WHERE pipeline = %s AND redrive = %s AND change IS NOT NULL
ORDER BY split, change ->> 'at' NULLS FIRST, row, step"""
_PLACE: Final = "UPDATE ops.dead_letters SET redrive_split = %s, redrive_row = %s WHERE day = %s AND id = %s"
_OVERTAKEN: Final = """SELECT overtaken IS NOT NULL FROM ops.dead_letters
WHERE pipeline = %s AND redrive = %s AND redrive_split = %s ORDER BY redrive_row"""
_OVERTAKE: Final = """UPDATE ops.dead_letters one SET overtaken = later.split FROM ops.dead_letters later
WHERE later.pipeline = %s AND later.redrive = %s AND later.refused_again IS NULL AND later.overtaken IS NULL
AND later.change IS NOT NULL AND one.change IS NOT NULL AND one.overtaken IS NULL
AND one.pipeline = later.pipeline AND one.change ->> 'key' = later.change ->> 'key'
AND (one.split, coalesce(one.change ->> 'at', '')) < (later.split, coalesce(later.change ->> 'at', ''))
AND (one.redrive IS DISTINCT FROM %s OR one.refused_again)"""
_SENT: Final = """SELECT step, code, reason, values, change, overtaken FROM ops.dead_letters
WHERE pipeline = %s AND redrive = %s AND redrive_split = %s ORDER BY redrive_row"""
_NAMED: Final = """SELECT step, code, reason, values, change, overtaken FROM ops.dead_letters
WHERE pipeline = %s AND id = ANY(%s::uuid[]) ORDER BY at, run, split, row, step"""
_ROWS: Final = """SELECT day, id FROM ops.dead_letters
WHERE pipeline = %s AND redrive = %s AND redrive_split = %s ORDER BY redrive_row"""
_VOID: Final = """UPDATE ops.dead_letters SET refused_again = NULL
WHERE pipeline = %s AND redrive = %s AND (%s OR redrive_split = ANY(%s::int[])) AND refused_again"""
_AGAIN: Final = """UPDATE ops.dead_letters SET step = %s, code = %s, reason = %s, refused_again = true
WHERE day = %s AND id = %s"""
_FREE: Final = "SELECT id::text, run, split FROM ops.dead_letters WHERE redrive IS NULL AND chosen".replace(
    "chosen", CHOSEN
)
_DELETE: Final = """WITH gone AS (DELETE FROM ops.dead_letters WHERE chosen RETURNING fingerprint)
SELECT fingerprint, count(*) FROM gone GROUP BY fingerprint""".replace("chosen", CHOSEN)
_SETTLE: Final = """WITH gone AS (DELETE FROM ops.dead_letters
WHERE pipeline = %s AND redrive = %s AND refused_again IS NULL RETURNING fingerprint)
SELECT fingerprint, count(*) FROM gone GROUP BY fingerprint"""
_RELEASE: Final = """UPDATE ops.dead_letters
SET redrive = NULL, redrive_split = NULL, redrive_row = NULL, refused_again = NULL
WHERE pipeline = %s AND redrive = %s"""
_RELOADS: Final = """SELECT id, status, requested_at FROM catalog.runs
WHERE uid = %s AND reload IS NOT NULL ORDER BY requested_at"""
