"""Dry run of a redrive: how many dead letters would pass the pipeline's steps now, and why others still fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pyarrow as pa

from catalog.redrives import SPLIT_ROWS, Redrives
from dataflows.connectors.contract import ReadOrder
from dataflows.runs.job import Job
from dataflows.runs.letter_source import Fix, Restored, restored
from dataflows.runs.lookups import resources_of
from dataflows.runs.redrive import RedriveJob, free_letters, redrive_job, refuse_redrive
from dataflows.runs.survey import decoded_mapping, forecast, opened
from dataflows.transforms.chain import Chain
from penstock.models.letters import LetterChoice, LetterFix

__all__ = ["Failing", "LetterTrial", "tried"]


@dataclass(frozen=True, slots=True)
class Failing:
    """Letters that would still be refused for one reason."""

    step: str
    code: str
    reason: str
    count: int


@dataclass(slots=True)
class LetterTrial:
    """What a redrive would do, in numbers. What only the target can refuse is not known before."""

    chosen: int = 0
    passed: int = 0
    filtered: int = 0
    refused: int = 0
    left: int = 0
    """Letters that the fix is not for."""
    held_back: int = 0
    overtaken: int = 0
    """Changes of rows that would not be written, since a later one of the same key is."""
    failing: list[Failing] = field(default_factory=list)


def tried(job: Job, choice: LetterChoice, fix: LetterFix | None) -> LetterTrial:
    """Try all letters of the choice; nothing is changed.

    Raises:
        Refused: letters of this pipeline cannot be redriven.
        MissingColumn, SchemaMismatch: the fix does not fit the rows.
    """
    refuse_redrive(job)
    found, reasons, shown = LetterTrial(), Counter[tuple[str, str, str]](), dict[tuple[str, str, str], str]()
    with closing(Redrives(job.letters or "", job.uid, job.pipeline)) as redrives:
        ids, found.held_back = free_letters(job, redrives, choice)
        found.chosen = len(ids)
        order, chain = _bound(made := redrive_job(job, "", fix))
        bound = None if fix is None else Fix.of(fix, order, resources_of(job))
        for at in range(0, len(ids), SPLIT_ROWS):
            some = redrives.named(ids[at : at + SPLIT_ROWS])
            rows = restored(some, order, bound)
            if made.fates is not None:
                made.fates(0, rows, some)
            for step, code, reason in _of_part(rows, len(some), chain, found):
                kind = (step, code, reason.partition(", got ")[0])
                reasons[kind] += 1
                shown.setdefault(kind, reason)
    found.refused = sum(reasons.values())
    found.failing = [Failing(kind[0], kind[1], shown[kind], count) for kind, count in reasons.most_common()]
    return found


def _bound(job: RedriveJob) -> tuple[ReadOrder, Chain]:
    """Return how the rows are read, and the pipeline's steps over them."""
    with opened(job) as ends:
        surveyed = forecast(job, ends, known=ends.target.state.exists()).survey
        mapping = decoded_mapping(job, surveyed)
    assert isinstance(mapping.chain, Chain)  # noqa: S101 - a pipeline whose steps remember rows was refused
    order = ReadOrder(surveyed.source, mapping.reads, None, mapping.schema, job.batch_rows, lambda: None)
    return order, mapping.chain


def _of_part(rows: Restored, count: int, chain: Chain, found: LetterTrial) -> Iterator[tuple[str, str, str]]:
    """Count what would become of some letters; yield step, code and reason of those that would be refused."""
    found.left += len(rows.left)
    found.overtaken += len(rows.dropped)
    good = [row for row in range(count) if row not in rows.stays and row not in rows.dropped]
    out, refused, added = chain.apply(rows.batch.take(pa.array(good, pa.int64())))
    again = 0 if refused is None else refused.num_rows
    found.passed += out.num_rows
    found.filtered += len(good) + added - again - out.num_rows
    yield from (why for row, why in sorted(rows.stays.items()) if row not in rows.left)
    if refused is not None:
        columns = (refused.column(name).to_pylist() for name in ("step", "code", "reason"))
        yield from zip(*columns, strict=True)
