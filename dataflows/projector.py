"""The projector flow: the control topic into the catalog, each batch with the reader's position in one transaction."""

from __future__ import annotations

import threading
from typing import Final

from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from catalog.projection import Projector
from dataflows.runtime.site import Site
from dataflows.turn import InTurn
from penstock.records import Reading, records_of
from penstock.topics.log import Stored
from penstock.topics.operators import TopicSource, Wakeup
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import CONTROL

__all__ = ["add_projector", "project_to_end"]

LOCK: Final = "projector"
READ: Final = 2000


def add_projector(flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup) -> None:
    """Add the projector to `flow`; it does nothing while another one is active, and takes over when that one is gone.

    Raises:
        Fenced: while it runs, when another projector moved the position all the same.
    """
    log = site.open_log(LOCK)
    work = _Work(Projector(site.catalog_dsn), log)

    def begin() -> TopicSource:
        return TopicSource(lambda: site.open_log("projector-tail"), CONTROL, work.begin(), stop=stop, wakeup=wakeup)

    source = op.input("projector_in", flow, InTurn(log, LOCK, begin, stop, wakeup))
    batches = op.flat_map_batch("projector_batches", source, lambda stored: [("catalog", stored)])
    op.output("project", batches, _CatalogSink(work))


def project_to_end(site: Site) -> None:
    """Bring the catalog up to what is the log's end now, in this process; no other projector may be at work."""
    with site.open_log("projector") as log, Projector(site.catalog_dsn) as projector:
        at, reading = projector.position()
        while stored := log.read(CONTROL, 0, at, READ):
            at = stored[-1].offset + 1
            projector.apply([item for item in records_of(stored) if reading.keep(*item)], at, reading)


class _Work:
    """The projector at work, from its turn on, and the log whose lock makes it the only one."""

    def __init__(self, projector: Projector, log: PostgresLog) -> None:
        self._projector, self._log = projector, log
        self._reading = Reading()

    def begin(self) -> int:
        """Count on the catalog's position from now on; it is the offset to read from."""
        start, self._reading = self._projector.position()
        return start

    def apply(self, stored: list[Stored]) -> None:
        """One transaction for all of them."""
        kept = [item for item in records_of(stored) if self._reading.keep(*item)]
        self._projector.apply(kept, stored[-1].offset + 1, self._reading)

    def close(self) -> None:
        """Give both connections back, and the lock last."""
        self._projector.close()
        self._log.close()


class _CatalogSink(FixedPartitionedSink[list[Stored], None]):
    def __init__(self, work: _Work) -> None:
        self._work = work

    def list_parts(self) -> list[str]:
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Projected:  # noqa: ARG002 - Bytewax's
        return _Projected(self._work)


class _Projected(StatefulSinkPartition[list[Stored], None]):
    def __init__(self, work: _Work) -> None:
        self._work = work

    def write_batch(self, values: list[list[Stored]]) -> None:
        """All that came together at once."""
        if stored := [one for batch in values for one in batch]:
            self._work.apply(stored)

    def snapshot(self) -> None:
        """Nothing for Bytewax to keep: the position is in the catalog."""

    def close(self) -> None:
        self._work.close()
