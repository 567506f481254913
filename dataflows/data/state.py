"""Changes of the state of steps that remember earlier rows, which a commit stores as text that only the steps read.

A step's state at a sink is a journal: pieces in the order of their splits. Each commit adds the pieces of what its
split has changed. Now and then a step writes its whole state, which takes the place of all earlier pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StateChange"]


@dataclass(frozen=True, slots=True)
class StateChange:
    """Change of one step's state by one split; `whole`: earlier pieces of the step are deleted."""

    step: str
    pieces: tuple[str, ...]
    whole: bool = False
