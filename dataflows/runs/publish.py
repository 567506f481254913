"""The last step of a run: make its rows the target's, move the cursor, record the result - as one change."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from dataflows.connectors.abilities import Unique
from dataflows.connectors.contract import Target
from dataflows.data.counters import Counters
from dataflows.runs.job import Job
from dataflows.runs.prepare import Prepared
from penstock.errors import BadData, Fenced, PenstockError, TooManyRefused
from penstock.failpoints import failpoint

__all__ = ["committed", "drop_state", "publish", "superseded", "too_many"]

ASK_SECONDS = 3.0


def publish(job: Job, prepared: Prepared, target: Target) -> dict[str, Any]:
    """Finish the run; its counters and schemas, as they are recorded. One that is finished is not published again.

    Of a run that refused more rows than its pipeline allows a `replace` publishes nothing; in the other modes what is
    committed stays, and the result says so by `refused_too_many`.

    Raises:
        TooManyRefused: a `replace` with too many dead letters.
        Fenced: a newer run took over.
        Refused: splits are missing.
        Unavailable: the target is locked by others for longer than 20 s; trying again is safe.
    """
    failpoint("publish.begin")
    told: dict[str, Any] = {"schemas": schemas(prepared), "resumed": prepared.resumed}
    if prepared.notes:
        told["notes"] = list(prepared.notes)
    run = target.state.run(job.run)
    if run is not None and not run.ended:
        counters = target.state.counters() - run.base
        if counters.dead > job.spec.errors.dead_letter.fail_above * counters.rows_in:
            if not job.continued:
                raise too_many(job, counters.as_dict())
            told["refused_too_many"] = True
        _check_unique(job, target)
    surveyed = prepared.survey
    return target.publish(job.run, prepared.generation, prepared.upper, surveyed.mapping.targets, told, surveyed.method)


def _check_unique(job: Job, target: Target) -> None:
    """Refuse to publish a `replace` whose rows are not unique, where the target's own keys do not see to it."""
    unique = job.rules.validation.unique
    if not unique or job.write != "replace" or not isinstance(target, Unique):
        return
    if found := target.duplicates(job.run, unique):
        names = ", ".join(f"`{name}`" for name in unique)
        hint = "nothing was published; mend the source, or deduplicate"
        raise BadData(
            f"{found} values of {names} come more than once", where=f"{job.pipeline}: spec.validate.unique", hint=hint
        )


def too_many(job: Job, counted: Mapping[str, Any]) -> TooManyRefused:
    """The error of a run that refused more rows than its pipeline allows."""
    limit = job.spec.errors.dead_letter.fail_above
    what = f"{counted['dead']:,} of {counted['rows_in']:,} rows went to the dead letters, more than {limit * 100:.4g} %"
    stays = "what was committed stays" if job.continued else "nothing was published"
    hint = f"{stays}; see `penstock dlq list {job.pipeline}`"
    return TooManyRefused(what, where=f"{job.pipeline}: spec.errors.dead_letter.fail_above", hint=hint)


def superseded(job: Job, prepared: Prepared) -> bool:
    """Whether a newer run owns the pipeline by now; False where that cannot be told."""
    try:
        with (
            closing(job.open_target()) as target,
            target.state.owned(prepared.generation),
        ):
            return False
    except Fenced:
        return True
    except PenstockError:
        return False


def committed(job: Job, prepared: Prepared | None) -> Counters | None:
    """What the unfinished run has committed, by any attempt; None where that is unknown, or a newer run owns it."""
    generation = prepared.generation if prepared else None
    try:
        with closing(job.open_target(patience=ASK_SECONDS)) as target:
            return target.state.committed(job.run, generation) if target.state.exists() else None
    except PenstockError:
        return None


def schemas(prepared: Prepared) -> dict[str, Any]:
    """The columns of both sides, as the run saw them."""
    sides = {"source": prepared.survey.source, "target": prepared.survey.target}
    return {side: [column.summary() for column in table.columns if not column.hidden] for side, table in sides.items()}


def drop_state(job: Job, *, table: bool = False) -> None:
    """Forget a deleted pipeline at its sink: positions, plans and shadows; with `table` the target table too.

    Sessions of its runs are ended first, and find nothing to commit against afterwards; where state was kept, a
    launcher that has not claimed yet is refused. Where none was, nothing marks the schema: it may still begin.
    """
    with closing(job.open_target()) as target:
        target.drop(table=table)
