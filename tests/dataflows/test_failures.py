# ruff: noqa: E501 - tables of statements, one a line; what is parametrized comes by position
"""Errors of other systems end a run with one clear message, and leave nothing half-applied."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from penstock.topics.embedded import EmbeddedServer
from tests.reaper import short_folder

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers

NOTHING = {"lost": 0, "doubled": 0}


def failed(launchers: Launchers, task: dict[str, Any]) -> dict[str, Any]:
    """Return the error of a run that has to fail."""
    found = launchers.run(task)
    assert found["status"] == "failed", found
    return dict(found["error"])


def with_spec(task: dict[str, Any], **parts: Any) -> dict[str, Any]:
    task["pipeline"]["spec"].update(parts)
    return task


def untouched(made: Copy) -> bool:
    """True if the sink has neither rows nor state."""
    known = made.value("SELECT to_regclass('w._penstock_runs')")
    runs = made.value(f"SELECT count(*) FROM w._penstock_runs WHERE pipeline = '{made.uid}'") if known else 0
    return made.value(f"SELECT count(*) FROM {made.target}") == 0 and runs == 0


def test_a_missing_source_table_comes_with_the_nearest_name(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    task = with_spec(made.task("r1"), source={"connection": "shop", "object": "public.itmes"})
    error = failed(launchers, task)
    assert error["code"] == "schema.missing_table"
    assert error["hint"] == "did you mean `public.items`?"
    assert untouched(made)


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ([{"target": "id", "from": "idd"}], "schema.missing_column", "did you mean `id`?"),
        ([{"target": "nam", "from": "name"}], "schema.missing_column", "did you mean `name`?"),
        ([{"target": "name", "sql": "lower(nam)"}], "schema.missing_column", "did you mean `name`?"),
        ([{"target": "id", "from": "name"}], "schema.mismatch", "does not fit"),
        ([{"target": "price", "sql": "price * 1.005"}], "schema.mismatch", "CAST"),
        ([{"target": "name", "sql": "pg_sleep(1)"}], "schema.mismatch", "pg_sleep"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_with_its_path(
    copy: Callable[..., Copy], launchers: Launchers, fields: list[dict[str, str]], code: str, words: str
) -> None:
    made = copy("replace")
    error = failed(launchers, with_spec(made.task("r1"), mapping={"fields": fields}))
    assert error["code"] == code
    assert "spec.mapping.fields[0]" in error["where"]
    assert words in f"{error['what']}; {error['hint']}"
    assert untouched(made)


def test_a_target_column_that_must_be_filled_is_named(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    made.session.execute(f"ALTER TABLE {made.target} ADD COLUMN region text NOT NULL")
    error = failed(launchers, made.task("r1"))
    assert "`region`" in error["what"]
    assert untouched(made)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"validate": {"unique": ["name"]}}, "spec.validate.unique"),
        ({"mapping": {"ref": "items"}}, "spec.mapping.ref"),
        ({"source": {"connection": "shop", "object": "public.items"}}, "spec.source.cursor"),
    ],
)  # fmt: skip
def test_unsupported_features_are_refused_by_name(
    copy: Callable[..., Copy], launchers: Launchers, parts: dict[str, Any], words: str
) -> None:
    made = copy("append")
    error = failed(launchers, with_spec(made.task("r1"), **parts))
    assert (error["code"], words in error["where"]) == ("refused", True)
    assert untouched(made)


def test_a_system_that_has_no_streams_is_refused_by_name(
    copy: Callable[..., Copy], launchers: Launchers, tmp_path: Path
) -> None:
    made = copy("append")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as session:
        session.execute("CREATE TABLE items (id integer PRIMARY KEY)")
    task = with_spec(made.task("r1"), mode="stream", source={"connection": "shop", "object": "items"})
    shop = {"type": "sqlite", "path": str(tmp_path / "shop.db")}
    error = failed(launchers, task | {"connections": task["connections"] | {"shop": shop}})
    assert (error["code"], "spec.mode" in error["where"]) == ("refused", True)
    assert untouched(made)


def test_an_unreachable_database(copy: Callable[..., Copy], launchers: Launchers, tmp_path: Path) -> None:
    made = copy("replace")
    for name in ("shop", "lake"):
        task = made.task("r1")
        task["connections"] = task["connections"] | {
            name: {"type": "postgres", "dsn": f"host={tmp_path} dbname=x user=y"}
        }
        error = failed(launchers, task)
        assert (error["code"], error["transient"]) == ("unavailable.unreachable", True)
        assert f"connection {name}" in error["where"]
    assert untouched(made)


def test_a_missing_database_fails_at_once(copy: Callable[..., Copy], launchers: Launchers, database: str) -> None:
    made = copy("replace")
    task = made.task("r1")
    nowhere = {"type": "postgres", "dsn": psycopg.conninfo.make_conninfo(database, dbname="nowhere")}
    error = failed(launchers, task | {"connections": task["connections"] | {"lake": nowhere}})
    assert (error["code"], error["transient"]) == ("not_found", False)
    assert untouched(made)


def test_a_wrong_password(
    copy: Callable[..., Copy], launchers: Launchers, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = copy("replace")
    task = made.task("r1")
    secret = "not the password"
    monkeypatch.setenv("PENSTOCK_SECRET_LAKE", secret)
    lake = {
        "type": "postgres",
        "dsn": guarded,
        "password": "${file:" + str(Path(task["result"]).parent / "secret") + "}",
    }
    (Path(task["result"]).parent / "secret").write_text(secret)
    task |= {"connections": task["connections"] | {"lake": lake}, "secrets": str(Path(task["result"]).parent)}
    error = failed(launchers, task)
    assert error["code"] == "unavailable.access_denied"
    assert secret not in str(error)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server that asks for a password; yield a DSN without one."""

    home = short_folder()
    server = EmbeddedServer(home)
    server.acquire()
    try:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
            session.execute("CREATE ROLE guest LOGIN PASSWORD 'right'")
            where = session.execute("SHOW hba_file").fetchone()
            assert where
            hba = Path(where[0])
            hba.write_text("local all guest scram-sha-256\n" + hba.read_text())
            session.execute("SELECT pg_reload_conf()")
        yield server.dsn("postgres").replace("user=penstock", "user=guest")
    finally:
        server.stop()
        server.release()
        import shutil

        shutil.rmtree(home)


def test_a_column_dropped_between_plan_and_run(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    made.session.execute("CREATE TABLE public.shrinking AS TABLE items")
    source = {"connection": "shop", "object": "public.shrinking", "cursor": {"field": "id", "ordered": True}}
    fields = [{"target": "id", "from": "id"}, {"target": "name", "from": "name"}]
    task = with_spec(made.task("r1"), source=source, mapping={"fields": fields})
    assert "killed" in launchers.run(task, "commit.done:0=kill")
    made.session.execute("ALTER TABLE public.shrinking DROP COLUMN name")
    before = made.value(f"SELECT count(*) FROM {made.target}")
    error = failed(launchers, task)
    assert error["code"] == "schema.missing_column"
    assert made.value(f"SELECT count(*) FROM {made.target}") == before == 200
    made.session.execute("DROP TABLE public.shrinking")


def test_a_column_dropped_in_the_middle(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    made.session.execute(
        "CREATE TABLE public.shrinking AS TABLE items; ALTER TABLE public.shrinking ADD PRIMARY KEY (id)"
    )
    task = with_spec(
        made.task("r1"),
        source={"connection": "shop", "object": "public.shrinking"},
        mapping={"fields": [{"target": "id", "from": "id"}, {"target": "name", "from": "name"}]},
    )
    made.session.execute(f"INSERT INTO {made.target} VALUES (-1, 'before', 0, now())")
    pid = launchers.stopped(task, "prepare.planned")  # later, the run's lock would block the change
    made.session.execute("ALTER TABLE public.shrinking DROP COLUMN name")
    os.kill(pid, signal.SIGCONT)
    assert launchers.wait(pid) == {"code": 1}
    error = result_of(task)["error"]
    assert (error["code"], error["transient"]) == ("unavailable", True)
    assert "changed while the run began" in error["what"]
    assert failed(launchers, task | {"attempt": 2})["code"] == "schema.missing_column"
    assert made.value(f"SELECT array_agg(name) FROM {made.target}") == ["before"]
    made.session.execute("DROP TABLE public.shrinking")


def result_of(task: dict[str, Any]) -> dict[str, Any]:
    import json

    return dict(json.loads(Path(task["result"]).read_text()))


def test_an_error_does_not_contain_the_value_that_the_target_refused(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    made = copy("append")
    made.session.execute(f"ALTER TABLE {made.target} ADD CHECK (name <> 'item 320')")
    error = failed(launchers, made.task("r1"))
    assert error["code"] == "data.bad"
    assert "320" not in str(error)
    assert made.value(f"SELECT count(*) FROM {made.target}") == 200
    made.session.execute(f"DELETE FROM {made.target}")


def test_the_sink_dies_while_the_source_is_idle(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    made.session.execute(
        "CREATE FUNCTION slow(int) RETURNS text LANGUAGE plpgsql VOLATILE AS "
        "$$ BEGIN IF $1 = 3000 THEN PERFORM pg_sleep(30); END IF; RETURN repeat('x', 1000); END $$"
    )
    made.session.execute(
        "CREATE VIEW slow_items AS SELECT g::bigint AS id, slow(g) AS name, 1.0::numeric(12,2) AS price, now() AS at "
        "FROM generate_series(1, 4000) g"
    )
    pid = launchers.start(with_spec(made.task("r1"), source={"connection": "shop", "object": "public.slow_items"}))
    sessions = f"FROM pg_stat_activity WHERE application_name LIKE 'penstock:{made.uid}:%' AND query LIKE 'COPY%'"
    until(lambda: made.value(f"SELECT count(*) {sessions}") == 1)
    time.sleep(0.3)
    made.value(f"SELECT pg_terminate_backend(pid) {sessions}")
    began = time.monotonic()
    answer = launchers.wait(pid, 10)
    assert answer == {"code": 1}
    assert time.monotonic() - began < 3
    made.session.execute("DROP VIEW slow_items; DROP FUNCTION slow")


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_sigterm_stops_between_chunks_and_the_run_continues_later(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    made = copy("append", split_rows=100)
    task = made.task("r1")
    pid = launchers.stopped(task, "read.begin:3")
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    assert launchers.wait(pid) == {"code": 1}
    error = result_of(task)["error"]
    assert (error["code"], error["transient"]) == ("run.stopped", True)
    assert launchers.run(made.task("r1", attempt=2))["status"] == "completed"
    assert made.differences() == NOTHING


def test_sigterm_ends_a_write_that_waits_for_a_lock(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    task = made.task("r1")
    pid = launchers.stopped(task, "flow.begin")
    with psycopg.connect(made.dsn) as other:
        other.execute(f"LOCK TABLE {made.target} IN ACCESS EXCLUSIVE MODE")
        os.kill(pid, signal.SIGCONT)
        waiting = (
            f"FROM pg_stat_activity WHERE application_name LIKE 'penstock:{made.uid}:%' AND wait_event_type = 'Lock'"
        )
        until(lambda: made.value(f"SELECT count(*) {waiting}") == 1)
        os.kill(pid, signal.SIGTERM)
        assert launchers.wait(pid, 4) == {"code": 1}
    error = result_of(task)["error"]
    assert (error["code"], error["transient"]) == ("run.stopped", True)
    assert launchers.run(made.task("r1", attempt=2))["status"] == "completed"
    assert made.differences() == NOTHING


def test_workers_die_with_their_launcher(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append", split_rows=100, workers=2)
    made.session.execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE; COMMIT")
    pid = launchers.start(made.task("r1"), "read.begin:0=stop")
    until(lambda: len(children(pid)) == 2 and any(state(child) == "T" for child in children(pid)))
    mine = children(pid)
    os.kill(pid, signal.SIGKILL)
    launchers.wait(pid)
    for child in mine:
        if state(child) == "T":
            os.kill(child, signal.SIGCONT)
    until(lambda: not any(Path(f"/proc/{child}").exists() and state(child) not in "ZX" for child in mine))
    assert launchers.run(made.task("r1", attempt=2))["status"] == "completed"
    assert made.differences() == NOTHING


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


@pytest.fixture
def small_disk(copy: Callable[..., Copy], pg: EmbeddedServer) -> Iterator[str]:
    """Make a tablespace of 6 MB on a file system of its own."""
    made = copy("append")
    folder = Path(made.value("SHOW data_directory")).parent / "small"
    folder.mkdir()
    owner = Path(made.value("SHOW data_directory")).stat()
    subprocess.run(
        [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size=6m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}",
            "tmpfs",
            str(folder),
        ],
        check=True,
    )
    try:
        made.session.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        yield "small"
    finally:
        for (table,) in made.session.execute(
            "SELECT t::regclass::text FROM (SELECT oid t FROM pg_class WHERE relkind = 'r' AND reltablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'small')) x"
        ).fetchall():
            made.session.execute(f"DROP TABLE {table}")
        made.session.execute("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.parametrize("write", ["append", "replace"])
def test_a_full_disk_at_the_sink(copy: Callable[..., Copy], launchers: Launchers, small_disk: str, write: str) -> None:
    made = copy(write, split_rows=2000)
    made.session.execute(
        "CREATE TABLE IF NOT EXISTS large AS SELECT g::bigint AS id, repeat(md5(g::text), 12) AS name, 1.0::numeric(12,2) AS price, now() AS at FROM generate_series(1, 30000) g"
    )
    made.session.execute(f"ALTER TABLE {made.target} SET TABLESPACE {small_disk}")
    source: dict[str, Any] = {"connection": "shop", "object": "public.large"}
    if write == "append":
        source["cursor"] = {"field": "id", "ordered": True}
    error = failed(launchers, with_spec(made.task("r1"), source=source))
    assert (error["code"], error["transient"]) == ("unavailable.out_of_space", False)
    rows = made.value(f"SELECT count(*) FROM {made.target}")
    assert rows < 30000
    assert (
        rows == made.value(f"SELECT sum(rows_out) FROM w._penstock_positions WHERE pipeline = '{made.uid}'")
        or write == "replace"
    )
    made.session.execute(f"ALTER TABLE {made.target} SET TABLESPACE pg_default")
    if write == "replace":
        assert rows == 0
        made.session.execute("DROP TABLE large")
        return
    assert launchers.run(with_spec(made.task("r1", attempt=2), source=source))["status"] == "completed"
    assert (
        made.value(f"SELECT count(DISTINCT id) FROM {made.target}")
        == made.value(f"SELECT count(*) FROM {made.target}")
        == 30000
    )
