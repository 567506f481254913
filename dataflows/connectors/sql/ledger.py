"""State of a sink in three tables next to its rows, in the SQL that MySQL and database files share.

Transactions, claims and the fence of a commit differ by system; they are in each system's `state.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dataflows.connectors.state import Loaded, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.splits import Split
from penstock.clock import now
from penstock.errors import Fenced
from penstock.failpoints import failpoint

__all__ = ["ENDS", "TABLES", "Ledger", "Statements", "fenced_error", "made_name"]

KEPT_RUNS: Final = 100
AT_ONCE: Final = 500
TABLES: Final = ("_penstock_positions", "_penstock_runs", "_penstock_splits")
ENDS: Final = "pipeline = ? AND source = ? AND sink = ?"


class Statements(Protocol):
    """Session that executes statements; each ``?`` is a value."""

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement and return all rows."""

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement and return the number of rows changed."""

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context of one atomic transaction."""


def made_name(source: str, sink: str) -> str:
    """Return the name under which a table that was made stands among the runs."""
    return f"made {hashlib.sha256(json.dumps([source, sink]).encode()).hexdigest()[:32]}"


def fenced_error(where: str) -> Fenced:
    """Return the error of a run whose generation is no longer the latest one."""
    return Fenced("a newer run took over", where=where, hint="nothing to do: the newer run carries on")


@dataclass(frozen=True, slots=True)
class Ledger:
    """State of one pipeline between one source object and one sink object."""

    session: Statements
    uid: str
    source: str
    sink: str
    where: str

    @property
    def ends(self) -> tuple[str, str, str]:
        """Values for the condition `ENDS`."""
        return self.uid, self.source, self.sink

    def raise_generation(self, slots: tuple[str, ...], run: str) -> int | RunRow:
        """Raise the generation and return it; if `run` has ended already, leave it unchanged and return the run's row.

        The caller's transaction has to exclude other claims.

        Raises:
            Fenced: the pipeline was dropped.
        """
        if self.session.rows("SELECT 1 FROM _penstock_runs WHERE pipeline = ? AND state = 'dropped'", (self.uid,)):
            hint = "nothing to do; a pipeline that is applied again starts from the beginning"
            raise Fenced("the pipeline was deleted", where=self.where, hint=hint)
        known = self.run(run)
        if known is not None and known.ended:
            return known
        generation = self._raised(slots)
        failpoint("prepare.claiming")
        return generation

    def _raised(self, slots: tuple[str, ...]) -> int:
        have = self.session.rows("SELECT max(generation) FROM _penstock_positions WHERE pipeline = ?", (self.uid,))
        generation = int(have[0][0] or 0) + 1
        there = {row[0] for row in self.session.rows(f"SELECT slot FROM _penstock_positions WHERE {ENDS}", self.ends)}
        for slot in slots:
            if slot not in there:
                statement = (
                    "INSERT INTO _penstock_positions (pipeline, source, sink, slot, generation) VALUES (?, ?, ?, ?, ?)"
                )
                self.session.change(statement, (*self.ends, slot, generation))
        statement = "UPDATE _penstock_positions SET generation = ?, changed_at = ? WHERE pipeline = ?"
        self.session.change(statement, (generation, now().isoformat(), self.uid))
        return generation

    def loaded(self) -> Loaded:
        query = f"SELECT written, cursor_field, cursor_value FROM _penstock_positions WHERE {ENDS} AND slot = '00'"
        found = self.session.rows(query, self.ends)
        write, field, cursor = found[0] if found else (None, None, None)
        query = (
            f"SELECT r.written, r.cursor_field FROM _penstock_runs r WHERE {ENDS} AND state = 'running' "
            "AND r.written <> 'replace' AND EXISTS (SELECT 1 FROM _penstock_splits s "
            "WHERE s.pipeline = r.pipeline AND s.run = r.run AND s.done = 1)"
        )
        partly = self.session.rows(query, self.ends)
        if not partly:
            return Loaded(write, field, cursor)
        return Loaded(write or partly[0][0], field or partly[0][1], cursor, partly=True)

    def mark_partial(self) -> None:
        statement = "UPDATE _penstock_positions SET written = 'replace', cursor_field = NULL, cursor_value = NULL"
        self.session.change(f"{statement} WHERE {ENDS}", self.ends)

    def run(self, run: str) -> RunRow | None:
        return next(iter(self._runs("run = ?", (run,))), None)

    def unfinished(self, run: str) -> RunRow | None:
        condition = "state = 'running' AND source = ? AND sink = ? AND run <> ?"
        return next(iter(self._runs(condition, (self.source, self.sink, run))), None)

    def finished(self) -> RunRow | None:
        condition = "state = 'finished' AND source = ? AND sink = ?"
        return next(iter(self._runs(condition, (self.source, self.sink))), None)

    def _runs(self, condition: str, values: tuple[str, ...]) -> list[RunRow]:
        rows = self.session.rows(
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
        self.session.change(
            "INSERT INTO _penstock_runs (pipeline, source, sink, run, state, written, cursor_field, split_by, "
            "lower_bound, upper_bound, base, planned_at) VALUES (?, ?, ?, ?, 'running', ?, ?, ?, ?, ?, ?, ?)",
            (*self.ends, plan.run, plan.write, plan.cursor, plan.split_key, plan.lower, plan.upper, base, when),
        )
        for at in range(0, len(splits), AT_ONCE):
            some = splits[at : at + AT_ONCE]
            values = [value for one in some for value in (self.uid, plan.run, one.number, one.lower, one.upper)]
            lines = ", ".join(["(?, ?, ?, ?, ?, 0)"] * len(some))
            self.session.change(f"INSERT INTO _penstock_splits VALUES {lines}", values)
        self.session.change("UPDATE _penstock_positions SET run = ? WHERE pipeline = ?", (plan.run, self.uid))

    def take_over(self, older: str, run: str) -> None:
        values = (run, self.uid, older)
        self.session.change("UPDATE _penstock_splits SET run = ? WHERE pipeline = ? AND run = ?", values)
        self.supersede(older, run)

    def supersede(self, older: str, run: str) -> None:
        self.session.change(
            "UPDATE _penstock_runs SET state = 'superseded', taken_over_by = ? WHERE pipeline = ? AND run = ?",
            (run, self.uid, older),
        )
        self.session.change("DELETE FROM _penstock_splits WHERE pipeline = ? AND run = ?", (self.uid, older))

    def forget(self, run: str) -> None:
        for table in TABLES[1:]:
            self.session.change(f"DELETE FROM {table} WHERE pipeline = ? AND run = ?", (self.uid, run))

    def next_split(self, run: str) -> int:
        query = "SELECT coalesce(max(split) + 1, 0) FROM _penstock_splits WHERE pipeline = ? AND run = ?"
        return int(self.session.rows(query, (self.uid, run))[0][0])

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        rows = self.session.rows(
            "SELECT split, lower_bound, upper_bound, done FROM _penstock_splits WHERE pipeline = ? AND run = ? "
            "ORDER BY split",
            (self.uid, run),
        )
        return tuple(Split(number, lower, upper) for number, lower, upper, done in rows if not done), len(rows)

    def counters(self) -> Counters:
        sums = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTED)
        found = self.session.rows(f"SELECT {sums} FROM _penstock_positions WHERE {ENDS}", self.ends)
        return Counters(*map(int, found[0]))

    def check_owned(self, generation: int, lock: str = "") -> None:
        """Check inside a transaction that a generation is the latest one; `lock` is a clause that locks its rows.

        Raises:
            Fenced: a newer run took over.
        """
        found = self.session.rows(f"SELECT generation FROM _penstock_positions WHERE pipeline = ? {lock}", (self.uid,))
        if not found or any(row[0] != generation for row in found):
            raise fenced_error(self.where)

    def committed(self, run: str, generation: int | None) -> Counters | None:
        found = self.run(run)
        last = self.session.rows("SELECT max(generation) FROM _penstock_positions WHERE pipeline = ?", (self.uid,))
        if found is None or found.ended or (generation is not None and last[0][0] != generation):
            return None
        return self.counters() - found.base

    def finish(self, run: str, position: str | None, result: dict[str, Any]) -> None:
        row = self.run(run)
        if row is not None and (row.write != "append" or position is not None):
            self.session.change(
                f"UPDATE _penstock_positions SET cursor_value = ?, cursor_field = ?, written = ? WHERE {ENDS}",
                (position, row.cursor, row.write, *self.ends),
            )
        self.session.change(f"UPDATE _penstock_positions SET run = NULL WHERE {ENDS}", self.ends)
        self.session.change(
            "UPDATE _penstock_runs SET state = 'finished', result = ? WHERE pipeline = ? AND run = ?",
            (json.dumps(result), self.uid, run),
        )
        self.session.change("DELETE FROM _penstock_splits WHERE pipeline = ? AND run = ?", (self.uid, run))
        query = "SELECT run FROM _penstock_runs WHERE pipeline = ? AND state <> 'running' ORDER BY planned_at DESC"
        for (old,) in self.session.rows(query, (self.uid,))[KEPT_RUNS:]:
            self.session.change("DELETE FROM _penstock_runs WHERE pipeline = ? AND run = ?", (self.uid, old))

    def made(self) -> str | None:
        """Return how the pipeline made the table, and what it looked like then; None if it did not."""
        query = f"SELECT result FROM _penstock_runs WHERE {ENDS} AND state = 'made'"
        found = self.session.rows(query, self.ends)
        return str(found[0][0]) if found else None

    def remember(self, made: str) -> None:
        """Store what `made` returns. Inside `owned`."""
        self.session.change(f"DELETE FROM _penstock_runs WHERE {ENDS} AND state = 'made'", self.ends)
        self.session.change(
            "INSERT INTO _penstock_runs (pipeline, source, sink, run, state, written, base, result, planned_at) "
            "VALUES (?, ?, ?, ?, 'made', '', '{}', ?, ?)",
            (*self.ends, made_name(self.source, self.sink), made, now().isoformat()),
        )

    def forget_all(self) -> None:
        """Delete the pipeline's state and mark it as dropped: no run can claim it again. Inside a transaction."""
        for table in TABLES:
            self.session.change(f"DELETE FROM {table} WHERE pipeline = ?", (self.uid,))
        self.session.change(
            "INSERT INTO _penstock_runs (pipeline, run, source, sink, state, written, base, planned_at) "
            "VALUES (?, '', ?, ?, 'dropped', '', '{}', ?)",
            (*self.ends, now().isoformat()),
        )
