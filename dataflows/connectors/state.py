"""State that every sink keeps next to its rows: the fence, the plan, positions and counters.

The run that raised the generation last owns the pipeline. Every change a run makes names its generation and fails if
a newer one exists: this fencing token, not the order of events, prevents lost and duplicate rows.

A run counts from its `base` on: all rows of its plan, whichever attempt committed them. A run that takes over an
unfinished plan takes over its base, too, so that finished runs count each row once. A dropped pipeline cannot be
claimed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dataflows.data.counters import Counters
from dataflows.data.splits import Split

__all__ = [
    "Claim",
    "IdentifiedState",
    "Loaded",
    "ParallelState",
    "PastState",
    "RunRow",
    "SharedState",
    "State",
    "StreamState",
    "WindowState",
]


@dataclass(frozen=True, slots=True)
class RunRow:
    """Run as the sink has recorded it; `state` is running, finished or superseded."""

    run: str
    write: str
    cursor: str | None
    lower: str | None
    upper: str | None
    base: Counters
    state: str = "running"
    result: dict[str, Any] | None = None
    taken_over_by: str | None = None
    split_key: str | None = None
    """Column whose ranges are its splits."""

    @property
    def ended(self) -> bool:
        """True if nothing may be written for it anymore."""
        return self.state != "running"

    @staticmethod
    def noted(row: RunRow | None, name: str) -> Any:
        """Return what the result of a run says under a name; None if it does not, or if there is no run."""
        return None if row is None or row.result is None else row.result.get(name)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Provenance of the target's rows: the write mode, the cursor, and its last value (`position`).

    All None if nothing was loaded yet. `partly`: by an unfinished run in a mode that continues from there.
    """

    write: str | None = None
    cursor: str | None = None
    position: str | None = None
    partly: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Generation raised for a pipeline, and what the runs before it loaded."""

    generation: int
    loaded: Loaded


class State(Protocol):
    """State of one pipeline between one source object and one sink object."""

    def make(self) -> None:
        """Create the tables or files of the state if they are missing.

        Raises:
            AccessDenied: this user lacks the permission.
        """

    def exists(self) -> bool:
        """True if any state is kept there, of this pipeline or another."""

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        """Raise the generation; from then on, no process with an older one can change anything.

        If `run` has ended by now, return its record and leave the generation unchanged.

        Raises:
            Unavailable: another session has locked the state.
            Fenced: the pipeline was dropped.
        """

    def loaded(self) -> Loaded:
        """Return what has been loaded so far, including committed splits of an unfinished run."""

    def owned(self, generation: int) -> AbstractContextManager[None]:
        """Return a context that holds the generation: its changes are atomic, and no run can take over before it ends.

        Raises:
            Fenced: a newer run has taken over.
        """

    def run(self, run: str) -> RunRow | None:
        """Return the run with that id, or None."""

    def unfinished(self, run: str) -> RunRow | None:
        """Return another run between the same source and sink that has a plan and is not finished."""

    def finished(self) -> RunRow | None:
        """Return the latest finished run between the same source and sink."""

    def write_plan(self, plan: RunRow, splits: tuple[Split, ...]) -> None:
        """Store the plan of a run: its window, its splits, and its initial counters. Inside `owned`."""

    def take_over(self, older: str, run: str) -> None:
        """Move the splits of an unfinished run to another one, whose plan exists. Inside `owned`."""

    def supersede(self, older: str, run: str) -> None:
        """Mark an unfinished run as superseded, and delete its splits. Inside `owned`."""

    def mark_partial(self) -> None:
        """Record that rows of an abandoned run stay, so that no `append` may continue from here. Inside `owned`."""

    def forget(self, run: str) -> None:
        """Delete a run's plan, so that it is planned again. Inside `owned`."""

    def next_split(self, run: str) -> int:
        """Return the first unused split number of the run."""

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        """Return the splits still to do, in order, and the number of all splits."""

    def counters(self) -> Counters:
        """Return the cumulative counters of all slots."""

    def committed(self, run: str, generation: int | None) -> Counters | None:
        """Return what an unfinished run has committed; None if unknown, or if `generation` is not the latest."""

    def finish(self, run: str, position: str | None, result: dict[str, Any]) -> None:
        """Record the result of a run whose splits are done, move the cursor, and delete its splits. Inside `owned`."""

    def drop(self) -> None:
        """Delete the state of the pipeline, and refuse every later claim."""


@runtime_checkable
class StreamState(Protocol):
    """State that can keep the positions of a stream too: one for each partition of its source.

    A commit moves the positions of its split (`OpenSplit.moves`) in the transaction of its rows, and fails if one of
    them does not stand at the move's start.
    """

    def make_positions(self) -> None:
        """Create what keeps them, if it is missing.

        Raises:
            AccessDenied: this user lacks the permission.
        """

    def positions(self) -> dict[str, str]:
        """Return the position of each partition that was begun."""

    def last_split(self) -> int:
        """Return the greatest number of a committed split; 0 if there is none, or nothing that keeps positions."""

    def begin(self, positions: Mapping[str, str]) -> None:
        """Store where partitions begin; those that have a position keep it. Inside `owned`."""

    def restart(self, positions: Mapping[str, str]) -> None:
        """Store where partitions begin, in place of all positions so far; splits count on. Inside `owned`."""


@runtime_checkable
class ParallelState(StreamState, Protocol):
    """State of a stream that several processes write at once, each over a slot and partitions of its own."""

    def part_splits(self) -> dict[str, int]:
        """Return the number of the last committed split of each partition that was begun; 0 if there is none."""


@runtime_checkable
class SharedState(Protocol):
    """State that knows which other pipelines write to its sink."""

    def other_streams(self) -> list[str]:
        """Return the other pipelines whose streams write to it, by uid."""


@runtime_checkable
class PastState(Protocol):
    """State that knows what else the pipeline's streams have read, before its objects were changed."""

    def past_streams(self) -> Mapping[tuple[str, str | None], Mapping[str, str]]:
        """Return the positions of the pipeline's streams between other objects, by source and sink; None = this one."""


@runtime_checkable
class IdentifiedState(Protocol):
    """State in something that can be deleted and made again without its rows, such as a topic of its own."""

    def identity(self) -> str | None:
        """Return the id of what keeps the state, which is another one if that is made again; None if there is none."""


@runtime_checkable
class WindowState(Protocol):
    """State that can keep that of a stream's steps too: windows that are open, keys that were seen.

    A commit keeps the changes of its split (`OpenSplit.state`) in the transaction of its rows and positions. A change
    adds pieces to the journal of its step, or takes the place of all of them.
    """

    def make_pieces(self) -> None:
        """Create what keeps them, if it is missing.

        Raises:
            AccessDenied: this user lacks the permission.
        """

    def pieces(self) -> dict[str, list[tuple[int, str]]]:
        """Return the pieces of each step, in order, each with the number of its split."""

    def forget_pieces(self) -> None:
        """Delete all pieces. Inside `owned`."""
