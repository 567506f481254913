"""State of a sink that keeps records with a key each, and no tables: what they are, whatever stores them.

A record is a value of JSON. Its key says of what kind it is, and what it is about. All records of a pipeline are read
before they are used; a change is one of a record as a whole, None to delete it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from dataflows.connectors.contract import Place
from dataflows.connectors.state import Loaded, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from dataflows.data.tables import Column
from penstock.errors import Fenced

__all__ = ["NEW", "NOTHING_TO_DO", "PIPELINE", "Key", "RecordState"]

KEPT_RUNS: Final = 100
Key = tuple[Any, ...]
"""Kind of a record, and what it is about; without the pipeline's id."""
PIPELINE: Final[Key] = ("pipeline",)
"""Key of the record of the pipeline itself."""
NEW: Final[dict[str, Any]] = {"generation": 0, "dropped": False, "slots": [], "runs": 0}
NOTHING_TO_DO: Final = "nothing to do: the newer run carries on"


@dataclass(slots=True)
class RecordState(ABC):
    """Runs, splits, positions and counters of one pipeline between one source object and one sink object.

    A system adds how records are read and changed, the claim and the fence.
    """

    place: Place
    uid: str
    source: str
    where: str
    check: Callable[[], None] = lambda: None
    records: dict[Key, Any] = field(default_factory=dict, init=False)
    """The records as they were read last, with the changes of an open `owned`."""
    _changes: dict[Key, Any] | None = field(default=None, init=False)

    @abstractmethod
    def refresh(self) -> None:
        """Read the records as they are now."""

    @property
    def sink(self) -> str:
        """The sink's object; another one starts from the beginning, as another table of a database does."""
        return self.place.object

    @property
    def ends(self) -> tuple[str, str]:
        """Both objects."""
        return self.source, self.sink

    # -- records --

    def _get(self, *key: Any) -> Any:
        if self._changes is None:
            self.refresh()
        return self.records.get(key)

    def of(self, *kind: Any) -> Iterator[tuple[Key, Any]]:
        """Yield the records whose key begins so, with the rest of the key; outside of `owned` as they are now."""
        if self._changes is None:
            self.refresh()
        return self.kept(*kind)

    def kept(self, *kind: Any) -> Iterator[tuple[Key, Any]]:
        """Yield the same as they were read last."""
        size = len(kind)
        return ((key[size:], value) for key, value in list(self.records.items()) if key[:size] == kind)

    def _change(self, key: Key, value: Any) -> None:
        if self._changes is None:
            message = "a change outside of `owned`"
            raise AssertionError(message)
        self._changes[key] = value
        if value is None:
            self.records.pop(key, None)
        else:
            self.records[key] = value

    @property
    def pipeline(self) -> dict[str, Any]:
        """The record of the pipeline itself."""
        return self._get(*PIPELINE) or NEW

    def check_generation(self, generation: int) -> None:
        """Raise `Fenced` if the generation is not the latest one."""
        pipeline = self.pipeline
        if pipeline is NEW or pipeline["dropped"] or pipeline["generation"] != generation:
            raise Fenced("a newer run took over", where=self.where, hint=NOTHING_TO_DO)

    def check_not_dropped(self) -> None:
        """Raise `Fenced` if the pipeline was deleted."""
        if self.pipeline["dropped"]:
            hint = "nothing to do; a pipeline that is applied again starts from the beginning"
            raise Fenced("the pipeline was deleted", where=self.where, hint=hint)

    # -- runs --

    def loaded(self) -> Loaded:
        kept = self._get("loaded", *self.ends) or {}
        found = Loaded(kept.get("write"), kept.get("cursor"), kept.get("position"))
        partly = next((one for one in self._runs() if one["row"]["state"] == "running" and self._has_done(one)), None)
        if partly is None:
            return found
        row = partly["row"]
        return Loaded(found.write or row["write"], found.cursor or row["cursor"], found.position, partly=True)

    def _has_done(self, run: Mapping[str, Any]) -> bool:
        return any(one["done"] for _, one in self.kept("split", run["row"]["run"]))

    def _runs(self) -> list[dict[str, Any]]:
        """Return the runs between these objects, the newest first."""
        found = [one for _, one in self.of("run") if (one["source"], one["sink"]) == self.ends]
        return sorted(found, key=lambda one: -one["number"])

    def run(self, run: str) -> RunRow | None:
        stored = self._get("run", run)
        return None if stored is None else _row_of(stored["row"])

    def unfinished(self, run: str) -> RunRow | None:
        rows = (_row_of(one["row"]) for one in self._runs())
        return next((one for one in rows if not one.ended and one.run != run), None)

    def finished(self) -> RunRow | None:
        rows = (_row_of(one["row"]) for one in self._runs())
        return next((one for one in rows if one.state == "finished"), None)

    def write_plan(self, plan: RunRow, splits: tuple[Split, ...]) -> None:
        number = self.pipeline["runs"] + 1
        self._change(PIPELINE, {**self.pipeline, "runs": number})
        self._change(
            ("run", plan.run), {"source": self.source, "sink": self.sink, "number": number, "row": asdict(plan)}
        )
        for one in splits:
            self._change(("split", plan.run, one.number), {"lower": one.lower, "upper": one.upper, "done": False})

    def take_over(self, older: str, run: str) -> None:
        for (number,), split in self.kept("split", older):
            self._change(("split", run, number), split)
        self.supersede(older, run)

    def supersede(self, older: str, run: str) -> None:
        self._end(older, state="superseded", taken_over_by=run)

    def _end(self, run: str, **ended: Any) -> None:
        """Record the end of a run, and delete its splits and the oldest runs that have ended."""
        stored = self._get("run", run)
        self._change(("run", run), {**stored, "row": stored["row"] | ended})
        for (number,), _ in self.kept("split", run):
            self._change(("split", run, number), None)
        over = [one["row"]["run"] for one in self._runs() if one["row"]["state"] != "running"]
        for name in over[KEPT_RUNS:]:
            self._change(("run", name), None)

    def mark_partial(self) -> None:
        self._change(("loaded", *self.ends), {"write": "replace", "cursor": None, "position": None})

    def forget(self, run: str) -> None:
        self._change(("run", run), None)
        for (number,), _ in self.kept("split", run):
            self._change(("split", run, number), None)

    def next_split(self, run: str) -> int:
        return max((number for (number,), _ in self.of("split", run)), default=-1) + 1

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        splits = sorted((number, one) for (number,), one in self.of("split", run))
        return tuple(Split(at, one["lower"], one["upper"]) for at, one in splits if not one["done"]), len(splits)

    def counters(self) -> Counters:
        found = (Counters(*counted) for _, counted in self.of("counters", *self.ends))
        return sum(found, Counters())

    def committed(self, run: str, generation: int | None) -> Counters | None:
        found = self.run(run)
        if found is None or found.ended or generation not in (None, self.pipeline["generation"]):
            return None
        return self.counters() - found.base

    def finish(self, run: str, position: str | None, result: dict[str, Any]) -> None:
        row = self._get("run", run)["row"]
        if row["write"] != "append" or position is not None:
            loaded = {"write": row["write"], "cursor": row["cursor"], "position": position}
            self._change(("loaded", *self.ends), loaded)
        self._end(run, state="finished", result=result)

    # -- of a stream --

    def make_positions(self) -> None:  # noqa: B027 - there is nothing to make
        """Do nothing: they are records like all others."""

    def positions(self) -> dict[str, str]:
        return {part: at for (part,), at in sorted(self.of("position", *self.ends))}

    def last_split(self) -> int:
        return int(self._get("split_of", *self.ends) or 0)

    def past_streams(self) -> dict[tuple[str, str | None], dict[str, str]]:
        found: dict[tuple[str, str | None], dict[str, str]] = {}
        for (source, sink, part), at in self.of("position"):
            if (source, sink) != self.ends:
                found.setdefault((source, None if sink == self.sink else sink), {})[part] = at
        return found

    def begin(self, positions: Mapping[str, str]) -> None:
        known = self.positions()
        for part, at in positions.items():
            if part not in known:
                self._change(("position", *self.ends, part), at)

    def restart(self, positions: Mapping[str, str]) -> None:
        for part in self.positions():
            self._change(("position", *self.ends, part), None)
        self.begin(positions)

    # -- of a writer --

    def step(self, run: str, slot: str, split: int, counted: Counters, moves: Sequence[Move]) -> dict[Key, Any]:
        """Return the records by which the transaction of a split's rows marks it as done, or moves the positions.

        Raises:
            Fenced: the split is done already, or a partition does not stand at its move's start; no claim has the slot.
        """
        records, changes = self.records, dict[Key, Any]()
        if slot not in records.get(PIPELINE, NEW)["slots"]:
            raise Fenced("the slot was not claimed", where=self.where, hint=NOTHING_TO_DO)
        if any(records.get(("position", *self.ends, one.partition)) != one.start for one in moves):
            self.refresh()  # another session of this run may have begun a partition
        if moves:
            if any(records.get(("position", *self.ends, one.partition)) != one.start for one in moves):
                raise Fenced("the positions were moved by another run", where=self.where, hint=NOTHING_TO_DO)
            changes |= {("position", *self.ends, one.partition): one.end for one in moves}
            changes[("split_of", *self.ends)] = split
        else:
            key = ("split", run, split)
            planned = records.get(key)
            if planned is None or planned["done"]:
                raise Fenced("the split no longer belongs to this run", where=self.where, hint=NOTHING_TO_DO)
            changes[key] = {**planned, "done": True}
        counters: Key = ("counters", *self.ends, slot)
        before = records.get(counters) or [0] * len(COUNTED)
        changes[counters] = [have + getattr(counted, name) for have, name in zip(before, COUNTED, strict=True)]
        return changes

    def apply(self, changes: Mapping[Key, Any]) -> None:
        """Learn that this session has committed these records."""
        self.records.update(changes)

    # -- columns, and the end --

    def columns(self) -> list[dict[str, Any]] | None:
        """Return the columns of the messages, as the first run has stored them."""
        found: list[dict[str, Any]] | None = self._get("columns", self.sink)
        return found

    def store_columns(self, columns: list[dict[str, Any]]) -> None:
        """Store the columns of the messages. Inside `owned`."""
        self._change(("columns", self.sink), columns)

    def add_columns(self, columns: Sequence[Column]) -> None:
        """Add columns to those of the messages; older messages lack them. Inside `owned`."""
        known = self.columns() or []
        names = {one["name"] for one in known}
        new = [asdict(Column(one.name, one.type)) for one in columns if one.name not in names]
        self.store_columns([*known, *new])


def _row_of(stored: Mapping[str, Any]) -> RunRow:
    return RunRow(**{**stored, "base": Counters(**stored["base"])})
