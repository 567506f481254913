"""State of a sink of streams: records in a table of DynamoDB, since Kinesis keeps nothing but what it was sent.

The rows are sent before the state says so: nothing puts both in one transaction. What was sent by a process that dies
in between is sent again by the next one. So each row is there once or more, and the fence stops a late process only
before its next request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from dataflows.connectors.kinesis.table import Conflict, StateTable, Written, pieces
from dataflows.connectors.record_state import NEW, NOTHING_TO_DO, PIPELINE, Key, RecordState
from dataflows.connectors.state import Claim, RunRow
from penstock.errors import Fenced, Unavailable
from penstock.failpoints import failpoint

__all__ = ["KinesisState"]

ATTEMPTS: Final = 20


@dataclass(slots=True)
class KinesisState(RecordState):
    """State of one pipeline between one source object and one stream."""

    _table: StateTable = field(init=False)
    _exists: bool = field(default=False, init=False)
    _left: list[Key] = field(default_factory=list, init=False)
    """What is left of plans that were cut off."""

    def __post_init__(self) -> None:
        self._table = StateTable(self.place, self.uid, self.where, self.check)

    def refresh(self) -> None:
        if self._exists or self.exists():
            self._replace(self._table.read())

    def _replace(self, records: Mapping[Key, Any]) -> None:
        """Take records in place of those that were read before, but for splits of plans that were cut off."""
        planned = {key[1] for key in records if key[0] == "run"}
        self._left = [key for key in records if key[0] == "split" and key[1] not in planned]
        self.records.clear()
        self.records |= records
        for key in self._left:
            del self.records[key]

    def make(self) -> None:
        self._table.make()
        self._exists = True

    def exists(self) -> bool:
        self._exists = self._table.identity() is not None
        return self._exists

    def identity(self) -> str | None:
        return self._table.identity()

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        for _ in range(ATTEMPTS):
            self.refresh()
            self.check_not_dropped()
            known = self.run(run)
            if known is not None and known.ended:
                return known
            failpoint("prepare.claiming")
            before = self.records.get(PIPELINE)
            older = before or NEW
            used = sorted({*older["slots"], *slots})
            raised = {**older, "generation": older["generation"] + 1, "slots": used}
            try:
                self._table.write([(PIPELINE, before, raised)], older)
            except Conflict:
                continue
            failpoint("prepare.generation_raised")
            failpoint("prepare.sessions_ended")
            return Claim(raised["generation"], self.loaded())
        hint = "try again"
        raise Unavailable("others claim the pipeline again and again", where=self.where, hint=hint)

    @contextmanager
    def owned(self, generation: int) -> Iterator[None]:
        """Collect changes, and make them at the end of the context: all at once, or none.

        Splits of a plan may be too many for one transaction. Then they are written before the run, without which they
        mean nothing, and deleted after it has ended. So are the positions of very many partitions: if the process dies
        in between, those that have none yet are read from their beginning.

        Raises:
            Fenced: a newer run has taken over.
        """
        self.refresh()
        self.check_generation(generation)
        before, left = dict(self.records), self._left
        self._changes = {}
        try:
            yield
        finally:
            changes, self._changes = self._changes, None
        written = [(key, before.get(key), after) for key, after in changes.items() if before.get(key) != after]
        splits = [one for one in written if one[0][0] == "split"]
        others = [one for one in written if one[0][0] != "split"]
        pipeline = before.get(PIPELINE, NEW)
        for part in pieces([(key, None, None) for key in left]):
            self._write(part, pipeline, generation, anew=True)
        if len(written) <= len(next(pieces(written), ())):
            self._write(written, pipeline, generation)
            return
        for part in pieces([one for one in splits if one[2] is not None]):
            self._write([(key, None, after) for key, _, after in part], pipeline, generation, anew=True)
        for part in pieces(sorted(others, key=lambda one: one[0] == PIPELINE or one[0][0] == "run")):
            self._write(part, pipeline, generation)
        pipeline = changes.get(PIPELINE) or pipeline
        for part in pieces([one for one in splits if one[2] is None]):
            self._write(part, pipeline, generation)

    def save(self, changes: Mapping[Key, Any], generation: int) -> None:
        """Make the changes of a split that was sent.

        Positions of very many partitions move one after the other: rows of those that have not are sent again.

        Raises:
            Fenced: a newer run has taken over.
        """
        written = [(key, self.records.get(key), after) for key, after in changes.items()]
        for part in pieces(written):
            self._write(part, self.records.get(PIPELINE, NEW), generation)

    def _write(
        self, written: Sequence[Written], pipeline: Mapping[str, Any], generation: int, *, anew: bool = False
    ) -> None:
        """Make changes, of which `pipeline` is the pipeline's record as it was read; `anew`: whatever is there."""
        if not written:
            return
        for _ in range(ATTEMPTS):
            if pipeline["dropped"] or pipeline["generation"] != generation:
                raise Fenced("a newer run took over", where=self.where, hint=NOTHING_TO_DO)
            try:
                self._table.write(written, pipeline, anew=anew)
            except Conflict:
                found = self._table.read()
                pipeline = found.get(PIPELINE, NEW)
                current = not pipeline["dropped"] and pipeline["generation"] == generation
                if current and not anew and any(found.get(key) != before for key, before, _ in written):
                    raise Fenced("the state was changed by another run", where=self.where, hint=NOTHING_TO_DO) from None
            else:
                return
        raise Unavailable("others change the state again and again", where=self.where, hint="try again")

    def fence(self, generation: int) -> None:
        """Ask whether the generation is still the latest one.

        Raises:
            Fenced: it is not.
        """
        pipeline = self._table.pipeline()
        if pipeline["dropped"] or pipeline["generation"] != generation:
            raise Fenced("a newer run took over", where=self.where, hint=NOTHING_TO_DO)

    def drop(self) -> None:
        if not self.exists():
            return
        while True:
            self.refresh()
            before = self.records.get(PIPELINE)
            mark = {**NEW, "generation": (before or NEW)["generation"] + 1, "dropped": True}
            try:
                self._table.write([(PIPELINE, before, mark)], before or NEW)
            except Conflict:
                continue
            break
        for part in pieces([(key, one, None) for key, one in self._table.read().items() if key != PIPELINE]):
            self._table.write(part, mark, anew=True)

    def close(self) -> None:
        """End the session."""
        self._table.close()
