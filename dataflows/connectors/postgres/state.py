"""What a PostgreSQL sink remembers beside its rows: generation, plan, positions and counters of each pipeline.

Three tables in the target's schema. `_penstock_positions` has a row for each slot of a pipeline: its generation is the
fence, its counters are cumulative over all runs; beside the cursor stands what it is a cursor of, and by which write
mode the target's rows came. `_penstock_runs` has a row for each run: its window, and at the end its result.
`_penstock_splits` has the planned splits of unfinished runs; a split is done when its commit marked it.

Whoever raised the generation last owns the pipeline. Every later statement of a run names its generation and finds no
row when a newer one exists; that, not the order of events, keeps rows from being lost or doubled.

A run counts from its `base` on: all rows of its plan, whichever attempt committed them. A run that takes over an
unfinished plan takes its base too, so that it counts what the older one had committed; the older one, whose own result
may have told a part of that, never finishes. Over finished runs each row is counted once.

A pipeline that was dropped leaves one row in `_penstock_runs`, its state `dropped`: nobody can claim it any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql

from dataflows.connectors.postgres.session import FENCED, LOCK_NOT_AVAILABLE, Session, one_row, translated
from dataflows.connectors.postgres.tables import TableName, escaped
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.state import Claim, Loaded, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.splits import Split
from penstock.errors import Fenced, Refused, Unavailable
from penstock.failpoints import failpoint

__all__ = ["TABLES", "PostgresState", "session_name"]

KEPT_RUNS: Final = 100
FENCE_TRIES: Final = 5
LOCK_SECONDS: Final = 3.0
_NAMES: Final = ("positions", "runs", "splits")
TABLES: Final = tuple(f"_penstock_{name}" for name in _NAMES)

_THERE: Final = """SELECT count(*) = %s FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p')"""
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS {positions} (
  pipeline text NOT NULL, source text NOT NULL, sink text NOT NULL, slot text NOT NULL,
  generation bigint NOT NULL DEFAULT 0, run text, cursor text, cursor_field text, write text,
  rows_in bigint NOT NULL DEFAULT 0, rows_out bigint NOT NULL DEFAULT 0, filtered bigint NOT NULL DEFAULT 0,
  dead bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0, changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (pipeline, source, sink, slot), CHECK (rows_in = rows_out + filtered + dead)) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS {runs} (
  pipeline text NOT NULL, run text NOT NULL, source text NOT NULL, sink text NOT NULL, state text NOT NULL,
  write text NOT NULL, cursor_field text, split_by text,
  lower_bound text, upper_bound text, base jsonb NOT NULL, result jsonb, taken_over_by text,
  planned_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz, PRIMARY KEY (pipeline, run));
CREATE TABLE IF NOT EXISTS {splits} (
  pipeline text NOT NULL, run text NOT NULL, split int NOT NULL, lower_bound text, upper_bound text,
  done bool NOT NULL DEFAULT false, PRIMARY KEY (pipeline, run, split)) WITH (fillfactor = 50)"""


def session_name(uid: str, generation: int) -> str:
    """The application name of a run's sessions with its sink."""
    return f"penstock:{uid}:{generation}"


@dataclass(frozen=True, slots=True)
class PostgresState:
    """The remembered state of one pipeline between one source object and one sink object."""

    uid: str
    source: str
    sink: TableName
    where: str
    given: Session | None = None
    """The session that everything but `fence` works over; whoever gave it closes it."""

    @property
    def session(self) -> Session:
        """The session."""
        if self.given is None:
            message = "these positions were made without a session"
            raise AssertionError(message)
        return self.given

    def table(self, name: str) -> str:
        """Quoted name of one of the three tables, for a query that is executed with parameters."""
        return escaped(self.plain(name))

    def plain(self, name: str) -> str:
        """Quoted name of one of the three tables, for a statement without parameters."""
        return quoted(self.sink.schema, f"_penstock_{name}")

    def format(self, text: str) -> str:
        """`text` with the names of the three tables put in."""
        return text.format(**{name: self.table(name) for name in _NAMES})

    @property
    def key(self) -> dict[str, Any]:
        """Values of the primary key, but for the slot."""
        return {"pipeline": self.uid, "source": self.source, "sink": str(self.sink)}

    # -- prepare -------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the schema and the tables where they are missing.

        Raises:
            AccessDenied: this user may not.
        """
        with translated(f"{self.where}: state tables in schema {self.sink.schema}"):
            if self.exists():
                self._amend()
                return
            with self.session.transaction():  # two runs that make them at once would collide in the system's tables
                self.session.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.positions'))")
                have = self.session.execute(
                    "SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.sink.schema,)
                ).fetchone()
                if not have:  # asked first: IF NOT EXISTS needs the right to create schemas even where it does nothing
                    self.session.execute(f"CREATE SCHEMA {quoted(self.sink.schema)}")
                self.session.execute(_TABLES.format(**{name: self.plain(name) for name in _NAMES}))

    def _amend(self) -> None:
        """Add the columns that tables made by an older version lack; asked first, for ALTER waits for everybody."""
        have = self.session.execute(
            "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'split_by' AND NOT attisdropped",
            (self.plain("runs"),),
        ).fetchone()
        if not have:
            self.session.execute(f"ALTER TABLE {self.plain('runs')} ADD COLUMN IF NOT EXISTS split_by text")

    def exists(self) -> bool:
        """Whether the three tables are there."""
        with translated(self.where):
            return bool(one_row(self.session, _THERE, (len(TABLES), self.sink.schema, list(TABLES)))[0])

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        """Raise the generation, end the sessions of older ones, and read the cursor.

        Where `run` has ended meanwhile, nothing is raised, and what is remembered of it is returned: a process that
        slept until after its run's end neither begins it anew nor fences the run that owns the pipeline now.

        A stopped process may hold the rows' locks for ever: after the lock time-out its sessions are ended and the
        whole is tried again.

        Raises:
            Unavailable: the locks could not be had.
            Fenced: the pipeline was dropped.
        """
        for _ in range(FENCE_TRIES):
            with translated(self.where):
                try:
                    generation = self._raised(slots, run)
                    break
                except LOCK_NOT_AVAILABLE:
                    self.end_sessions(None)
        else:
            hint = f"look at pg_stat_activity for sessions named penstock:{self.uid}:…"
            raise Unavailable("another session holds the pipeline's positions", where=self.where, hint=hint)
        if isinstance(generation, RunRow):
            return generation
        failpoint("prepare.generation_raised")
        self.end_sessions(generation)
        with translated(self.where):
            name = session_name(self.uid, generation)
            self.session.execute("SELECT set_config('application_name', %s, false)", (name,))
        failpoint("prepare.sessions_ended")
        return Claim(generation, self.loaded())

    def _raised(self, slots: tuple[str, ...], run: str) -> int | RunRow:
        with self.session.transaction():
            self.session.execute(f"SET LOCAL lock_timeout = {int(LOCK_SECONDS * 1000)}")
            self.session.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._claiming,))
            if self._dropped():
                hint = "nothing to do; a pipeline that is applied anew begins anew"
                raise Fenced("the pipeline was deleted", where=self.where, hint=hint)
            self.session.execute(
                f"INSERT INTO {self.table('positions')} (pipeline, source, sink, slot) "
                "SELECT %(pipeline)s, %(source)s, %(sink)s, unnest(%(slots)s::text[]) ON CONFLICT DO NOTHING",
                self.key | {"slots": list(slots)},
            )
            self.session.execute(
                f"SELECT 1 FROM {self.table('positions')} WHERE pipeline = %s ORDER BY source, sink, slot FOR UPDATE",
                (self.uid,),
            )
            known = self.run(run)  # a `finish` holds the same locks: after this only our generation can end it
            if known is not None and known.ended:
                return known
            raised = self.session.execute(
                f"UPDATE {self.table('positions')} p SET generation = m.top + 1, changed_at = now() "
                f"FROM (SELECT max(generation) AS top FROM {self.table('positions')} WHERE pipeline = %(pipeline)s) m "
                "WHERE p.pipeline = %(pipeline)s RETURNING p.generation",
                self.key,
            ).fetchall()
            failpoint("prepare.claiming")
        if len(raised) < len(slots):
            message = "raising the generation did not reach every slot"
            raise AssertionError(message)
        return int(raised[0][0])

    def end_sessions(self, generation: int | None) -> None:
        """End the pipeline's sessions of generations below `generation`; where None is given, of all.

        Generation 0 is that of sessions that have not claimed yet; only None ends them.
        """
        prefix = f"penstock:{self.uid}:"
        with translated(self.where):
            self.session.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE starts_with(application_name, %(p)s) "
                "AND pid <> pg_backend_pid() AND substr(application_name, length(%(p)s) + 1) ~ '^[0-9]+$' "
                "AND (%(g)s::bigint IS NULL "
                "OR substr(application_name, length(%(p)s) + 1)::bigint BETWEEN 1 AND %(g)s - 1)",
                {"p": prefix, "g": generation},
            )

    @property
    def _claiming(self) -> str:
        return f"penstock.claim.{self.uid}"

    def _dropped(self) -> bool:
        query = f"SELECT 1 FROM {self.table('runs')} WHERE pipeline = %s AND state = 'dropped'"
        return self.session.execute(query, (self.uid,)).fetchone() is not None

    def loaded(self) -> Loaded:
        """What the runs so far have loaded, committed splits of an unfinished `append` too."""
        with translated(self.where):
            found = self.session.execute(self.format(_LOADED), self.key).fetchone()
            partly = self.session.execute(self.format(_PARTLY), self.key).fetchone()
        write, field, cursor = found or (None, None, None)
        if partly is None:
            return Loaded(write, field, cursor)
        return Loaded(write or partly[0], field or partly[1], cursor, partly=True)

    def mark_partial(self) -> None:
        """An unfinished `append` is given up, its rows stay: no later `append` may go on from here. Inside `owned`."""
        self.session.execute(
            f"UPDATE {self.table('positions')} SET write = 'replace', cursor_field = NULL, cursor = NULL "
            "WHERE pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s",
            self.key,
        )

    # -- the plan ------------------------------------------------------------------------------------------------

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        """A transaction that holds the generation: nobody can take over before it has ended.

        Raises:
            Fenced: somebody has.
        """
        with translated(self.where), self.session.transaction():
            rows = self.session.execute(
                f"SELECT generation FROM {self.table('positions')} WHERE pipeline = %s "
                "ORDER BY source, sink, slot FOR UPDATE",
                (self.uid,),
            ).fetchall()
            if not rows or any(row[0] != generation for row in rows):
                raise Fenced("a newer run took over", where=self.where, hint="nothing to do: the newer run carries on")
            yield

    def run(self, run: str) -> RunRow | None:
        """The run of that id, if the sink knows it."""
        return next(iter(self._runs("run = %(run)s", {"run": run})), None)

    def unfinished(self, run: str) -> RunRow | None:
        """The run between the same source and sink that has a plan and is not finished, other than `run`."""
        condition = "state = 'running' AND source = %(source)s AND sink = %(sink)s AND run <> %(run)s"
        return next(iter(self._runs(condition, {"run": run})), None)

    def finished(self) -> RunRow | None:
        """The latest run between the same source and sink that is finished."""
        return next(iter(self._runs("state = 'finished' AND source = %(source)s AND sink = %(sink)s", {})), None)

    def _runs(self, condition: str, values: dict[str, Any]) -> list[RunRow]:
        with translated(self.where):
            rows = self.session.execute(
                "SELECT run, write, cursor_field, lower_bound, upper_bound, base, state, result, taken_over_by, "
                f"split_by FROM {self.table('runs')} WHERE pipeline = %(pipeline)s AND {condition} "
                "ORDER BY planned_at DESC",
                self.key | values,
            ).fetchall()
        return [
            RunRow(run, write, field, low, up, Counters(**base), state, res, over, by)
            for run, write, field, low, up, base, state, res, over, by in rows
        ]

    def write_plan(self, plan: RunRow, splits: tuple[Split, ...]) -> None:
        """Keep the plan of a run: its window, its splits, and the counters that it begins from. Inside `owned`."""
        names = {
            "run": plan.run,
            "write": plan.write,
            "field": plan.cursor,
            "lower": plan.lower,
            "upper": plan.upper,
            "by": plan.split_key,
        }
        self.session.execute(
            f"INSERT INTO {self.table('runs')} "
            "(pipeline, source, sink, run, state, write, cursor_field, split_by, lower_bound, upper_bound, base) "
            "VALUES (%(pipeline)s, %(source)s, %(sink)s, %(run)s, 'running', %(write)s, %(field)s, %(by)s, %(lower)s, "
            "%(upper)s, %(base)s)",
            self.key | names | {"base": json.dumps(plan.base.as_dict())},
        )
        with self.session.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {self.table('splits')} (pipeline, run, split, lower_bound, upper_bound) "
                "VALUES (%s, %s, %s, %s, %s)",
                [(self.uid, plan.run, one.number, one.lower, one.upper) for one in splits],
            )
        self.set_run(plan.run)

    def set_run(self, run: str) -> None:
        """Write the run's id beside the generation, for people who look."""
        self.session.execute(f"UPDATE {self.table('positions')} SET run = %s WHERE pipeline = %s", (run, self.uid))

    def take_over(self, older: str, run: str) -> None:
        """Give the splits of an unfinished run to another one, whose plan exists. Inside `owned`."""
        values = {"older": older, "run": run, "pipeline": self.uid}
        self.session.execute(
            f"UPDATE {self.table('splits')} SET run = %(run)s WHERE pipeline = %(pipeline)s AND run = %(older)s", values
        )
        self.supersede(older, run)

    def supersede(self, older: str, run: str) -> None:
        """Mark a run as taken over: whoever comes back with its id is refused. Inside `owned`."""
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
        """Drop the plan of a run that has to begin again. Inside `owned`."""
        for name in ("splits", "runs"):
            self.session.execute(f"DELETE FROM {self.table(name)} WHERE pipeline = %s AND run = %s", (self.uid, run))

    def next_split(self, run: str) -> int:
        """The number above those of all splits of a run."""
        query = f"SELECT coalesce(max(split) + 1, 0) FROM {self.table('splits')} WHERE pipeline = %s AND run = %s"
        with translated(self.where):
            return int(one_row(self.session, query, (self.uid, run))[0])

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        """The splits of a run that are not done, and the number of all."""
        with translated(self.where):
            rows = self.session.execute(
                f"SELECT split, lower_bound, upper_bound, done FROM {self.table('splits')} "
                "WHERE pipeline = %s AND run = %s ORDER BY split",
                (self.uid, run),
            ).fetchall()
        return tuple(Split(number, lower, upper) for number, lower, upper, done in rows if not done), len(rows)

    def counters(self) -> Counters:
        """The cumulative counters of all slots."""
        sums = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in COUNTED)
        query = (
            f"SELECT {sums} FROM {self.table('positions')} "
            "WHERE pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s"
        )
        with translated(self.where):
            return Counters(*one_row(self.session, query, self.key))

    def committed(self, run: str, generation: int | None) -> Counters | None:
        """What an unfinished run has committed so far; None where that is unknown, or `generation` is not the last."""
        with translated(self.where):
            found = self.session.execute(
                self.format(_COMMITTED), self.key | {"run": run, "generation": generation}
            ).fetchone()
            return self.counters() - Counters(**found[0]) if found else None

    def drop(self) -> None:
        """Forget the pipeline: end its sessions, delete what is remembered of it, and let nobody claim it again."""
        self.end_sessions(None)
        with translated(self.where), self.session.transaction():
            self.session.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._claiming,))
            for name in ("positions", "splits", "runs"):
                self.session.execute(f"DELETE FROM {self.table(name)} WHERE pipeline = %s", (self.uid,))
            self.session.execute(self.format(_DROPPED), self.key)

    # -- commit and publish --------------------------------------------------------------------------------------

    def fence(self, slot: str, split: int, run: str, generation: int, counted: Counters) -> str:
        """The last statement of a commit: mark the split, move the counters, and fail unless both hit.

        A newer generation, or a split that is done already, makes its last cast fail: that aborts the transaction, and
        the COMMIT that travels in the same message does nothing. Under READ COMMITTED the UPDATE waits for a claim that
        is under way and then sees the generation that it left.
        """
        sets = ", ".join(f"{name} = {name} + {getattr(counted, name)}" for name in COUNTED)
        names = {name: _literal(value) for name, value in self.key.items()}
        return (
            f"WITH s AS (UPDATE {self.plain('splits')} SET done = true WHERE pipeline = {names['pipeline']} "
            f"AND run = {_literal(run)} AND split = {split} AND NOT done RETURNING 1), "
            f"p AS (UPDATE {self.plain('positions')} SET {sets}, changed_at = now() "
            f"WHERE pipeline = {names['pipeline']} AND source = {names['source']} AND sink = {names['sink']} "
            f"AND slot = {_literal(slot)} AND generation = {generation} RETURNING 1) "
            "SELECT (CASE WHEN (SELECT count(*) FROM s) * (SELECT count(*) FROM p) = 1 "
            f"THEN '1' ELSE '{FENCED}' END)::int"
        )

    def finish(self, run: str, position: str | None, result: dict[str, Any]) -> None:
        """Record the result of a run, move the cursor, and forget its splits. Inside `owned`.

        Raises:
            Refused: splits are missing.
        """
        pending, planned = self.pending(run)
        if pending:
            raise Refused(f"{len(pending)} of {planned} splits are not done", where=self.where, hint="run it again")
        values = self.key | {"run": run, "cursor": position, "result": json.dumps(result), "kept": KEPT_RUNS}
        for statement in _FINISH:
            self.session.execute(self.format(statement), values)


_FINISH: Final = (
    """UPDATE {positions} p SET run = NULL, cursor = %(cursor)s, cursor_field = r.cursor_field, write = r.write
    FROM {runs} r WHERE r.pipeline = %(pipeline)s AND r.run = %(run)s
    AND (r.write <> 'append' OR %(cursor)s::text IS NOT NULL)
    AND p.pipeline = %(pipeline)s AND p.source = %(source)s AND p.sink = %(sink)s""",
    "UPDATE {positions} SET run = NULL WHERE pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s",
    """UPDATE {runs} SET state = 'finished', finished_at = now(), result = %(result)s
    WHERE pipeline = %(pipeline)s AND run = %(run)s""",
    "DELETE FROM {splits} WHERE pipeline = %(pipeline)s AND run = %(run)s",
    """DELETE FROM {runs} r WHERE r.pipeline = %(pipeline)s AND r.state <> 'running' AND r.run NOT IN
    (SELECT k.run FROM {runs} k WHERE k.pipeline = %(pipeline)s ORDER BY k.planned_at DESC LIMIT %(kept)s)""",
)

_LOADED: Final = """SELECT write, cursor_field, cursor FROM {positions}
WHERE pipeline = %(pipeline)s AND source = %(source)s AND sink = %(sink)s AND slot = '00'"""
_PARTLY: Final = """SELECT r.write, r.cursor_field FROM {runs} r
WHERE r.pipeline = %(pipeline)s AND r.source = %(source)s AND r.sink = %(sink)s AND r.state = 'running'
AND r.write <> 'replace'
AND EXISTS (SELECT FROM {splits} s WHERE s.pipeline = r.pipeline AND s.run = r.run AND s.done)"""
_COMMITTED: Final = """SELECT base FROM {runs}
WHERE pipeline = %(pipeline)s AND run = %(run)s AND state = 'running' AND (%(generation)s::bigint IS NULL
OR %(generation)s = (SELECT max(generation) FROM {positions} WHERE pipeline = %(pipeline)s))"""
_DROPPED: Final = """INSERT INTO {runs} (pipeline, run, source, sink, state, write, base)
VALUES (%(pipeline)s, '', %(source)s, %(sink)s, 'dropped', '', '{{}}')"""


def _literal(value: str) -> str:
    return sql.Literal(value).as_string(None)
