"""`penstock demo`: a tour with a real database, and a table of what it proved at the end."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click

from api.cli.board import board
from api.cli.demo_story import Proof, Story
from api.cli.following import finish
from api.cli.main import State, command
from api.cli.project import put
from api.cli.run import start
from api.client import Client, connected
from api.demo.crash import Crash
from api.demo.data import CHECKS, SCALE, Rows, pipelines, prepare
from api.demo.events import COUNT, EVENTS, ORDERS, STEPS, STREAM, append_steps, arrived, prepare_events, write_stream
from api.demo.memory import Memory
from api.starter import SHOP, WAREHOUSE, make_project
from catalog.compare import digest
from catalog.database import reset
from catalog.entries import RunEntry
from dataflows.process.site import Site
from dataflows.projector import project_to_end
from penstock import postgres
from penstock.errors import UsageError
from penstock.models.documents import read_documents, read_project
from penstock.records.commands import PipelineTransition
from penstock.settings import Settings, load
from penstock.topics.embedded import EmbeddedServer

KILLED = "line-items"
FIRST = "customers"
HOME = ".penstock"
PATIENCE, POLL_SECONDS = 60.0, 0.05
ELSEWHERE = ("PENSTOCK_DATABASE_URL", "PENSTOCK_LOG_URL", "PENSTOCK_HOME", "PENSTOCK_PROJECT")


@command(name="demo")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep the project in this new folder.")
def demo_(state: State, keep: Path | None) -> int:
    """Take a tour: a shop of 765 000 rows, an empty warehouse, crashes, and agents that repair what breaks.

    It uses a temporary folder and its own server, whatever your settings, and takes about a minute and a half.
    """
    for name in ELSEWHERE:
        os.environ.pop(name, None)
    folder = keep or Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    if keep is None:
        folder.chmod(0o711)  # so that the server's account can reach its data in it, which are deleted with it
    tour = _Tour(state, folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is cleaned up
    try:
        with Memory(tour.processes) as memory:
            proofs = tour.take()
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return _proven(state, proofs, Figures(tour.seconds, tour.first_rows, memory.peak / 1e6), keep)


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of the tour: seconds in all and until the first pipeline's rows arrived, and peak memory."""

    seconds: float
    first_rows_seconds: float
    peak_mb: float


def _proven(state: State, proofs: list[Proof], figures: Figures, keep: Path | None) -> int:
    """Print the table at the end; return 0 if every check passed."""
    rows = [("ok" if well else "WRONG", what, seen) for what, seen, well in proofs]
    rows.append(("", "the first pipeline's rows arrived", f"{figures.first_rows_seconds:.1f} s after the start"))
    rows.append(("", "peak memory (PSS)", f"{figures.peak_mb:,.0f} MB: all processes, the server too"))
    state.output.say("")
    state.output.table(("", "what was proven", "figures"), rows, empty="")
    numbers = {name: round(value, 1) for name, value in asdict(figures).items()}
    state.output.data({**numbers, "proofs": [{"what": w, "seen": s, "ok": ok} for w, s, ok in proofs]})
    wrong = sum(not well for _, _, well in proofs)
    verdict = f"{wrong} of {len(proofs)} checks failed" if wrong else f"All {len(proofs)} checks passed"
    state.output.say(f"\n{verdict}; {figures.seconds:.0f} seconds in all.")
    state.output.hint(
        f"penstock --project {keep} up"
        if keep
        else "penstock init shop --demo && cd shop && penstock apply && penstock up"
    )
    return 1 if wrong else 0


class _Tour:
    """The steps of the tour, in order; each returns what it proved."""

    def __init__(self, state: State, folder: Path) -> None:
        self.state, self.folder, self.began = state, folder, time.monotonic()
        self.first_rows = 0.0
        """Seconds after the start."""

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def processes(self) -> list[int]:
        """Return this process and the server, which is not its child."""
        server = EmbeddedServer(self.folder / HOME).pid if (self.folder / HOME).exists() else None
        return [os.getpid(), *([server] if server else [])]

    def take(self) -> list[Proof]:
        self.state.output.say("A shop's database, an empty warehouse, and what may go wrong between them.\n")
        with Rows() as rows:
            with self._step(
                "a PostgreSQL of its own; a shop with 15 000 customers; a warehouse with other names and types"
            ):
                make_project(self.folder, fill=partial(_begin, rows), pipelines=pipelines())
            settings = load(self.folder)
            with connected(settings, worker=True) as client:
                with self._step("connections, policy and pipelines applied: each a record on one log"):
                    put(client, read_project(self.folder))
                proofs = [self._copied(client, FIRST)]
                with self._step(f"150 000 orders and 600 572 line items more in the shop (TPC-H at scale {SCALE})"):
                    rows.load(_server(client), ("orders", "lineitem"))
                proofs += [self._copied(client, "orders"), self._survived(client), self._nothing_new(client)]
                with self._step("source and warehouse compared by SQL"):
                    proofs += [self._equal(client, name) for name in CHECKS]
                proofs += self._streamed(client)
                proofs += Story(client, _server(client), self.folder, self.state.output.say, self._step).take()
        return [*proofs, self._rebuilt(settings)]

    @contextmanager
    def _step(self, text: str) -> Iterator[None]:
        at = time.monotonic()
        yield
        self.state.output.say(f"[green]✓[/green] {text} [dim]({time.monotonic() - at:.1f} s)[/dim]")

    def _run(
        self, client: Client, name: str, during: Callable[[str], AbstractContextManager[object]] = nullcontext
    ) -> RunEntry:
        watch = client.watch()
        run = start(client, name)
        with during(run), board(self.state.output, {run: name}) as shown:
            return finish(watch, run, shown)

    def _copied(self, client: Client, name: str) -> Proof:
        with self._step(f"{name} copied, renamed and computed on the way"):
            entry = self._run(client, name)
        taken, moved = sum((entry.seconds or {}).values()), entry.counters["rows_out"]
        self.first_rows = self.first_rows or self.seconds
        return f"{name} are copied", f"{moved:,} rows in {taken:.1f} s", moved > 0

    def _survived(self, client: Client) -> Proof:
        """Kill the run's process with SIGKILL after some of its splits are committed; the run still completes."""
        crashes: list[Crash] = []

        def crash(run: str) -> Crash:
            dsn = _server(client).dsn(WAREHOUSE)
            crashes.append(Crash(client.site, run, dsn, "SELECT count(*) FROM sales.line_items", self._report(KILLED)))
            return crashes[0]

        with self._step(f"{KILLED} killed midway; a new process continued after the last commit"):
            entry = self._run(client, KILLED, crash)
        rows, moved, attempts = crashes[0].rows, entry.counters["rows_out"], entry.attempts or 0
        figures = f"killed after {rows or 0:,} rows; {moved:,} rows in {attempts} attempts"
        whole = moved == _count(client, KILLED)
        return "a killed run finishes exactly", figures, rows is not None and rows < moved and attempts > 1 and whole

    def _nothing_new(self, client: Client) -> Proof:
        with self._step("orders and line-items run again: the position travels with the data"):
            moved = [self._run(client, name).counters["rows_out"] for name in ("orders", KILLED)]
        return "a second run moves nothing again", f"{sum(moved)} rows", sum(moved) == 0

    def _equal(self, client: Client, name: str) -> Proof:
        source, target = _checks(client, name)
        same = source == target
        figures = f"{source[0]:,} rows and {len(source) - 1} checksums are the same"
        return f"{name}: shop and warehouse agree", figures if same else f"shop {source}, warehouse {target}", same

    def _streamed(self, client: Client) -> list[Proof]:
        """Stream events of orders from a topic, kill the process midway, and compare what arrived with what was sent.

        The second half is sent after the kill.
        """
        server, half = _server(client), len(STEPS) // 2
        with self._step(f"a stream of {EVENTS:,} events in a topic: killed, continued, and drained"):
            prepare_events(client.log, server)
            append_steps(client.log, 0, half)
            put(client, read_documents(write_stream(self.folder, client.site.log_url)))
            run = self._open_run(client)
            with Crash(client.site, run, server.dsn(WAREHOUSE), COUNT, self._report(STREAM)) as crash:
                self._until(client, lambda: crash.rows is not None)
                append_steps(client.log, half, len(STEPS))
                self._until(client, lambda: arrived(server)[0] >= EVENTS)
            watch = client.watch()
            client.ask("pipeline.drain", STREAM, PipelineTransition(name=STREAM).to_dict())
            with board(self.state.output, {run: STREAM}) as shown:
                entry = finish(watch, run, shown)
        rows, events, misplaced = arrived(server)
        figures = f"killed after {crash.rows or 0:,} of {EVENTS:,} events; {entry.attempts or 0} attempts"
        survived = crash.rows is not None and crash.rows < EVENTS and (entry.attempts or 0) > 1
        written = f"{rows:,} rows, {rows - events:,} doubled, {EVENTS - events:,} lost, {misplaced:,} out of order"
        exact = (rows, events, misplaced) == (EVENTS, EVENTS, 0)
        return [
            ("a killed stream reads on", figures, survived),
            (f"events of {ORDERS:,} orders, in order", written, exact),
        ]

    def _open_run(self, client: Client) -> str:
        """Return the run of the stream, once its process has begun."""
        self._until(client, lambda: client.store.runs(pipeline=STREAM, status="running").items)
        return client.store.runs(pipeline=STREAM, limit=1).items[0].id

    def _until(self, client: Client, found: Callable[[], object]) -> None:
        """Poll until something is found, for a minute at most: what is missing then shows in the proofs."""
        end = time.monotonic() + PATIENCE
        while not found() and time.monotonic() < end:
            client.look_after()
            time.sleep(POLL_SECONDS)

    def _report(self, name: str) -> Callable[[int], None]:
        return lambda rows: self.state.output.say(
            f"[yellow]![/yellow] {name}: its process is killed with SIGKILL after {rows:,} rows"
        )

    def _rebuilt(self, settings: Settings) -> Proof:
        with self._step("catalog dropped, and rebuilt from the log"), Site(settings) as site:
            project_to_end(site)
            before = digest(site.catalog_dsn)
            reset(site.catalog_dsn)
            emptied = digest(site.catalog_dsn)
            project_to_end(site)
            after = digest(site.catalog_dsn)
        rows = sum(count for count, _ in after.values())
        differ = ", ".join(table for table in after if after[table] != before[table])
        figures = f"{rows:,} rows in {len(after)} tables, " + (f"different in {differ}" if differ else "identical")
        return "the catalog is what the log says", figures, before == after != emptied


def _begin(rows: Rows, server: EmbeddedServer) -> None:
    prepare(server)
    rows.load(server, ("customer",))


def _checks(client: Client, name: str) -> tuple[tuple[object, ...], tuple[object, ...]]:
    found = []
    for database, query in zip((SHOP, WAREHOUSE), CHECKS[name], strict=True):
        with postgres.connect(_server(client).dsn(database), "penstock:demo") as session:
            found.append(tuple(session.execute(query.encode()).fetchone() or ()))
    return found[0], found[1]


def _count(client: Client, name: str) -> object:
    return _checks(client, name)[0][0]


def _server(client: Client) -> EmbeddedServer:
    if client.site.server is None:
        raise UsageError("the demo runs on the embedded server", hint="unset PENSTOCK_DATABASE_URL")
    return client.site.server
