"""Tasks per second through the orchestrator: from commands to finished runs in the catalog, by workers without work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from catalog.projection import Projector
from dataflows.process.site import ACTIVE_CONTROL, Site
from dataflows.runtime.supervisor import BRAIN, Supervisor
from dataflows.scheduler import worker_lock
from penstock.clock import now
from penstock.ids import new_id
from penstock.records import Record, encode, records_of
from penstock.topics.log import Message, TopicLog
from penstock.topics.table import CONTROL

__all__ = ["ABOUT", "tasks_per_s"]

PIPELINES: Final = 400
SLOTS: Final = 100
WORKERS: Final = 4
PATIENCE: Final = 120.0
ABOUT: Final = (
    "a command for each run, its task queued, assigned, started, completed and closed, the run finished and in the "
    "catalog; 400 pipelines, 4 workers of 100 slots that do no work"
)


def tasks_per_s(site: Site, count: int) -> float:
    """Return the rate at which `count` runs are started and done, on the empty log of `site`."""
    with site.open_log("benchmark") as log, _brain(site, log):
        world = _World(log)
        world.prepare()
        begin = time.perf_counter()
        world.run(count)
        with closing(Projector(site.catalog_dsn)) as catalog:
            while catalog.position()[0] < world.last:
                _check(begin)
                time.sleep(0.01)
        return count / (time.perf_counter() - begin)


@contextmanager
def _brain(site: Site, log: TopicLog) -> Iterator[None]:
    supervisor = Supervisor(site.settings, (BRAIN,))
    supervisor.start()
    try:
        begin = time.perf_counter()
        while not log.holder(ACTIVE_CONTROL):
            _check(begin)
            time.sleep(0.05)
        yield
    finally:
        supervisor.stop()


def _check(begin: float) -> None:
    if time.perf_counter() - begin > PATIENCE:
        message = f"no end within {PATIENCE:g} s"
        raise TimeoutError(message)


class _World:
    """Starts a run of each pipeline, and another one when that is finished; it is the workers, too."""

    def __init__(self, log: TopicLog) -> None:
        self._log, self._at, self.last = log, log.end(CONTROL, 0), 0

    def prepare(self) -> None:
        """Make the pipelines, and let the workers join."""
        limits = {"max_running": 10_000, "per_connection": 10_000}
        policy = {"metadata": {"name": "default"}, "spec": {"orchestrator": limits}}
        connection = {"type": "postgres", "dsn": "postgresql://me@db.example.com/db"}
        said = [_command("policy.publish", "default", {"policy": policy})]
        names = ("shop", "house")
        said += [_command("connection.put", one, {"name": one, "connection": connection}) for one in names]
        said += [_command("pipeline.apply", f"p{n}", {"pipeline": _pipeline(n)}) for n in range(PIPELINES)]
        self._log.append(CONTROL, said)
        begin, answered = time.perf_counter(), 0
        while answered < len(said):
            _check(begin)
            answered += sum(record.type == "command.applied" for record in self._read())
        for n in range(WORKERS):
            self._log.lock(worker_lock(f"w{n}"), wait=True)
            joined = {"worker": f"w{n}", "kinds": ["pipeline"], "slots": SLOTS}
            self._log.append(CONTROL, [_event("worker.joined", f"w{n}", joined)])

    def run(self, count: int) -> None:
        """Start and finish `count` runs."""
        self._log.append(CONTROL, [_start(f"p{n}") for n in range(min(count, PIPELINES))])
        started, finished, begin = min(count, PIPELINES), 0, time.perf_counter()
        while finished < count:
            _check(begin)
            said: list[Message] = []
            for record in self._read():
                if record.type == "task.assigned":
                    said += _done(record.payload)
                elif record.type == "run.finished":
                    finished += 1
                    if started < count:
                        started += 1
                        said.append(_start(record.payload["run"]["pipeline"]))
            if said:
                self._log.append(CONTROL, said)
        self.last = self._at

    def _read(self) -> list[Record]:
        self._log.wait(CONTROL, 0, self._at, 1.0)
        found = records_of(self._log.read(CONTROL, 0, self._at, 2000))
        self._at = found[-1][0] + 1 if found else self._at
        return [record for _, record in found]


def _done(task: dict[str, Any]) -> list[Message]:
    attempt = {name: task[name] for name in ("task", "attempt", "worker", "run")}
    counters = {"rows_in": 1000, "rows_out": 1000}
    return [
        _event("task.started", task["task"], attempt),
        _event("task.completed", task["task"], {**attempt, "counters": counters}),
    ]


def _start(pipeline: str) -> Message:
    return _command("run.start", pipeline, {"pipeline": pipeline})


def _command(type_: str, key: str, payload: dict[str, Any]) -> Message:
    record = Record(id=new_id(), kind="command", type=type_, key=key, at=now(), actor="bench", payload=payload)
    return encode(record)


def _event(type_: str, key: str, payload: dict[str, Any]) -> Message:
    return encode(Record(type=type_, key=key, at=now(), actor="worker", payload=payload))


def _pipeline(number: int) -> dict[str, Any]:
    source = {"connection": "shop", "object": f"public.t{number}"}
    sink = {"connection": "house", "object": f"raw.t{number}", "write": "replace"}
    return {"metadata": {"name": f"p{number}"}, "spec": {"source": source, "sink": sink}}
