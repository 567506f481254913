"""Ownership of a PostgreSQL sink's state: the claim of a pipeline, and the fence of each commit.

The run that raised the generation last owns the pipeline. Every later statement of a run names its generation and
matches no row if there is a newer one; so rows are neither lost nor duplicated, in whatever order things happen.

A pipeline that was dropped leaves one row in `_penstock_runs`, with state `dropped`, after which no run can claim it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import ClientCursor, sql

from dataflows.connectors.postgres import offsets, pieces
from dataflows.connectors.postgres.ledger import NAMES, PostgresLedger
from dataflows.connectors.postgres.session import FENCED, LOCK_NOT_AVAILABLE, NOT_WAITED_FOR, ask, one_row, translated
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.positions import Move
from dataflows.data.state import StateChange
from penstock.errors import Fenced, Unavailable
from penstock.failpoints import failpoint

__all__ = ["TABLES", "PostgresState", "session_name"]

FENCE_TRIES: Final = 5
LOCK_SECONDS: Final = 3.0
TABLES: Final = tuple(f"_penstock_{name}" for name in NAMES)

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
    """Return the application name of a run's sessions with its sink."""
    return f"penstock:{uid}:{generation}"


_DROPPED: Final = """INSERT INTO {runs} (pipeline, run, source, sink, state, write, base)
VALUES (%(pipeline)s, '', %(source)s, %(sink)s, 'dropped', '', '{{}}')"""


_CLAIM: Final = f"""BEGIN; SET LOCAL lock_timeout = {int(LOCK_SECONDS * 1000)}; {NOT_WAITED_FOR};
SELECT pg_advisory_xact_lock(hashtext(%(claiming)s));
INSERT INTO {{positions}} (pipeline, source, sink, slot)
SELECT %(pipeline)s, %(source)s, %(sink)s, unnest(%(slots)s::text[]) ON CONFLICT DO NOTHING;
SELECT 1 FROM {{positions}} WHERE pipeline = %(pipeline)s ORDER BY source, sink, slot FOR UPDATE"""


@dataclass(frozen=True, slots=True)
class PostgresState(PostgresLedger):
    """State of one pipeline between one source object and one sink object."""

    def make(self) -> None:
        with translated(f"{self.where}: state tables in schema {self.sink.schema}"):
            if self.exists():
                return
            with self.session.transaction():  # two runs that create them at once would collide in the system's tables
                self.session.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.positions'))")
                have = self.session.execute(
                    "SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.sink.schema,)
                ).fetchone()
                if not have:  # checked first: IF NOT EXISTS needs the CREATE privilege even if it does nothing
                    self.session.execute(f"CREATE SCHEMA {quoted(self.sink.schema)}")
                self.session.execute(_TABLES.format(**{name: self.plain(name) for name in NAMES}))

    def exists(self) -> bool:
        with translated(self.where):
            return bool(one_row(self.session, _THERE, (len(TABLES), self.sink.schema, list(TABLES)), same=True)[0])

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        """Raise the generation, end the sessions of older ones, and read the cursor.

        If `run` has ended already, nothing changes and its row is returned: a process that was suspended until after
        its run's end neither restarts the run nor fences the present owner.

        It is durable with the next commit, which is that of `create_load_table`: no other session of the run is opened
        before. If the server dies until then, so does this session, and another attempt raises the generation.

        A suspended process may hold the rows' locks for ever: after the lock time-out its sessions are ended, and the
        claim is retried.

        Raises:
            Unavailable: the locks were not granted.
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
            raise Unavailable("another session locks the pipeline's positions", where=self.where, hint=hint)
        if isinstance(generation, RunRow):
            return generation
        failpoint("prepare.generation_raised")
        self.end_sessions(generation)
        with translated(self.where):
            name = session_name(self.uid, generation)
            ask(self.session, "SELECT set_config('application_name', %s, false)", (name,))
        failpoint("prepare.sessions_ended")
        return Claim(generation, self.loaded())

    @contextmanager
    def _locked(self, slots: tuple[str, ...]) -> Iterator[None]:
        """Return a transaction that holds the pipeline's positions; it begins with the message that locks them."""
        values = {"claiming": self._claiming, "slots": list(slots)}
        try:
            ClientCursor(self.session).execute(self.format(_CLAIM), self.key | values)
            yield
        except BaseException:
            with suppress(psycopg.Error):  # of a lost session the first error says more
                self.session.rollback()
            raise
        self.session.commit()

    def _raised(self, slots: tuple[str, ...], run: str) -> int | RunRow:
        with self._locked(slots):
            # A `finish` holds the same locks: after this only our generation can end the run.
            known = self._first("(run = %(run)s OR state = 'dropped')", {"run": run}, "state = 'dropped' DESC")
            if known is not None and known.state == "dropped":
                hint = "nothing to do; a pipeline that is applied again starts over"
                raise Fenced("the pipeline was deleted", where=self.where, hint=hint)
            if known is not None and known.ended:
                return known
            raised = ask(
                self.session,
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
        """End the pipeline's sessions of generations below `generation`; None ends all.

        Sessions that have not claimed yet have generation 0; only None ends them.
        """
        prefix = f"penstock:{self.uid}:"
        with translated(self.where):
            ask(
                self.session,
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

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        """Return a transaction that holds the generation: no other run can take over until it has ended.

        Raises:
            Fenced: a newer run took over.
        """
        with translated(self.where), self.session.transaction():
            rows = ask(
                self.session,
                f"SELECT generation FROM {self.table('positions')} WHERE pipeline = %s "
                "ORDER BY source, sink, slot FOR UPDATE",
                (self.uid,),
            ).fetchall()
            if not rows or any(row[0] != generation for row in rows):
                raise Fenced("a newer run took over", where=self.where, hint="nothing to do: the newer run carries on")
            yield

    def make_positions(self) -> None:
        with translated(f"{self.where}: state tables in schema {self.sink.schema}"):
            if not offsets.made(self.session, self.sink.schema):
                with self.session.transaction():
                    offsets.make(self.session, self.sink.schema)

    def positions(self) -> dict[str, str]:
        with translated(self.where):
            made = offsets.made(self.session, self.sink.schema)
            return offsets.positions(self.session, self.sink.schema, self.key) if made else {}

    def last_split(self) -> int:
        with translated(self.where):
            if not offsets.made(self.session, self.sink.schema):
                return 0
            return offsets.last_split(self.session, self.sink.schema, self.key)

    def part_splits(self) -> dict[str, int]:
        with translated(self.where):
            made = offsets.made(self.session, self.sink.schema)
            return offsets.part_splits(self.session, self.sink.schema, self.key) if made else {}

    def past_streams(self) -> dict[tuple[str, str | None], dict[str, str]]:
        with translated(self.where):
            made = offsets.made(self.session, self.sink.schema)
            return offsets.past(self.session, self.sink.schema, self.key) if made else {}

    def begin(self, positions: Mapping[str, str]) -> None:
        offsets.begin(self.session, self.sink.schema, self.key, positions)

    def restart(self, positions: Mapping[str, str]) -> None:
        offsets.restart(self.session, self.sink.schema, self.key, positions)

    def other_streams(self, part: str | None = None) -> list[str]:
        """Return the other pipelines whose streams write to this sink; with `part` those that read this partition."""
        with translated(self.where):
            if not offsets.made(self.session, self.sink.schema):
                return []
            found = offsets.streams(self.session, self.sink.schema, self.key["sink"], part)
        return [uid for uid in self.others() if uid in found]

    def lock_sink(self) -> None:
        """Wait until no other pipeline is about to begin at this sink, and let none begin. Inside a transaction."""
        name = f"penstock.sink.{self.key['sink']}"
        ask(self.session, "SELECT pg_advisory_xact_lock(hashtext(%s))", (name,))

    def make_pieces(self) -> None:
        with translated(f"{self.where}: state tables in schema {self.sink.schema}"):
            if not pieces.made(self.session, self.sink.schema):
                with self.session.transaction():
                    pieces.make(self.session, self.sink.schema)

    def pieces(self) -> dict[str, list[tuple[int, str]]]:
        with translated(self.where):
            made = pieces.made(self.session, self.sink.schema)
            return pieces.pieces(self.session, self.sink.schema, self.key) if made else {}

    def forget_pieces(self) -> None:
        if pieces.made(self.session, self.sink.schema):
            pieces.forget(self.session, self.sink.schema, self.key)

    def keeping(self, split: int, changes: Sequence[StateChange]) -> Iterator[str]:
        """Yield the statements that keep the changes of a split, for the transaction that its fence ends."""
        return pieces.keeping(self.sink.schema, self.key, split, changes)

    def holding(self, uid: str) -> str:
        """Return the statement that keeps the stream of a pipeline from committing until the transaction ends."""
        return offsets.holding(self.sink.schema, self.key | {"pipeline": uid})

    def fence(
        self, slot: str, split: int, run: str, generation: int, counted: Counters, moves: Sequence[Move] = ()
    ) -> str:
        """Return the last statement of a commit: mark the split, raise the counters, and fail unless both match.

        A split of a stream is not marked; it moves the positions of its partitions instead.

        With a newer generation, or a split that is done already, its cast fails: this aborts the transaction, so the
        COMMIT in the same message does nothing. Under READ COMMITTED the UPDATE waits for a claim in progress and then
        sees its generation.
        """
        sets = ", ".join(f"{name} = {name} + {getattr(counted, name)}" for name in COUNTED)
        names = {name: _literal(value) for name, value in self.key.items()}
        marked = (
            f"UPDATE {self.plain('splits')} SET done = true WHERE pipeline = {names['pipeline']} "
            f"AND run = {_literal(run)} AND split = {split} AND NOT done RETURNING 1"
        )
        if moves:
            marked = offsets.moved(self.sink.schema, self.key, moves, split)
        return (
            f"WITH s AS ({marked}), "
            f"p AS (UPDATE {self.plain('positions')} SET {sets}, changed_at = now() "
            f"WHERE pipeline = {names['pipeline']} AND source = {names['source']} AND sink = {names['sink']} "
            f"AND slot = {_literal(slot)} AND generation = {generation} RETURNING 1) "
            f"SELECT (CASE WHEN (SELECT count(*) FROM s) = {len(moves) or 1} AND (SELECT count(*) FROM p) = 1 "
            f"THEN '1' ELSE '{FENCED}' END)::int"
        )

    def drop(self) -> None:
        self.end_sessions(None)
        with translated(self.where), self.session.transaction():
            self.session.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._claiming,))
            for name in ("positions", "splits", "runs"):
                self.session.execute(f"DELETE FROM {self.table(name)} WHERE pipeline = %s", (self.uid,))
            if offsets.made(self.session, self.sink.schema):
                offsets.drop(self.session, self.sink.schema, self.uid)
            if pieces.made(self.session, self.sink.schema):
                pieces.drop(self.session, self.sink.schema, self.uid)
            self.session.execute(self.format(_DROPPED), self.key)


def _literal(value: str) -> str:
    return sql.Literal(value).as_string(None)
