"""State of a sink of topics: records of a compacted topic, written in the transactions of the rows.

A claim raises the generation, then takes over the transactional id of every slot that any run of the pipeline has used,
and only then reads what was committed. A writer takes its id over first, and reads the generation after it. So of two
that hold the same id, the older is fenced by the brokers or by the generation, and cannot commit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from dataflows.connectors.contract import Place
from dataflows.connectors.kafka.ledger import STATE_TOPIC, Key, Ledger
from dataflows.connectors.kafka.transactions import Transactions, transactional_id
from dataflows.connectors.state import Claim, Loaded, RunRow
from dataflows.data.counters import COUNTED, Counters
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import Fenced, Unavailable
from penstock.failpoints import failpoint

__all__ = ["KafkaState"]

KEPT_RUNS: Final = 100
_PIPELINE: Final[Key] = ("pipeline",)
_NEW: Final[dict[str, Any]] = {"generation": 0, "dropped": False, "slots": [], "runs": 0}
_NOTHING_TO_DO: Final = "nothing to do: the newer run carries on"


@dataclass(slots=True)
class KafkaState:
    """State of one pipeline between one source object and one topic."""

    place: Place
    uid: str
    source: str
    where: str
    check: Callable[[], None] = lambda: None
    _ledger: Ledger = field(init=False)
    _changes: dict[Key, Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._ledger = Ledger(self.place, self.uid, self.where, self.check)

    @property
    def sink(self) -> str:
        """The topic; another one begins anew, as another table of a database does."""
        return self.place.object

    @property
    def _ends(self) -> tuple[str, str]:
        return self.source, self.sink

    # -- records --

    @property
    def ledger(self) -> Ledger:
        """The records; outside of `owned` as they are now."""
        if self._changes is None:
            self._ledger.refresh()
        return self._ledger

    def _get(self, *key: Any) -> Any:
        return self.ledger.records.get(key)

    def _change(self, key: Key, value: Any) -> None:
        if self._changes is None:
            message = "a change outside of `owned`"
            raise AssertionError(message)
        self._changes[key] = value
        if value is None:
            self._ledger.records.pop(key, None)
        else:
            self._ledger.records[key] = value

    def _begun(self, slot: str | None) -> Transactions:
        name = transactional_id(self.uid, slot)
        return Transactions.begun(self.place, name, self.where, self.check)

    def send(self, into: Transactions, changes: Mapping[Key, Any]) -> None:
        """Add records to a transaction."""
        for key, value in changes.items():
            text = None if value is None else json_bytes(value)
            into.send(STATE_TOPIC, text, self._ledger.key(key), self._ledger.partition)

    @property
    def pipeline(self) -> dict[str, Any]:
        """The record of the pipeline itself."""
        return self._get(*_PIPELINE) or _NEW

    def read(self) -> None:
        """Read the records; a topic that is missing is an error from now on."""
        self._ledger.needed = True
        self._ledger.refresh()

    def make(self) -> None:
        self._ledger.make()

    def exists(self) -> bool:
        return self._ledger.exists()

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        with closing(self._begun(None)) as control:
            self.read()
            pipeline = self.pipeline
            if pipeline["dropped"]:
                hint = "nothing to do; a pipeline that is applied again starts from the beginning"
                raise Fenced("the pipeline was deleted", where=self.where, hint=hint)
            known = self.run(run)
            if known is not None and known.ended:
                return known
            failpoint("prepare.claiming")
            used = sorted({*pipeline["slots"], *slots})
            raised = {**pipeline, "generation": pipeline["generation"] + 1, "slots": used}
            self.send(control, {_PIPELINE: raised})
            control.commit()
        failpoint("prepare.generation_raised")
        self._fence(used)
        failpoint("prepare.sessions_ended")
        return Claim(raised["generation"], self.loaded())

    def _fence(self, slots: Sequence[str]) -> None:
        """Abort what writers of older generations have left open, and keep them from committing anything more."""
        for slot in slots:
            self._begun(slot).close()

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        """Collect changes, and commit them in one transaction at the end of the context.

        Raises:
            Fenced: a newer run has taken over.
        """
        self.read()
        self.check_generation(generation)  # so that a late session seldom ends the transactions of the newest
        with closing(self._begun(None)) as control:
            self.read()
            self.check_generation(generation)
            self._changes = {}
            try:
                yield
            except BaseException:
                self._ledger.forget()  # what was changed in memory alone
                raise
            finally:
                changes, self._changes = self._changes, None
            with self.fenced_by(generation):
                self.send(control, changes)
                control.commit()

    def check_generation(self, generation: int) -> None:
        """Raise `Fenced` if the generation is not the latest one."""
        pipeline = self.pipeline
        if pipeline is _NEW or pipeline["dropped"] or pipeline["generation"] != generation:
            raise Fenced("a newer run took over", where=self.where, hint=_NOTHING_TO_DO)

    @contextmanager
    def fenced_by(self, generation: int) -> Iterator[None]:
        """Raise `Fenced` in place of the brokers' error if a newer run has taken over: of that they have many names."""
        try:
            yield
        except Unavailable:
            self._ledger.forget()
            self.check_generation(generation)
            raise

    # -- runs --

    def loaded(self) -> Loaded:
        kept = self._get("loaded", *self._ends) or {}
        found = Loaded(kept.get("write"), kept.get("cursor"), kept.get("position"))
        partly = next((one for one in self._runs() if one["row"]["state"] == "running" and self._has_done(one)), None)
        if partly is None:
            return found
        row = partly["row"]
        return Loaded(found.write or row["write"], found.cursor or row["cursor"], found.position, partly=True)

    def _has_done(self, run: Mapping[str, Any]) -> bool:
        return any(one["done"] for _, one in self._ledger.of("split", run["row"]["run"]))

    def _runs(self) -> list[dict[str, Any]]:
        """Return the runs between this source and topic, the newest first."""
        found = [one for _, one in self.ledger.of("run") if (one["source"], one["sink"]) == self._ends]
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
        self._change(_PIPELINE, {**self.pipeline, "runs": number})
        ends = {"source": self.source, "sink": self.sink}
        self._change(("run", plan.run), {**ends, "number": number, "row": asdict(plan)})
        for one in splits:
            self._change(("split", plan.run, one.number), {"lower": one.lower, "upper": one.upper, "done": False})

    def take_over(self, older: str, run: str) -> None:
        for (number,), split in self._ledger.of("split", older):
            self._change(("split", run, number), split)
        self.supersede(older, run)

    def supersede(self, older: str, run: str) -> None:
        self._end(older, state="superseded", taken_over_by=run)

    def _end(self, run: str, **ended: Any) -> None:
        """Record the end of a run, and delete its splits and the oldest runs that have ended."""
        stored = self._get("run", run)
        self._change(("run", run), {**stored, "row": stored["row"] | ended})
        for (number,), _ in self._ledger.of("split", run):
            self._change(("split", run, number), None)
        over = [one["row"]["run"] for one in self._runs() if one["row"]["state"] != "running"]
        for name in over[KEPT_RUNS:]:
            self._change(("run", name), None)

    def mark_partial(self) -> None:
        self._change(("loaded", *self._ends), {"write": "replace", "cursor": None, "position": None})

    def forget(self, run: str) -> None:
        self._change(("run", run), None)
        for (number,), _ in self._ledger.of("split", run):
            self._change(("split", run, number), None)

    def next_split(self, run: str) -> int:
        return max((number for (number,), _ in self.ledger.of("split", run)), default=-1) + 1

    def pending(self, run: str) -> tuple[tuple[Split, ...], int]:
        splits = sorted((number, one) for (number,), one in self.ledger.of("split", run))
        return tuple(Split(at, one["lower"], one["upper"]) for at, one in splits if not one["done"]), len(splits)

    def counters(self) -> Counters:
        found = (Counters(*counted) for _, counted in self.ledger.of("counters", *self._ends))
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
            self._change(("loaded", *self._ends), loaded)
        self._end(run, state="finished", result=result)

    # -- of a stream --

    def make_positions(self) -> None:
        """Do nothing: they are in the same topic."""

    def positions(self) -> dict[str, str]:
        return {part: at for (part,), at in sorted(self.ledger.of("position", *self._ends))}

    def last_split(self) -> int:
        return int(self._get("split_of", *self._ends) or 0)

    def begin(self, positions: Mapping[str, str]) -> None:
        known = self.positions()
        for part, at in positions.items():
            if part not in known:
                self._change(("position", *self._ends, part), at)

    def restart(self, positions: Mapping[str, str]) -> None:
        for part in self.positions():
            self._change(("position", *self._ends, part), None)
        self.begin(positions)

    # -- of a writer --

    def step(self, run: str, slot: str, split: int, counted: Counters, moves: Sequence[Move]) -> dict[Key, Any]:
        """Return the records by which the transaction of a split's rows marks it as done, or moves the positions.

        Raises:
            Fenced: the split is done already, or a partition does not stand at its move's start; no claim has the slot.
        """
        records, changes = self._ledger.records, dict[Key, Any]()
        if slot not in records.get(_PIPELINE, _NEW)["slots"]:
            raise Fenced("the slot was not claimed", where=self.where, hint=_NOTHING_TO_DO)
        if any(records.get(("position", *self._ends, one.partition)) != one.start for one in moves):
            self._ledger.refresh()  # another session of this run may have begun a partition
        if moves:
            if any(records.get(("position", *self._ends, one.partition)) != one.start for one in moves):
                raise Fenced("the positions were moved by another run", where=self.where, hint=_NOTHING_TO_DO)
            changes |= {("position", *self._ends, one.partition): one.end for one in moves}
            changes[("split_of", *self._ends)] = split
        else:
            key = ("split", run, split)
            planned = records.get(key)
            if planned is None or planned["done"]:
                raise Fenced("the split no longer belongs to this run", where=self.where, hint=_NOTHING_TO_DO)
            changes[key] = {**planned, "done": True}
        counters: Key = ("counters", *self._ends, slot)
        before = records.get(counters) or [0] * len(COUNTED)
        changes[counters] = [have + getattr(counted, name) for have, name in zip(before, COUNTED, strict=True)]
        return changes

    def apply(self, changes: Mapping[Key, Any]) -> None:
        """Learn that this session has committed these records."""
        self._ledger.records.update(changes)

    # -- columns, and the end --

    def columns(self) -> list[dict[str, Any]] | None:
        """Return the columns of the messages, as the first run has stored them."""
        found: list[dict[str, Any]] | None = self._get("columns", self.sink)
        return found

    def store_columns(self, columns: list[dict[str, Any]]) -> None:
        """Store the columns of the messages. Inside `owned`."""
        self._change(("columns", self.sink), columns)

    def drop(self) -> None:
        if not self.exists():
            return
        with closing(self._begun(None)) as control:
            self.read()
            pipeline = self.pipeline
            mark = {**_NEW, "generation": pipeline["generation"] + 1, "dropped": True}
            changes: dict[Key, Any] = dict.fromkeys(self._ledger.records) | {_PIPELINE: mark}
            self.send(control, changes)
            control.commit()
        self._fence(pipeline["slots"])

    def close(self) -> None:
        """End the session."""
        self._ledger.close()


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def _row_of(stored: Mapping[str, Any]) -> RunRow:
    return RunRow(**{**stored, "base": Counters(**stored["base"])})
