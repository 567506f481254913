"""A source that is gone: whether it has another name now, and what the pipeline's rule says then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from shlex import quote
from typing import Final

from catalog.moves import Candidate, likeliest, seen_before
from catalog.renames import LIKELY
from dataflows.connectors.abilities import Tracking
from dataflows.connectors.contract import Source, Target
from dataflows.connectors.listing import Listed
from dataflows.connectors.registry import connector
from dataflows.connectors.state import RunRow
from dataflows.runs.evolving import columns_before
from dataflows.runs.job import Job
from penstock.errors import MissingTable, PenstockError, SchemaBroken, SchemaMismatch, SchemaMoved
from penstock.models.domain import Field
from penstock.models.proposals import Proposal

__all__ = ["SourceIgnored", "gone"]

DESCRIBED: Final = 10
"""Objects that are described to find the one that was moved: those with the most similar names."""


class SourceIgnored(MissingTable):
    """The source is gone, and the pipeline's rule says to end its run without rows."""


def gone(job: Job, source: Source, target: Target, error: MissingTable) -> SchemaMismatch:
    """Return the error of a run whose source is gone, as `schema.tables` says.

    One that no run has read before is missing, whatever the rule says.
    """
    if not target.state.exists() or target.state.finished() is None:
        return error
    rule, found = job.spec.schema_.tables, None if job.streams else _moved(job, source, target)
    kinds: dict[str, type[SchemaMismatch]] = {"pause": SchemaBroken, "ignore": SourceIgnored}
    kind = kinds.get(rule, MissingTable)
    if found is None:
        return kind(error.what, where=error.where, value=error.value, hint=error.hint)
    name, sure = found
    old, where = job.spec.source.object, f"{job.pipeline}: spec.source.object"
    what = f"{old} is called {name} now" if sure == 1 else f"{old} seems to be called {name} now, {sure:.0%} sure"
    if rule == "apply":
        return SchemaMoved(what, where=where, hint="the pipeline gets a version that follows", moved=name)
    hint = (
        f"`penstock approve {quote(job.pipeline)}` reads it from its position on; or write its name, which begins again"
    )
    moved = kind(what, where=where, hint=hint)
    if rule != "ignore":
        moved.proposed = [Proposal(rule="tables", subject=old, to=name, confidence=sure).to_dict()]
    return moved


def _moved(job: Job, source: Source, target: Target) -> tuple[str, float] | None:
    """Return the name that the source has now, and how sure that is; None if nothing is like it."""
    old, before = job.spec.source.object, list(columns_before(target).values())
    noted = (RunRow.noted(target.state.finished(), "schemas") or {}).get("identity")
    with suppress(PenstockError):  # a source that cannot be listed or described: its error stands
        candidates: Iterable[Candidate] = ()
        if noted is None or not isinstance(source, Tracking) or not source.knows(noted):
            candidates = _candidates(job)
        elif (name := source.named_now(noted)) is not None:
            one = _described(job, name)
            if set(_shape(before)) <= set(_shape(one.fields)):
                return name, 1.0
            candidates = (one,)
        found = likeliest(old, before, candidates)
        return found if found is not None and found[1] >= LIKELY else None
    return None


def _shape(fields: Iterable[Field]) -> Iterator[tuple[str, str]]:
    return ((one.name, one.type) for one in fields)


def _described(job: Job, name: str) -> Candidate:
    """Return an object of the connection with its columns."""
    kind = connector(job.source.settings.type, job.at_source)
    with closing(kind.source(replace(job.source, object=name))) as source:
        columns = [one for one in source.describe().columns if not one.hidden]
    return Candidate(name, tuple(Field(name=one.name, type=one.type, nullable=one.nullable) for one in columns))


def _candidates(job: Job) -> Iterator[Candidate]:
    """Yield objects of the connection that the catalog did not know when the pipeline ran last."""
    kind: object = connector(job.source.settings.type, job.at_source)
    if not isinstance(kind, Listed):
        return
    from rapidfuzz import fuzz, process

    known = _known(job)
    names = [
        one.name
        for one in kind.objects_of(replace(job.source, object="*"), ("*",), lambda: None)
        if one.nameable and one.readable and not one.hidden and one.name not in known
    ]
    for name, _, _ in process.extract(job.spec.source.object, names, scorer=fuzz.ratio, limit=DESCRIBED):
        with suppress(PenstockError):
            yield _described(job, name)


def _known(job: Job) -> set[str]:
    if job.letters is None:
        return set()
    with closing(job.open_letters()) as letters:
        return seen_before(letters.session, job.uid, job.source.connection)
