"""An installation on two fresh databases of the shared server, with each flow in a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from agents.discovery import DataDiscoveryAgent
from agents.lifecycle import Lifecycle
from agents.monitor import MonitoringAgent
from agents.orchestrator import Orchestrator
from agents.resolution import ErrorResolutionAgent
from catalog.compare import Digest, digest
from catalog.database import migrate
from catalog.projection import Projector
from dataflows.process.site import Site
from penstock import postgres
from penstock.clock import now
from penstock.ids import command_id
from penstock.kafka_url import is_kafka
from penstock.records import Reading, Record, encode, records_of
from penstock.records.envelope import Kind
from penstock.records.families import COMMANDS
from penstock.settings import Settings
from penstock.topics.log import TopicLog
from penstock.topics.opening import open_log
from penstock.topics.table import CONTROL
from tests.agents.control_plane import decisions, judged

ROOT = Path(__file__).parents[3]
AGENTS = (Lifecycle(), Orchestrator(), DataDiscoveryAgent(), ErrorResolutionAgent(), MonitoringAgent())
SECONDS = 40.0


def until(found: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Poll `found` until it is true, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for: {what}"
        time.sleep(0.02)
    return value


class Process(Protocol):
    """The part of `subprocess.Popen` that tests of flows need."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


@dataclass
class Flow:
    """Process that runs flows."""

    names: tuple[str, ...]
    process: Process
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it, and wait until it has ended."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def ended(self, seconds: float = SECONDS) -> int:
        """Wait for it to end by itself; return its exit code."""
        return self.process.wait(seconds)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@dataclass
class Forked:
    """Process that the fork server has started."""

    fork_server: ForkServer
    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.fork_server.ask({"poll": self.pid})["code"]
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        until(lambda: self.poll() is not None, "the process to end", timeout or SECONDS)
        assert self.code is not None
        return self.code


@dataclass
class ForkServer:
    """Starts flows by fork."""

    process: subprocess.Popen[str]

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path) -> Forked:
        order = {"arguments": arguments, "environment": environment, "folder": str(folder), "output": str(output)}
        return Forked(self, int(self.ask(order)["pid"]))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class Installation:
    """The databases, the project's folder, and the running flows."""

    folder: Path
    catalog_dsn: str
    log_dsn: str
    fork_server: ForkServer
    started: list[Flow] = field(default_factory=list)
    sent: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = Settings(
            project=self.folder,
            home=self.folder / ".penstock",
            database_url=self.catalog_dsn,
            log_url=self.log_dsn,
        )
        self.site = Site(settings)
        with self.site:
            pass
        self.connect()

    def connect(self) -> None:
        self.log = self.open_log("tests")
        self._known: list[Record] = []

    def open_log(self, name: str) -> TopicLog:
        """Open one more log."""
        return open_log(self.log_dsn, self.catalog_dsn, name=name)

    @property
    def locks_dsn(self) -> str:
        """The database whose sessions hold the locks."""
        return self.catalog_dsn if is_kafka(self.log_dsn) else self.log_dsn

    def start(self, *names: str, **environment: str) -> Flow:
        """Start flows in one process, by fork."""
        output = self._output(names)
        arguments = [*names, "--project", str(self.folder)]
        process = self.fork_server.start(arguments, self.environment() | environment, self.folder, output)
        return self._started(Flow(names, process, output))

    def spawn(self, *names: str, **environment: str) -> Flow:
        """Start flows in one process, by their command, which loads all modules again."""
        output = self._output(names)
        env = {**os.environ, **self.environment(), **environment}
        command = [sys.executable, "-m", "dataflows.runtime.flows", *names, "--project", str(self.folder)]
        with output.open("wb") as sink:
            process = subprocess.Popen(command, env=env, stdout=sink, stderr=sink, cwd=self.folder)
        return self._started(Flow(names, process, output))

    def _output(self, names: tuple[str, ...]) -> Path:
        return self.folder / f"{len(self.started)}-{'-'.join(names)}.txt"

    def _started(self, flow: Flow) -> Flow:
        self.started.append(flow)
        return flow

    def environment(self) -> dict[str, str]:
        """The environment variables of the installation."""
        return {
            "PYTHONPATH": str(ROOT),
            "PENSTOCK_DATABASE_URL": self.catalog_dsn,
            "PENSTOCK_LOG_URL": self.log_dsn,
            "PENSTOCK_SLOTS": "2",
            "POLARS_MAX_THREADS": "1",
        }

    def close(self) -> None:
        for flow in self.started:
            for child in flow.children() if flow.running else []:
                child.kill()
            flow.kill()
        self.log.close()

    # --- the log

    def records(self) -> list[Record]:
        """Return the whole log."""
        while stored := self.log.read(CONTROL, 0, len(self._known), 1000):
            self._known += [record for _, record in records_of(stored)]
            assert len(self._known) == stored[-1].offset + 1, "every message is a record"
        return list(self._known)

    def counted(self) -> list[tuple[int, Record]]:
        """Return the records of the log that count for readers."""
        reading = Reading()
        return [(offset, record) for offset, record in enumerate(self.records()) if reading.keep(offset, record)]

    def of(self, type_: str) -> list[Record]:
        return [record for _, record in self.counted() if record.type == type_]

    def await_records(self, type_: str, count: int) -> list[Record]:
        """Wait for `count` records of a type; return them."""
        until(lambda: len(self.of(type_)) >= count, f"{count} of {type_}")
        return self.of(type_)

    def loaded(self, count: int) -> None:
        """Wait until `count` more commands have been sent."""
        wanted = len(self.sent) + count
        until(lambda: len(self.sent) >= wanted, "more load")

    def send(self, type_: str, /, key: str | None = None, log: TopicLog | None = None, **payload: Any) -> str:
        """Send a command; return its id once it is durable."""
        id_ = command_id("tests", key or f"{type_} {len(self.sent)}")
        kind: Kind = "command" if type_ in COMMANDS else "event"
        record = Record(
            id=id_, kind=kind, type=type_, key=payload.get("name", type_), at=now(), actor="user:tests", payload=payload
        )
        (log or self.log).append(CONTROL, [encode(record)])
        self.sent[id_] = record
        return id_

    def answers(self) -> dict[str, list[Record]]:
        """Return the answers that count, by command."""
        found: dict[str, list[Record]] = {}
        for _, record in self.counted():
            if record.type in {"command.applied", "command.refused"}:
                found.setdefault(record.key, []).append(record)
        return found

    def done(self, type_: str, /, **payload: Any) -> dict[str, Any]:
        """Send a command and wait until it is applied; return its result."""
        id_ = self.send(type_, **payload)
        (answer,) = until(lambda: self.answers().get(id_), f"the answer to {type_}")
        assert answer.type == "command.applied", answer.payload
        result: dict[str, Any] = answer.payload["result"]
        return result

    def all_answered(self, seconds: float = SECONDS) -> None:
        try:
            until(lambda: self.sent.keys() <= self.answers().keys(), "every answer", seconds)
        except AssertionError as error:
            missing = len(self.sent.keys() - self.answers().keys())
            error.add_note(f"{missing} of {len(self.sent)} are missing, {self.brains()} brains have started")
            for flow in self.started:
                error.add_note(f"{flow.output.name}, {'running' if flow.running else 'ended'}: {flow.said}")
            raise

    def thinks(self, before: int) -> None:
        """Wait until more than `before` brains have started."""
        until(lambda: self.brains() > before, "a brain")

    def brains(self) -> int:
        return sum(record.type == "brain.started" for record in self.records())

    def check_answers(self) -> None:
        """Assert that every acknowledged command is there and answered exactly once, every decision explained."""
        log = self.records()
        assert self.sent.keys() <= {record.id for record in log}, "nothing acknowledged is lost"
        answers = self.answers()
        assert {id_: len(found) for id_, found in answers.items()} == dict.fromkeys(self.sent, 1)
        assert judged(log, AGENTS) == decisions(log), "judged again, the log decides what is recorded"
        assert self.of("agent.faulted") == []

    # --- the catalog

    def projected(self) -> None:
        """Wait until the catalog has all of the log."""

        def position() -> bool:
            with postgres.connect(self.catalog_dsn, "tests") as session:
                row = session.execute("SELECT next FROM catalog.position").fetchone()
            return row is not None and row[0] == self.log.end(CONTROL, 0)

        until(position, "the catalog to have all of the log")

    def check_catalog(self, fresh: str) -> None:
        """Assert that the catalog equals a new one, folded in database `fresh`."""
        migrate(fresh)
        reading = Reading()
        log = self.records()
        kept = [(offset, record) for offset, record in enumerate(log) if reading.keep(offset, record)]
        with Projector(fresh) as projector:
            projector.position()
            projector.apply(kept, len(log), reading)
        mine, rebuilt = self.digest(), digest(fresh)
        assert {name: rows for name, (rows, _) in mine.items()} == {name: rows for name, (rows, _) in rebuilt.items()}
        assert mine == rebuilt

    def digest(self) -> Mapping[str, Digest]:
        return digest(self.catalog_dsn)

    def catalog(self, query: str, *values: object) -> Sequence[tuple[Any, ...]]:
        with postgres.connect(self.catalog_dsn, "tests") as session:
            return session.execute(query, values).fetchall()


def take_lock_from(installation: Installation, name: str) -> None:
    """End the session by which flow `name` appends, as a lost network or a failover would."""
    with postgres.connect(installation.locks_dsn, "tests") as session:
        found = session.execute(
            "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid"
            " AND l.locktype = 'advisory' AND l.granted"
            " WHERE a.datname = current_database() AND application_name LIKE %s",
            [f"%{name}%"],
        ).fetchone()
        assert found == (1,)


class Load(threading.Thread):
    """Sends pause and resume commands at about `rate` a second until `stop`."""

    def __init__(self, installation: Installation, rate: float) -> None:
        super().__init__(name="load", daemon=True)
        self.installation, self.rate, self.over = installation, rate, threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self.installation.open_log("load") as log:
                while not self.over.wait(1 / self.rate):
                    verb = ("pause", "resume", "stop", "resume")[len(self.installation.sent) % 4]
                    self.installation.send(f"pipeline.{verb}", log=log, name=f"p{len(self.installation.sent) % 3}")
        except BaseException as error:  # noqa: BLE001 - checked by the test
            self.error = error

    def stop(self) -> None:
        self.over.set()
        self.join()
        assert self.error is None


def kill_again_and_again(busy: Installation, times: int, rate: float, seed: int) -> None:
    chance = random.Random(seed)
    load = Load(busy, rate)
    load.start()
    for number in range(times):
        before = busy.brains()
        control = busy.start("control")
        if number % 5:  # else it dies while it starts
            busy.thinks(before)
        time.sleep(chance.uniform(0.0, 0.35))
        control.kill()
    load.stop()
    busy.start("control")
    busy.all_answered()
    assert busy.brains() > times * 4 // 5
    busy.check_answers()
