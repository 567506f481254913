"""The meter: counts reports and ends of runs into metrics, each transaction with its position.

Two meters may work at once: one of them is fenced, and goes on from where the other is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
import psycopg

from catalog.metric_points import Sample, add, sweep
from catalog.metric_runs import Ended, Subject, ended, progressed
from penstock.errors import Fenced, PenstockError
from penstock.postgres import address, connect, translated, translating
from penstock.records import Record, records_of
from penstock.records.execution import RunProgress
from penstock.records.families import body
from penstock.topics.log import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Meter"]

NAME: Final = "metrics"
"""Name of its position among the settings in schema `ops`."""
AT_ONCE: Final = 500
"""Runs and errors that are counted in one transaction."""
_BAD: Final = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)

_log = logging.getLogger(__name__)


class Meter:
    """Counts what the log of metrics and the catalog say of runs. Not thread-safe.

    `positions` are the next offsets of the partitions of the log of metrics. Every method raises Unavailable when the
    database cannot be used, and Fenced when another meter has moved on: then `begin` again.
    """

    def __init__(self, dsn: str) -> None:
        """Connect to the catalog at `dsn`."""
        self._where = address(dsn)
        self._session = connect(dsn, "penstock:metering", autocommit=True)
        # What a crash of the server takes back is counted again, position and points together.
        self._session.execute("SET synchronous_commit TO off")
        self._session.execute("SET lock_timeout TO '5s'")
        self.positions: dict[int, int] = {}
        self._catalog = 0
        """The offset of the control topic up to which the catalog's runs and errors are counted."""
        self._stored: Any = None
        """The position as it was stored last."""

    def begin(self) -> None:
        """Load the position."""
        with translating(self._where):
            self._session.execute(_FIRST, [NAME, "{}"])
            row = self._session.execute(_POSITION, [NAME]).fetchone()
        self._stored = row and row[0]
        self.positions = {int(part): at for part, at in (self._stored or {}).get("parts", {}).items()}
        self._catalog = (self._stored or {}).get("catalog", 0)

    def projected(self) -> int:
        """Return how far the catalog is."""
        with translating(self._where):
            row = self._session.execute(_PROJECTED).fetchone()
        return 0 if row is None else int(row[0])

    def reported(self, stored: Sequence[Stored], now: datetime) -> None:
        """Count the reports in messages of the log of metrics, in the order of each partition, and move past them.

        Reports that the database refuses are left out: what they miss, later ones have.
        """
        moved = self.positions | {one.partition: one.offset + 1 for one in stored}
        with translating(self._where):
            try:
                with self._session.transaction():
                    self._count(list(_reports(stored)), moved, now)
            except _BAD as error:
                _log.warning("reports of runs are not counted: %s", translated(error))
        self.positions = moved

    def _count(self, reports: Sequence[tuple[Record, RunProgress]], moved: Mapping[int, int], now: datetime) -> None:
        subjects = self._subjects(record.key for record, _ in reports)
        samples: list[Sample] = []
        changed: dict[str, Subject] = {}
        for record, report in reports:
            subject = subjects.setdefault(record.key, Subject(report.pipeline))
            epoch = record.cause[0] if record.cause is not None else 0
            if found := progressed(subject, epoch, report, min(record.at, now)):
                samples += found
                changed[record.key] = subject
        if samples:
            self._write(samples, changed, now, moved, self._catalog)

    def ended(self, upto: int, now: datetime) -> bool:
        """Count runs that have ended, and errors, by records below `upto`; return False once all are counted.

        Call it when the reports that were there when the catalog was at `upto` are counted: they say when rows were
        written, and the end of the run only how many.
        """
        if upto <= self._catalog:
            return False
        with translating(self._where), self._session.transaction():
            begun = self._session.execute(_BEGUN, [self._catalog, upto, AT_ONCE]).fetchall()
            errors = self._session.execute(_ERRORS, [self._catalog, upto, AT_ONCE]).fetchall()
            limits = [rows[-1][0] + 1 for rows in (begun, errors) if len(rows) == AT_ONCE]
            reached: int = min([upto, *limits])
            subjects = {run: Subject(pipeline) for offset, run, pipeline in begun if offset < reached}
            self._put(subjects, now, "DO NOTHING")
            runs = [Ended(*row) for row in self._session.execute(_ENDED, [upto, AT_ONCE])]
            subjects = self._subjects(run.id for run in runs)
            samples = [one for run in runs for one in ended(subjects[run.id], run)]
            if len(runs) == AT_ONCE and reached == upto:
                reached = self._catalog  # others may have ended, too: what is below `upto` is counted with the last
            samples += [one for row in errors if row[0] < reached for one in _error(*row[1:])]
            self._write(samples, subjects, now, self.positions, reached)
        self._catalog = reached
        return reached < upto

    def sweep(self, now: datetime) -> None:
        """Drop what is not kept any longer."""
        with translating(self._where):
            sweep(self._session, now)

    def _subjects(self, names: Iterable[str]) -> dict[str, Subject]:
        """Return what is known of subjects. Keeps other meters from counting until the transaction ends.

        Raises:
            Fenced: another one has counted.
        """
        row = self._session.execute(f"{_POSITION} FOR UPDATE", [NAME]).fetchone()
        if row is None or row[0] != self._stored:
            raise Fenced("another process counts metrics", where=self._where, hint="nothing to do: it goes on")
        rows = self._session.execute(_SUBJECTS, [sorted(set(names))])
        return {name: Subject(*values) for name, *values in rows}

    def _write(
        self,
        samples: Iterable[Sample],
        changed: Mapping[str, Subject],
        now: datetime,
        parts: Mapping[int, int],
        catalog: int,
    ) -> None:
        add(self._session, samples, now)
        self._put(changed, now, _CHANGE)
        position = {"parts": {str(part): at for part, at in sorted(parts.items())}, "catalog": catalog}
        self._session.execute(_MOVE, [orjson.dumps(position).decode(), NAME])
        self._stored = position

    def _put(self, subjects: Mapping[str, Subject], now: datetime, otherwise: str) -> None:
        rows = [
            (name, one.pipeline, one.epoch, _json(one.seen), _json(one.total), one.done, one.at or now)
            for name, one in subjects.items()
        ]
        if rows:
            self._session.execute(_PUT + otherwise, [list(column) for column in zip(*rows, strict=True)])

    def close(self) -> None:
        """End the session."""
        self._session.close()


def _reports(stored: Iterable[Stored]) -> Iterator[tuple[Record, RunProgress]]:
    """Return the reports of progress among messages; what is none, or does not validate, is left out."""
    for _, record in records_of(stored):
        if record.type == "run.progress":
            try:
                report = body(record)
            except PenstockError:
                continue
            if isinstance(report, RunProgress):
                yield record, report


def _error(pipeline: str, at: datetime, kind: str | None) -> list[Sample]:
    samples = [Sample.counted(pipeline, "errors", at, 1)]
    return [*samples, Sample.counted(pipeline, "errors", at, 1, kind)] if kind else samples


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


_FIRST: Final = "INSERT INTO ops.settings (name, value) VALUES (%s, %s::jsonb) ON CONFLICT (name) DO NOTHING"
_POSITION: Final = "SELECT value FROM ops.settings WHERE name = %s"
_MOVE: Final = "UPDATE ops.settings SET value = %s::jsonb WHERE name = %s"
_PROJECTED: Final = "SELECT next FROM catalog.position WHERE id = 'control'"
_SUBJECTS: Final = """SELECT subject, pipeline, epoch, seen, total, done, at FROM ops.metric_runs
WHERE subject = ANY(%s)"""
_PUT: Final = """INSERT INTO ops.metric_runs AS kept (subject, pipeline, epoch, seen, total, done, at)
SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::jsonb[], %s::jsonb[], %s::boolean[], %s::timestamptz[])
ON CONFLICT (subject) """
_CHANGE: Final = """DO UPDATE SET epoch = excluded.epoch, seen = excluded.seen, total = excluded.total,
done = excluded.done, at = excluded.at"""
_BEGUN: Final = """SELECT "offset", id, pipeline FROM catalog.runs
WHERE "offset" >= %s AND "offset" < %s AND pipeline IS NOT NULL ORDER BY "offset" LIMIT %s"""
_ENDED: Final = """SELECT id, r.pipeline, status, requested_at, started_at, finished_at, coalesce(counters, '{}'),
coalesce(seconds, '{}') FROM catalog.runs AS r JOIN ops.metric_runs AS m ON m.subject = r.id
WHERE NOT m.done AND r.finished_at IS NOT NULL AND r.changed < %s ORDER BY r.finished_at, id LIMIT %s"""
_ERRORS: Final = """SELECT "offset", pipeline, at, classified ->> 'kind' FROM catalog.errors
WHERE "offset" >= %s AND "offset" < %s AND pipeline IS NOT NULL ORDER BY "offset" LIMIT %s"""
