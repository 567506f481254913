"""Databases that cannot be used: one clear line each, the documented exit code, and nothing half-applied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.cli import doctor
from api.cli.errors import incident_lines
from api.cli.waiting import FIX, waiting_lines
from api.starter import PIPELINE, WAREHOUSE
from catalog.database import engine
from catalog.faults import incidents
from catalog.projection import Projector
from catalog.store import MetadataStore
from penstock.clock import now
from penstock.postgres import connect
from penstock.records import Record
from tests.agents.control_plane import pipeline, policy, postgres
from tests.api.project import Project, penstock
from tests.catalog.conftest import folded

ONE = {"max_running": 1, "per_connection": 1}
NOWHERE = "postgresql://u@127.0.0.1:1/nothing"


def apply(project: Project, folder: Path, name: str, **changes: str) -> None:
    """Return a pipeline of that name that does not retry, with changes."""
    text = PIPELINE.replace("name: orders", f"name: {name}") + "  errors: {retry: {attempts: 1}}\n"
    for old, new in changes.items():
        text = text.replace(f"connection: {old}", f"connection: {new}")
    (folder / f"{name}.yaml").write_text(text)
    project.done("apply", folder / "connections.yaml", folder / f"{name}.yaml")


@pytest.fixture
def guarded(running: Project) -> Iterator[str]:
    """Create a role of the embedded server that needs a password; return its DSN without one."""
    server = running.server
    with server.lease():
        hba = Path(running.sql("postgres", "SHOW hba_file")[0][0])
        before = hba.read_text()
        running.sql("postgres", "CREATE ROLE guest LOGIN PASSWORD 'right'")
        hba.write_text("local all guest scram-sha-256\n" + before)
        running.sql("postgres", "SELECT pg_reload_conf()")
        yield server.dsn(WAREHOUSE).replace("user=penstock", "user=guest")
        hba.write_text(before)
        running.sql("postgres", "SELECT pg_reload_conf()")
        running.sql("postgres", "DROP ROLE guest")


@pytest.mark.parametrize("side", ["shop", "warehouse"])
def test_an_unreachable_database(running: Project, tmp_path: Path, side: str) -> None:
    (tmp_path / "connections.yaml").write_text(f"nowhere: {{type: postgres, dsn: '{NOWHERE}'}}\n")
    apply(running, tmp_path, f"lost-{side}", **{side: "nowhere"})
    before = running.sql(WAREHOUSE, "SELECT count(*) FROM orders")
    said = running.do("run", f"lost-{side}", "--watch")
    assert said.code == 1
    assert "connection nowhere" in said.error
    assert said.err.splitlines()[-1].startswith("next: ")
    told = running.do("run", f"lost-{side}", "--watch", "--json").json
    assert told["error"]["code"] == "unavailable.unreachable"
    assert running.sql(WAREHOUSE, "SELECT count(*) FROM orders") == before


def test_a_failed_attempt_is_reported_before_the_next_one(running: Project, tmp_path: Path) -> None:
    (tmp_path / "connections.yaml").write_text(f"nowhere: {{type: postgres, dsn: '{NOWHERE}'}}\n")
    apply(running, tmp_path, "again", shop="nowhere")
    path = tmp_path / "again.yaml"
    path.write_text(path.read_text().replace("attempts: 1", "attempts: 2, base: 100ms"))
    running.done("apply", path)
    said = running.do("run", "again", "--watch")
    assert said.code == 1
    assert "attempt 1 failed" in said.out


def test_a_wrong_password(running: Project, tmp_path: Path, guarded: str) -> None:
    (running.folder / "secrets").mkdir(exist_ok=True)
    (running.folder / "secrets" / "guest").write_text("hunter2")
    secret = "${file:" + str(running.folder / "secrets" / "guest") + "}"
    (tmp_path / "connections.yaml").write_text(
        f"guarded: {{type: postgres, dsn: {json.dumps(guarded)}, password: {json.dumps(secret)}}}\n"
    )
    apply(running, tmp_path, "locked", warehouse="guarded")
    said = running.do("run", "locked", "--watch")
    assert said.code == 1
    assert "connection guarded" in said.error
    assert "password" in said.err
    assert "hunter2" not in said.err + said.out
    assert running.do("run", "locked", "--watch", "--json").json["error"]["code"] == "unavailable.access_denied"
    assert "hunter2" not in running.do("events", "--since", "0", "--json").out


@pytest.mark.parametrize("arguments", [("list",), ("apply",), ("events",), ("up", "--port", "0")])
def test_an_unreachable_database_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/nothing")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    more = [tmp_path / "pipeline.yaml"] if arguments == ("apply",) else []
    said = penstock(*arguments, *more, "--project", tmp_path)
    assert said.code == 1
    assert "127.0.0.1:1/nothing" in said.error
    assert "hunter2" not in said.err


def wrong(project: Project) -> dict[str, str]:
    """Return the checks of `doctor` that fail, with their fixes."""
    said = project.do("doctor", "--json")
    found = {one["check"]: one["fix"] for one in said.json if not one["well"]}
    assert said.code == (1 if found else 0)
    assert all(found.values())
    return found


def test_doctor_passes_a_sound_installation(running: Project) -> None:
    assert wrong(running) == {}
    said = running.do("doctor")
    assert "penstock up" in said.out
    assert "runs" in said.out


def test_doctor_asks_databases_on_the_embedded_server_while_it_is_up(project: Project) -> None:
    assert wrong(project) == {}


def test_doctor_finds_a_connection_that_does_not_answer(running: Project) -> None:
    path = running.folder / "connections.yaml"
    before = path.read_text()
    try:
        path.write_text(f"{before}nowhere: {{type: postgres, dsn: '{NOWHERE}'}}\n")
        assert list(wrong(running)) == ["connection nowhere"]
    finally:
        path.write_text(before)


def test_doctor_finds_another_owner_of_a_package(
    running: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "openai_agents-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: openai-agents\nVersion: 1.0\n")
    (info / "RECORD").write_text("agents/run.py,,\n")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/run.py").touch()  # without __init__.py: it hides nothing, and Python 3.12 skips missing files
    monkeypatch.syspath_prepend(tmp_path)
    assert "openai-agents" in metadata.packages_distributions()["agents"]
    assert wrong(running) == {"package agents": "pip uninstall openai-agents, or use an environment of its own"}


def test_doctor_finds_a_full_disk(running: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert list(wrong(running)) == ["disk"]


def test_doctor_finds_an_unsupported_python(running: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=(3, 13, 0)))
    assert wrong(running) == {"python": "install Python 3.11 or 3.12"}


def test_doctor_goes_on_without_a_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", NOWHERE)
    said = penstock("doctor", "--project", tmp_path, "--json")
    assert said.code == 1
    assert [one["check"] for one in said.json if not one["well"]] == ["installation"]
    assert len(said.json) > 5


def test_doctor_names_tasks_that_no_worker_takes(catalog: str) -> None:
    def record(type_: str, key: str, payload: dict[str, Any]) -> Record:
        return Record(type=type_, key=key, at=now(), actor="tests", payload=payload)

    waiting = [{"id": f"t{number}", "kind": "watch", "pipeline": "a"} for number in range(2)]
    log = [record("task.queued", one["id"], {"task": one}) for one in waiting]
    with MetadataStore(engine(catalog)) as store:
        folded(catalog, log, [])
        assert doctor._tasks(store).well, "without a worker, all wait for one to start"
        with Projector(catalog) as projector:
            start, reading = projector.position()
            joined = record("worker.joined", "w", {"worker": "w", "kinds": ["pipeline"], "slots": 1})
            projector.apply([(start, joined)], start + 1, reading)
        found = doctor._tasks(store)
    assert not found.well
    assert found.seen == "no worker takes these that wait: 2 of kind watch"


def test_a_queued_run_says_why_it_does_not_begin(catalog: str) -> None:
    def record(type_: str, key: str, payload: dict[str, Any]) -> Record:
        return Record(type=type_, key=key, at=now(), actor="tests", payload=payload)

    log = [
        record("connection.changed", "house", {"name": "house", "version": 1, "connection": postgres("house")}),
        record("worker.joined", "w", {"worker": "w", "kinds": ["cleanup"], "slots": 1}),
    ]
    for name, target in (("a", "t"), ("b", "public.t"), ("c", "other")):
        document = pipeline(name)
        document["spec"]["sink"]["object"] = target
        run: dict[str, Any] = {
            "id": f"r-{name}",
            "pipeline": name,
            "version": 1,
            "status": "queued",
            "requested_at": now().isoformat(),
        }
        task: dict[str, Any] = {"id": f"t-{name}", "kind": "pipeline", "pipeline": name, "run": run["id"]}
        log += [
            record("pipeline.created", name, {"name": name, "uid": name, "version": 1, "pipeline": document}),
            record("run.created", run["id"], {"run": run}),
            record("task.queued", task["id"], {"task": task}),
        ]
    given = {"task": "t-a", "worker": "w", "attempt": 1, "kind": "pipeline", "pipeline": "a", "uid": "a", "run": "r-a"}
    log.append(record("task.assigned", "t-a", {**given, "version": 1, "spec": pipeline("a"), "connections": {}}))

    def lines(name: str) -> list[str]:
        return list(waiting_lines(store, store.pipeline(name), store.runs(pipeline=name).items))

    with MetadataStore(engine(catalog)) as store:
        folded(catalog, log, [])
        said = {name: lines(name) for name in "bc"}
        limited = {"name": "default", "hash": "h1", "origin": "h", "policy": policy("default", orchestrator=ONE)}
        halt = {"agent": "lifecycle", "action": "halt", "subject": "agent orchestrator", "outcome": "acted"}
        more = [
            record("worker.joined", "w2", {"worker": "w2", "kinds": ["pipeline"], "slots": 1}),
            record("policy.accepted", "default", limited).replaced(kind="policy"),
            record("agent.decided", "agent orchestrator", halt | {"reason": "asked", "rules": 1}).replaced(
                cause=(1, 0)
            ),
        ]
        with Projector(catalog) as projector:
            start, reading = projector.position()
            projector.apply([(start + n, one) for n, one in enumerate(more)], start + len(more), reading)
        (halted, runs, *used, slot) = lines("c")
        watch = {"task": "t-w", "worker": "w2", "attempt": 1, "kind": "watch", "pipeline": "a", "uid": "a"}
        watch |= {"version": 1, "spec": pipeline("a"), "connections": {}}
        more = [
            record("worker.joined", "w3", {"worker": "w3", "kinds": ["pipeline"], "slots": 1}),
            record("task.queued", "t-w", {"task": {"id": "t-w", "kind": "watch", "pipeline": "a"}}),
            record("task.assigned", "t-w", watch),
        ]
        with Projector(catalog) as projector:
            start, reading = projector.position()
            projector.apply([(start + n, one) for n, one in enumerate(more)], start + len(more), reading)
        assert {one.kind for one in store.tasks(status="assigned").items} == {"pipeline", "watch"}
        free = lines("c")
    lacking = f"no worker takes tasks of kind pipeline: {FIX}"
    held = "waits for task t-a of a, which writes the same table, by writers_in_turn"
    assert said == {"b": [lacking, held], "c": [lacking]}
    assert halted.endswith("until `penstock agents resume orchestrator`")
    assert "max_running" in runs
    assert "waits for connection house, used by 1 task: `orchestrator.per_connection`" in used
    assert slot.startswith("waits for a slot: the workers have 1,")
    assert not any("waits for a slot" in one for one in free), "a task that looks for files takes none"


def test_what_is_said_of_an_incident_of_a_check_names_it(catalog: str) -> None:
    incident = {
        "id": "i1",
        "component": "check",
        "pipeline": "a",
        "fingerprint": "f",
        "kind": "data",
        "what": "differs",
    } | {"facts": {"component": "check", "subject": "a"}}
    opened = Record(type="incident.opened", key="i1", at=now(), actor="tests", payload=incident)
    folded(catalog, [opened], [])
    with closing(connect(catalog, "tests")) as session:
        (one,) = incidents(session, "a")
    assert [line.partition(", ")[2] for line in incident_lines([one])] == ["0 s ago: check a: differs"]
    (finding,) = doctor._components(catalog)
    assert finding.well, "no component of Penstock fails"
