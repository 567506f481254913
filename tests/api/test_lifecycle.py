"""Pipelines from the command line while `penstock up` runs: run, watch, pause, stop, delete, versions, the audit."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from api.starter import PIPELINE, SHOP, WAREHOUSE
from penstock import postgres
from tests.api.house import House, on_a_terminal, until

_numbers = count(1)
Make = Callable[..., str]


@pytest.fixture
def made(busy: House, tmp_path: Path) -> Make:
    """Apply a pipeline of its own, with a target table of its own; its name."""

    def make(name: str | None = None, **changes: str) -> str:
        name = name or f"p{next(_numbers)}"
        text = PIPELINE.replace("name: orders", f"name: {name}").replace(
            "warehouse, object: public.orders", f"warehouse, object: public.{name}"
        )
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / f"{name}.yaml").write_text(text)
        busy.sql(WAREHOUSE, f"CREATE TABLE IF NOT EXISTS {name} (LIKE orders INCLUDING ALL)")
        busy.done("apply", tmp_path / f"{name}.yaml")
        return name

    return make


def rows(house: House, name: str) -> int:
    return int(house.sql(WAREHOUSE, f"SELECT count(*) FROM {name}")[0][0])


def exact(house: House, name: str) -> bool:
    want = house.sql(SHOP, "SELECT count(*), sum(id), sum(CAST(price * quantity AS numeric(14,2))) FROM orders")
    return want == house.sql(WAREHOUSE, f"SELECT count(*), sum(order_id), sum(total) FROM {name}")


def test_a_run_is_followed_to_its_end(busy: House, made: Make) -> None:
    name = made()
    said = busy.do("run", name, "--watch")
    assert said.code == 0, said.err
    assert f"{name}: 10,000 rows in" in said.out
    assert said.out.splitlines()[-1].startswith("next: penstock why ")
    assert exact(busy, name)
    again = busy.done("run", name, "--watch")
    assert (again["status"], again["counters"]["rows_out"]) == ("completed", 0)
    told = busy.done("status", name)
    assert [run["status"] for run in told["runs"]] == ["completed", "completed"]
    assert [run["id"] for run in busy.done("runs", name)] == [run["id"] for run in told["runs"]]


def test_rows_are_read_again(busy: House, made: Make) -> None:
    name = made()
    assert "nothing was read yet" in busy.do("backfill", name, "--from", "1", "--to", "5", "--watch").err
    busy.done("run", name, "--watch")
    busy.sql(WAREHOUSE, f"UPDATE {name} SET total = 0")
    window = busy.done("backfill", name, "--from", "101", "--to", "201", "--watch")
    assert (window["counters"]["rows_out"], window["reload"]) == (100, {"rows": "window", "from": "101", "to": "201"})
    assert busy.sql(WAREHOUSE, f"SELECT count(*) FROM {name} WHERE total <> 0") == [(100,)]
    full = busy.done("run", name, "--full", "--watch")
    assert (full["counters"]["rows_out"], full["reload"]) == (10_000, {"rows": "all"})
    assert exact(busy, name)
    assert busy.done("run", name, "--watch")["counters"]["rows_out"] == 0
    shown = busy.do("runs", name).out
    assert "101 to 201" in shown
    said = busy.do("backfill", name, "--from", "201", "--to", "101", "--watch")
    assert (said.code, "the window is empty" in said.err) == (1, True)


def test_a_run_on_a_terminal_has_a_bar(busy: House, made: Make) -> None:
    said = on_a_terminal(["run", made(), "--watch", "--project", str(busy.folder)], busy.folder)
    assert "\u2501" in said or "\u2578" in said
    assert " rows " in said
    assert "/s" in said
    assert "\x1b[" in said


def test_a_run_without_watching_is_only_asked_for(busy: House, made: Make) -> None:
    name = made()
    asked = busy.done("run", name)
    until(lambda: busy.done("status", name)["runs"][0]["status"] == "completed", "the run")
    assert busy.done("status", name)["runs"][0]["id"] == asked["run"]


def test_pause_and_resume_and_stop(busy: House, made: Make) -> None:
    name = made()
    assert busy.done("pause", name)["status"] == "paused"
    refused = busy.do("run", name, "--watch")
    assert refused.code == 1
    assert "paused" in refused.error
    assert f"penstock resume {name}" in refused.err
    assert busy.done("resume", name)["status"] == "active"
    assert busy.done("stop", name)["status"] == "stopped"
    again = busy.do("pause", name)
    assert again.code == 1
    assert "stopped" in again.error


@pytest.fixture
def slow(busy: House, made: Make) -> Iterator[str]:
    """A pipeline whose run has begun and waits at its sink, for a lock that this test holds."""
    name = made()
    busy.done("run", name, "--watch")
    busy.sql(SHOP, "INSERT INTO orders SELECT max(id) + 1, 'late', 1, 1, now() FROM orders")
    with postgres.connect(busy.server.dsn(WAREHOUSE), "tests", autocommit=False) as session:
        session.execute(f"LOCK TABLE {name} IN SHARE MODE".encode())
        busy.done("run", name)
        until(lambda: busy.done("status", name)["runs"][0]["status"] == "running", "the run to begin")
        waiting = (
            "SELECT 1 FROM pg_stat_activity "
            "WHERE application_name ~ '^penstock:.*:[0-9]+$' AND wait_event_type = 'Lock'"
        )
        until(lambda: busy.sql(WAREHOUSE, waiting), "the run to wait at its sink")
        yield name


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_a_run_in_progress_is_ended_and_nothing_is_lost(busy: House, slow: str, verb: str) -> None:
    began = time.monotonic()
    busy.done(verb, slow)
    until(
        lambda: busy.done("status", slow)["runs"][0]["status"] not in {"running", "queued"} or verb == "pause",
        "the run to end",
    )
    assert time.monotonic() - began < 30
    assert rows(busy, slow) < 20_000
    run = busy.done("status", slow)["runs"][0]["id"]

    def halted() -> bool:
        told = busy.do("events", "--type", "task.halted", "--json").lines
        return any(record["payload"]["run"] == run for record in told)

    until(halted, "the worker to tell what was committed")


def test_after_a_pause_the_run_goes_on_and_is_exact(busy: House, made: Make) -> None:
    name = made()
    busy.done("run", name)
    busy.done("pause", name)
    busy.done("resume", name)
    until(lambda: busy.done("status", name)["runs"][0]["status"] not in {"running", "queued"}, "the run to end")
    busy.done("run", name, "--watch")
    assert exact(busy, name)


def test_delete_keeps_the_table_and_forgets_the_pipeline(busy: House, made: Make) -> None:
    name = made()
    busy.done("run", name, "--watch")
    assert busy.done("delete", name)["status"] == "deleted"
    assert rows(busy, name) > 0
    said = busy.do("status", name)
    assert said.code == 3
    assert name in said.error
    assert busy.sql(WAREHOUSE, f"SELECT count(*) FROM _penstock_positions WHERE sink LIKE '%{name}'")[0][0] == 0


def test_delete_with_a_run_in_progress(busy: House, slow: str) -> None:
    process = busy.start("delete", slow, "--yes", "--json")
    until(
        lambda: (
            busy.done("status", slow)["pipeline"]["status"] == "deleting" if busy.do("status", slow).code == 0 else True
        ),
        "it to be asked for",
    )
    process.kill()


def test_delete_with_its_table_is_refused_by_the_policy(busy: House, made: Make) -> None:
    name = made()
    said = busy.do("delete", name, "--drop-table", "--yes")
    assert said.code == 4
    assert "drop_table" in said.error
    assert busy.done("status", name)["pipeline"]["status"] == "active"
    assert busy.do("delete", name, "--drop-table", "--json").json["error"]["code"] == "refused.policy"


def test_delete_asks_first(busy: House, made: Make) -> None:
    name = made()
    process = busy.start("delete", name)
    assert process.wait(60) == 1
    assert busy.done("status", name)["pipeline"]["status"] == "active"


def test_versions_and_rollback(busy: House, made: Make) -> None:
    name = made()
    made(name, **{"upper(customer)": "lower(customer)"})
    assert [one["version"] for one in busy.done("versions", name)] == [1, 2]
    back = busy.done("rollback", name, "--to", "1")
    assert back["version"] == 3
    assert [one["rollback_of"] for one in busy.done("versions", name)] == [None, None, 1]
    assert busy.done("status", name)["pipeline"]["pipeline"]["spec"]["mapping"]["fields"][1]["sql"] == "upper(customer)"
    said = busy.do("rollback", name, "--to", "9")
    assert said.code == 3
    assert "9" in said.error
    for arguments in (("pause", name, "--expect", "1"), ("rollback", name, "--to", "1", "--expect", "2")):
        said = busy.do(*arguments)
        assert said.code == 1
        assert "version" in said.error
        assert "3" in said.err


@pytest.mark.parametrize("command", ["status", "run", "pause", "resume", "stop", "versions", "rollback", "delete"])
def test_a_pipeline_that_is_not_there(busy: House, command: str) -> None:
    more = {"rollback": ["--to", "1"], "delete": ["--yes"]}.get(command, [])
    said = busy.do(command, "ordres", *more)
    assert said.code == 3
    assert "ordres" in said.error
    assert "orders" in said.err
    assert busy.do(command, "ordres", *more, "--json").json["error"]["code"] == "not_found"


def test_lists_are_one_document_and_tables_for_people(busy: House) -> None:
    for arguments in (("list",), ("runs",), ("topics", "list"), ("topics", "lag")):
        assert isinstance(busy.done(*arguments), list)
        said = busy.do(*arguments)
        assert said.out.splitlines()[-1].startswith("next: penstock ")
        assert "\x1b" not in said.out


def test_events_are_one_line_each(busy: House, made: Make) -> None:
    name = made()
    said = busy.do("events", "--since", "0", "--json")
    offsets = [one["offset"] for one in said.lines]
    assert offsets == list(range(len(offsets)))
    applied = [
        one
        for one in busy.do("events", "--since", "0", "--type", "pipeline.apply", "--json").lines
        if one["key"] == name
    ]
    assert len(applied) == 1
    assert busy.do("events", "--since", "10m", "--json").lines[0]["offset"] == 0
    assert len(busy.do("events", "--limit", "3", "--json").lines) == 3
    assert len(busy.do("events", "--limit", "2", "--type", "pipeline.apply", "--json").lines) == 2
    assert busy.do("events", "--since", "2999-01-01", "--json").out == ""
    wrong = busy.do("events", "--since", "yesterday")
    assert wrong.code == 2
    assert "--since" in wrong.error
    nothing = busy.do("events", "--since", "999999")
    assert (nothing.code, nothing.err) == (0, "")


def test_events_are_followed(busy: House, made: Make) -> None:
    process = busy.start("events", "--follow", "--type", "pipeline.apply", "--json")
    assert process.stdout
    assert json.loads(process.stdout.readline())["type"] == "pipeline.apply", "what is there already"
    name = made()
    while json.loads(process.stdout.readline())["key"] != name:
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert "Traceback" not in process.stdout.read()


def test_topics_are_read_a_line_a_record(busy: House, made: Make) -> None:
    busy.done("run", made(), "--watch")
    for topic in ("control", "metrics"):
        lines = busy.do("topics", "tail", topic, "--from", "0", "--json").lines
        assert lines
        assert {"topic", "partition", "offset", "key", "value"} <= set(lines[0])
    assert busy.do("topics", "tail", "control", "--from", "0").out.startswith("0/0 ")
    said = busy.do("topics", "tail", "contrl")
    assert said.code == 3
    assert "`control`" in said.err


def test_why_goes_back_to_the_command(busy: House, made: Make) -> None:
    name = made()
    run = busy.done("run", name, "--watch")["id"]
    chain = busy.done("why", run)
    assert (chain[0]["type"], chain[0]["payload"]["run"]["status"]) == ("run.finished", "completed")
    assert chain[-1]["type"] == "run.start"
    assert busy.done("why", name)[0] == chain[0]
    command, offset = chain[-1]["id"], chain[-1]["offset"]
    assert busy.done("why", command)[-1]["offset"] == offset
    assert busy.done("why", str(offset))[0]["offset"] == offset
    decided = next(one for one in chain if one["type"] == "agent.decided")
    assert (
        busy.done("why", decided["payload"]["id"] if "id" in decided["payload"] else decided["id"])[0]["type"]
        == "agent.decided"
    )
    assert "because" in busy.do("why", run).out
    said = busy.do("why", "nothing-of-that-name")
    assert said.code == 3
    assert busy.do("why", "99999999").code == 3


def test_a_failed_run_tells_its_error_everywhere(busy: House, made: Make) -> None:
    name = made()
    busy.sql(WAREHOUSE, f"ALTER TABLE {name} DROP COLUMN total")
    said = busy.do("run", name, "--watch")
    assert said.code == 1
    assert "total" in said.error
    assert rows(busy, name) == 0
    (run,) = busy.done("runs", name)
    assert run["status"] == "failed"
    assert busy.done("why", run["id"])[0]["type"] == "run.finished"
    assert "total" in busy.do("why", run["id"]).out
    told = busy.do("run", name, "--watch", "--json")
    assert (told.code, told.json["error"]["code"]) == (1, "schema.missing_column")


def test_a_missing_table_is_named_with_the_nearest_one(busy: House, made: Make) -> None:
    name = made(None, **{"shop, object: public.orders": "shop, object: public.ordres"})
    said = busy.do("run", name, "--watch")
    assert said.code == 1
    assert "ordres" in said.error
    assert "did you mean `public.orders`?" in said.err
    assert rows(busy, name) == 0


def test_commands_beside_up_start_nothing_and_are_quick(busy: House) -> None:
    before = {one.pid for one in busy.processes()}
    process = busy.start("list", "--json")
    seen: set[int] = set()
    while process.poll() is None:
        seen |= {one.pid for one in busy.processes() if "dataflows.runtime.flows" in _words(one)}
    assert process.returncode == 0
    assert seen <= before


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def test_a_pod_s_flow_runs_one_run(busy: House, made: Make) -> None:
    name = made()
    process = busy.start("flow", "pipeline", name)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert json.loads(out.splitlines()[-1])["status"] == "completed"
    assert exact(busy, name)
    said = busy.do("flow", "contrl")
    assert said.code == 3
    assert "`control`" in said.err
    assert busy.do("flow", "pipeline").code == 2
    assert busy.do("flow", "pipeline", "nothing").code == 3
