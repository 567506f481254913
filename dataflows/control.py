"""The control flow: it runs every agent over the control topic and appends their decisions to it.

Only one control process is active: it holds a lock on the connection that appends. It starts by appending
`brain.started`, whose offset is its generation; readers drop what a superseded process still appends.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from agents.discovery import DataDiscoveryAgent
from agents.fold import Fold, look_ahead
from agents.lifecycle import Lifecycle
from agents.monitor import MonitoringAgent
from agents.operator import run_agent
from agents.orchestrator import Orchestrator
from agents.protocol import Agent
from agents.resolution import ErrorResolutionAgent
from catalog.database import engine
from catalog.entries import Snapshot
from catalog.origin import stands_on
from catalog.store import MetadataStore
from dataflows.process.leader import Leader
from dataflows.process.site import ACTIVE_CONTROL, Site
from penstock import __version__
from penstock.clock import now
from penstock.records import Reading, Record, encode, records_of
from penstock.telemetry import current_traceparent
from penstock.topics.log import TopicLog
from penstock.topics.operators import TopicSink, TopicSource, Wakeup
from penstock.topics.table import CONTROL

__all__ = ["add_control", "agents", "start_brain"]

_READ: Final = 5000


def agents() -> tuple[Agent, ...]:
    """Return every agent of this release."""
    return Lifecycle(), Orchestrator(), DataDiscoveryAgent(), ErrorResolutionAgent(), MonitoringAgent()


def add_control(flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup) -> None:
    """Add the control flow to `flow`; it stands by while another one is active, and takes over when that one ends."""
    log = site.open_log(ACTIVE_CONTROL)
    store = MetadataStore(engine(site.catalog_dsn, pool_size=1))
    folds: dict[str, Fold] = {}

    def begin() -> TopicSource:
        begun, start = start_brain(log, agents(), store.load_snapshots())
        folds.update({fold.agent.name: fold for fold in begun})
        return TopicSource(lambda: site.open_log("control-tail"), CONTROL, start, stop=stop, wakeup=wakeup)

    source = op.input("control_in", flow, Leader(log, ACTIVE_CONTROL, begin, stop, wakeup))
    batches = op.flat_map_batch("control_batches", source, lambda stored: [records_of(stored)])
    outputs = [run_agent(agent.name, partial(folds.__getitem__, agent.name), batches, wakeup) for agent in agents()]
    decisions = op.merge("decisions", *(decisions for decisions, _ in outputs))
    op.output("append", decisions, TopicSink(lambda: log, CONTROL, wakeup))
    taken = op.merge("snapshots", *(taken for _, taken in outputs))
    op.output("save", taken, _SnapshotSink(store, wakeup))


def start_brain(log: TopicLog, agents: Sequence[Agent], saved: dict[str, Snapshot]) -> tuple[list[Fold], int]:
    """Start a generation; return a fold for each agent, and the offset to read from."""
    names = {agent.name: agent.rules for agent in agents}
    started = Record(
        type="brain.started",
        key="brain",
        at=now(),
        actor="control",
        traceparent=current_traceparent(),
        payload={"agents": names, "release": __version__},
    )
    ((_, brain),) = log.append(CONTROL, [encode(started)])
    valid = {name: one for name, one in saved.items() if names.get(name) == one.rules and _is_of(log, one, brain)}
    start = min((valid[name].offset if name in valid else 0 for name in names), default=0)
    earliest = next((one for one in valid.values() if one.offset == start), None)
    reading = Reading.from_dict(earliest.state["reading"]) if earliest else Reading()
    recorded = look_ahead(_records(log, start, brain + 1), reading)
    return [Fold(agent, brain, recorded.get(agent.name), valid.get(agent.name)) for agent in agents], start


def _is_of(log: TopicLog, snapshot: Snapshot, end: int) -> bool:
    """True if the snapshot was taken on this log, not on a later or another one."""
    return snapshot.offset <= end and stands_on(log, snapshot.offset, snapshot.state["reading"].get("last"))


def _records(log: TopicLog, start: int, end: int) -> Iterator[tuple[int, Record]]:
    at = start
    while at < end:
        stored = log.read(CONTROL, 0, at, min(_READ, end - at))
        yield from records_of(stored)
        at = stored[-1].offset + 1


class _SnapshotSink(FixedPartitionedSink[Snapshot, None]):
    """Saves snapshots; those of a superseded brain are harmless, because they contain durable decisions only."""

    def __init__(self, store: MetadataStore, wakeup: Wakeup) -> None:
        self._store, self._wakeup = store, wakeup

    def list_parts(self) -> list[str]:
        return ["0000"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _SnapshotWriter:
        return _SnapshotWriter(self._store, self._wakeup)


class _SnapshotWriter(StatefulSinkPartition[Snapshot, None]):
    """Saves on a thread of its own, so that commands need not wait; an agent's later snapshot replaces the earlier."""

    def __init__(self, store: MetadataStore, wakeup: Wakeup) -> None:
        self._store, self._wakeup = store, wakeup
        self._waiting: queue.SimpleQueue[list[Snapshot] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    def write_batch(self, values: list[Snapshot]) -> None:
        self._waiting.put(values)

    def _run(self) -> None:
        try:
            while taken := self._waiting.get():
                self._store.save_snapshots(taken)
        except BaseException as error:  # noqa: BLE001 - handed to the flow's thread, which raises it
            self._wakeup.fail(error)

    def snapshot(self) -> None:
        """Return None: Bytewax stores no state here."""

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()
        self._store.close()
