"""Latency from a command to its effect in the catalog, on the embedded server, and the CPU of an idle `penstock up`.

``python -m benchmarks.commands [--seconds 20] [--rate 300] [--json] [--readme]``. A command (`pipeline.apply`) is sent,
decided by the control flow, appended, and projected; it counts as visible when another session, which listens, reads
its answer from the catalog. Commands are sent one at a time, then at a rate; then the idle CPU is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from api.client import UP, Client
from api.starter import make_project
from benchmarks.parts.readme import machine, write_table
from catalog.waiting import CHANNEL
from dataflows.process.site import Site
from penstock.clock import now
from penstock.ids import new_id
from penstock.postgres import connect
from penstock.records import Record, encode
from penstock.settings import load
from penstock.topics.log import Message
from penstock.topics.table import CONTROL

PIPELINES: Final = 50
PATIENCE: Final = 60.0
SENDERS: Final = 4
"""Number of sessions that send at a rate: a single one would wait for the disk at each command."""


def pipeline(number: int) -> dict[str, Any]:
    """Return a pipeline of eight fields, three of them expressions; each has a different description."""
    fields = [{"target": f"t{n}", "from": f"c{n}"} for n in range(5)]
    fields += [{"target": f"e{n}", "sql": f"c{n} * 2 + {number % 100}"} for n in range(3)]
    return {
        "metadata": {"name": f"p{number % PIPELINES}", "description": f"number {number}"},
        "spec": {
            "source": {"connection": "shop", "object": "public.orders", "cursor": {"field": "id"}},
            "mapping": {"fields": fields},
            "sink": {"connection": "warehouse", "object": f"public.orders{number % PIPELINES}"},
        },
    }


class Watcher(threading.Thread):
    """Reads answers from the catalog as they are projected, and notes the time of each."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, float] = {}
        self.begin = 0
        self.ended = threading.Event()
        self.ready = threading.Event()
        self._changed = threading.Condition()
        self._dsn = dsn

    def wait(self, count: int) -> None:
        """Wait until that many answers were seen, or `PATIENCE` is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.seen) >= count, PATIENCE)

    def run(self) -> None:
        query = (
            'SELECT id, "offset" FROM catalog.commands WHERE "offset" >= %s AND status <> \'pending\' ORDER BY "offset"'
        )
        with closing(connect(self._dsn, "benchmark")) as session:
            session.execute(f"LISTEN {CHANNEL}".encode())
            self.ready.set()
            while not self.ended.is_set():
                for _ in session.notifies(timeout=0.2, stop_after=1):
                    pass
                rows, at = session.execute(query, [self.begin]).fetchall(), time.perf_counter()
                with self._changed:
                    for id_, _offset in rows:
                        self.seen.setdefault(id_, at)
                    self._changed.notify()
                self.begin = rows[-1][1] + 1 if rows else self.begin


def apply_(number: int) -> tuple[str, dict[str, Any]]:
    """Return a command that makes a new version of a pipeline: the most expensive one."""
    return "pipeline.apply", {"pipeline": pipeline(int(now().timestamp() * 1e6) // PIPELINES * PIPELINES + number)}


def toggle(number: int) -> tuple[str, dict[str, Any]]:
    """Pause a pipeline, or resume it when it was paused the last time."""
    verb = "resume" if number // PIPELINES % 2 else "pause"
    return f"pipeline.{verb}", {"name": f"p{number % PIPELINES}"}


Make = Callable[[int], tuple[str, dict[str, Any]]]


def messages(make: Make, count: int) -> list[tuple[str, Message]]:
    """Return `count` commands with their ids, encoded in advance to keep the sender's own CPU low."""
    found = []
    for number in range(count):
        type_, payload = make(number)
        record = Record(
            id=new_id(),
            kind="command",
            type=type_,
            key=f"p{number % PIPELINES}",
            at=now(),
            actor="bench",
            payload=payload,
        )
        found.append((record.id, encode(record)))
    return found


def measure(site: Site, make: Make, count: int, rate: int | None) -> list[float]:
    """Return the milliseconds until each command is visible, sorted: `rate` a second, else one after the other.

    At a rate, time counts from when a command is due, even if it is sent later because earlier ones took long.
    """
    watcher = Watcher(site.catalog_dsn)
    commands = list(enumerate(messages(make, count)))
    with site.open_log("benchmark") as log:
        watcher.begin = log.end(CONTROL, 0)
    watcher.start()
    watcher.ready.wait()
    began = time.perf_counter() + 0.1
    due = {id_: began + number / rate for number, (id_, _) in commands} if rate else {}
    senders = SENDERS if rate else 1
    threads = [threading.Thread(target=_send, args=(site, watcher, commands[n::senders], due)) for n in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watcher.wait(count)
    watcher.ended.set()
    watcher.join()
    if lost := count - len(watcher.seen):
        message_ = f"{lost} commands are not visible after {PATIENCE:g} s"
        raise RuntimeError(message_)
    return sorted((watcher.seen[id_] - at) * 1000 for id_, at in due.items())


def _send(site: Site, watcher: Watcher, commands: list[tuple[int, tuple[str, Message]]], due: dict[str, float]) -> None:
    """Send each command when it is due; without a due time, when the previous one is visible."""
    with site.open_log("benchmark") as log:
        for number, (id_, message) in commands:
            if id_ not in due:
                watcher.wait(number)
            at = due.setdefault(id_, time.perf_counter())
            time.sleep(max(0.0, at - time.perf_counter()))
            log.append(CONTROL, [message])


@contextmanager
def up(folder: Path) -> Iterator[int]:
    """Run `penstock up` for the project in `folder`; yield its process id."""
    program = str(Path(sys.executable).parent / "penstock")
    process = subprocess.Popen([program, "--project", str(folder), "up", "--port", "0"], stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def tree(*roots: int) -> set[int]:
    """Return `roots` and all their descendants."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = parent_of(int(entry.name))
    wanted = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return wanted


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def server_of(dsn: str) -> int:
    """Return the process id of the server at `dsn`, on this machine."""
    with closing(connect(dsn, "benchmark")) as session:
        return parent_of(session.info.backend_pid)


def cpu(pids: set[int]) -> float:
    """Return the CPU seconds that `pids` have used."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def figures(spans: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum, in milliseconds."""
    return {"p50": statistics.median(spans), "p99": spans[int(len(spans) * 0.99)], "max": spans[-1]}


def main() -> int:
    """Run the benchmark and print a table, or one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    count = int(options.rate * options.seconds)

    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp") as name:
        folder = Path(name) / "project"
        make_project(folder)
        settings = load(folder)
        with up(folder) as root, Site(settings) as site, site.open_log("client") as log:
            with closing(Client(site, log)) as client:
                while not log.holder(UP) or not any(one.status == "joined" for one in client.store.workers()):
                    time.sleep(0.1)
                for connection in ("shop", "warehouse"):
                    payload = {"name": connection, "connection": {"type": "postgres", "dsn": site.catalog_dsn}}
                    client.ask("connection.put", connection, payload)
            found = {
                "apply, one at a time": figures(measure(site, apply_, 500, None)),
                f"pause or resume, at {options.rate}/s": figures(measure(site, toggle, count, options.rate)),
                f"apply, at {options.rate}/s": figures(measure(site, apply_, count, options.rate)),
            }
            time.sleep(5)
            pids = tree(root, server_of(site.catalog_dsn))
            before = cpu(pids)
            time.sleep(10)
            idle = (cpu(pids) - before) / 10 * 100
    if options.readme:
        write_table("commands", table(found, idle))
    if options.json:
        print(json.dumps({"command_to_visible_ms": found, "idle_percent_of_a_core": idle}))
        return 0
    for what, values in found.items():
        shown = "   ".join(f"{name} {value:6.1f} ms" for name, value in values.items())
        print(f"command to visible, {what:<28} {shown}")
    print(f"idle `penstock up`, all processes: {idle:.1f} % of one core")
    return 0


def table(found: dict[str, dict[str, float]], idle: float) -> list[str]:
    """Return the lines of the README's table."""
    lines = ["| from a command to its effect in the catalog | p50 | p99 |", "|---|---|---|"]
    lines += [f"| {what} | {values['p50']:.0f} ms | {values['p99']:.0f} ms |" for what, values in found.items()]
    idle_ = f"`penstock up` with nothing to do takes {idle:.1f} % of one core, all processes together"
    return [*lines, "", f"{idle_}; {machine()}."]


if __name__ == "__main__":
    sys.exit(main())
