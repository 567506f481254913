"""State of a sink in the database of its rows: generation, plan, positions and counters.

A commit updates its slot's row under the condition that it still has the run's generation: this is the fence. DDL
commits implicitly in MySQL, so a change of several transactions is made under a named lock of the pipeline. Each
writer's session holds such a lock too, by which a newer run that claims the pipeline finds and ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.mysql.session import LOCK_SECONDS, Session
from dataflows.connectors.sql.ledger import ENDS, TABLES
from dataflows.connectors.sql.offsets import OFFSETS, moving
from dataflows.connectors.sql.pieces import PIECES, WindowLedger
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.positions import Move
from penstock.clock import now
from penstock.errors import PenstockError, Unavailable
from penstock.failpoints import failpoint

__all__ = ["MysqlState", "mark_session"]

TRIES: Final = 3
END_SECONDS: Final = 5.0
_COUNTERS: Final = ", ".join(f"{name} BIGINT NOT NULL DEFAULT 0" for name in COUNTED)
_TEXT: Final = "VARCHAR(700)"
_ENGINE: Final = "ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ROW_FORMAT = DYNAMIC"
_MAKE: Final = (
    f"""CREATE TABLE IF NOT EXISTS _penstock_positions (
    pipeline VARCHAR(64) NOT NULL, source {_TEXT} NOT NULL, sink {_TEXT} NOT NULL, slot VARCHAR(8) NOT NULL,
    generation BIGINT NOT NULL, run VARCHAR(255), cursor_value LONGTEXT, cursor_field {_TEXT}, written VARCHAR(16),
    changed_at VARCHAR(40), {_COUNTERS}, ends CHAR(64) AS (SHA2(CONCAT_WS('\\n', source, sink), 256)) STORED,
    UNIQUE (pipeline, ends, slot)) {_ENGINE}""",
    f"""CREATE TABLE IF NOT EXISTS _penstock_runs (
    pipeline VARCHAR(64) NOT NULL, run VARCHAR(255) NOT NULL, source {_TEXT} NOT NULL, sink {_TEXT} NOT NULL,
    state VARCHAR(16) NOT NULL, written VARCHAR(16) NOT NULL, cursor_field {_TEXT}, split_by {_TEXT},
    lower_bound LONGTEXT, upper_bound LONGTEXT, base LONGTEXT NOT NULL, result LONGTEXT, taken_over_by VARCHAR(255),
    planned_at VARCHAR(40) NOT NULL, UNIQUE (pipeline, run)) {_ENGINE}""",
    f"""CREATE TABLE IF NOT EXISTS _penstock_splits (
    pipeline VARCHAR(64) NOT NULL, run VARCHAR(255) NOT NULL, split BIGINT NOT NULL, lower_bound LONGTEXT,
    upper_bound LONGTEXT, done TINYINT NOT NULL, UNIQUE (pipeline, run, split)) {_ENGINE}""",
)  # fmt: skip
_MAKE_OFFSETS: Final = f"""CREATE TABLE IF NOT EXISTS {OFFSETS} (
    pipeline VARCHAR(64) NOT NULL, source {_TEXT} NOT NULL, sink {_TEXT} NOT NULL, part VARCHAR(500) NOT NULL,
    position LONGTEXT NOT NULL, split BIGINT NOT NULL, changed_at VARCHAR(40) NOT NULL,
    ends CHAR(64) AS (SHA2(CONCAT_WS('\\n', source, sink), 256)) STORED, UNIQUE (pipeline, ends, part)) {_ENGINE}"""
_MAKE_PIECES: Final = f"""CREATE TABLE IF NOT EXISTS {PIECES} (
    pipeline VARCHAR(64) NOT NULL, source {_TEXT} NOT NULL, sink {_TEXT} NOT NULL, step VARCHAR(64) NOT NULL,
    split BIGINT NOT NULL, piece INT NOT NULL, data LONGTEXT NOT NULL,
    ends CHAR(64) AS (SHA2(CONCAT_WS('\\n', source, sink), 256)) STORED,
    UNIQUE (pipeline, ends, step, split, piece)) {_ENGINE}"""
_STOP: Final = "(SELECT 1 UNION SELECT 2)"
"""Subquery with two rows: an error wherever one value is expected."""


def _name(uid: str, part: str) -> str:
    """Return the name of a lock: for the pipeline's changes, or for a slot's session."""
    return f"_penstock_{hashlib.sha256(uid.encode()).hexdigest()[:32]}_{part}"


def mark_session(session: Session, uid: str, slot: str) -> None:
    """Mark a session as the writer of a slot, by a named lock."""
    session.value("SELECT GET_LOCK(?, ?)", (_name(uid, slot), int(END_SECONDS)))


@dataclass(frozen=True, slots=True)
class MysqlState(WindowLedger):
    """State of one pipeline between one source object and one sink object."""

    session: Session
    schema: str = ""
    patience: float = LOCK_SECONDS

    def make(self) -> None:
        if not self.exists():
            for statement in _MAKE:
                self.session.change(statement)

    def exists(self) -> bool:
        return set(TABLES) <= self._tables

    def make_positions(self) -> None:
        if not self.streams:
            self.session.change(_MAKE_OFFSETS)

    def part_splits(self) -> dict[str, int]:
        if not self.streams:
            return {}
        rows = self.session.rows(f"SELECT part, split FROM {OFFSETS} WHERE {ENDS}", self.ends)
        return {str(part): int(split) for part, split in rows}

    @property
    def streams(self) -> bool:
        return OFFSETS in self._tables

    def make_pieces(self) -> None:
        if not self.windows:
            self.session.change(_MAKE_PIECES)

    @property
    def windows(self) -> bool:
        return PIECES in self._tables

    @property
    def _tables(self) -> set[str]:
        """Tables of the state that exist."""
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_name LIKE ?"
        return {str(row[0]) for row in self.session.rows(query, (self.schema, "\\_penstock\\_%"))}

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        for _ in range(TRIES):
            try:
                claimed = self._claimed(slots, run)
                break
            except Unavailable:
                self.end_sessions()
        else:
            hint = "look for Penstock's sessions in SHOW PROCESSLIST"
            raise Unavailable("another session locks the pipeline's positions", where=self.where, hint=hint)
        if isinstance(claimed, RunRow):
            return claimed
        failpoint("prepare.generation_raised")
        self.end_sessions()
        failpoint("prepare.sessions_ended")
        return Claim(claimed, self.loaded())

    def _claimed(self, slots: tuple[str, ...], run: str) -> int | RunRow:
        with self._alone(), self.session.transaction():
            return self.raise_generation(slots, run)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the pipeline's lock; other sessions can then change its state only by fenced commits."""
        name = _name(self.uid, "all")
        if self.session.value("SELECT GET_LOCK(?, ?)", (name, self.patience)) != 1:
            raise Unavailable("another run is changing the pipeline's state", where=self.where, hint="try again later")
        try:
            yield
        finally:
            with contextlib.suppress(PenstockError):  # a session that is lost holds no lock
                for one in (_name(self.sink, "sink"), name):
                    self.session.value("SELECT RELEASE_LOCK(?)", (one,))

    def lock_sink(self) -> None:
        """Wait until no other pipeline is about to begin at this sink, and let none begin. Inside `owned`.

        Raises:
            Unavailable: another one is beginning for too long.
        """
        if self.session.value("SELECT GET_LOCK(?, ?)", (_name(self.sink, "sink"), self.patience)) != 1:
            raise Unavailable("another pipeline begins to write to this sink", where=self.where, hint="try again later")

    def end_sessions(self) -> None:
        """End the sessions of other runs of the pipeline; without the privilege to do so they are still fenced."""
        query = "SELECT DISTINCT slot FROM _penstock_positions WHERE pipeline = ?"
        slots = [row[0] for row in self.session.rows(query, (self.uid,))]
        for name in (_name(self.uid, part) for part in ("all", *slots)):
            holder = self.session.value("SELECT IS_USED_LOCK(?)", (name,))
            if holder is None or holder == self.session.id:
                continue
            with contextlib.suppress(PenstockError):
                self.session.change(f"KILL {int(holder)}")
            end = time.monotonic() + END_SECONDS
            while self.session.value("SELECT IS_USED_LOCK(?)", (name,)) == holder and time.monotonic() < end:
                time.sleep(0.02)

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        """Own the generation as the protocol says, except that DDL inside commits earlier changes.

        Raises:
            Fenced: a newer run took over.
            Unavailable: another run is changing the pipeline's state.
        """
        with self._alone(), self.session.transaction():
            self.check_owned(generation, "FOR UPDATE")
            yield

    def fencing(
        self, slot: str, split: int, run: str, generation: int, counted: Counters, moves: Sequence[Move] = ()
    ) -> tuple[str, ...]:
        """Return the last statements of a commit: they raise the slot's counters and mark the split, or fail.

        A split of a stream is not marked; it moves the positions of its partitions instead. The slot's row comes first,
        as in `owned`, so that the two never wait for each other.
        """
        literal = self.session.literal
        times = "SELECT IF(ROW_COUNT() = {}, 1, {})"  # not DO: MariaDB turns its errors into warnings
        once = times.format(1, _STOP)
        sets = ", ".join(f"{name} = {name} + {int(getattr(counted, name))}" for name in COUNTED)
        uid, source, sink = map(literal, self.ends)
        marked = (
            f"UPDATE _penstock_splits SET done = 1 WHERE pipeline = {uid} AND run = {literal(run)} "
            f"AND split = {split} AND done = 0"
        )
        counted_on = (
            f"UPDATE _penstock_positions SET {sets}, changed_at = {literal(now().isoformat())} WHERE pipeline = {uid} "
            f"AND ends = SHA2(CONCAT_WS('\\n', {source}, {sink}), 256) AND slot = {literal(slot)} "
            f"AND generation = {int(generation)}"
        )
        if moves:
            moved = self.session.text(*moving(self.ends, moves, split))
            return counted_on, once, moved, times.format(len(moves), _STOP)
        return marked, once, counted_on, once

    def hold(self, uid: str) -> None:
        """Keep the stream of a pipeline from committing until the transaction ends."""
        self.session.rows(f"SELECT 1 FROM {OFFSETS} WHERE {ENDS} FOR UPDATE", (uid, self.source, self.sink))

    def drop(self) -> None:
        with self._alone(), self.session.transaction():
            self.forget_positions()
            self.drop_pieces()
            self.forget_all()
        self.end_sessions()
