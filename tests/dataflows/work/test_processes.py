"""A worker's processes: reused, and replaced when needed; runs share no state."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg
import pytest

from dataflows.process.fork_server import ForkServer, Offspring
from dataflows.work import child
from dataflows.work import processes as module
from dataflows.work.processes import Ended, Processes
from penstock.settings import Settings
from tests.dataflows.flows.installation import ROOT, until

ROWS = 50
SECONDS = 60.0


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    """Create a database with a table of items, and a schema for copies of it; return its DSN."""
    made = new_database()
    with psycopg.connect(made, autocommit=True) as session:
        session.execute("CREATE TABLE items (id bigint PRIMARY KEY, name text); CREATE SCHEMA w")
        session.execute("INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, %s) n", [ROWS])
    return made


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")
    made = Processes(Settings(project=tmp_path, home=tmp_path / "home", python_modules="steps_of_mine"))
    yield made
    made.end_all()


@pytest.fixture(scope="session")
def server(reaper: None) -> Iterator[ForkServer]:
    made = child.fork_server(ROOT)
    yield made
    made.close()


@pytest.fixture
def forked(server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes of runs: what becomes of them later does not depend on how they start."""

    def fork(_project: Path, _options: Sequence[str], stdin: int, stdout: int, lifeline: int) -> Offspring:
        return server.fork(stdin, stdout, 2, lifeline)

    monkeypatch.setattr(child, "_spawn", fork)


@pytest.fixture
def task(dsn: str) -> Callable[..., dict[str, Any]]:
    """Make a task that copies `items` to a table of the run's own."""

    def make(run: str, source: str = "items", **spec: Any) -> dict[str, Any]:
        ends = {
            "source": {"connection": "here", "object": f"public.{source}"},
            "sink": {"connection": "here", "object": f"w.{run}", "write": "replace"},
        }
        return {
            "task": f"task-{run}",
            "run": run,
            "attempt": 1,
            "uid": f"uid-{run}",
            "kind": "pipeline",
            "spec": {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": run}, "spec": ends | spec},
            "connections": {"here": {"type": "postgres", "dsn": dsn}},
        }

    return make


def ended(processes: Processes) -> Ended:
    found: Ended = until(lambda: next(processes.ended(), None), "a run to end", SECONDS)
    return found


def completed(processes: Processes, task: dict[str, Any]) -> int:
    """Run a task to its end; return its process id."""
    pid = processes.begin(task, None)
    end = ended(processes)
    assert end.code == 0, end
    assert end.result
    assert (end.result["status"], end.result["counters"]["rows_out"]) == ("completed", ROWS)
    return pid


def test_a_process_that_has_completed_a_run_takes_the_next(processes: Processes, task: Callable[..., Any]) -> None:
    pids = {completed(processes, task(run)) for run in ("a", "b", "c")}
    assert len(pids) == 1


@pytest.mark.usefixtures("forked")
def test_a_process_is_replaced_after_so_many_runs(
    processes: Processes, task: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUNS", 2)
    pids = [completed(processes, task(run)) for run in ("a", "b", "c")]
    assert (pids[0] == pids[1], pids[1] == pids[2]) == (True, False)
    until(lambda: _gone(processes, pids[0]), "the first process to end by itself")


@pytest.mark.usefixtures("forked")
def test_a_process_is_replaced_when_its_memory_has_grown(
    processes: Processes, task: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEMORY", 1 << 20)
    first, second = (completed(processes, task(run)) for run in ("a", "b"))
    assert first != second


@pytest.mark.usefixtures("forked")
def test_a_process_is_replaced_after_a_failure(processes: Processes, task: Callable[..., Any]) -> None:
    first = completed(processes, task("a"))
    assert processes.begin(task("b", source="missing"), None) == first
    failed = ended(processes)
    assert failed.result
    assert (failed.code, failed.result["error"]["code"]) == (1, "schema.missing_table")
    assert failed.result["counters"]["rows_out"] == 0, "no rows of the earlier run"
    assert completed(processes, task("c")) != first
    until(lambda: _gone(processes, first), "the failed run's process to end")


@pytest.mark.usefixtures("forked")
def test_of_two_processes_one_that_is_killed_loses_its_own_run_only(
    processes: Processes, task: Callable[..., Any], dsn: str
) -> None:
    completed(processes, task("warm"))
    with psycopg.connect(dsn) as session:
        session.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        pids = {run: processes.begin(task(run), None) for run in ("a", "b")}
        assert len(set(pids.values())) == 2
        os.kill(pids["a"], signal.SIGKILL)
        killed = ended(processes)
    assert (killed.task, killed.code, killed.result) == ("task-a", -signal.SIGKILL, None)
    other = ended(processes)
    assert (other.task, other.code) == ("task-b", 0)
    assert completed(processes, task("c")) == pids["b"]


@pytest.mark.usefixtures("forked")
def test_the_second_run_of_a_process_stops_when_it_is_asked_to(
    processes: Processes, task: Callable[..., Any], dsn: str
) -> None:
    first = completed(processes, task("a"))
    with psycopg.connect(dsn) as session:
        session.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        assert processes.begin(task("b"), None) == first
        processes.end("task-b")
        session.rollback()
        halted: Ended = until(lambda: next(processes.halted(), None), "the run to halt", SECONDS)
    assert halted.result
    assert (halted.code, halted.result["error"]["code"]) == (1, "run.stopped")
    assert completed(processes, task("c")) != first, "a process that was asked to stop is not used again"


def test_the_sessions_of_a_later_run_carry_its_own_name_and_are_gone_soon(
    processes: Processes, task: Callable[..., Any], dsn: str
) -> None:
    names = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    completed(processes, task("a"))
    with psycopg.connect(dsn) as session, psycopg.connect(dsn, autocommit=True) as other:
        session.execute("CREATE TABLE w.b (LIKE items)")
        session.commit()
        session.execute("LOCK TABLE w.b")
        processes.begin(task("b"), None)
        found = until(lambda: [n for (n,) in other.execute(names) if n.startswith("penstock:uid-")], "a session")
        assert {name.rpartition(":")[0] for name in found} == {"penstock:uid-b"}
        session.commit()
        assert ended(processes).code == 0
        session.close()
        until(lambda: not other.execute(names).fetchall(), "the sessions to be closed", 15)


def test_each_run_of_a_process_has_a_log_and_failpoints_of_its_own(
    processes: Processes, task: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_FAILPOINT", "result.written=stop")
    pids = []
    for run in ("a", "b"):
        pids.append(processes.begin(task(run), None))
        until(lambda: psutil.Process(pids[-1]).status() == psutil.STATUS_STOPPED, "the failpoint of this run")
        os.kill(pids[-1], signal.SIGCONT)
        assert ended(processes).code == 0
        assert (tmp_path / "home" / "runs" / run / "log").exists()
    assert pids[0] == pids[1]


def test_a_run_that_calls_functions_of_modules_has_a_process_of_its_own(
    processes: Processes, task: Callable[..., Any], tmp_path: Path, dsn: str
) -> None:
    steps = [{"name": "mine", "python": {"call": "steps_of_mine:change", "columns": {"name": "text"}}}]
    pids = [completed(processes, task("a"))]
    for run in ("b", "c"):
        change = f"return pa.record_batch({{'name': ['{run}'] * rows.num_rows}})"
        text = f"def change(rows):\n    print('hello')\n    {change}\n"
        (tmp_path / "steps_of_mine.py").write_text(f"import pyarrow as pa\n\n{text}")
        pids.append(completed(processes, task(run, transforms=steps)))
    pids.append(completed(processes, task("d")))
    assert pids[0] == pids[3]
    assert len(set(pids)) == 3
    with psycopg.connect(dsn) as session:
        for run in ("b", "c"):
            assert session.execute(f"SELECT DISTINCT name FROM w.{run}").fetchall() == [(run,)], "as it was then"


def test_an_idle_process_that_dies_is_replaced(processes: Processes, task: Callable[..., Any]) -> None:
    first = completed(processes, task("a"))
    os.kill(first, signal.SIGKILL)
    until(lambda: os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT), "all its threads to end")
    assert completed(processes, task("b")) != first


@pytest.mark.usefixtures("forked")
def test_surplus_idle_processes_are_dismissed(
    processes: Processes, task: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = {processes.begin(task(run), None) for run in ("a", "b")}
    assert [ended(processes).code for _ in pids] == [0, 0]
    processes.maintain()
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    until(lambda: sum(_gone(processes, pid) for pid in pids) == 1, "one of them to end")
    assert completed(processes, task("c")) in pids


def test_streams_are_forked_from_one_process_and_survive_it(
    processes: Processes, task: Callable[..., Any], dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_FAILPOINT", "result.written=stop")  # its process stays until it may go on

    def began(run: str) -> psutil.Process:
        made = task(run, mode="stream", source={"connection": "log", "object": "missing"})
        made["connections"] = {**made["connections"], "log": {"type": "topics", "dsn": dsn}}
        made["spec"]["spec"]["sink"]["write"] = "append"
        process = psutil.Process(processes.begin(made, None))
        until(lambda: process.status() == psutil.STATUS_STOPPED, "the failpoint of this run", SECONDS)
        return process

    first, second = began("a"), began("b")
    server = first.ppid()
    assert second.ppid() == server != os.getpid()
    os.kill(server, signal.SIGKILL)
    until(lambda: first.ppid() != server, "its death")
    third = began("c")
    assert third.ppid() not in {server, os.getpid()}
    for one in (first, second, third):
        one.resume()
    codes = {(found := ended(processes)).task: (found.code, (found.result or {})["status"]) for _ in range(3)}
    assert codes == {f"task-{run}": (1, "failed") for run in "abc"}


def _gone(processes: Processes, pid: int) -> bool:
    processes.maintain()
    return not psutil.pid_exists(pid)


def served(folder: Path, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run tasks one after another in one process; return their results."""
    orders = []
    for number, task in enumerate(tasks):
        order = {**task, "pipeline": task["spec"], "result": str(folder / f"{number}.json")}
        orders.append(json.dumps(order | {"secrets": str(folder)}) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "dataflows.runs"],
        input="".join(orders).encode(),
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert b'"ended"' in done.stdout, done.stderr
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(len(tasks))]


def test_a_run_sees_no_state_of_the_one_before(task: Callable[..., Any], tmp_path: Path) -> None:
    failed, completed, again = served(tmp_path, [task("a", source="missing"), task("b"), task("c")])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "schema.missing_table")
    for result in (completed, again):
        assert (result["status"], result["error"]) == ("completed", None)
        assert (result["counters"]["rows_in"], result["counters"]["rows_out"]) == (ROWS, ROWS)
        assert result["counters"]["seconds"].keys() == {"prepare", "flow", "publish"}


def test_tables_to_look_values_up_in_are_read_again_by_each_run(
    task: Callable[..., Any], tmp_path: Path, dsn: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CREATE TABLE units (name text PRIMARY KEY, unit text)")
        session.execute("INSERT INTO units SELECT name, 'old' FROM items")
        session.execute(
            "CREATE FUNCTION w.renew() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " UPDATE public.units SET unit = 'new'; RETURN NULL; END $$"
        )
        session.execute("CREATE TABLE w.a (id bigint, name text, unit text)")
        session.execute("CREATE TABLE w.b (LIKE w.a)")
        session.execute("CREATE TRIGGER renew AFTER INSERT ON w.a EXECUTE FUNCTION w.renew()")
        look = {"connection": "here", "object": "public.units", "on": {"name": "name"}, "take": {"unit": "unit"}}
        for result in served(
            tmp_path, [task(run, transforms=[{"name": "unit", "lookup": look}]) for run in ("a", "b")]
        ):
            assert result["status"] == "completed", result
        units = [session.execute(f"SELECT DISTINCT unit FROM w.{run}").fetchall() for run in ("a", "b")]
    assert units == [[("old",)], [("new",)]]


FORKED = """
import json, sys, time
from pathlib import Path
from dataflows.work.child import fork_in_advance
from dataflows.work.processes import Processes
from penstock.settings import Settings

project = Path(sys.argv[1])
settings = Settings(project=project, home=project / "home", python_modules="steps_of_mine")
fork_in_advance(settings.project)
processes = Processes(settings)
forked = processes._idle[0].process.pid
tasks = [json.loads(line) for line in sys.stdin]
pids = []
for task in tasks:
    pids.append(processes.begin(task, None))
    while not (ended := list(processes.ended())):
        time.sleep(0.01)
    print(ended[0].code, pids[-1] == forked)
processes.end_all()
"""


def test_a_process_forked_in_advance_takes_the_first_task_and_none_with_modules(
    tmp_path: Path, task: Callable[..., Any]
) -> None:
    (tmp_path / "steps_of_mine.py").write_text("def same(rows):\n    return rows\n")
    step = {"name": "mine", "python": {"call": "steps_of_mine:same", "columns": {"id": "bigint", "name": "text"}}}
    tasks = [task("a"), task("b"), task("c", transforms=[step])]
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path)],
        input="\n".join(map(json.dumps, tasks)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.stdout.splitlines() == ["0 True", "0 True", "0 False"], done.stdout + done.stderr


def test_a_discovery_that_finds_much_holds_up_nothing_else(processes: Processes) -> None:
    class Endless(queue.Queue[list[dict[str, Any]]]):
        def get_nowait(self) -> list[dict[str, Any]]:
            return []

    quick = SimpleNamespace(pages=Endless())
    processes._running = {"task": quick}  # type: ignore[dict-item]
    assert len(list(processes.found())) == module.PAGES
    processes._running = {}
