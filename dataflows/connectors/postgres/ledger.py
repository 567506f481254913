"""State of a PostgreSQL sink in three tables next to its rows: plan, positions and counters of each pipeline.

`_penstock_positions` has a row for each slot of a pipeline: its generation, which is the fence, its counters,
cumulative over all runs, and the cursor with its column and the write mode of the target's rows. `_penstock_runs` has
a row for each run: its window, and at the end its result. `_penstock_splits` has the planned splits of unfinished
runs; a split is done when its commit has marked it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from psycopg import ClientCursor

from dataflows.connectors.postgres.own_session import OwnSession
from dataflows.connectors.postgres.session import NOT_WAITED_FOR, Session, ask, one_row, translated
from dataflows.connectors.postgres.tables import TableName, escaped
from dataflows.connectors.sql.ledger import made_name
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.state import Loaded, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.splits import Split

__all__ = ["NAMES", "PostgresLedger"]

_OTHERS: Final = """
SELECT DISTINCT p.pipeline FROM {positions} p WHERE p.sink = %(sink)s AND p.pipeline <> %(pipeline)s
AND coalesce((SELECT r.sink FROM {runs} r WHERE r.pipeline = p.pipeline AND r.state NOT IN ('made', 'dropped')
ORDER BY r.planned_at DESC LIMIT 1), CASE WHEN p.rows_in > 0 THEN p.sink END) = p.sink ORDER BY 1"""
KEPT_RUNS: Final = 100
NAMES: Final = ("positions", "runs", "splits")


@dataclass(frozen=True, slots=True)
class PostgresLedger:
    """State of one pipeline between one source object and one sink object."""

    uid: str
    source: str
    sink: TableName
    where: str
    given: OwnSession | None = None
    """Session for everything except `fence`; the caller closes it."""

    @property
    def session(self) -> Session:
        """The session."""
        if self.given is None:
            message = "these positions were made without a session"
            raise AssertionError(message)
        return self.given.session

    def table(self, name: str) -> str:
        """Quoted name of one of the three tables, for a query that is executed with parameters."""
        return escaped(self.plain(name))

    def plain(self, name: str) -> str:
        """Quoted name of one of the three tables, for a statement without parameters."""
        return quoted(self.sink.schema, f"_penstock_{name}")

    def format(self, text: str) -> str:
        """Return `text` with the names of the three tables filled in."""
        return text.format(**{name: self.table(name) for name in NAMES})

    @property
    def key(self) -> dict[str, Any]:
        """Values of the primary key, except the slot."""
        return {"pipeline": self.uid, "source": self.source, "sink": str(self.sink)}

    def loaded(self) -> Loaded:
        with translated(self.where):
            found = one_row(self.session, self.format(_LOADED), self.key, same=True)
        write, field, cursor, partly, partly_field = found
        if partly is None:
            return Loaded(write, field, cursor)
        return Loaded(write or partly, field or partly_field, cursor, partly=True)

    def mark_partial(self) -> None:
        self.session.execute(
            f"UPDATE {self.table('positions')} SET write = 'replace', cursor_field = NULL, cursor = NULL "
            "WHERE pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s",
            self.key,
        )

    def run(self, run: str) -> RunRow | None:
        return self._first("run = %(run)s", {"run": run})

    def unfinished(self, run: str) -> RunRow | None:
        condition = "state = 'running' AND source = %(source)s AND sink = %(sink)s AND run <> %(run)s"
        return self._first(condition, {"run": run})

    def finished(self) -> RunRow | None:
        return self._first("state = 'finished' AND source = %(source)s AND sink = %(sink)s", {})

    def _first(self, condition: str, values: dict[str, Any], order: str = "planned_at DESC") -> RunRow | None:
        with translated(self.where):
            row = ask(
                self.session,
                "SELECT run, write, cursor_field, lower_bound, upper_bound, base, state, result, taken_over_by, "
                f"split_by FROM {self.table('runs')} WHERE pipeline = %(pipeline)s AND {condition} "
                f"ORDER BY {order} LIMIT 1",
                self.key | values,
            ).fetchone()
        if row is None:
            return None
        name, write, field, low, up, base, state, result, over, by = row
        return RunRow(name, write, field, low, up, Counters(**base), state, result, over, by)

    def write_plan(self, plan: RunRow, splits: tuple[Split, ...]) -> None:
        """Store the plan; like the claim, it is durable with the commit of `create_load_table`."""
        values = {
            "run": plan.run,
            "write": plan.write,
            "field": plan.cursor,
            "lower": plan.lower,
            "upper": plan.upper,
            "by": plan.split_key,
            "base": json.dumps(plan.base.as_dict()),
            "numbers": [one.number for one in splits],
            "lowers": [one.lower for one in splits],
            "uppers": [one.upper for one in splits],
        }
        ClientCursor(self.session).execute(self.format(f"{NOT_WAITED_FOR}; {_PLAN}"), self.key | values)

    def take_over(self, older: str, run: str) -> None:
        values = {"older": older, "run": run, "pipeline": self.uid}
        self.session.execute(
            f"UPDATE {self.table('splits')} SET run = %(run)s WHERE pipeline = %(pipeline)s AND run = %(older)s", values
        )
        self.supersede(older, run)

    def supersede(self, older: str, run: str) -> None:
        values = {"older": older, "run": run, "pipeline": self.uid}
        self.session.execute(
            f"UPDATE {self.table('runs')} SET state = 'superseded', taken_over_by = %(run)s, finished_at = now() "
            "WHERE pipeline = %(pipeline)s AND run = %(older)s",
            values,
        )
        self.session.execute(
            f"DELETE FROM {self.table('splits')} WHERE pipeline = %(pipeline)s AND run = %(older)s", values
        )

    def forget(self, run: str) -> None:
        for name in ("splits", "runs"):
            self.session.execute(f"DELETE FROM {self.table(name)} WHERE pipeline = %s AND run = %s", (self.uid, run))

    def next_split(self, run: str) -> int:
        query = f"SELECT coalesce(max(split) + 1, 0) FROM {self.table('splits')} WHERE pipeline = %s AND run = %s"
        with translated(self.where):
            return int(one_row(self.session, query, (self.uid, run))[0])

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        with translated(self.where):
            rows = ask(
                self.session,
                f"SELECT split, lower_bound, upper_bound, done FROM {self.table('splits')} "
                "WHERE pipeline = %s AND run = %s ORDER BY split",
                (self.uid, run),
            ).fetchall()
        return tuple(Split(number, lower, upper) for number, lower, upper, done in rows if not done), len(rows)

    def others(self) -> list[str]:
        """Return the other pipelines whose last run wrote to this sink."""
        with translated(self.where):
            return [uid for (uid,) in ask(self.session, self.format(_OTHERS), self.key).fetchall()]

    def counters(self) -> Counters:
        sums = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in COUNTED)
        query = (
            f"SELECT {sums} FROM {self.table('positions')} "
            "WHERE pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s"
        )
        with translated(self.where):
            return Counters(*one_row(self.session, query, self.key, same=True))

    def committed(self, run: str, generation: int | None) -> Counters | None:
        with translated(self.where):
            found = self.session.execute(
                self.format(_COMMITTED), self.key | {"run": run, "generation": generation}
            ).fetchone()
            return self.counters() - Counters(**found[0]) if found else None

    def made(self) -> str | None:
        """Return how the pipeline made the table, and what it looked like then; None if it did not."""
        query = f"SELECT result FROM {self.table('runs')} WHERE {_OF} AND state = 'made'"
        with translated(self.where):
            found = ask(self.session, query, self.key).fetchone()
        return str(found[0]) if found else None

    def remember(self, made: str) -> None:
        """Store what `made` returns. Inside `owned`."""
        name = {"run": made_name(self.source, str(self.sink)), "made": json.dumps(made)}
        ask(self.session, f"DELETE FROM {self.table('runs')} WHERE {_OF} AND state = 'made'", self.key)
        ask(
            self.session,
            f"INSERT INTO {self.table('runs')} (pipeline, source, sink, run, state, write, base, result) "
            "VALUES (%(pipeline)s, %(source)s, %(sink)s, %(run)s, 'made', '', '{}', %(made)s)",
            self.key | name,
        )

    def finish(self, run: str, position: str | None, result: dict[str, Any]) -> None:
        values = self.key | {"run": run, "cursor": position, "result": json.dumps(result), "kept": KEPT_RUNS}
        ClientCursor(self.session).execute(self.format(_FINISH), values)


_OF: Final = "pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s"
_PLAN: Final = """
INSERT INTO {runs} (pipeline, source, sink, run, state, write, cursor_field, split_by, lower_bound, upper_bound, base)
VALUES (%(pipeline)s, %(source)s, %(sink)s, %(run)s, 'running', %(write)s, %(field)s, %(by)s, %(lower)s, %(upper)s,
%(base)s);
INSERT INTO {splits} (pipeline, run, split, lower_bound, upper_bound)
SELECT %(pipeline)s, %(run)s, * FROM unnest(%(numbers)s::int[], %(lowers)s::text[], %(uppers)s::text[]);
UPDATE {positions} SET run = %(run)s WHERE pipeline = %(pipeline)s"""
_FINISH: Final = """
UPDATE {positions} p SET run = NULL, cursor = %(cursor)s, cursor_field = r.cursor_field, write = r.write
FROM {runs} r WHERE r.pipeline = %(pipeline)s AND r.run = %(run)s
AND (r.write <> 'append' OR %(cursor)s::text IS NOT NULL)
AND p.pipeline = %(pipeline)s AND p.source = %(source)s AND p.sink = %(sink)s;
UPDATE {positions} SET run = NULL
WHERE pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s AND run IS NOT NULL;
UPDATE {runs} SET state = 'finished', finished_at = now(), result = %(result)s
WHERE pipeline = %(pipeline)s AND run = %(run)s;
DELETE FROM {splits} WHERE pipeline = %(pipeline)s AND run = %(run)s;
DELETE FROM {runs} r WHERE r.pipeline = %(pipeline)s AND r.state <> 'running' AND r.run NOT IN
(SELECT k.run FROM {runs} k WHERE k.pipeline = %(pipeline)s ORDER BY k.planned_at DESC LIMIT %(kept)s)"""
_LOADED: Final = """SELECT p.write, p.cursor_field, p.cursor, r.write, r.cursor_field FROM (SELECT) one
LEFT JOIN {positions} p ON p.pipeline = %(pipeline)s AND p.source = %(source)s AND p.sink = %(sink)s AND p.slot = '00'
LEFT JOIN {runs} r ON r.pipeline = %(pipeline)s AND r.source = %(source)s AND r.sink = %(sink)s
AND r.state = 'running' AND r.write <> 'replace'
AND EXISTS (SELECT FROM {splits} s WHERE s.pipeline = r.pipeline AND s.run = r.run AND s.done) LIMIT 1"""
_COMMITTED: Final = """SELECT base FROM {runs}
WHERE pipeline = %(pipeline)s AND run = %(run)s AND state = 'running' AND (%(generation)s::bigint IS NULL
OR %(generation)s = (SELECT max(generation) FROM {positions} WHERE pipeline = %(pipeline)s))"""
