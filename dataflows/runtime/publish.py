"""The last step of a run: make its rows the target's, move the cursor, record the result - in one transaction."""

from __future__ import annotations

from typing import Any

from dataflows.job import Job
from dataflows.postgres.session import connect, translated
from dataflows.postgres.tables import TableName, exists
from dataflows.runtime.prepare import Prepared, positions_of, recorded
from dataflows.sinks.positions import TABLES, Counters, Positions, session_name
from dataflows.sinks.swap import drop_leftovers, move_in
from penstock.errors import Fenced, PenstockError, Refused, Unavailable
from penstock.failpoints import failpoint

__all__ = ["committed", "drop_state", "publish", "superseded"]

LOCK_SECONDS = 20.0
ASK_SECONDS = 3.0


def publish(job: Job, prepared: Prepared) -> dict[str, Any]:
    """Finish the run; its counters and schemas, as they are recorded. One that is finished is not published again.

    Raises:
        Fenced: a newer run took over.
        Refused: splits are missing.
        Unavailable: the target is locked by others for longer than 20 s; trying again is safe.
    """
    failpoint("publish.begin")
    positions = positions_of(job)
    name = session_name(job.uid, prepared.generation)
    with connect(job.sink_dsn, where=job.at_sink, name=name, lock=LOCK_SECONDS) as sink:
        with positions.owned(sink, prepared.generation):
            failpoint("publish.locked")
            run = positions.run(sink, job.run)
            if run is None:
                raise Refused("the run has no plan any more", where=job.at_sink, hint="run it again")
            if run.ended:
                return recorded(run, job.at_sink)
            pending, planned = positions.pending(sink, job.run)
            if pending:
                raise Refused(
                    f"{len(pending)} of {planned} splits are not done", where=job.at_sink, hint="run it again"
                )
            counters = positions.counters(sink) - run.base
            told = {"splits": planned, "schemas": schemas(prepared), "resumed": prepared.resumed}
            result: dict[str, Any] = {**counters.as_dict(), **told}
            if prepared.survey.method is not None:
                move_in(sink, job.sink, prepared.into, prepared.survey.mapping.targets, prepared.survey.method)
            positions.finish(sink, job.run, prepared.upper, result)
            failpoint("publish.moved")
        failpoint("publish.done")
    return result


def superseded(job: Job, prepared: Prepared) -> bool:
    """Whether a newer run owns the pipeline by now; False where that cannot be told."""
    try:
        with (
            connect(job.sink_dsn, where=job.at_sink, name="penstock:ask") as sink,
            positions_of(job).owned(sink, prepared.generation),
        ):
            return False
    except Fenced:
        return True
    except Unavailable:
        return False


def committed(job: Job, prepared: Prepared | None) -> Counters | None:
    """What the unfinished run has committed, by any attempt; None where that is unknown, or a newer run owns it."""
    generation = prepared.generation if prepared else None
    limits = {"seconds": ASK_SECONDS, "lock": ASK_SECONDS, "statement": ASK_SECONDS}
    try:
        with connect(job.sink_dsn, where=job.at_sink, name="penstock:ask", **limits) as sink:
            return positions_of(job).committed(sink, job.run, generation)
    except PenstockError:
        return None


def schemas(prepared: Prepared) -> dict[str, Any]:
    """The columns of both sides, as the run saw them."""
    sides = {"source": prepared.survey.source, "target": prepared.survey.target}
    return {side: [column.summary() for column in table.columns] for side, table in sides.items()}


def drop_state(dsn: str, uid: str, sink: TableName, where: str, *, target: bool = False) -> None:
    """Forget a deleted pipeline at its sink: positions, plans and shadows; with `target` the target table too.

    Sessions of its runs are ended first, and find nothing to commit against afterwards; where state was kept, a
    launcher that has not claimed yet is refused. Where none was, nothing marks the schema: it may still begin.
    """
    positions = Positions(uid, "", sink, where)
    with connect(dsn, where=where, name=f"penstock:drop:{uid}"[:63]) as session:
        if all(exists(session, TableName(sink.schema, name)) for name in TABLES):
            positions.drop(session)
        drop_leftovers(session, uid, sink, None, where)
        if target:
            with translated(where):
                session.execute(f"DROP TABLE IF EXISTS {sink.sql}")
