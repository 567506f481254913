"""The projector flow: writes the control topic to the catalog, each batch in one transaction with the position."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Final

from bytewax import operators as op
from bytewax.dataflow import Dataflow

from catalog.projection import Prepared, Projector, prepared, without_collection
from dataflows.detect.detecting import Detecting
from dataflows.process.condition import Report
from dataflows.process.leader import Leader
from dataflows.process.metering import Metering
from dataflows.process.one_part import OnePart
from dataflows.process.sealing import Sealing
from dataflows.process.site import Site
from penstock.records import Reading, Record, records_of
from penstock.topics.log import Stored, TopicLog
from penstock.topics.operators import TopicSource, Wakeup
from penstock.topics.table import CONTROL

__all__ = ["LOCK", "add_projector", "project", "project_to_end"]

LOCK: Final = "projector"
READ: Final = 2000
MAX_WAITING: Final = 10_000
ANSWERS: Final = {"command.applied", "command.refused"}
LINGER: Final = 0.005
"""Seconds that a command waits for its answer, at most, so that both become one transaction."""


def add_projector(
    flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup, condition: Callable[[str], Report]
) -> None:
    """Add the projector to `flow`; it stands by while another one is active, and takes over when that one ends.

    `condition` returns what the errors of a component are reported to.

    Raises:
        Fenced: while it runs, if another projector has moved the position.
    """
    log = site.open_log(LOCK)
    seal = partial(Sealing, partial(site.open_log, "seals"), site.settings.seals_file, condition("sealing"))
    meter = partial(Metering, partial(site.open_log, "metering"), site.catalog_dsn, condition("metering"))
    detect = partial(Detecting, partial(site.open_log, "detecting"), site.catalog_dsn, condition("detecting"))
    work = _ActiveProjector(Projector(site.catalog_dsn), log, wakeup, (seal, meter, detect))

    def begin() -> TopicSource:
        return TopicSource(lambda: site.open_log("projector-tail"), CONTROL, work.begin(), stop=stop, wakeup=wakeup)

    source = op.input("projector_in", flow, Leader(log, LOCK, begin, stop, wakeup))
    batches = op.flat_map_batch("projector_batches", source, lambda stored: [("catalog", stored)])
    op.output("project", batches, OnePart(lambda found: work.take(list(chain.from_iterable(found))), work.close))


def project_to_end(site: Site, told: Callable[[int], None] = lambda _: None) -> None:
    """Project up to the current end of the log, in this process; no other projector may run. `told` as of `project`."""
    with site.open_log("projector") as log:
        project(log, site.catalog_dsn, told=told)


@without_collection()
def project(
    log: TopicLog, catalog_dsn: str, upto: int | None = None, told: Callable[[int], None] = lambda _: None
) -> None:
    """Project `log` into this catalog up to an offset, or to its end; no other projector of the catalog may run.

    `told` learns the offset up to which it has come.
    """
    with Projector(catalog_dsn) as projector, ThreadPoolExecutor(1, "projector-reader") as reader:
        begin, reading = projector.position()

        def read(at: int) -> tuple[Prepared, int, Reading]:
            limit = READ if upto is None else min(READ, upto - at)
            found = records_of(log.read(CONTROL, 0, at, limit)) if limit > 0 else []
            batch = prepared(item for item in found if reading.keep(*item))
            return batch, found[-1][0] + 1 if found else at, Reading.from_dict(reading.to_dict())

        batch, end, after = read(begin)
        while end > begin:
            ahead = reader.submit(read, end)  # while the server writes
            projector.apply_prepared(batch, end, after)
            told(end)
            begin = end
            batch, end, after = ahead.result()


class _ActiveProjector:
    """The active projector, and the log whose lock makes it the only one.

    It works on a thread of its own, so that decisions and projection in this process do not wait for each other's
    transactions. Messages that arrive while it is busy are folded as one batch. Those not folded when the flow ends
    are read again by the next projector, which starts from the catalog's position.
    """

    def __init__(
        self,
        projector: Projector,
        log: TopicLog,
        wakeup: Wakeup,
        companions: Sequence[Callable[[], Sealing | Metering | Detecting]],
    ) -> None:
        """Begin as a standby; `companions` start what works in the background of the active projector."""
        self._projector, self._log, self._wakeup = projector, log, wakeup
        self._companions = companions
        self._started: list[Sealing | Metering | Detecting] = []
        self._reading = Reading()
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, Record]] = []
        self._asked: set[str] = set()
        self._next, self._state = 0, Reading().to_dict()
        self._fresh = self._ended = False
        self._thread = threading.Thread(target=self._run, name="projector", daemon=True)

    def begin(self) -> int:
        """Load the catalog's position; return the offset to read from."""
        self._next, self._reading = self._projector.position()
        self._thread.start()
        self._started = [start() for start in self._companions]
        return self._next

    def take(self, stored: list[Stored]) -> None:
        """Queue all messages at once; wait while the queue is full, which is the backpressure."""
        if not stored:
            return
        kept = [item for item in records_of(stored) if self._reading.keep(*item)]
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < MAX_WAITING or not self._thread.is_alive())
            self._waiting += kept
            for _, record in kept:
                if record.kind == "command":
                    self._asked.add(record.id)
                elif record.type in ANSWERS:
                    self._asked.discard(record.payload["command"])
            self._next, self._state, self._fresh = stored[-1].offset + 1, self._reading.to_dict(), True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._fresh or self._ended)
                    self._changed.wait_for(lambda: not self._asked or self._ended, LINGER)
                    if self._ended:
                        return
                    self._asked.clear()
                    records, self._waiting, self._fresh = self._waiting, [], False
                    at, state = self._next, self._state
                    self._changed.notify_all()
                self._projector.apply(records, at, Reading.from_dict(state))
        except BaseException as error:  # noqa: BLE001 - handed to the flow's thread, which raises it
            self._wakeup.fail(error)

    def close(self) -> None:
        """End the thread, and close both connections, the lock last."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        for one in self._started:
            one.close()
        self._projector.close()
        self._log.close()
