"""One stream over several processes: whether it can be, how many there are, and the numbers of the splits of each.

Process i of n reads the partitions whose number is i modulo n, and writes them over a slot of its own. Nothing is
exchanged between them: each position belongs to one partition, and moves in the transaction of its rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from dataflows.connectors.contract import Source
from dataflows.connectors.state import ParallelState, RunRow, State, StreamState
from dataflows.connectors.streaming import ChangeSource, Partitioned, Selective
from dataflows.runs.job import Job
from penstock.errors import Refused

__all__ = ["Numbers", "check_apart", "check_shared", "processes", "shared_note"]

_HINT: Final = "leave out limits.workers"
_APART: Final = "name another object, or narrow what the source reads"


def check_shared(job: Job, source: Source, state: State) -> None:
    """Check that the ends of a stream allow as many processes as the pipeline asks for.

    Raises:
        Refused: one of them cannot be shared.
    """
    if job.workers == 1 or isinstance(source, ChangeSource):  # several sessions may read its snapshot
        return
    where = f"{job.pipeline}: spec.limits.workers"
    if not isinstance(source, Partitioned):
        what = f"a stream of a {job.source.settings.type} connection is read by one process"
        raise Refused(what, where=where, hint=_HINT)
    if not isinstance(state, ParallelState):
        what = f"a stream is written to {job.sink.settings.type} by one process"
        raise Refused(what, where=where, hint=_HINT)


def check_apart(job: Job, source: Source) -> None:
    """Check that a stream does not read what it writes: it would go round for ever.

    Raises:
        Refused: it would.
    """
    same = job.source.settings == job.sink.settings
    if same and isinstance(source, Selective) and source.includes(job.sink):
        what = f"{job.source.object} contains what the stream writes: it would read its own rows again, without an end"
        raise Refused(what, where=f"{job.pipeline}: spec.sink.object", value=job.sink.object, hint=_APART)


def processes(job: Job, source: Source) -> int:
    """Return how many processes a stream has: `limits.workers`, but no more than there are partitions."""
    if job.workers == 1 or not isinstance(source, Partitioned):
        return 1
    return min(job.workers, source.partitions())


def shared_note(job: Job, source: Source) -> str | None:
    """Say how many processes a stream has if they are fewer than `limits.workers`, or what these read."""
    if isinstance(source, ChangeSource):
        many = f"up to {job.workers} sessions read the snapshot of {job.source.object}, one the changes"
        return many if job.workers > 1 else None
    count = processes(job, source)
    if count == job.workers:
        return None
    have = "1 partition is" if count == 1 else f"{count} partitions are"
    return f"{job.source.object}: its {have} read by as many processes, in place of {job.workers}"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of the splits of an attempt: `first` and all that follow; each process takes every one of its slot's.

    The sink keeps them with the run, so that the next attempt knows which splits may not have been committed.
    """

    first: int
    of: int = 1

    def __str__(self) -> str:
        return f"{self.first}/{self.of}"

    @property
    def stored(self) -> str | None:
        """Return what the run's row says; None for one process, whose numbers follow from the positions."""
        return None if self.of == 1 else str(self)

    @classmethod
    def of_run(cls, run: RunRow | None, state: StreamState) -> Numbers:
        """Return those of the last attempt of a run."""
        if run is None or run.lower is None:
            return cls(state.last_split() + 1)
        first, of = run.lower.split("/")
        return cls(int(first), int(of))

    def uncommitted(self, committed: Collection[int]) -> list[int]:
        """Return the one split of each process that may have begun; `committed` are the last ones of the partitions.

        A partition belongs to one process during an attempt, so the last split of each process is among them.
        """
        found = dict.fromkeys(range(self.of), self.first - self.of)
        for number in committed:
            if number >= self.first:
                slot = (number - self.first) % self.of
                found[slot] = max(found[slot], number - slot)
        return [last + self.of + slot for slot, last in found.items()]
