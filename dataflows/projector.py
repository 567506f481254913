"""The projector flow: the control topic into the catalog, each batch with the reader's position in one transaction."""

from __future__ import annotations

import threading

from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from catalog.projection import Projector
from dataflows.runtime.site import Site
from penstock.records import Reading, records_of
from penstock.topics.log import Stored
from penstock.topics.operators import TopicSource, Wakeup
from penstock.topics.table import CONTROL

__all__ = ["add_projector", "project_to_end"]


READ = 2000


def add_projector(flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup) -> None:
    """Add the projector to `flow`.

    Raises:
        Fenced: while it runs, when another projector moved the position.
    """
    projector = Projector(site.catalog_dsn)
    start, reading = projector.position()
    tail = TopicSource(lambda: site.open_log("projector-tail"), CONTROL, start, stop=stop, wakeup=wakeup)
    source = op.input("projector_in", flow, tail)
    batches = op.flat_map_batch("projector_batches", source, lambda stored: [("catalog", stored)])
    op.output("project", batches, _CatalogSink(projector, reading))


def project_to_end(site: Site) -> None:
    """Bring the catalog up to what is the log's end now, in this process; no other projector may be at work."""
    with site.open_log("projector") as log, Projector(site.catalog_dsn) as projector:
        at, reading = projector.position()
        while stored := log.read(CONTROL, 0, at, READ):
            at = stored[-1].offset + 1
            projector.apply([item for item in records_of(stored) if reading.keep(*item)], at, reading)


class _CatalogSink(FixedPartitionedSink[list[Stored], None]):
    def __init__(self, projector: Projector, reading: Reading) -> None:
        self._projector, self._reading = projector, reading

    def list_parts(self) -> list[str]:
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Projected:  # noqa: ARG002 - Bytewax's
        return _Projected(self._projector, self._reading)


class _Projected(StatefulSinkPartition[list[Stored], None]):
    def __init__(self, projector: Projector, reading: Reading) -> None:
        self._projector, self._reading = projector, reading

    def write_batch(self, values: list[list[Stored]]) -> None:
        """One transaction for all that came together."""
        stored = [one for batch in values for one in batch]
        if not stored:
            return
        kept = [item for item in records_of(stored) if self._reading.keep(*item)]
        self._projector.apply(kept, stored[-1].offset + 1, self._reading)

    def snapshot(self) -> None:
        """Nothing for Bytewax to keep: the position is in the catalog."""

    def close(self) -> None:
        self._projector.close()
