"""What a sink remembers in the database file that its rows are in: generation, plan, positions and counters.

Three tables beside the rows, changed in the rows' own transactions. Only one transaction writes to the file at a time;
so a generation that was read inside of one is the last one until it ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from dataflows.connectors.sql.database import Database
from dataflows.connectors.state import Claim, Loaded, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.splits import Split
from penstock.clock import now
from penstock.errors import Fenced, Refused
from penstock.failpoints import failpoint

__all__ = ["TABLES", "DatabaseState"]

KEPT_RUNS: Final = 100
AT_ONCE: Final = 500
TABLES: Final = ("_penstock_positions", "_penstock_runs", "_penstock_splits")
_COUNTERS: Final = ", ".join(f"{name} BIGINT NOT NULL DEFAULT 0" for name in COUNTED)
_MAKE: Final = (
    f"""CREATE TABLE IF NOT EXISTS _penstock_positions (
    pipeline TEXT NOT NULL, source TEXT NOT NULL, sink TEXT NOT NULL, slot TEXT NOT NULL, generation BIGINT NOT NULL,
    run TEXT, cursor_value TEXT, cursor_field TEXT, written TEXT, changed_at TEXT, {_COUNTERS},
    CHECK (rows_in = rows_out + filtered + dead))""",
    """CREATE TABLE IF NOT EXISTS _penstock_runs (
    pipeline TEXT NOT NULL, run TEXT NOT NULL, source TEXT NOT NULL, sink TEXT NOT NULL, state TEXT NOT NULL,
    written TEXT NOT NULL, cursor_field TEXT, split_by TEXT, lower_bound TEXT, upper_bound TEXT,
    base TEXT NOT NULL, result TEXT, taken_over_by TEXT, planned_at TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS _penstock_splits (
    pipeline TEXT NOT NULL, run TEXT NOT NULL, split INTEGER NOT NULL, lower_bound TEXT, upper_bound TEXT,
    done INTEGER NOT NULL)""",
)
_INDEX: Final = "CREATE INDEX IF NOT EXISTS _penstock_of_runs ON _penstock_splits (pipeline, run, split)"
_ENDS: Final = "pipeline = ? AND source = ? AND sink = ?"
_FENCED: Final = ("a newer run took over", "nothing to do: the newer run carries on")


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """The remembered state of one pipeline between one source object and one sink object."""

    database: Database
    uid: str
    source: str
    sink: str
    where: str

    @property
    def _ends(self) -> tuple[str, str, str]:
        return self.uid, self.source, self.sink

    def make(self) -> None:
        self.database.make()
        if self.exists():
            self._amend()
            return
        with self.database.transaction():
            for statement in (*_MAKE, *((_INDEX,) if self.database.indexed else ())):
                self.database.change(statement)

    def _amend(self) -> None:
        """Add the columns that tables made by an older version lack."""
        if ("split_by",) not in self.database.rows("SELECT name FROM pragma_table_info('_penstock_runs')"):
            with self.database.transaction():
                self.database.change("ALTER TABLE _penstock_runs ADD COLUMN split_by TEXT")

    def exists(self) -> bool:
        return set(TABLES) <= set(self.database.tables("main", "_penstock_"))

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        with self.database.transaction():
            if self.database.rows("SELECT 1 FROM _penstock_runs WHERE pipeline = ? AND state = 'dropped'", (self.uid,)):
                hint = "nothing to do; a pipeline that is applied anew begins anew"
                raise Fenced("the pipeline was deleted", where=self.where, hint=hint)
            known = self.run(run)
            if known is not None and known.ended:
                return known
            generation = self._raised(slots)
            failpoint("prepare.claiming")
        failpoint("prepare.generation_raised")
        failpoint("prepare.sessions_ended")
        return Claim(generation, self.loaded())

    def _raised(self, slots: tuple[str, ...]) -> int:
        have = self.database.rows("SELECT max(generation) FROM _penstock_positions WHERE pipeline = ?", (self.uid,))
        generation = int(have[0][0] or 0) + 1
        there = {
            row[0] for row in self.database.rows(f"SELECT slot FROM _penstock_positions WHERE {_ENDS}", self._ends)
        }
        for slot in slots:
            if slot not in there:
                statement = (
                    "INSERT INTO _penstock_positions (pipeline, source, sink, slot, generation) VALUES (?, ?, ?, ?, ?)"
                )
                self.database.change(statement, (*self._ends, slot, generation))
        statement = "UPDATE _penstock_positions SET generation = ?, changed_at = ? WHERE pipeline = ?"
        self.database.change(statement, (generation, now().isoformat(), self.uid))
        return generation

    def loaded(self) -> Loaded:
        query = f"SELECT written, cursor_field, cursor_value FROM _penstock_positions WHERE {_ENDS} AND slot = '00'"
        found = self.database.rows(query, self._ends)
        write, field, cursor = found[0] if found else (None, None, None)
        query = (
            f"SELECT r.written, r.cursor_field FROM _penstock_runs r WHERE {_ENDS} AND state = 'running' "
            "AND r.written <> 'replace' AND EXISTS (SELECT 1 FROM _penstock_splits s "
            "WHERE s.pipeline = r.pipeline AND s.run = r.run AND s.done = 1)"
        )
        partly = self.database.rows(query, self._ends)
        if not partly:
            return Loaded(write, field, cursor)
        return Loaded(write or partly[0][0], field or partly[0][1], cursor, partly=True)

    def mark_partial(self) -> None:
        statement = "UPDATE _penstock_positions SET written = 'replace', cursor_field = NULL, cursor_value = NULL"
        self.database.change(f"{statement} WHERE {_ENDS}", self._ends)

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        with self.database.transaction():
            found = self.database.rows("SELECT generation FROM _penstock_positions WHERE pipeline = ?", (self.uid,))
            if not found or any(row[0] != generation for row in found):
                raise Fenced(_FENCED[0], where=self.where, hint=_FENCED[1])
            yield

    def run(self, run: str) -> RunRow | None:
        return next(iter(self._runs("run = ?", (run,))), None)

    def unfinished(self, run: str) -> RunRow | None:
        condition = "state = 'running' AND source = ? AND sink = ? AND run <> ?"
        return next(iter(self._runs(condition, (self.source, self.sink, run))), None)

    def finished(self) -> RunRow | None:
        condition = "state = 'finished' AND source = ? AND sink = ?"
        return next(iter(self._runs(condition, (self.source, self.sink))), None)

    def _runs(self, condition: str, values: tuple[str, ...]) -> list[RunRow]:
        rows = self.database.rows(
            "SELECT run, written, cursor_field, lower_bound, upper_bound, base, state, result, taken_over_by, "
            f"split_by FROM _penstock_runs WHERE pipeline = ? AND {condition} ORDER BY planned_at DESC",
            (self.uid, *values),
        )
        return [
            RunRow(
                name,
                write,
                field,
                low,
                up,
                Counters(**json.loads(base)),
                state,
                json.loads(res) if res else None,
                over,
                by,
            )
            for name, write, field, low, up, base, state, res, over, by in rows
        ]

    def write_plan(self, plan: RunRow, splits: tuple[Split, ...]) -> None:
        base, when = json.dumps(plan.base.as_dict()), now().isoformat()
        self.database.change(
            "INSERT INTO _penstock_runs (pipeline, source, sink, run, state, written, cursor_field, split_by, "
            "lower_bound, upper_bound, base, planned_at) VALUES (?, ?, ?, ?, 'running', ?, ?, ?, ?, ?, ?, ?)",
            (*self._ends, plan.run, plan.write, plan.cursor, plan.split_key, plan.lower, plan.upper, base, when),
        )
        for at in range(0, len(splits), AT_ONCE):
            some = splits[at : at + AT_ONCE]
            values = [value for one in some for value in (self.uid, plan.run, one.number, one.lower, one.upper)]
            lines = ", ".join(["(?, ?, ?, ?, ?, 0)"] * len(some))
            self.database.change(f"INSERT INTO _penstock_splits VALUES {lines}", values)
        self.database.change("UPDATE _penstock_positions SET run = ? WHERE pipeline = ?", (plan.run, self.uid))

    def take_over(self, older: str, run: str) -> None:
        values = (run, self.uid, older)
        self.database.change("UPDATE _penstock_splits SET run = ? WHERE pipeline = ? AND run = ?", values)
        self.supersede(older, run)

    def supersede(self, older: str, run: str) -> None:
        self.database.change(
            "UPDATE _penstock_runs SET state = 'superseded', taken_over_by = ? WHERE pipeline = ? AND run = ?",
            (run, self.uid, older),
        )
        self.database.change("DELETE FROM _penstock_splits WHERE pipeline = ? AND run = ?", (self.uid, older))

    def forget(self, run: str) -> None:
        for table in TABLES[1:]:
            self.database.change(f"DELETE FROM {table} WHERE pipeline = ? AND run = ?", (self.uid, run))

    def next_split(self, run: str) -> int:
        query = "SELECT coalesce(max(split) + 1, 0) FROM _penstock_splits WHERE pipeline = ? AND run = ?"
        return int(self.database.rows(query, (self.uid, run))[0][0])

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        rows = self.database.rows(
            "SELECT split, lower_bound, upper_bound, done FROM _penstock_splits WHERE pipeline = ? AND run = ? "
            "ORDER BY split",
            (self.uid, run),
        )
        return tuple(Split(number, lower, upper) for number, lower, upper, done in rows if not done), len(rows)

    def counters(self) -> Counters:
        sums = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTED)
        found = self.database.rows(f"SELECT {sums} FROM _penstock_positions WHERE {_ENDS}", self._ends)
        return Counters(*map(int, found[0]))

    def committed(self, run: str, generation: int | None) -> Counters | None:
        found = self.run(run)
        last = self.database.rows("SELECT max(generation) FROM _penstock_positions WHERE pipeline = ?", (self.uid,))
        if found is None or found.ended or (generation is not None and last[0][0] != generation):
            return None
        return self.counters() - found.base

    def fence(self, slot: str, split: int, run: str, generation: int, counted: Counters) -> None:
        """Mark a split and move its slot's counters, as the last thing of the transaction that holds its rows.

        Raises:
            Fenced: a newer run took over, or the split is done already.
        """
        sets = ", ".join(f"{name} = {name} + ?" for name in COUNTED)
        marked = self.database.change(
            "UPDATE _penstock_splits SET done = 1 WHERE pipeline = ? AND run = ? AND split = ? AND done = 0",
            (self.uid, run, split),
        )
        moved = self.database.change(
            f"UPDATE _penstock_positions SET {sets}, changed_at = ? WHERE {_ENDS} AND slot = ? AND generation = ?",
            (*(getattr(counted, name) for name in COUNTED), now().isoformat(), *self._ends, slot, generation),
        )
        if (marked, moved) != (1, 1):
            raise Fenced(_FENCED[0], where=self.where, hint=_FENCED[1])

    def finish(self, run: str, position: str | None, result: dict[str, Any]) -> None:
        pending, planned = self.pending(run)
        if pending:
            raise Refused(f"{len(pending)} of {planned} splits are not done", where=self.where, hint="run it again")
        row = self.run(run)
        if row is not None and (row.write != "append" or position is not None):
            self.database.change(
                f"UPDATE _penstock_positions SET cursor_value = ?, cursor_field = ?, written = ? WHERE {_ENDS}",
                (position, row.cursor, row.write, *self._ends),
            )
        self.database.change(f"UPDATE _penstock_positions SET run = NULL WHERE {_ENDS}", self._ends)
        self.database.change(
            "UPDATE _penstock_runs SET state = 'finished', result = ? WHERE pipeline = ? AND run = ?",
            (json.dumps(result), self.uid, run),
        )
        self.database.change("DELETE FROM _penstock_splits WHERE pipeline = ? AND run = ?", (self.uid, run))
        self.database.change(
            "DELETE FROM _penstock_runs WHERE pipeline = ? AND state <> 'running' AND run NOT IN "
            "(SELECT run FROM _penstock_runs WHERE pipeline = ? ORDER BY planned_at DESC LIMIT ?)",
            (self.uid, self.uid, KEPT_RUNS),
        )

    def drop(self) -> None:
        with self.database.transaction():
            self._forget_all()

    def _forget_all(self) -> None:
        for table in TABLES:
            self.database.change(f"DELETE FROM {table} WHERE pipeline = ?", (self.uid,))
        self.database.change(
            "INSERT INTO _penstock_runs (pipeline, run, source, sink, state, written, base, planned_at) "
            "VALUES (?, '', ?, ?, 'dropped', '', '{}', ?)",
            (*self._ends, now().isoformat()),
        )
