"""Pipelines from the command line while `penstock up` runs: run, watch, pause, stop, delete, versions, the audit."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.client import connected
from api.starter import SHOP, WAREHOUSE
from catalog.differences import Differences
from penstock import postgres
from penstock.settings import load
from tests.api.conftest import Make
from tests.api.project import Project, on_a_terminal, until


def rows(project: Project, name: str) -> int:
    return int(project.sql(WAREHOUSE, f"SELECT count(*) FROM {name}")[0][0])


def exact(project: Project, name: str) -> bool:
    want = project.sql(SHOP, "SELECT count(*), sum(id), sum(CAST(price * quantity AS numeric(14,2))) FROM orders")
    return want == project.sql(WAREHOUSE, f"SELECT count(*), sum(order_id), sum(total) FROM {name}")


def test_both_sides_are_compared_and_the_result_is_recorded(running: Project, made: Make) -> None:
    name = made()
    early = running.do("check", name)
    assert (early.code, "nothing was loaded yet" in early.err) == (1, True), early.err
    running.done("run", name, "--watch")
    said = running.do("check", name)
    assert (said.code, "both sides agree (10,000 rows" in said.out) == (0, True), said.err
    running.sql(WAREHOUSE, f"UPDATE {name} SET total = total + 1 WHERE order_id = 17")
    running.sql(WAREHOUSE, f"DELETE FROM {name} WHERE order_id = 18")
    said = running.do("check", name, "--json")
    found = said.json
    assert (said.code, found["agree"], found["missing"], found["changed"], found["extra"]) == (1, False, 1, 1, 0)
    assert {(one["key"]["order_id"], *one["columns"]) for one in found["differences"]} == {(17, "total"), (18,)}
    assert "both sides differ (10,000 rows of the source, 9,999 of the target)" in running.do("status", name).out
    kept = running.do("status", name, "--json").json["pipeline"]["checked"]
    assert (kept["missing"], kept["agree"], "differences" in kept) == (1, False, False)
    with connected(load(running.folder)) as client, contextlib.closing(Differences(client.site.catalog_dsn)) as keys:
        uid = client.store.pipeline(name).uid
        assert (keys.get(uid) or {})["missing"] == 1
        running.done("delete", name)
        until(lambda: keys.get(uid) is None, "the keys of a deleted pipeline to be deleted")


def test_a_check_by_schedule_reports_what_differs(running: Project, made: Make) -> None:
    name = made(**{"  sink:": "  check: {every: 1s}\n  sink:"})
    early = running.do("check", name, "--last")
    assert (early.code, "--full" in early.out) == (1, False), early.out
    running.done("run", name, "--watch")

    def checked(*, agree: bool) -> dict[str, Any] | None:
        found = dict(running.do("status", name, "--json").json)
        one = found["pipeline"]["checked"]
        return found if one and one.get("task") and one["agree"] is agree else None

    found = until(lambda: checked(agree=True), "a check by schedule")
    assert (found["pipeline"]["checked"]["source_rows"], [*found["next_comparisons"]]) == (10_000, ["check"])
    assert running.do("check", name, "--last").code == 0
    running.sql(WAREHOUSE, f"DELETE FROM {name} WHERE order_id = 18")
    until(lambda: checked(agree=False), "a check that finds the missing row")
    assert f"next: penstock check {name} --last" in running.do("status", name).out
    said = running.do("check", name, "--last", "--json")
    assert (said.code, said.json["missing"], said.json["differences"][0]["key"]) == (1, 1, {"order_id": 18})
    assert "both sides differ: 1 missing" in running.do("list", "--failed").out
    running.sql(WAREHOUSE, f"ALTER TABLE {name} RENAME TO {name}_away")
    until(
        lambda: (checked(agree=False) or {"pipeline": {"checked": {}}})["pipeline"]["checked"].get("error"), "an error"
    )
    said = running.do("check", name, "--last", "--json")
    assert (said.code, said.json["differences"]) == (1, []), "the keys are those of an earlier check"
    assert "--full" not in running.do("check", name, "--last").out
    running.done("pause", name)
    assert running.do("status", name, "--json").json["next_comparisons"] == {}


def test_rows_that_are_gone_from_the_source_are_marked(running: Project, made: Make, tmp_path: Path) -> None:
    merging = {"write: append}": "write: merge, key: [order_id]}\n  deletes: {compare: keys, mark: gone, limit: 1%}"}
    name = made(**merging)
    running.sql(WAREHOUSE, f"ALTER TABLE {name} ADD COLUMN gone timestamptz")
    early = running.do("deletes", name)
    assert (early.code, "nothing was loaded yet" in early.err) == (1, True), early.err
    running.done("run", name, "--watch")
    written = running.folder / "pipelines" / f"{name}.yaml"
    written.write_text((tmp_path / f"{name}.yaml").read_text().replace("limit: 1%", "limit: 99%"))
    early = running.do("deletes", name)
    assert (early.code, "is not applied as the files have it" in early.err) == (1, True), early.err
    written.unlink()
    running.sql(SHOP, "CREATE TABLE kept AS SELECT * FROM orders WHERE id <= 200; DELETE FROM orders WHERE id <= 200")
    try:
        said = running.do("deletes", name)
        assert (said.code, f"penstock deletes {name} --limit 2%" in said.err) == (1, True), said.err
        assert "deletes were not" in running.do("list", "--failed").out
        assert running.done("deletes", name, "--limit", "2%")["found"]["removed"] == 200
        assert running.sql(WAREHOUSE, f"SELECT count(*) FROM {name} WHERE gone IS NOT NULL") == [(200,)]
        assert running.do("check", name).code == 0, "marked rows are gone, for a check too"
        assert "200 marked in gone (9,800 at the source, 10,000 in the target)" in running.do("status", name).out
    finally:
        running.sql(SHOP, "INSERT INTO orders SELECT * FROM kept; DROP TABLE kept")
    assert running.done("deletes", name)["found"]["returned"] == 200
    assert "0 marked in gone, 200 returned (10,000 at" in running.do("status", name).out
    assert running.do("deletes", "nobody").code == 3


def test_a_run_is_followed_to_its_end(running: Project, made: Make) -> None:
    name = made()
    said = running.do("run", name, "--watch")
    assert said.code == 0, said.err
    assert f"{name}: 10,000 rows in" in said.out
    assert said.out.splitlines()[-1].startswith("next: penstock why ")
    assert exact(running, name)
    again = running.done("run", name, "--watch")
    assert (again["status"], again["counters"]["rows_out"]) == ("completed", 0)
    found = running.done("status", name)
    assert [run["status"] for run in found["runs"]] == ["completed", "completed"]
    assert [run["id"] for run in running.done("runs", name)] == [run["id"] for run in found["runs"]]


def test_rows_are_read_again(running: Project, made: Make) -> None:
    name = made()
    assert (
        "nothing was read yet, and a backfill only reads rows again"
        in running.do("backfill", name, "--from", "1", "--to", "5", "--watch").err
    )
    running.done("run", name, "--watch")
    running.sql(WAREHOUSE, f"UPDATE {name} SET total = 0")
    window = running.done("backfill", name, "--from", "101", "--to", "201", "--watch")
    assert (window["counters"]["rows_out"], window["reload"]) == (100, {"rows": "window", "from": "101", "to": "201"})
    assert running.sql(WAREHOUSE, f"SELECT count(*) FROM {name} WHERE total <> 0") == [(100,)]
    full = running.done("run", name, "--full", "--watch")
    assert (full["counters"]["rows_out"], full["reload"]) == (10_000, {"rows": "all"})
    assert exact(running, name)
    assert running.done("run", name, "--watch")["counters"]["rows_out"] == 0
    shown = running.do("runs", name).out
    assert "101 to 201" in shown
    said = running.do("backfill", name, "--from", "201", "--to", "101", "--watch")
    assert (said.code, "the window is empty" in said.err) == (1, True)


def test_a_run_on_a_terminal_has_a_bar(running: Project, made: Make) -> None:
    said = on_a_terminal(["run", made(), "--watch", "--project", str(running.folder)], running.folder)
    assert "\u2501" in said or "\u2578" in said
    assert " rows " in said
    assert "/s" in said
    assert "\x1b[" in said


def test_a_run_without_watch_is_only_asked_for(running: Project, made: Make) -> None:
    name = made()
    asked = running.done("run", name)
    until(lambda: running.done("status", name)["runs"][0]["status"] == "completed", "the run")
    assert running.done("status", name)["runs"][0]["id"] == asked["run"]


def test_pause_and_resume_and_stop(running: Project, made: Make) -> None:
    name = made()
    assert running.done("pause", name)["status"] == "paused"
    refused = running.do("run", name, "--watch")
    assert refused.code == 1
    assert "paused" in refused.error
    assert f"penstock resume {name}" in refused.err
    assert running.done("resume", name)["status"] == "active"
    assert running.done("stop", name)["status"] == "stopped"
    again = running.do("pause", name)
    assert again.code == 1
    assert "stopped" in again.error


@pytest.fixture
def slow(running: Project, made: Make) -> Iterator[str]:
    """Start a run that waits at its sink for a lock of this test; return its pipeline."""
    name = made()
    running.done("run", name, "--watch")
    with contextlib.ExitStack() as left:
        left.callback(running.sql, SHOP, "DELETE FROM orders WHERE customer = 'late'")
        running.sql(SHOP, "INSERT INTO orders SELECT max(id) + 1, 'late', 1, 1, now() FROM orders")
        session = left.enter_context(postgres.connect(running.server.dsn(WAREHOUSE), "tests", autocommit=False))
        session.execute(f"LOCK TABLE {name} IN SHARE MODE".encode())
        running.done("run", name)
        until(lambda: running.done("status", name)["runs"][0]["status"] == "running", "the run to begin")
        waiting = (
            "SELECT 1 FROM pg_stat_activity "
            "WHERE application_name ~ '^penstock:.*:[0-9]+$' AND wait_event_type = 'Lock'"
        )
        until(lambda: running.sql(WAREHOUSE, waiting), "the run to wait at its sink")
        yield name


NAPPING = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: napping}
spec:
  source: {connection: shop, object: public.naps}
  sink: {connection: warehouse, object: public.naps, write: replace}
"""


def test_status_says_that_nothing_moves(running: Project, tmp_path: Path) -> None:
    running.sql(SHOP, "CREATE VIEW naps AS SELECT 1 AS id, CAST(pg_sleep(30) AS text) AS nap")
    (tmp_path / "napping.yaml").write_text(NAPPING)
    running.done("apply", tmp_path / "napping.yaml")
    running.done("run", "napping")
    assert until(lambda: running.done("status", "napping")["idle"], "the run to report that it waits") >= 10
    found = re.search(r"nothing has moved for (\d+)\.\d s", running.do("status", "napping").out)
    assert found
    assert 10 <= int(found[1]) < 60
    running.done("stop", "napping")


@pytest.mark.parametrize("verb", ["pause", "stop"])
def test_a_run_in_progress_is_ended_and_nothing_is_lost(running: Project, slow: str, verb: str) -> None:
    began = time.monotonic()
    running.done(verb, slow)
    until(
        lambda: running.done("status", slow)["runs"][0]["status"] not in {"running", "queued"} or verb == "pause",
        "the run to end",
    )
    assert time.monotonic() - began < 30
    assert rows(running, slow) < 20_000
    run = running.done("status", slow)["runs"][0]["id"]

    def halted() -> bool:
        found = running.do("events", "--type", "task.halted", "--json").lines
        return any(record["payload"].get("run") == run for record in found)

    until(halted, "the worker to tell what was committed")


def test_after_a_pause_the_run_goes_on_and_is_exact(running: Project, made: Make) -> None:
    name = made()
    running.done("run", name)
    running.done("pause", name)
    running.done("resume", name)
    until(lambda: running.done("status", name)["runs"][0]["status"] not in {"running", "queued"}, "the run to end")
    running.done("run", name, "--watch")
    assert exact(running, name)


def test_delete_keeps_the_table_and_forgets_the_pipeline(running: Project, made: Make) -> None:
    name = made()
    running.done("run", name, "--watch")
    assert running.done("delete", name)["status"] == "deleted"
    assert rows(running, name) > 0
    said = running.do("status", name)
    assert said.code == 3
    assert name in said.error
    assert running.sql(WAREHOUSE, f"SELECT count(*) FROM _penstock_positions WHERE sink LIKE '%{name}'")[0][0] == 0


def test_delete_with_a_run_in_progress(running: Project, slow: str) -> None:
    process = running.start("delete", slow, "--yes", "--json")

    def asked_for() -> bool:
        said = running.do("status", slow, "--json")
        return said.code == 3 or said.json["pipeline"]["status"] == "deleting"

    until(asked_for, "it to be asked for")
    process.kill()


def test_delete_with_its_table_is_refused_by_the_policy(running: Project, made: Make) -> None:
    name = made()
    said = running.do("delete", name, "--drop-table", "--yes")
    assert said.code == 4
    assert "drop_table" in said.error
    assert running.done("status", name)["pipeline"]["status"] == "active"
    assert running.do("delete", name, "--drop-table", "--json").json["error"]["code"] == "refused.policy"


def test_delete_asks_first(running: Project, made: Make) -> None:
    name = made()
    process = running.start("delete", name)
    assert process.wait(60) == 1
    assert running.done("status", name)["pipeline"]["status"] == "active"


def test_versions_and_rollback(running: Project, made: Make) -> None:
    name = made()
    made(name, **{"upper(customer)": "lower(customer)"})
    assert [one["version"] for one in running.done("versions", name)] == [1, 2]
    back = running.done("rollback", name, "--to", "1")
    assert back["version"] == 3
    assert [one["rollback_of"] for one in running.done("versions", name)] == [None, None, 1]
    assert (
        running.done("status", name)["pipeline"]["pipeline"]["spec"]["mapping"]["fields"][1]["sql"] == "upper(customer)"
    )
    said = running.do("rollback", name, "--to", "9")
    assert said.code == 3
    assert "9" in said.error
    for arguments in (("pause", name, "--expect", "1"), ("rollback", name, "--to", "1", "--expect", "2")):
        said = running.do(*arguments)
        assert said.code == 1
        assert "version" in said.error
        assert "3" in said.err


def test_lists_are_one_document_and_tables_for_people(running: Project) -> None:
    for arguments in (("list",), ("runs",), ("topics", "list"), ("topics", "lag")):
        assert isinstance(running.done(*arguments), list)
        said = running.do(*arguments)
        assert said.out.splitlines()[-1].startswith("next: penstock ")
        assert "\x1b" not in said.out


def test_events_are_one_line_each(running: Project, made: Make) -> None:
    name = made()
    said = running.do("events", "--since", "0", "--json")
    offsets = [one["offset"] for one in said.lines]
    assert offsets == list(range(len(offsets)))
    applied = [
        one
        for one in running.do("events", "--since", "0", "--type", "pipeline.apply", "--json").lines
        if one["key"] == name
    ]
    assert len(applied) == 1
    assert running.do("events", "--since", "1d", "--json").lines[0]["offset"] == 0
    assert len(running.do("events", "--limit", "3", "--json").lines) == 3
    assert len(running.do("events", "--limit", "2", "--type", "pipeline.apply", "--json").lines) == 2
    assert running.do("events", "--since", "2999-01-01", "--json").out == ""
    wrong = running.do("events", "--since", "yesterday")
    assert wrong.code == 2
    assert "--since" in wrong.error
    nothing = running.do("events", "--since", "999999")
    assert (nothing.code, nothing.err) == (0, "")


def test_events_are_followed(running: Project, made: Make) -> None:
    process = running.start("events", "--follow", "--type", "pipeline.apply", "--json")
    assert process.stdout
    assert json.loads(process.stdout.readline())["type"] == "pipeline.apply", "what is there already"
    name = made()
    while json.loads(process.stdout.readline())["key"] != name:
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert "Traceback" not in process.stdout.read()


def test_topics_are_read_a_line_a_record(running: Project, made: Make) -> None:
    running.done("run", made(), "--watch")
    for topic in ("control", "metrics"):
        lines = running.do("topics", "tail", topic, "--from", "0", "--json").lines
        assert lines
        assert {"topic", "partition", "offset", "key", "value"} <= set(lines[0])
    assert running.do("topics", "tail", "control", "--from", "0").out.startswith("0/0 ")
    said = running.do("topics", "tail", "contrl")
    assert said.code == 3
    assert "`control`" in said.err


def test_why_goes_back_to_the_command(running: Project, made: Make) -> None:
    name = made()
    run = running.done("run", name, "--watch")["id"]
    chain = running.done("why", run)
    assert (chain[0]["type"], chain[0]["payload"]["run"]["status"]) == ("run.finished", "completed")
    assert chain[-1]["type"] == "run.start"
    assert running.done("why", name)[0] == chain[0]
    command, offset = chain[-1]["id"], chain[-1]["offset"]
    assert running.done("why", command)[-1]["offset"] == offset
    assert running.done("why", str(offset))[0]["offset"] == offset
    decided = next(one for one in chain if one["type"] == "agent.decided")
    assert (
        running.done("why", decided["payload"]["id"] if "id" in decided["payload"] else decided["id"])[0]["type"]
        == "agent.decided"
    )
    assert "because" in running.do("why", run).out
    said = running.do("why", "nothing-of-that-name")
    assert said.code == 3
    assert running.do("why", "99999999").code == 3


def test_a_failed_run_shows_its_error_everywhere(running: Project, made: Make) -> None:
    name = made()
    running.sql(WAREHOUSE, f"ALTER TABLE {name} DROP COLUMN total")
    said = running.do("run", name, "--watch")
    assert said.code == 1
    assert "total" in said.error
    assert rows(running, name) == 0
    (run,) = running.done("runs", name)
    assert run["status"] == "failed"
    assert running.done("why", run["id"])[0]["type"] == "run.finished"
    assert "total" in running.do("why", run["id"]).out
    found = running.do("run", name, "--watch", "--json")
    assert (found.code, found.json["error"]["code"]) == (1, "schema.missing_column")


def test_a_missing_table_is_named_with_the_nearest_one(running: Project, made: Make) -> None:
    name = made(None, **{"shop, object: public.orders": "shop, object: public.ordres"})
    said = running.do("run", name, "--watch")
    assert said.code == 1
    assert "ordres" in said.error
    assert "did you mean `public.orders`?" in said.err
    assert rows(running, name) == 0


def test_commands_next_to_up_start_nothing_and_are_quick(running: Project) -> None:
    before = {one.pid for one in running.processes()}
    process = running.start("list", "--json")
    seen: set[int] = set()
    while process.poll() is None:
        seen |= {one.pid for one in running.processes() if "dataflows.runtime.flows" in _words(one)}
    assert process.returncode == 0
    assert seen <= before


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def test_a_flow_of_a_pipeline_runs_it_once(running: Project, made: Make) -> None:
    name = made()
    process = running.start("flow", "pipeline", name)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert json.loads(out.splitlines()[-1])["status"] == "completed"
    assert exact(running, name)
    said = running.do("flow", "contrl")
    assert said.code == 3
    assert "`control`" in said.err
    assert running.do("flow", "pipeline").code == 2
    assert running.do("flow", "pipeline", "nothing").code == 3


def test_a_command_with_an_idempotency_key_is_sent_once(running: Project, made: Make) -> None:
    name = made()
    with connected(load(running.folder)) as client:
        first = client.ask("pipeline.pause", name, {"name": name}, idempotency_key=f"pause {name}")
        commands = "SELECT count(*) FROM catalog.commands"
        before = running.sql("penstock", commands)
        again = client.ask("pipeline.pause", name, {"name": name}, idempotency_key=f"pause {name}")
    assert (again.status, again.offset) == (first.status, first.offset) == ("applied", first.offset)
    assert running.sql("penstock", commands) == before
