"""What every sink remembers beside its rows, whatever system it is: the fence, the plan, positions and counters.

Whoever raised the generation last owns the pipeline. Every later change of a run names its generation and fails where
a newer one exists; that, not the order of events, keeps rows from being lost or doubled.

A run counts from its `base` on: all rows of its plan, whichever attempt committed them. A run that takes over an
unfinished plan takes its base too. Over finished runs each row is counted once. A pipeline that was dropped cannot be
claimed any more.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from dataflows.data.counters import Counters
from dataflows.data.splits import Split

__all__ = ["Claim", "Loaded", "RunRow", "State"]


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the sink remembers it; `state` is running, finished or superseded."""

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
    """The column that its splits are ranges of."""

    @property
    def ended(self) -> bool:
        """Whether nothing may be written for it any more."""
        return self.state != "running"


@dataclass(frozen=True, slots=True)
class Loaded:
    """How the target's rows came there: by which write mode, up to which value of which cursor.

    All None where nothing was loaded yet. `partly`: by an unfinished run of a mode that goes on from there.
    """

    write: str | None = None
    cursor: str | None = None
    position: str | None = None
    partly: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A generation, raised for a pipeline; what the runs before it loaded."""

    generation: int
    loaded: Loaded


class State(Protocol):
    """The remembered state of one pipeline between one source object and one sink object."""

    def make(self) -> None:
        """Make what the state is kept in, where it is missing.

        Raises:
            AccessDenied: this user may not.
        """

    def exists(self) -> bool:
        """Whether any state is kept there at all, of this pipeline or another."""

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        """Raise the generation; from then on nobody with an older one can change anything.

        Where `run` has ended meanwhile, nothing is raised, and what is remembered of it is returned.

        Raises:
            Unavailable: another session holds the state.
            Fenced: the pipeline was dropped.
        """

    def loaded(self) -> Loaded:
        """What the runs so far have loaded, committed splits of an unfinished run too."""

    def owned(self, generation: int) -> AbstractContextManager[None]:
        """A change that holds the generation: nobody can take over before it has ended, and it happens as a whole.

        Raises:
            Fenced: somebody has taken over.
        """

    def run(self, run: str) -> RunRow | None:
        """The run of that id, if the sink knows it."""

    def unfinished(self, run: str) -> RunRow | None:
        """The run between the same source and sink that has a plan and is not finished, other than `run`."""

    def finished(self) -> RunRow | None:
        """The latest run between the same source and sink that is finished."""

    def write_plan(self, plan: RunRow, splits: tuple[Split, ...]) -> None:
        """Keep the plan of a run: its window, its splits, and the counters that it begins from. Inside `owned`."""

    def take_over(self, older: str, run: str) -> None:
        """Give the splits of an unfinished run to another one, whose plan exists. Inside `owned`."""

    def supersede(self, older: str, run: str) -> None:
        """Give up an unfinished run and its splits: another one has taken its place. Inside `owned`."""

    def mark_partial(self) -> None:
        """An unfinished run is given up, its rows stay: no later `append` may go on from here. Inside `owned`."""

    def forget(self, run: str) -> None:
        """Forget a run's plan, so that it is planned anew. Inside `owned`."""

    def next_split(self, run: str) -> int:
        """The first number that no split of the run has."""

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        """The splits that are not done, in order, and the number of all."""

    def counters(self) -> Counters:
        """The cumulative counters of all slots."""

    def committed(self, run: str, generation: int | None) -> Counters | None:
        """What an unfinished run has committed so far; None where that is unknown, or `generation` is not the last."""

    def finish(self, run: str, position: str | None, result: dict[str, Any]) -> None:
        """Record the result of a run, move the cursor to `position`, and forget its splits. Inside `owned`.

        Raises:
            Refused: splits are missing.
        """

    def drop(self) -> None:
        """Forget the pipeline, and let nobody claim it again."""
