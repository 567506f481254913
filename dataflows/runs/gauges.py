"""Gauges of a stream: how far it is behind its source, how late its rows are, and what holds it up.

How far it is behind is asked for by a thread and a session of its own, so that a reader that hangs shows.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dataflows.connectors.streaming import SlotHealth
from dataflows.data.movement import SINK, SOURCE, Movement, eased
from dataflows.data.splits import Split
from penstock.clock import now
from penstock.errors import PenstockError
from penstock.histogram import BOUNDS
from penstock.records.execution import LATENCIES

__all__ = ["Gauges", "measuring"]

_log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 1.0
TIMES: Final = frozenset({"milliseconds"})
"""Units of time: partitions are late at once, not one after the other."""
QUIET_SECONDS: Final = 4.0
"""Seconds between two measurements of a stream that is not further behind, nor less, than before."""
WINDOW_SECONDS: Final = 10.0
"""Rates, latencies and waits are those of the last ten seconds."""
AHEAD_SECONDS: Final = 3600.0
"""How far a clock of a producer may be ahead; the watermark leaves out times that are later."""
MOST_PARTS: Final = 64
"""Partitions that are shown one by one: those that are furthest behind."""
MOSTLY: Final = 0.5
"""Share of the time above which a wait is what holds a stream up."""


@dataclass(frozen=True, slots=True)
class _Commit:
    at: float
    rows: int
    oldest: float | None
    newest: float | None

    @property
    def mean(self) -> float:
        """Seconds from event to commit in the middle; 0 if no time is known."""
        return ((self.oldest or 0.0) + (self.newest or 0.0)) / 2


@dataclass(slots=True)
class Gauges:
    """What a stream shows of itself; thread-safe.

    `behind` returns for each partition how much its source has beyond a position, in `unit`; None if it cannot tell.
    `waiting` returns what each of its processes waits for; None if this is the only one.
    """

    movement: Movement
    positions: dict[str, str] = field(default_factory=dict)
    behind: Callable[[Mapping[str, str]], Mapping[str, int]] | None = None
    unit: str = "messages"
    slot: Callable[[], SlotHealth | None] | None = None
    """Returns the slot in which the source keeps what the stream has not read; None if it needs none."""
    steps: Callable[[], Mapping[str, Any]] | None = None
    """What the steps show that remember rows, by name."""
    waiting: Callable[[], Collection[AbstractSet[str]]] | None = None
    _parts: dict[str, int] | None = None
    _slot: SlotHealth | None = None
    _changed: float = field(default_factory=time.monotonic)
    _watermarks: dict[int, float] = field(default_factory=dict)
    """Time of the newest event that each process has committed."""
    _ahead: bool = False
    """True once an event had a time of the future."""
    _commits: deque[_Commit] = field(default_factory=deque)
    _latency: dict[int, float] = field(default_factory=dict)
    """The number of rows in each part of a histogram, of all commits."""
    _latency_seconds: float = 0.0
    _waits: deque[tuple[float, float, float]] = field(default_factory=deque)
    _shown: tuple[float, dict[str, Any]] = (0.0, {})
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def committed(self, split: Split, rows: int, process: int = 0) -> None:
        """Learn that a split of so many rows is committed, by that process of the stream."""
        moment = now().timestamp()
        oldest, newest = split.times or (None, None)
        late = [None if one is None else max(0.0, moment - one) for one in (oldest, newest)]
        with self._lock:
            self.positions |= {move.partition: move.end for move in split.moves}
            commit = _Commit(time.monotonic(), rows, *late)
            self._commits.append(commit)
            self._latency_seconds += rows * commit.mean
            for part, count in enumerate(spread(commit, BOUNDS)):
                if count:
                    self._latency[part] = self._latency.get(part, 0.0) + count
            if (seen := self._seen(oldest, newest, moment)) is not None:
                self._watermarks[process] = max(seen, self._watermarks.get(process, seen))

    def _seen(self, oldest: float | None, newest: float | None, moment: float) -> float | None:
        """Return the newest time of a split that is none of the future, as far as it is known; say so once."""
        if newest is None or oldest is None or newest <= moment + AHEAD_SECONDS:
            return newest
        if not self._ahead:
            self._ahead = True
            _log.warning(
                "an event has a time of the future, %s: the watermark leaves such times out", _shown_time(newest)
            )
        return oldest if oldest <= moment + AHEAD_SECONDS else None

    def begun(self, positions: Mapping[str, str]) -> None:
        """Learn where partitions begin that were found while the stream runs."""
        with self._lock:
            self.positions = dict(positions) | self.positions

    def lags(self) -> Mapping[str, int]:
        """Return how much each partition had left to read when that was last asked for; empty if it is not known."""
        with self._lock:
            return dict(self._parts or {})

    def measure(self) -> None:
        """Ask the source how far the stream is behind, and what it keeps for it."""
        if self.slot is not None:
            self._slot = self.slot()
        if self.behind is None:
            return
        with self._lock:
            positions = dict(self.positions)
        found = dict(self.behind(positions))
        with self._lock:
            same, self._parts = found == self._parts, found
        if not same:
            self._changed = time.monotonic()
            self.movement.wake()  # so that it is shown at once

    @property
    def pause(self) -> float:
        """Seconds until the next measurement; where windows close by it, it is never late."""
        longest = QUIET_SECONDS if self.steps is None else EVERY_SECONDS
        return eased(EVERY_SECONDS, longest, time.monotonic() - self._changed)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of a line of progress, new every second, and count what the stream waits for now."""
        at, waits = time.monotonic(), [self.movement.waiting()] if self.waiting is None else self.waiting()
        source, sink = (sum(what in one for one in waits) / max(1, len(waits)) for what in (SOURCE, SINK))
        with self._lock:
            self._waits.append((at, source, sink))
            if at - self._shown[0] >= EVERY_SECONDS:
                self._shown = at, self._fields(at)
            return self._shown[1]

    def _fields(self, at: float) -> dict[str, Any]:
        for kept in (self._commits, self._waits):
            while kept and _time(kept[0]) < at - WINDOW_SECONDS:
                kept.popleft()
        rows = sum(one.rows for one in self._commits)
        total = None if self._parts is None else self._total(self._parts)
        furthest = sorted((self._parts or {}).items(), key=lambda one: (-one[1], one[0]))[:MOST_PARTS]
        return {
            "rate": round(rows / WINDOW_SECONDS, 1),
            "behind": total,
            "behind_unit": self.unit,
            "behind_parts": dict(sorted(furthest)),
            "watermark": _shown_time(min(self._watermarks.values())) if self._watermarks else None,
            "latencies": histogram(self._commits),
            "latency_parts": {str(part): round(count) for part, count in sorted(self._latency.items())},
            "latency_seconds": round(self._latency_seconds, 6),
            "bottleneck": self._bottleneck(total),
            "slot": None if self._slot is None else asdict(self._slot),
            "steps": {} if self.steps is None else self.steps(),
        }

    def _total(self, parts: Mapping[str, int]) -> int:
        return max(parts.values(), default=0) if self.unit in TIMES else sum(parts.values())

    def _bottleneck(self, total: int | None) -> str | None:
        """Return what the stream waits for most of the time; None if it keeps up."""
        if not self._waits or not total:
            return None
        share = {SOURCE: 0.0, SINK: 0.0}
        for _, source, sink in self._waits:
            share[SOURCE] += source / len(self._waits)
            share[SINK] += sink / len(self._waits)
        if share[SINK] > MOSTLY:
            return "sink"
        return "source" if share[SOURCE] > MOSTLY else "transform"


def _shown_time(at: float) -> str | None:
    """Return a time as text; None if no date has it, since a producer may set any."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _time(one: Any) -> float:
    return float(one.at if isinstance(one, _Commit) else one[0])


def histogram(commits: Iterable[_Commit]) -> list[int]:
    """Return the number of rows in each part of `LATENCIES`, from event to commit."""
    spreads = [spread(one, LATENCIES) for one in commits]
    counts = [sum(part) for part in zip(*spreads, strict=True)]
    return [round(one) for one in counts] if any(counts) else []


def spread(commit: _Commit, bounds: Sequence[float]) -> list[float]:
    """Return the number of rows of a commit between `bounds`, below the first and above the last of them.

    Its events count as spread evenly between its oldest and its newest.
    """
    counts = [0.0] * (len(bounds) + 1)
    if commit.oldest is None or commit.newest is None:
        return counts
    low, high = sorted((commit.newest, commit.oldest))
    for part in range(bisect_left(bounds, low), len(counts)):
        upper = bounds[part] if part < len(bounds) else float("inf")
        lower = bounds[part - 1] if part else 0.0
        within = min(high, upper) - max(low, lower)
        counts[part] = commit.rows * (within / (high - low) if high > low else 1.0)
        if high <= upper:
            break
    return counts


@contextmanager
def measuring(gauges: Gauges) -> Iterator[None]:
    """Measure every second, more rarely while nothing changes, until the context ends.

    A source that does not answer is told once in the log.
    """
    over = threading.Event()
    thread = threading.Thread(target=_measure, args=(gauges, over), daemon=True, name="gauges")
    thread.start()
    try:
        yield
    finally:
        over.set()


def _measure(gauges: Gauges, over: threading.Event) -> None:
    told = False
    while not over.wait(gauges.pause):
        try:
            gauges.measure()
        except Exception as error:  # noqa: BLE001 - windows close by what is measured: it ends with the stream only
            if not told:
                why = error if isinstance(error, PenstockError) else f"a defect: {type(error).__name__}"
                _log.warning("how far the stream is behind is not known: %s", why)
            told = True
