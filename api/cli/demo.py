"""`penstock demo`: the whole story, with a real database, and a table of what was proven at its end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from api.cli.main import State, command
from api.cli.project import put
from api.cli.run import bar, finish, start
from api.client import Client, connected
from api.demo.data import CHECKS, SCALE, Rows, prepare
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
FIRST = "customers"
ELSEWHERE = ("PENSTOCK_DATABASE_URL", "PENSTOCK_LOG_URL", "PENSTOCK_HOME", "PENSTOCK_PROJECT")


@command(name="demo")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep the project in this new folder.")
def demo_(state: State, keep: Path | None) -> int:
    """The whole story: a shop of 765 000 rows, an empty warehouse, three pipelines, a crash, and what holds after it.

    It runs in a folder and on a server of its own, whatever your settings say, and takes about a minute.
    """
    for name in ELSEWHERE:
        os.environ.pop(name, None)
    folder = keep or Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    if keep is None:
        folder.chmod(0o711)  # so that the server's account reaches its data in it, and they are gone with it
    began = time.monotonic()
    try:
        proofs = _Story(state, folder, began).tell()
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return _proven(state, proofs, time.monotonic() - began, keep)


def _proven(state: State, proofs: list[Proof], took: float, keep: Path | None) -> int:
    """The table at the end; 0 if all of it holds."""
    rows = [("ok" if well else "WRONG", what, seen) for what, seen, well in proofs]
    state.output.say("")
    state.output.table(("", "what was proven", "figures"), rows, empty="")
    state.output.data({"seconds": round(took, 1), "proofs": [{"what": w, "seen": s, "ok": ok} for w, s, ok in proofs]})
    wrong = sum(not well for _, _, well in proofs)
    state.output.say(f"\n{wrong or 'Nothing'} of it is wrong; {took:.0f} seconds in all.")
    state.output.hint(
        f"penstock --project {keep} up"
        if keep
        else "penstock init shop --demo && cd shop && penstock apply && penstock up"
    )
    return 1 if wrong else 0


class _Story:
    """The steps in their order; each returns what it proved."""

    def __init__(self, state: State, folder: Path, began: float) -> None:
        self.state, self.folder, self.began = state, folder, began

    def tell(self) -> list[Proof]:
        self.state.output.say("A shop's database, an empty warehouse, and what may go wrong on the way between them.\n")
        with Rows() as rows:
            with self._step(
                "a PostgreSQL of its own; a shop with 15 000 customers; a warehouse with other names and types"
            ):
                make_project(self.folder, fill=partial(_begin, rows))
            settings = load(self.folder)
            with connected(settings, worker=True) as client:
                with self._step("connections, policy and pipelines applied: each a record on one log"):
                    put(client, read_project(self.folder))
                proofs = [self._copied(client, FIRST)]
                with self._step(f"150 000 orders and 600 572 line items more in the shop (TPC-H at scale {SCALE})"):
                    rows.load(_server(client), ("orders", "lineitem"))
                proofs += [self._copied(client, "orders"), self._survived(client), self._nothing_new(client)]
                with self._step("source and warehouse compared by SQL, each in its own words"):
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
        with self._step(f"{name} copied, renamed and computed on the way"):
            entry = self._run(client, name)
        taken, moved = sum((entry.seconds or {}).values()), entry.counters["rows_out"]
        since = f", {time.monotonic() - self.began:.0f} s after the start" if name == FIRST else ""
        return f"{name} are copied", f"{moved:,} rows in {taken:.1f} s{since}", moved > 0

    def _survived(self, client: Client) -> Proof:
        """Kill the run's process with SIGKILL when some of its splits are committed; it ends all the same."""
        killed: list[str] = []

        def kill(run: str, told: RunProgress) -> None:
            if not killed and 0 < told.splits_done < told.splits:
                killed.append(f"{told.rows_out:,} rows")
                os.kill(_pid(client, run), signal.SIGKILL)
                self.state.output.say(
                    f"[yellow]![/yellow] {KILLED}: its process is killed with SIGKILL after {killed[0]}"
                )

        with self._step(f"{KILLED} killed midway; a new process went on after the last commit"):
            entry = self._run(client, KILLED, kill)
        moved, attempts = entry.counters["rows_out"], entry.attempts
        figures = f"killed after {killed[0] if killed else 'nothing'}; {moved:,} rows in {attempts} attempts"
        return "a killed run finishes exactly", figures, bool(killed) and moved == _count(client, KILLED)

    def _nothing_new(self, client: Client) -> Proof:
        with self._step("orders and line-items run again: the position travels with the data"):
            moved = [self._run(client, name).counters["rows_out"] for name in ("orders", KILLED)]
        return "a second run moves nothing again", f"{sum(moved)} rows", sum(moved) == 0

    def _equal(self, client: Client, name: str) -> Proof:
        source, target = _checks(client, name)
        same = source == target
        figures = f"{source[0]:,} rows and {len(source) - 1} checksums are the same"
        return f"{name}: shop and warehouse agree", figures if same else f"shop {source}, warehouse {target}", same

    def _rebuilt(self, settings: Settings) -> Proof:
        with self._step("catalog dropped, and rebuilt from the log"), Site(settings) as site:
            project_to_end(site)
            before = digest(site.catalog_dsn)
            reset(site.catalog_dsn)
            emptied = digest(site.catalog_dsn)
            project_to_end(site)
            after = digest(site.catalog_dsn)
        rows = sum(count for count, _ in after.values())
        return (
            "the catalog is what the log says",
            f"{rows:,} rows in {len(after)} tables, identical",
            before == after != emptied,
        )


def _pid(client: Client, run: str) -> int:
    """The process of the run's attempt, as its worker told."""
    stored = client.log.read(CONTROL, 0, 0, client.log.end(CONTROL, 0))
    assigned = {
        r.payload["task"] for _, r in records_of(stored) if r.type == "task.assigned" and r.payload.get("run") == run
    }
    return int(
        [r.payload["pid"] for _, r in records_of(stored) if r.type == "task.started" and r.payload["task"] in assigned][
            -1
        ]
    )


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
