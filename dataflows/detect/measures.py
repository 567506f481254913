"""What is watched of a pipeline, and on which scale: counts and times by their logarithm, shares as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dataflows.detect.score import Score
from dataflows.detect.scores import scored

__all__ = ["MEASURES", "Measure"]

Floats = NDArray[np.float64]

LEAST_CHANGE: Final = 0.05
"""The least spread: five in a hundred of a count or a time."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric is scored: `unit` is a size that is small for it, None for a share, whose least spread is `floor`.

    Of those that only matter when they `rise`, less than usual has the score 0.
    """

    unit: float | None = 1.0
    floor: float = 0.01
    rises: bool = True

    def scored(self, times: Sequence[float] | Floats, values: Sequence[float] | Floats) -> Score | None:
        """Score the last value against those before it, in its own unit; None if there are too few."""
        raw = np.maximum(np.asarray(values, dtype=np.float64), 0.0)
        if self.unit is None:
            found = scored(times, raw, self.floor)
        else:
            scaled: Floats = np.log1p(raw / self.unit)
            floor = max(LEAST_CHANGE, 1 / (1 + float(np.median(raw[:-1])) / self.unit) if len(raw) > 1 else 1.0)
            found = scored(times, scaled, floor)
        if found is None:
            return None
        score = max(found.score, 0.0) if self.rises else found.score
        return Score(float(raw[-1]), self._plain(found.expected), found.spread, score, found.samples, found.slow)

    def _plain(self, scaled: float) -> float:
        return max(0.0, float(scaled if self.unit is None else np.expm1(min(scaled, 60.0)) * self.unit))


MEASURES: Final[Mapping[str, Measure]] = {
    "rows_out": Measure(rises=False),
    "duration": Measure(),
    "latency": Measure(unit=0.1),
    "lag": Measure(unit=5.0),
    "behind": Measure(unit=100.0),
    "errors": Measure(),
    "dead": Measure(unit=None),
    "nulls": Measure(unit=None),
}
"""The metrics that are watched, by name."""
