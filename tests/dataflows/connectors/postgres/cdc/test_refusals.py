"""What a stream of changes cannot follow is refused by name: by `plan`, or at the start, before a row is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import AccessDenied, PenstockError, Refused
from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")


def planned(task: dict[str, Any]) -> dict[str, Any]:
    job = Job.from_task(task)
    with opened(job) as ends:
        return plan(job, ends)


def refusal(task: dict[str, Any], kind: type[PenstockError] = Refused) -> str:
    """Return the error of a plan: what and how to go on."""
    with pytest.raises(kind) as refused:
        planned(task)
    return f"{refused.value.what}; {refused.value.hint}"


def test_a_plan_of_changes(changes: Callable[..., Changes]) -> None:
    made = changes()
    found = planned(made.task())
    assert (found["mode"], found["write"], found["exists"]) == ("stream", "merge", False)
    assert "_penstock_change" not in str(found["statements"])
    assert made.slots() == []
    assert found["notes"] == []
    made.do("CREATE TABLE {t} (LIKE {s} INCLUDING ALL)", "INSERT INTO {t} (id) VALUES (7)")
    assert planned(made.task())["notes"] == [f"the snapshot replaces all rows that {made.target} has"]
    made.followed()
    assert planned(made.task())["notes"] == []


def test_changes_into_what_cannot_hold_them_are_refused(changes: Callable[..., Changes], tmp_path: Path) -> None:
    task = changes().task()
    task["connections"]["lake"] = {"type": "files", "root": str(tmp_path)}
    task["pipeline"]["spec"]["sink"] |= {"object": "t", "format": {"type": "parquet"}}
    assert "files cannot be written by `merge`" in refusal(task)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("ALTER TABLE {s} DROP CONSTRAINT {n}_pkey", "no replica identity"),
        ("ALTER TABLE {s} REPLICA IDENTITY NOTHING", "no replica identity"),
        ("ALTER TABLE {s} SET UNLOGGED", "unlogged"),
        ("CREATE TABLE {s}_child () INHERITS ({s})", "table with children"),
        ("ALTER TABLE {s} RENAME TO {n}_old; CREATE VIEW {s} AS SELECT * FROM {s}_old", "view"),
        ("DROP TABLE {s}; CREATE TABLE {s} (id int PRIMARY KEY) PARTITION BY RANGE (id)", "partitioned table"),
    ],
)
def test_a_table_whose_changes_cannot_be_followed(changes: Callable[..., Changes], statement: str, what: str) -> None:
    made = changes(rows=0)
    made.do(statement.replace("{n}", made.source.removeprefix("public.")))
    assert what in refusal(made.task())


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"key": ["name"]}, "no unique key (name)"),
        ({"delete": "gone"}, "the order of their commits"),
        ({"version": "at"}, "the order of their commits"),
    ],
)
def test_a_sink_that_changes_cannot_be_written_to(
    changes: Callable[..., Changes], part: dict[str, Any], what: str
) -> None:
    made = changes(rows=0)
    task = made.task()
    task["pipeline"]["spec"]["sink"] |= part
    assert what in refusal(task)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"transforms": [{"name": "some", "filter": "id > 5"}]}, "`filter` would lose deletions"),
        ({"validate": {"not_null": ["name"]}}, "a deletion has only the key"),
        ({"mapping": {"fields": [{"target": "id", "sql": "id + 1"}]}}, "a column of the key is computed"),
        (
            {"mapping": {"fields": [{"target": "id", "from": "id"}, {"target": "both", "sql": "name || body"}]}},
            "`both` needs `body`",
        ),
    ],
)
def test_steps_that_changes_cannot_pass(changes: Callable[..., Changes], spec: dict[str, Any], what: str) -> None:
    assert what in refusal(changes(rows=0).task(**spec))


def test_rights_that_are_missing(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    made.do("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN", "GRANT SELECT ON {s} TO reader")
    task = made.task()
    task["connections"]["shop"] = {"type": "postgres", "dsn": f"{made.dsn} user=reader"}
    assert 'ALTER ROLE "reader" REPLICATION' in refusal(task, AccessDenied)
    made.do("ALTER ROLE reader REPLICATION")
    found = refusal(task, AccessDenied)
    assert "CREATE PUBLICATION" in found
    made.do(found.partition("; ")[2].partition(", as a user")[0])
    assert planned(task)["write"] == "merge"
    made.do("INSERT INTO {s} VALUES (1)")
    pid = made.launchers.start(task)
    made.until_same()
    made.stop(pid, task)
    made.do("DROP OWNED BY reader", "DROP ROLE reader")


def test_a_server_without_logical_wal(changes: Callable[..., Changes], database: str) -> None:
    task = changes(rows=0).task()
    task["connections"]["shop"] = {"type": "postgres", "dsn": database}
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(f"CREATE TABLE {task['pipeline']['spec']['source']['object']} (id int PRIMARY KEY)")
    assert "wal_level" in refusal(task)


def test_a_server_without_a_free_slot(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    free = made.value("SELECT current_setting('max_replication_slots')::int - count(*) FROM pg_replication_slots")
    for at in range(free):
        made.do(f"SELECT pg_create_physical_replication_slot('full_{at}')")
    try:
        assert "max_replication_slots" in refusal(made.task())
    finally:
        for at in range(free):
            made.do(f"SELECT pg_drop_replication_slot('full_{at}')")


def test_a_stream_of_changes_begins_with_its_snapshot(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    source = {"connection": "shop", "object": made.source, "from": "latest"}
    assert "begins with a snapshot" in made.launchers.run(made.task(source=source))["error"]["what"]


def test_a_target_whose_rows_others_refer_to_is_refused(changes: Callable[..., Changes]) -> None:
    made = changes(rows=0)
    made.do("CREATE TABLE {t} (LIKE {s} INCLUDING ALL)")
    made.do("CREATE TABLE {t}_items (id int REFERENCES {t} ON DELETE CASCADE)")
    assert "the snapshot would break foreign key" in refusal(made.task())


# -- what a position stands on --


def made_again(made: Changes, slot: str) -> None:
    made.do(f"SELECT pg_drop_replication_slot('{slot}')", "DELETE FROM {s} WHERE id = 1")
    made.do(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")


def advanced(made: Changes, slot: str) -> None:
    made.do("DELETE FROM {s} WHERE id = 1")
    made.do(f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")


def lost(made: Changes, slot: str) -> None:
    made.do("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
    try:
        for _ in range(4):
            made.do("INSERT INTO {s} SELECT max(id) + 1 FROM {s}", "SELECT pg_switch_wal()")
        made.do("CHECKPOINT")
        made.until(f"SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '{slot}'")
    finally:
        made.do("ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


def dropped(made: Changes, slot: str) -> None:
    made.do("DELETE FROM {s} WHERE id = 1", f"SELECT pg_drop_replication_slot('{slot}')")


def unpublished(made: Changes, slot: str) -> None:
    name = slot.rpartition("_")[0]
    made.do(
        f"DROP PUBLICATION {name}", "DELETE FROM {s} WHERE id = 1", f"CREATE PUBLICATION {name} FOR TABLE ONLY {{s}}"
    )


def another_table(made: Changes, slot: str) -> None:
    made.do("CREATE TABLE w.rows AS SELECT * FROM {s}", "DROP TABLE {s}", "ALTER TABLE w.rows SET SCHEMA public")
    made.do(f"ALTER TABLE rows RENAME TO {made.source.removeprefix('public.')}", "ALTER TABLE {s} ADD PRIMARY KEY (id)")


def another_server(made: Changes, slot: str) -> None:
    made.do(f"UPDATE w._penstock_offsets SET position = jsonb_set(position::jsonb, '{{system}}', '\"7\"')::text "
            f"WHERE pipeline = '{made.uid}'")  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (dropped, "is gone: changes in"),
        (made_again, "was made again or moved: it begins at"),
        (advanced, "was made again or moved: it begins at"),
        (lost, "has deleted WAL that replication slot"),
        (unpublished, "publication"),
        (another_table, "the table was dropped and made again"),
        (another_server, "another server"),
    ],
)
def test_a_position_that_stands_on_nothing_is_refused(
    changes: Callable[..., Changes], fault: Callable[[Changes, str], None], what: str
) -> None:
    made = changes()
    made.followed()
    before = made.value("SELECT count(*) FROM {t}")
    fault(made, made.slots()[0])
    refused = made.launchers.run(made.task("r2"))["error"]
    assert what in refused["what"], refused
    assert "`penstock run NAME --from earliest --reset`" in refused["hint"]
    assert not refused["transient"]
    assert made.value("SELECT count(*) FROM {t}") == before


@pytest.mark.parametrize("fault", [dropped, another_table])
def test_a_rebuild_replaces_all_rows(changes: Callable[..., Changes], fault: Callable[[Changes, str], None]) -> None:
    made = changes()
    made.followed()
    fault(made, made.slots()[0])
    made.do("DELETE FROM {s} WHERE id < 50")
    refused = made.launchers.run(made.task("r2") | {"begin": {"from": "earliest"}})["error"]
    assert "a new snapshot replaces all rows of the target" in refused["what"]
    wrong = made.launchers.run(made.task("r2") | {"begin": {"from": "latest", "reset": True}})["error"]
    assert "can only begin again with a snapshot" in wrong["what"]
    task = made.task("r3") | {"begin": {"from": "earliest", "reset": True}}
    pid = made.launchers.start(task)
    made.until_same()
    made.do("DELETE FROM {s} WHERE id < 60")
    made.until_same()
    made.stop(pid, task)
    assert len(made.slots()) == 1


def test_a_deleted_pipeline_leaves_no_slot_and_its_next_snapshot_replaces_all_rows(
    changes: Callable[..., Changes],
) -> None:
    made = changes()
    made.followed()
    cleanup = made.task("r2") | {"kind": "cleanup"}
    assert made.launchers.run(cleanup)["status"] == "completed"
    assert made.slots() == []
    assert made.value("SELECT count(*) FROM pg_publication_tables WHERE 'public.' || tablename = '{s}'") == 0
    made.do("DELETE FROM {s} WHERE id < 50", "UPDATE {s} SET name = 'x'")
    again = Changes(made.launchers, made.session, made.dsn, made.letters, made.folder)
    task = made.task("r1") | {"uid": again.uid}
    pid = made.launchers.start(task)
    made.until_same()
    made.stop(pid, task)
    assert made.launchers.run(task | {"kind": "cleanup"})["status"] == "completed"
