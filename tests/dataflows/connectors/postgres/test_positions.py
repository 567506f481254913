"""The state of a pipeline at its sink is used only with the cursor and mode that made it, and reported as it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from dataflows.connectors.postgres.session import connect
from dataflows.runs.job import Job
from dataflows.runs.publish import drop_state
from tests.dataflows.conftest import result
from tests.dataflows.flows.installation import until

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers

EXACT = {"lost": 0, "doubled": 0}


def by(task: dict[str, Any], cursor: str) -> dict[str, Any]:
    """Return the task with another cursor."""
    task["pipeline"]["spec"]["source"]["cursor"] = {"field": cursor, "ordered": True}
    return task


def refused(launchers: Launchers, task: dict[str, Any]) -> str:
    found = launchers.run(task)
    assert (found["status"], found["error"]["code"]) == ("failed", "refused"), found
    return f"{found['error']['what']}; {found['error']['hint']}"


def test_append_after_replace_is_refused(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    assert launchers.run(made.task("r1"))["status"] == "completed"
    made.write = "append"
    words = refused(launchers, made.task("r2"))
    assert "keep write: replace" in words
    assert "penstock run items --full" in words
    assert made.differences() == EXACT
    made.write = "replace"
    assert launchers.run(made.task("r3"))["status"] == "completed"
    assert made.differences() == EXACT


def test_append_after_a_replace_that_published_nothing(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    assert "killed" in launchers.run(made.task("r1"), "commit.done:1=kill")
    made.write = "append"
    assert launchers.run(made.task("r2"))["status"] == "completed"
    assert made.differences() == EXACT
    assert made.leftovers() == 0


def test_replace_after_append_and_back(copy: Callable[..., Copy], launchers: Launchers) -> None:
    """A replace is always allowed, since it loads all rows. Rows of an unfinished append are not appended again."""
    for cut in ("commit.done:1=kill", None):
        made = copy("append")
        launchers.run(made.task("r1"), cut)
        made.write = "replace"
        assert "killed" in launchers.run(made.task("r2"), "commit.done:0=kill")
        made.write = "append"
        if cut:
            assert "replace" in refused(launchers, made.task("r3"))
        else:
            assert launchers.run(made.task("r3"))["status"] == "completed"
            assert made.differences() == EXACT
        made.write = "replace"
        assert launchers.run(made.task("r4"))["status"] == "completed"
        assert made.differences() == EXACT


def test_another_cursor_is_refused_once_rows_were_loaded_by_the_first(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    for cut in ("commit.done:1=kill", None):
        made = copy("append")
        launchers.run(made.task("r1"), cut)
        words = refused(launchers, by(made.task("r2"), "at"))
        assert "`id`" in words
        assert "`at`" in words
        assert launchers.run(made.task("r3"))["status"] == "completed"
        assert made.differences() == EXACT
    made = copy("append")
    assert "killed" in launchers.run(made.task("r1"), "commit.before_fence:0=kill")
    assert launchers.run(by(made.task("r2"), "at"))["status"] == "completed"
    assert made.differences() == EXACT


def test_a_run_that_comes_back_with_another_cursor_is_refused(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    assert "killed" in launchers.run(made.task("r1"), "commit.done:1=kill")
    assert "`id`" in refused(launchers, by(made.task("r1", attempt=2), "at"))


def test_two_pipelines_that_begin_in_a_new_schema(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    task = made.task("r1")
    task["pipeline"]["spec"]["sink"]["object"] = "fresh.items"
    with psycopg.connect(made.dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.positions'))")
        other.execute("CREATE SCHEMA fresh")
        pid = launchers.start(task)
        assert launchers.wait(pid, 1) == {"running": True}
        other.commit()
    assert launchers.wait(pid) == {"code": 0}
    assert made.value("SELECT count(*) FROM fresh.items") == made.value("SELECT count(*) FROM items")


def test_a_launcher_that_wakes_after_its_pipeline_was_deleted(copy: Callable[..., Copy], launchers: Launchers) -> None:
    for point in ("prepare.state_made", "prepare.planned", "commit.before_fence:1"):
        made = copy("append")
        task = made.task("r1")
        pid = launchers.stopped(task, point)
        for _ in range(2):
            drop_state(Job.from_task(made.task("r1")))
        os.kill(pid, signal.SIGCONT)
        assert launchers.wait(pid) == {"code": 1}
        assert result(task)["status"] in {"failed", "fenced"}
        assert launchers.run(made.task("r2"))["error"]["code"] == "fenced"
        assert made.value(f"SELECT count(*) FROM w._penstock_positions WHERE pipeline = '{made.uid}'") == 0
        assert made.leftovers() == 0
        assert made.value(f"SELECT count(*) FROM {made.target}") < 400


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_run_reports_what_it_committed(copy: Callable[..., Copy], launchers: Launchers, workers: int) -> None:
    made = copy("append", workers=workers)
    made.session.execute(f"ALTER TABLE {made.target} ADD CHECK (name <> 'item 320')")
    broken = launchers.run(made.task("r1"))
    assert broken["status"] == "failed"
    loaded = made.value(f"SELECT count(*) FROM {made.target}")
    assert loaded >= 200 * (workers == 1)
    again = launchers.run(made.task("r1", attempt=2))
    assert (again["status"], again["resumed"]) == ("failed", loaded > 0)
    assert loaded <= again["counters"]["rows_out"] == made.value(f"SELECT count(*) FROM {made.target}")
    for found, rows in ((broken, loaded), (again, made.value(f"SELECT count(*) FROM {made.target}"))):
        counters = found["counters"]
        assert (counters["rows_in"], counters["rows_out"]) == (rows, rows)
        assert counters["rows_in"] == counters["rows_out"] + counters["filtered"] + counters["dead"]
    made.session.execute(f"ALTER TABLE {made.target} DROP CONSTRAINT {made.target[2:]}_name_check")
    done = launchers.run(made.task("r1", attempt=3))
    assert (done["status"], done["resumed"]) == ("completed", again["counters"]["rows_out"] > 0)
    assert done["counters"]["rows_out"] == made.value(f"SELECT count(*) FROM {made.target}")
    assert made.differences() == EXACT


def test_a_run_that_took_over_counts_the_whole_plan(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    assert "killed" in launchers.run(made.task("r1"), "commit.done:1=kill")
    made.add(5)
    done = launchers.run(made.task("r2"))
    assert done["resumed"]
    assert done["counters"]["rows_out"] == made.value(f"SELECT count(*) FROM {made.target}")
    fresh = launchers.run(made.task("r3"))
    assert (fresh["resumed"], fresh["counters"]["rows_out"]) == (False, 0)


def test_a_fenced_run_reports_only_its_own_rows(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    task = made.task("r1")
    pid = launchers.stopped(task, "commit.before_fence:1")
    assert launchers.run(made.task("r1", attempt=2))["status"] == "completed"
    os.kill(pid, signal.SIGCONT)
    assert launchers.wait(pid) == {"code": 1}
    late = result(task)
    own = late["counters"]["rows_in"]
    assert 0 < own < 400  # one split of three
    assert (late["status"], late["counters"]["rows_in"], late["counters"]["rows_out"]) == ("fenced", own, own)


def test_sessions_keep_the_options_of_the_dsn_and_notice_a_peer_that_vanished(copy: Callable[..., Copy]) -> None:
    dsn = f"{copy('append').dsn} options='-c work_mem=123kB -c TimeZone=Asia/Tokyo'"
    with connect(dsn, where="shop", name="tests") as session:
        shown = [session.execute(f"SHOW {name}").fetchone() for name in ("work_mem", "TimeZone", "lock_timeout")]
        assert shown == [("123kB",), ("UTC",), ("10s",)]
        given = session.info.get_parameters()
        assert (given["tcp_user_timeout"], given["keepalives_idle"]) == ("60000", "30")


def test_a_session_whose_process_died_ends_while_it_works(copy: Callable[..., Copy]) -> None:
    made = copy("append")
    code = (
        "import sys; from dataflows.connectors.postgres.session import connect\n"
        "with connect(sys.argv[1], where='shop', name='tests:left') as session: session.execute('SELECT pg_sleep(60)')"
    )
    alive = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tests:left' AND state = 'active'"
    process = subprocess.Popen([sys.executable, "-c", code, made.dsn])
    try:
        until(lambda: made.session.execute(alive).fetchone() == (1,), "its query to begin")
    finally:
        process.kill()
        process.wait()
    until(lambda: made.session.execute(alive).fetchone() == (0,), "the server to notice", seconds=10)


@pytest.mark.parametrize("shape", ["partition", "heir", "view", "view of a view"])
def test_a_run_waits_for_writers_to_the_tables_of_its_source(
    copy: Callable[..., Copy], launchers: Launchers, shape: str
) -> None:
    made = copy("append")
    run = made.session.execute
    run("DROP TABLE IF EXISTS base CASCADE")
    columns = "id bigint, name text, price numeric(12,2), at timestamptz"
    run(f"CREATE TABLE base ({columns}){' PARTITION BY RANGE (id)' if shape == 'partition' else ''}")
    source, into = "base", "base_1" if shape in {"partition", "heir"} else "base"
    if shape == "partition":
        run("CREATE TABLE base_1 PARTITION OF base FOR VALUES FROM (0) TO (1000000)")
    if shape == "heir":
        run("CREATE TABLE base_1 () INHERITS (base)")
    if shape.startswith("view"):
        source = "seen"
        run("CREATE VIEW seen_first AS SELECT * FROM base WHERE id > 0; CREATE VIEW seen AS SELECT * FROM base")
        if shape == "view of a view":
            run("CREATE OR REPLACE VIEW seen AS SELECT * FROM seen_first")
    task = made.task("r1")
    task["pipeline"]["spec"]["source"]["object"] = f"public.{source}"
    with psycopg.connect(made.dsn) as other:
        other.execute(f"INSERT INTO {into} (id, name) VALUES (1, 'late')")
        run(f"INSERT INTO {into} (id, name) VALUES (2, 'more')")
        pid = launchers.start(task)
        assert launchers.wait(pid, 1) == {"running": True}
        other.commit()
    assert launchers.wait(pid)["code"] in {0, 1}
    done = result(task)
    assert done["status"] == "completed", done["error"]
    assert made.value(f"SELECT array_agg(name ORDER BY id) FROM {made.target}") == ["late", "more"]


def test_a_cursor_on_a_materialized_view_needs_a_lag(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    made.session.execute("CREATE MATERIALIZED VIEW frozen AS TABLE items; CREATE VIEW thawed AS TABLE frozen")
    for name in ("frozen", "thawed"):
        task = by(made.task("r1"), "at")
        task["pipeline"]["spec"]["source"]["object"] = f"public.{name}"
        assert "lag" in refused(launchers, task)
    task["pipeline"]["spec"]["source"]["cursor"]["lag"] = "1s"
    assert launchers.run(task)["status"] == "completed"
