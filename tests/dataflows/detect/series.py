"""Series of the Numenta benchmark's kind, made with a seed, and what is unusual in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HOUR = 3600
WEEK = 168
KINDS = ("spike", "drop", "level shift", "drift", "season lost", "missing")
BEGIN = 1_767_225_600
"""2026-01-01T00:00Z."""


@dataclass(slots=True)
class Series:
    """Hourly values (NaN where one is missing), and from when to when each anomaly is there, in hours."""

    times: NDArray[np.float64]
    values: NDArray[np.float64]
    anomalies: list[tuple[str, int, int]] = field(default_factory=list)


def shape(number: int, rng: np.random.Generator, hours: int) -> tuple[NDArray[np.float64], float]:
    """Return values without an anomaly, and their noise: flat, by day, by week, wandering, with heavy tails, counts."""
    at = np.arange(hours)
    day, week = np.sin(2 * np.pi * at / 24), (at // 24 % 7 < 5) * 1.0
    noise = rng.normal(0, 5, hours)
    match number % 6:
        case 0:
            return 100 + noise, 5.0
        case 1:
            return 100 + 30 * day + noise, 5.0
        case 2:
            return 100 + 40 * week * (1 + day) + noise, 5.0
        case 3:  # a slow walk, which is how it is
            return 100 + np.cumsum(rng.normal(0, 0.2, hours)) + noise, 5.0
        case 4:
            return 100 + 5 * rng.standard_t(4, hours), 6.0
        case _:
            return rng.poisson(400 * (1 + 0.5 * day)).astype(np.float64), 22.0


def series(number: int, *, anomalies: bool, weeks: int = 8) -> Series:
    """Return series `number`; the first four weeks are without anomalies, for they are learned from."""
    rng = np.random.default_rng(1000 + number)
    hours = weeks * WEEK
    values, noise = shape(number, rng, hours)
    made = Series(BEGIN + HOUR * np.arange(hours, dtype=np.float64), values)
    if not anomalies:
        return made
    for turn, begin in enumerate(range(4 * WEEK, hours - WEEK // 2, WEEK)):
        kind = KINDS[(number + turn) % len(KINDS)]
        at = begin + int(rng.integers(10, 60))
        end = at + {"spike": 2, "drop": 2, "missing": 6}.get(kind, 48)
        part = slice(at, end)
        match kind:
            case "spike":
                values[part] += 10 * noise
            case "drop":
                values[part] -= 10 * noise
            case "level shift":
                values[part] += 7 * noise
            case "drift":
                values[part] += np.linspace(0, 7, end - at) * noise
            case "season lost":
                values[part] = values[at] if number % 6 in {1, 2, 5} else values[at] + 6 * noise
            case _:
                values[part] = np.nan
        made.anomalies.append((kind, at, end))
    return made
