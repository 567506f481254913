"""Dead letters: the rows that a run could not write, stored by day in schema `ops`, outside of every log.

A run's letters are durable before the split that they came from is committed. A launcher that has claimed the pipeline
drops the letters of the splits that will be read again, and from then on only processes with its token can add letters.
So each dead row is stored once, however often its split is retried. A process that sleeps from its claim until after
its successor's takes over the letters: the successor then fails, and its next attempt corrects them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from catalog.arrivals import forget_arrivals
from catalog.sink_states import forget_states, known_state, remember_state
from penstock.clock import now
from penstock.errors import Fenced
from penstock.models.letters import LetterChoice
from penstock.postgres import address, connect, translated

__all__ = [
    "CHOSEN",
    "DeadLetters",
    "KeptLetter",
    "Letter",
    "LetterGroup",
    "groups",
    "letter",
    "letters",
    "values_of",
]

_LOCK: Final = 0x64656164
"""The advisory lock that is held while a day's partition is created."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One row that could not be written: its number in its split, the step that refused it, and its values.

    `code` holds a name; `reason` may show the value of a failed cast, and `values` is a JSON object: neither shows
    what the pipeline masks.
    """

    row: int
    step: str
    code: str
    reason: str
    values: str
    change: str | None = None
    """Of a change of a row, as a JSON object: which one it is; see `catalog.overtaken`."""


@dataclass(frozen=True, slots=True)
class KeptLetter:
    """A stored letter."""

    id: str
    name: str
    run: str
    split: int
    row: int
    step: str
    code: str
    reason: str
    values: dict[str, Any]
    at: datetime
    group: str
    """Fingerprint of its step, code and reason, without numbers, ids and values."""
    state: str
    """`redriving` while a redrive that has not ended has claimed it, `overtaken` once a later change of its key is
    written, else `open`."""
    change: dict[str, Any] | None = None
    """Of a change of a row: which one it is."""


class DeadLetters:
    """The letters of one pipeline, for one run. Not thread-safe."""

    def __init__(self, dsn: str, uid: str, name: str, session: psycopg.Connection[Any] | None = None) -> None:
        """Use `session`, which must be in autocommit, or open one."""
        self._where, self._uid, self._name = address(dsn), uid, name
        self.session = session or connect(dsn, "penstock:letters", autocommit=True)
        self._days: set[date] = set()

    def begin(self, stale: Mapping[str, Sequence[int] | None], keep: timedelta) -> str:
        """Take over the letters; return the token that `put` requires.

        Drops, for each run in `stale`, the letters of the given splits (None: of all its splits), and letters of any
        run that are older than `keep`.
        """
        token = uuid4().hex
        oldest = now() - keep
        values: list[Any] = [self._uid, token, self._uid, oldest]
        for run, splits in stale.items():
            values += [self._uid, run, splits is None, list(splits or ())]
        # One message is one transaction; each of its statements sees what was committed before it began.
        with self.reported():
            psycopg.ClientCursor(self.session).execute(
                "; ".join([_NOT_WAITED_FOR, _OWN, _DROP_OLD, *[_DROP_STALE] * len(stale)]), values
            )
        self._drop_empty_days(oldest)
        return token

    def put(self, token: str, run: str, split: int, found: Iterable[Letter], *, instead: bool = False) -> None:
        """Store letters of a split, durably; `instead` of those that are there.

        Raises:
            Fenced: another process has taken over the letters.
        """
        at = now()
        self._make_day(at.date())
        rows = [self._row(at, run, split, letter) for letter in found]
        with self.owned(token):
            if instead:
                self.session.execute(
                    "DELETE FROM ops.dead_letters WHERE pipeline = %s AND run = %s AND split = %s",
                    (self._uid, run, split),
                )
            with self.session.cursor() as cursor, cursor.copy(_COPY) as copy:
                for row in rows:
                    copy.write_row(row)

    @contextmanager
    def owned(self, token: str) -> Iterator[None]:
        """Return a transaction in which nobody else takes over the letters.

        Raises:
            Fenced: another process has taken over the letters.
        """
        with self.reported(), self.session.transaction():
            self._check_token(token)
            yield

    def commonest(self, run: str) -> tuple[str, str, str] | None:
        """Return step, code and a reason of the most frequent kind of letter of a run; None if it has none."""
        with self.reported():
            return self.session.execute(_COMMONEST, (self._uid, run)).fetchone()

    def known_state(self, sink: str) -> str | None:
        """Return the id of what kept the pipeline's state at a sink when its last run began; None before the first."""
        with self.reported():
            return known_state(self.session, self._uid, sink)

    def remember_state(self, sink: str, identity: str) -> None:
        """Remember the id."""
        with self.reported():
            remember_state(self.session, self._uid, sink, identity)

    def forget(self) -> None:
        """Erase all letters of the pipeline, and prevent older runs from adding any."""
        with self.reported(), self.session.transaction():
            self.session.execute("DELETE FROM ops.dead_letter_owners WHERE pipeline = %s", (self._uid,))
            self.session.execute("DELETE FROM ops.dead_letters WHERE pipeline = %s", (self._uid,))
            forget_states(self.session, self._uid)
            forget_arrivals(self.session, self._uid)

    def close(self) -> None:
        """End the session."""
        self.session.close()

    def _row(self, at: datetime, run: str, split: int, letter: Letter) -> tuple[Any, ...]:
        text = f"{self._uid}\x1f{run}\x1f{split}\x1f{letter.row}\x1f{letter.step}"
        id_ = UUID(bytes=hashlib.sha256(text.encode()).digest()[:16])
        fields = (letter.row, letter.step, letter.code, letter.reason, letter.values, letter.change)
        return (at.date(), id_, self._uid, self._name, run, split, *fields, at)

    def _check_token(self, token: str) -> None:
        """Keep others from taking over until the transaction ends. Raises Fenced: one has."""
        owner = self.session.execute(
            "SELECT token FROM ops.dead_letter_owners WHERE pipeline = %s FOR SHARE", (self._uid,)
        ).fetchone()
        if owner is None or owner[0] != token:
            raise self._fenced()

    def _make_day(self, day: date) -> None:
        if day in self._days:
            return
        table = sql.Identifier("ops", f"dead_letters_{day:%Y%m%d}")
        with self.reported(), self.session.transaction():
            self.session.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            self.session.execute(
                sql.SQL(
                    "CREATE TABLE IF NOT EXISTS {} PARTITION OF ops.dead_letters FOR VALUES FROM ({}) TO ({})"
                ).format(table, sql.Literal(day), sql.Literal(day + timedelta(days=1)))
            )
        self._days.add(day)

    def _drop_empty_days(self, before: datetime) -> None:
        """Drop the partitions of past days that have no letters left."""
        days = (f"dead_letters_{before:%Y%m%d}",)
        with self.reported():
            if not self.session.execute(_DAYS, days).fetchall():
                return
        with self.reported(), self.session.transaction():
            self.session.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            for (name,) in self.session.execute(_DAYS, days).fetchall():
                table = sql.Identifier("ops", name)
                held = self.session.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table)).fetchone()
                if held is not None and not held[0]:
                    self.session.execute(sql.SQL("DROP TABLE {}").format(table))

    def _fenced(self) -> Fenced:
        hint = "nothing to do: the newer run continues"
        return Fenced("a newer run took over", where=f"{self._name}: dead letters", hint=hint)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Return a context in which errors of the database are reported as ours."""
        try:
            yield
        except psycopg.Error as error:
            raise translated(error, where=f"{self._name}: dead letters at {self._where}") from None


_NOT_WAITED_FOR: Final = "SET LOCAL synchronous_commit = off"
"""If a crash of the server loses the token, `put`, which waits for the disk, fails."""
_OWN: Final = """INSERT INTO ops.dead_letter_owners (pipeline, token) VALUES (%s, %s)
ON CONFLICT (pipeline) DO UPDATE SET token = excluded.token"""
_DROP_OLD: Final = "DELETE FROM ops.dead_letters WHERE pipeline = %s AND at < %s AND redrive IS NULL"
_DROP_STALE: Final = """WITH dropped AS (
  DELETE FROM ops.dead_letters WHERE pipeline = %s AND run = %s AND (%s OR split = ANY(%s::int[])) RETURNING 1)
SELECT set_config('synchronous_commit', 'on', true) FROM dropped LIMIT 1"""
"""Letters that come back after a crash would be of rows that are written, so that this waits for the disk."""
_COPY: Final = """COPY ops.dead_letters
(day, id, pipeline, name, run, split, row, step, code, reason, values, change, at) FROM STDIN"""
_COMMONEST: Final = """SELECT step, code, min(reason) FROM ops.dead_letters WHERE pipeline = %s AND run = %s
GROUP BY step, code ORDER BY count(*) DESC, step, code LIMIT 1"""
_DAYS: Final = """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'ops.dead_letters'::regclass AND c.relname < %s ORDER BY 1"""


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """Letters of one fingerprint: the step, code and reason of the newest, in which numbers, ids and values differ."""

    group: str
    name: str
    count: int
    step: str
    code: str
    reason: str
    first: datetime
    last: datetime


def letters(
    session: psycopg.Connection[Any], choice: LetterChoice, limit: int, *, name: str | None = None, **more: Any
) -> list[KeptLetter]:
    """Return the newest letters of a choice, optionally of one pipeline, or of a set with its members.

    `more` are conditions of `values_of`.
    """
    query = f"{_KEPT} WHERE {CHOSEN} ORDER BY at DESC, split, row LIMIT %(limit)s"
    found = session.execute(query, values_of(choice, name=name, **more) | {"limit": limit})
    return [KeptLetter(*row) for row in found]


def groups(
    session: psycopg.Connection[Any], choice: LetterChoice, limit: int, *, name: str | None = None, **more: Any
) -> list[LetterGroup]:
    """Return the letters of a choice by pipeline and fingerprint, the most frequent first."""
    query = _GROUPED.format(chosen=CHOSEN)
    found = session.execute(query, values_of(choice, name=name, **more) | {"limit": limit})
    return [LetterGroup(*row) for row in found]


def letter(session: psycopg.Connection[Any], id_: str) -> KeptLetter | None:
    """Return the letter whose id starts with `id_`; None if there is none, or more than one."""
    found = session.execute(f"{_KEPT} WHERE starts_with(id::text, %s) LIMIT 2", (id_,)).fetchall()
    return KeptLetter(*found[0]) if len(found) == 1 else None


def values_of(
    choice: LetterChoice,
    *,
    name: str | None = None,
    uid: str | None = None,
    state: str | None = None,
    key: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the parameters of `CHOSEN`: a choice, of one pipeline by name or id.

    `state` is open, redriving or overtaken; `key` are values of the row as text.
    """
    found = choice.to_dict() | {"name": name, "uid": uid, "state": state}
    ids = list(choice.ids) or None
    return {
        **dict.fromkeys(LetterChoice.model_fields),
        **found,
        "since": choice.since,
        "ids": ids,
        "key_names": list(key),
        "key_values": list(key.values()),
    }


_STATE: Final = (
    "CASE WHEN redrive IS NOT NULL THEN 'redriving' WHEN overtaken IS NOT NULL THEN 'overtaken' ELSE 'open' END"
)
_KEPT: Final = """SELECT id::text, name, run, split, row, step, code, reason, values, at, fingerprint,
{state}, change FROM ops.dead_letters""".replace("{state}", _STATE)
_GROUPED: Final = """SELECT fingerprint, name, count(*), (array_agg(step ORDER BY at DESC, id))[1], min(code),
(array_agg(reason ORDER BY at DESC, id))[1], min(at), max(at)
FROM ops.dead_letters WHERE {chosen} GROUP BY name, fingerprint ORDER BY count(*) DESC, name, fingerprint
LIMIT %(limit)s"""
CHOSEN: Final = r"""(%(name)s::text IS NULL OR name = %(name)s OR starts_with(name, %(name)s || '/'))
AND (%(uid)s::text IS NULL OR pipeline = %(uid)s)
AND (%(run)s::text IS NULL OR run = %(run)s)
AND (%(step)s::text IS NULL OR regexp_replace(step, ' \(\d+\)$', '') = %(step)s)
AND (%(group)s::text IS NULL OR starts_with(fingerprint, %(group)s))
AND (%(column)s::text IS NULL OR position('`' || %(column)s || '`' in reason) > 0)
AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
AND (%(ids)s::text[] IS NULL OR EXISTS (SELECT FROM unnest(%(ids)s::text[]) AS one WHERE starts_with(id::text, one)))
AND (%(state)s::text IS NULL OR {state} = %(state)s)
AND NOT EXISTS (SELECT FROM unnest(%(key_names)s::text[], %(key_values)s::text[]) AS k(name, value)
  WHERE (values ->> k.name) IS DISTINCT FROM k.value)""".replace("{state}", _STATE)
"""Condition of SQL on dead letters, with the parameters of `values_of`."""
