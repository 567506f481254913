"""State of a sink of topics: records of a compacted topic, written in the transactions of the rows.

A claim raises the generation, then takes over the transactional id of every slot that any run of the pipeline has used,
and only then reads what was committed. A writer takes its id over first, and reads the generation after it. So of two
that hold the same id, the older is fenced by the brokers or by the generation, and cannot commit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from shlex import quote
from typing import Any, Final

from dataflows.connectors.kafka.ledger import STATE_TOPIC, Ledger
from dataflows.connectors.kafka.transactions import Transactions, transactional_id
from dataflows.connectors.record_state import NEW, PIPELINE, Key, RecordState
from dataflows.connectors.state import Claim, RunRow
from penstock.errors import Refused, Unavailable
from penstock.failpoints import failpoint

__all__ = ["KafkaState"]

LOOK_SECONDS: Final = 1.0


@dataclass(slots=True)
class KafkaState(RecordState):
    """State of one pipeline between one source object and one topic."""

    _ledger: Ledger = field(init=False)
    _id: str | None = field(default=None, init=False)
    _looked: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        self._ledger = Ledger(self.place, self.uid, self.where, self.check)
        self.records = self._ledger.records

    def refresh(self) -> None:
        self._ledger.refresh()
        if any("sink" not in one for _, one in self.kept("run")):
            what = f"the pipeline's records in {STATE_TOPIC} are of an older version, and do not say of which topic"
            hint = f"`penstock delete {quote(self.place.pipeline)}`, and apply it again, which may write rows twice"
            raise Refused(what, where=self.where, hint=hint)

    def _begun(self, slot: str | None) -> Transactions:
        name = transactional_id(self.uid, slot)
        return Transactions.begun(self.place, name, self.where, self.check)

    def send(self, into: Transactions, changes: Mapping[Key, Any]) -> None:
        """Add records to a transaction."""
        for key, value in changes.items():
            text = None if value is None else json_bytes(value)
            into.send(STATE_TOPIC, text, self._ledger.key(key), self._ledger.partition)

    def read(self) -> None:
        """Read the records; a topic that is missing is an error from now on."""
        self._ledger.needed = True
        self._ledger.refresh()

    def make(self) -> None:
        self._ledger.make()

    def exists(self) -> bool:
        return self._ledger.exists()

    def identity(self) -> str | None:
        return self._ledger.identity()

    def check_there(self) -> None:
        """Check, at most once a second, that the topic is the one that was there at first.

        Raises:
            Refused: it was deleted.
        """
        if time.monotonic() < self._looked + LOOK_SECONDS:
            return
        found, self._looked = self.identity(), time.monotonic()
        self._id = self._id or found
        if found is None or found != self._id:
            hint = "the next run says how to go on"
            raise Refused(f"{STATE_TOPIC} was deleted while the pipeline writes", where=self.where, hint=hint)

    def claim(self, slots: tuple[str, ...], run: str) -> Claim | RunRow:
        with closing(self._begun(None)) as control:
            self.read()
            self.check_not_dropped()
            known = self.run(run)
            if known is not None and known.ended:
                return known
            failpoint("prepare.claiming")
            pipeline = self.pipeline
            used = sorted({*pipeline["slots"], *slots})
            raised = {**pipeline, "generation": pipeline["generation"] + 1, "slots": used}
            self.send(control, {PIPELINE: raised})
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

    @contextmanager
    def fenced_by(self, generation: int) -> Iterator[None]:
        """Raise `Fenced` in place of the brokers' error if a newer run has taken over: of that they have many names."""
        try:
            yield
        except Unavailable:
            self._ledger.forget()
            self.check_generation(generation)
            raise

    def drop(self) -> None:
        if not self.exists():
            return
        with closing(self._begun(None)) as control:
            self.read()
            pipeline = self.records.get(PIPELINE, NEW)  # whatever the other records are like
            mark = {**NEW, "generation": pipeline["generation"] + 1, "dropped": True}
            changes: dict[Key, Any] = dict.fromkeys(self.records) | {PIPELINE: mark}
            self.send(control, changes)
            control.commit()
        self._fence(pipeline["slots"])

    def close(self) -> None:
        """End the session."""
        self._ledger.close()


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value, separators=(",", ":")).encode()
