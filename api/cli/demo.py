"""`penstock demo`: the whole story, with a real database, and a table of what was proven at its end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from api.cli.main import State, command
from api.cli.project import put
from api.cli.run import bar, finish, start
from api.client import Client, connected
from api.demo.data import CHECKS, SCALE, fill
from api.starter import SHOP, WAREHOUSE, make_project
from catalog.compare import digest
from catalog.database import reset
from catalog.entries import RunEntry
from dataflows.projector import project_to_end
from dataflows.runtime.site import Site
from penstock import postgres
from penstock.errors import UsageError
from penstock.models.documents import read_project
from penstock.records import records_of
from penstock.records.execution import RunProgress
from penstock.settings import Settings, load
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.table import CONTROL

Proof = tuple[str, str, bool]
KILLED = "line-items"
FIRST_SECONDS = 20.0
"""The first pipeline is done within that, counted from the command's start."""


@command(name="demo")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep the project in this new folder.")
def demo_(state: State, keep: Path | None) -> int:
    """The whole story: a source database of 765 000 rows, an empty warehouse, pipelines, a crash, and what holds after it."""
    folder = keep or Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    began = time.monotonic()
    try:
        proofs = _Story(state, folder, began).tell()
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    took = time.monotonic() - began
    state.output.table(("what was proven", "figures", ""), [(what, seen, "ok" if well else "WRONG") for what, seen, well in proofs], empty="", title="\n")
    state.output.data({"seconds": round(took, 1), "proofs": [{"what": w, "seen": s, "ok": ok} for w, s, ok in proofs]})
    state.output.say(f"\n{took:.0f} seconds in all.")
    state.output.hint(f"penstock --project {keep} up" if keep else "penstock init DIR --demo, then look around: list, runs, events, why")
    return 0 if all(well for _, _, well in proofs) else 1


class _Story:
    """The steps in their order; each returns what it proved."""

    def __init__(self, state: State, folder: Path, began: float) -> None:
        self.state, self.folder, self.began = state, folder, began

    def tell(self) -> list[Proof]:
        with self._step("embedded PostgreSQL, a source database (TPC-H customers and orders) and an empty warehouse"):
            make_project(self.folder, demo=("customer", "orders"))
        settings = load(self.folder)
        with connected(settings, worker=True) as client:
            with self._step("policy, connections and pipelines applied"):
                put(client, read_project(self.folder))
            proofs = [self._copied(client, "customers")]
            first = time.monotonic() - self.began
            proofs += [("the first pipeline is done soon", f"after {first:.1f} s", first < FIRST_SECONDS), self._copied(client, "orders")]
            with self._step(f"600 572 line items more at the source (scale {SCALE})"):
                fill(_server(client), ("lineitem",))
            proofs += [self._survived(client), self._nothing_new(client)]
            proofs += [self._equal(client, name) for name in CHECKS]
        return [*proofs, self._rebuilt(settings)]

    @contextmanager
    def _step(self, text: str) -> Iterator[None]:
        at = time.monotonic()
        yield
        self.state.output.say(f"[green]✓[/green] {text} [dim]({time.monotonic() - at:.1f} s)[/dim]")

    def _run(self, client: Client, name: str, act: Callable[[str, RunProgress], None] | None = None) -> RunEntry:
        run = start(client, name)
        with bar(self.state, name) as show:

            def shown(told: RunProgress) -> None:
                show(told)
                if act:
                    act(run, told)

            return finish(client, run, shown)

    def _copied(self, client: Client, name: str) -> Proof:
        with self._step(f"{name}: run"):
            entry = self._run(client, name)
        taken = sum((entry.seconds or {}).values())
        return f"{name} ran", f"{entry.counters['rows_out']:,} rows in {taken:.1f} s", entry.counters["rows_out"] > 0

    def _survived(self, client: Client) -> Proof:
        """Kill the run's process with SIGKILL when some of its splits are committed; it ends all the same."""
        killed: list[str] = []

        def kill(run: str, told: RunProgress) -> None:
            if not killed and 0 < told.splits_done < told.splits:
                killed.append(f"{told.rows_out:,} rows")
                os.kill(_pid(client, run), signal.SIGKILL)
                self.state.output.say(f"[yellow]![/yellow] {KILLED}: killed with SIGKILL after {killed[0]}")

        with self._step(f"{KILLED}: killed midway, and finished by itself"):
            entry = self._run(client, KILLED, kill)
        figures = f"killed after {killed[0] if killed else 'nothing'}, {entry.attempts} attempts, {entry.counters['rows_out']:,} rows"
        return "a killed run finishes exactly", figures, bool(killed) and entry.counters["rows_out"] == _count(client, KILLED)

    def _nothing_new(self, client: Client) -> Proof:
        with self._step("orders and line-items run again"):
            moved = [self._run(client, name).counters["rows_out"] for name in ("orders", KILLED)]
        return "a second run moves nothing", f"{sum(moved)} rows", sum(moved) == 0

    def _equal(self, client: Client, name: str) -> Proof:
        source, target = _checks(client, name)
        same = source == target
        return f"{name}: source and warehouse agree", f"{source[0]:,} rows, {len(source) - 1} checksums by SQL", same

    def _rebuilt(self, settings: Settings) -> Proof:
        with self._step("catalog dropped, and rebuilt from the log"), Site(settings) as site:
            project_to_end(site)
            before = digest(site.catalog_dsn)
            reset(site.catalog_dsn)
            emptied = digest(site.catalog_dsn)
            project_to_end(site)
            after = digest(site.catalog_dsn)
        rows = sum(count for count, _ in after.values())
        return "the catalog is what the log says", f"{rows:,} rows in {len(after)} tables, identical", before == after != emptied


def _pid(client: Client, run: str) -> int:
    """The process of the run's attempt, as its worker told."""
    stored = client.log.read(CONTROL, 0, 0, client.log.end(CONTROL, 0))
    assigned = {r.payload["task"] for _, r in records_of(stored) if r.type == "task.assigned" and r.payload.get("run") == run}
    return int([r.payload["pid"] for _, r in records_of(stored) if r.type == "task.started" and r.payload["task"] in assigned][-1])


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
