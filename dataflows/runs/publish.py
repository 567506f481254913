"""Last phase of a run: publish its rows, move the cursor and record the result, as one change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing, suppress
from shlex import quote
from typing import Any, Final

from dataflows.connectors.abilities import Unique
from dataflows.connectors.contract import PublishOrder, Target
from dataflows.connectors.streaming import ChangeSource
from dataflows.data.counters import Counters
from dataflows.runs.job import Job
from dataflows.runs.prepare import Prepared
from penstock.errors import BadData, Fenced, PenstockError, TooManyRefused
from penstock.failpoints import failpoint

__all__ = ["committed", "drop_state", "publish", "schemas", "superseded", "too_many_error"]

ASK_SECONDS = 3.0
TARGET: Final = "target"
"""Step of the letters that the target refuses."""
_NAMED: Final = re.compile(r"`([^`]+)`")


def publish(job: Job, prepared: Prepared, target: Target, *, clean: bool = False) -> dict[str, Any]:
    """Finish the run and return its recorded counters and schemas. A finished run is not published again.

    With `clean` the caller knows that the run has refused no row: then the target need not be asked.

    If more rows were refused than the pipeline allows, a `replace` publishes nothing; in the other modes what is
    committed stays, and the result says so in `refused_too_many`.

    Raises:
        TooManyRefused: a `replace` with too many dead letters.
        Fenced: a newer run took over.
        Refused: splits are missing.
        Unavailable: the target is locked by others for longer than 20 s; trying again is safe.
    """
    failpoint("publish.begin")
    extra: dict[str, Any] = {"schemas": schemas(prepared), "resumed": prepared.resumed}
    if prepared.keys is not None:
        extra["keys"] = prepared.keys
    if prepared.notes:
        extra["notes"] = list(prepared.notes)
    run = None if clean and not job.rules.validation.unique else target.state.run(job.run)
    if run is not None and not run.ended:
        counters = target.state.counters() - run.base
        if counters.dead > job.spec.errors.dead_letter.fail_above * counters.rows_in:
            if not job.continued:
                raise too_many_error(job, counters.as_dict(), prepared)
            extra["refused_too_many"] = True
        _check_unique(job, target)
    columns, method = prepared.survey.mapping.targets, prepared.survey.method
    return target.publish(PublishOrder(job.run, prepared.generation, prepared.upper, columns, extra, method))


def _check_unique(job: Job, target: Target) -> None:
    """Refuse to publish a `replace` whose rows are not unique, unless the target's own keys ensure that."""
    unique = job.rules.validation.unique
    if not unique or job.write != "replace" or not isinstance(target, Unique):
        return
    if found := target.duplicates(job.run, unique):
        names = ", ".join(f"`{name}`" for name in unique)
        hint = "nothing was published; correct the source, or deduplicate"
        raise BadData(
            f"{found} values of {names} occur more than once", where=f"{job.pipeline}: spec.validate.unique", hint=hint
        )


def too_many_error(job: Job, counted: Mapping[str, Any], prepared: Prepared | None) -> TooManyRefused:
    """Return the error of a run that refused more rows than its pipeline allows."""
    limit = job.spec.errors.dead_letter.fail_above
    what = f"{counted['dead']:,} of {counted['rows_in']:,} rows went to the dead letters, more than {limit * 100:.4g} %"
    stays = "what was committed stays" if job.continued else "nothing was published"
    hint = f"{stays}; see `penstock dlq list {quote(job.pipeline)}`"
    where = f"{job.pipeline}: spec.errors.dead_letter.fail_above"
    return TooManyRefused(f"{what}{_commonest(job, prepared)}", where=where, hint=hint)


def _commonest(job: Job, prepared: Prepared | None) -> str:
    """Say what most of the letters are about: step, code and column.

    The reason may hold a value, except for what the target refuses: there its own words are kept.
    """
    if job.letters is None:
        return ""
    found = None
    with suppress(PenstockError), closing(job.open_letters()) as letters:  # an unreachable catalog hides no refusal
        found = letters.commonest(job.run)
    if found is None:
        return ""
    step, code, reason = found
    if step == TARGET and all(one.name != TARGET for one in job.spec.transforms):
        return f", most often by `{step}`{'' if code in reason else f' ({code})'}: {reason}"
    surveyed = prepared.survey if prepared is not None else None
    columns = {*surveyed.mapping.targets, *(one.name for one in surveyed.source.columns)} if surveyed else set()
    column = next((f" at `{name}`" for name in _NAMED.findall(reason) if name in columns), "")
    return f", most often by `{step}` ({code}){column}"


def superseded(job: Job, generation: int) -> bool:
    """True if a newer run owns the pipeline by now; False if that cannot be determined."""
    try:
        with closing(job.open_target()) as target, target.state.owned(generation):
            return False
    except Fenced:
        return True
    except PenstockError:
        return False


def committed(job: Job, prepared: Prepared | None) -> Counters | None:
    """Return what all attempts of an unfinished run committed; None if unknown, or a newer run took over."""
    generation = prepared.generation if prepared else None
    try:
        with closing(job.open_target(patience=ASK_SECONDS)) as target:
            return target.state.committed(job.run, generation) if target.state.exists() else None
    except PenstockError:
        return None


def schemas(prepared: Prepared) -> dict[str, Any]:
    """Return the columns of both sides, as the run saw them, and by what the source would be known after a move.

    `inferred` if others may show in rows of the source.
    """
    sides = {"source": prepared.survey.source, "target": prepared.survey.target}
    found: dict[str, Any] = {
        side: [one.summary() for one in table.columns if not one.hidden] for side, table in sides.items()
    }
    identity = prepared.survey.source.identity
    found |= {"identity": identity} if identity is not None else {}
    return found | ({"inferred": True} if prepared.survey.inferred else {})


def drop_state(job: Job, *, table: bool = False) -> None:
    """Delete the state of a deleted pipeline at its sink: positions, plans, shadows; with `table` the target too.

    Sessions of its runs are ended first and cannot commit afterwards. If there was state, a launcher that has not
    claimed yet is refused; if there was none, nothing marks the schema, and such a launcher may still begin.
    """
    with closing(job.open_target()) as target:
        target.drop(table=table)
    if job.changes:
        with closing(job.open_source()) as source:
            if isinstance(source, ChangeSource):
                source.forget()
