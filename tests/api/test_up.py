"""`penstock up` as a process: it starts once, prints its address, ends cleanly, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

from api.starter import SHOP, WAREHOUSE
from tests.api.project import Project, until

EXACT = {"lost": 0, "doubled": 0}


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_and_readiness(running: Project) -> None:
    assert get(f"{running.address}/healthz") == (200, "ok\n")
    assert get(f"{running.address}/readyz") == (200, "ok\n")
    assert get(f"{running.address}/else")[0] == 404


def test_a_second_one_for_the_same_project_is_refused(running: Project) -> None:
    second = running.start("up", "--port", "0")
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "is already running here" in out
    assert "Traceback" not in out
    assert running.done("list")


def test_a_port_in_use_is_reported_before_anything_starts(folder: Path) -> None:
    project = Project(folder)
    (folder / "penstock.toml").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = project.start("up", "--port", port)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"error: 127.0.0.1:{port}: another process listens on this port" in out
    assert "next: choose another one by --port" in out
    assert not (folder / ".penstock").exists()


def test_it_ends_cleanly_and_restarts_a_child_that_dies(project: Project) -> None:
    process, started = project.up()
    assert set(started["pids"]) == {"control", "worker"}
    os.kill(started["pids"]["control"], signal.SIGKILL)
    assert {one["change"] for one in project.done("apply")} == {"changed"}
    (killed,) = until(lambda: project.do("events", "--type", "component.failed", "--json").lines, "a record of that")
    assert killed["payload"]["component"] == "control-projector-scheduler"
    assert "killed by signal 9" in killed["payload"]["error"]["what"]
    assert project.done("errors", "--incidents") == [], "it may pass"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert "control+projector+scheduler ended with -9" in out
    assert process.returncode == 0
    assert project.processes() == []


def test_terminated_it_ends_cleanly_and_killed_it_leaves_nothing_running(project: Project) -> None:
    process, _ = project.up()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert project.processes() == []
    process, _ = project.up()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: project.processes() == [], "its children to end by themselves, and the server with the last of them")
    assert project.done("list") == []
    assert project.processes() == []


def test_a_project_works_as_it_is_without_up_also_side_by_side(project: Project) -> None:
    assert {one["change"] for one in project.done("apply")} == {"changed"}
    runs = [project.start("run", "orders", "--watch") for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said
    assert project.differences() == EXACT
    assert all("10,000 rows in" in one or "0 rows in" in one for one in said), said
    assert project.processes() == []


def test_a_flow_of_one_pipeline_keeps_the_server_while_it_runs_leaves_no_record_and_asks_whether_it_is_active(
    project: Project,
) -> None:
    project.done("apply")
    before = project.done("topics", "lag")[0]["end"]
    process = project.start("flow", "pipeline", "orders")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert json.loads(out.splitlines()[-1])["counters"]["rows_out"] == 10_000
    assert project.differences() == EXACT
    assert project.done("topics", "lag")[0]["end"] == before
    assert "no record" in project.do("flow", "--help").out
    project.sql(SHOP, "INSERT INTO orders SELECT max(id) + 1, 'late', 1, 1, now() FROM orders")
    for verb, status in (("pause", "paused"), ("stop", "stopped")):
        project.done(verb, "orders")
        said = project.do("flow", "pipeline", "orders")
        assert said.code == 1
        assert status in said.error
        assert "penstock resume orders" in said.err
    assert project.sql(WAREHOUSE, "SELECT count(*) FROM orders") == [(10_000,)]


def test_an_interrupted_run_leaves_nothing_running(project: Project) -> None:
    project.done("apply")
    with project.server.lease():
        project.sql(WAREHOUSE, "ALTER TABLE orders ADD CONSTRAINT slow CHECK (pg_sleep(0.02) IS NOT NULL)")
        process = project.start("run", "orders", "--watch")
        assert process.stdout
        until(lambda: "orders: " in process.stdout.readline(), "the run to begin")  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "stopped" in process.stdout.read()
        project.sql(WAREHOUSE, "ALTER TABLE orders DROP CONSTRAINT slow")
    said = project.do("run", "orders", "--watch")
    assert said.code == 0, said.err
    until(lambda: project.differences() == EXACT, "the run that was cut off, and the one after it")
    assert project.processes() == []


def test_a_server_that_restarts_leaves_one_line_in_each_log_and_after_a_killed_one_everything_goes_on(
    project: Project,
) -> None:
    said = project.folder / "up.log"
    with said.open("w") as out:
        process = project.start("up", "--port", "0", "--json", out=out)
    address = json.loads(until(said.read_text, "`up` to start"))["health"]
    project.done("apply")
    with project.server.lease():
        slow = "CHECK (order_id % 100 > 0 OR pg_sleep(0.03) IS NOT NULL)"
        project.sql(WAREHOUSE, f"ALTER TABLE orders ADD CONSTRAINT slow {slow}")
    run = project.done("run", "orders")["run"]
    until(lambda: "running" in str(project.done("runs", "orders")), "the run to begin")
    logs = [project.folder / ".penstock" / "logs" / f"{name}.log" for name in ("control", "worker")]
    before = [path.read_text() for path in logs]
    project.server.stop()
    until(lambda: get(f"{address}/readyz")[0] == 200, "it is ready again")
    until(lambda: project.differences() == EXACT, "the run to go on")
    assert {one["status"] for one in project.done("runs", "orders") if one["id"] == run} == {"completed"}
    for path, earlier in zip(logs, before, strict=True):
        lines = [line for line in path.read_text().removeprefix(earlier).splitlines() if "ERROR" in line]
        assert len(lines) == 1, lines
        assert "the session was lost" in lines[0] or "SQLSTATE 57P01" in lines[0]  # as it waited, or within a statement
    everything = "".join(path.read_text() for path in (said, *project.folder.rglob("log"), *logs))
    for word in ("Traceback", "panicked", "backtrace", "stack"):
        assert word not in everything
    server = project.server.pid
    assert server
    os.kill(server, signal.SIGKILL)
    until(lambda: get(f"{address}/readyz")[0] == 503, "it is no longer ready")
    until(lambda: get(f"{address}/readyz")[0] == 200, "it is ready again")
    assert [one["name"] for one in project.done("list")] == ["orders"]
    assert project.done("run", "orders", "--watch")["status"] == "completed"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
