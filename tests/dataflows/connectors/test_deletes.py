"""Deletes without changes: rows whose key is gone from the source are marked or deleted, once, in every database."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from dataflows.connectors.sql.pruning import _time as time_of_mark
from dataflows.connectors.state import Loaded
from dataflows.data.tables import Column
from dataflows.runs import deletes as module
from dataflows.runs.deletes import may_be_gone, percent
from dataflows.runs.job import Job
from penstock.errors import Refused
from penstock.failpoints import OF_DELETES
from tests.dataflows.connectors.conftest import KEYED
from tests.pairs import soon

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import Flow, SourceFile, System

    Flows = Callable[..., Flow]
    NewSystem = Callable[[str], System]

DATABASES = [kind for kind, write in KEYED if write == "merge"]
MARKS = [
    pytest.param(kind, mark, marks=[] if (at + column) % 2 else pytest.mark.chaos)
    for at, kind in enumerate(DATABASES)
    for column, mark in enumerate(("deleted_at", "remove"))
]

KILLS = [
    pytest.param(kind, point, marks=[] if kind == "mysql" or at - number in {0, 2} else pytest.mark.chaos)
    for at, point in enumerate(OF_DELETES)
    for number, kind in enumerate(DATABASES)
]
"""All points on MySQL, and two on each of the others."""


def merging(flow: Flow, mark: str, **deletes: Any) -> Flow:
    flow.spec["deletes"] = {"compare": "keys", "mark": mark, "limit": 0.5, **deletes}
    return flow


def compare(
    flow: Flow, name: str, failpoint: str | None = None, without: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    return flow.launchers.run(flow.task(name) | {"kind": "deletes"} | more, failpoint, without)


def deleted(flow: Flow, name: str, without: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    found = compare(flow, name, without=without, **more)
    assert found["status"] == "completed", found["error"]
    return dict(found["deletes"])


@pytest.mark.parametrize(("kind", "mark"), MARKS)
def test_rows_that_are_gone_are_marked_or_deleted_and_return(
    new_system: NewSystem, into: Flows, out_of: Flows, source_file: SourceFile, kind: str, mark: str
) -> None:
    system = new_system(kind)
    flow, back = merging(into(system, "merge", key=["id"]), mark), out_of(system, "replace")
    back.spec["transforms"] = [{"name": "live", "filter": "deleted_at IS NULL"}]
    live, read = mark == "deleted_at", count(1)
    source_file.add(60)
    flow.completed("r1")
    assert deleted(flow, "d1") == {"source_keys": 60, "target_keys": 60, "removed": 0, "returned": 0}
    source_file.rows("DELETE FROM items WHERE id IN (3, 4, 60)")
    if kind == "mysql" and live:
        system.rows("ALTER TABLE copied ADD touched TIMESTAMP NULL ON UPDATE CURRENT_TIMESTAMP")

    def ids() -> list[int]:
        if not live:
            return system.ids()
        back.completed(f"b{next(read)}")
        return [row[0] for row in source_file.rows("SELECT id FROM back ORDER BY id")]

    assert deleted(flow, "d2") == {"source_keys": 57, "target_keys": 60, "removed": 3, "returned": 0}
    assert ids() == source_file.ids()
    assert len(system.ids()) == (60 if live else 57)
    if kind == "mysql" and live:
        assert system.rows("SELECT count(touched) FROM copied") == [(0,)], "a mark is no change of the row"
    assert deleted(flow, "d2")["removed"] == 3, "what has ended is not done again"
    source_file.rows("INSERT INTO items VALUES (3, 'again', 1)")
    if live:
        assert deleted(flow, "d3") == {"source_keys": 58, "target_keys": 57, "removed": 0, "returned": 1}
        assert ids() == source_file.ids()
    source_file.rows("INSERT INTO items VALUES (4, 'again', 1)")
    flow.completed("r2")
    assert ids() == source_file.ids(), "a row that is written again is there again"


@pytest.mark.parametrize("kind", DATABASES)
def test_keys_of_two_columns_are_marked_unmarked_and_deleted_in_several_statements(
    new_system: NewSystem, into: Flows, out_of: Flows, source_file: SourceFile, kind: str
) -> None:
    """Each value of a column occurs in keys that are gone and in keys that are not."""
    system = new_system(kind)
    source_file.rows("CREATE TABLE pairs (a INTEGER, b VARCHAR(9), id BIGINT, PRIMARY KEY (a, b))")
    source_file.rows("INSERT INTO pairs SELECT i.value, 'b' || j.value, i.value * 10 + j.value "
        "FROM json_each('[0,1,2,3,4,5]') i, json_each('[0,1,2,3,4,5]') j")  # fmt: skip
    flow, back = merging(into(system, "merge", "pairs", key=["a", "b"]), "deleted_at"), out_of(system, "replace")
    back.spec["transforms"] = [{"name": "live", "filter": "deleted_at IS NULL"}]

    def ids(table: str) -> list[int]:
        return [row[0] for row in source_file.rows(f"SELECT id FROM {table} ORDER BY id")]

    flow.completed("r1")
    source_file.rows("CREATE TABLE gone AS SELECT * FROM pairs WHERE (id / 10 + id % 10) % 2 = 0")
    source_file.rows("DELETE FROM pairs WHERE id IN (SELECT id FROM gone)")
    few = ("bulk",)
    assert deleted(flow, "d1", few) == {"source_keys": 18, "target_keys": 36, "removed": 18, "returned": 0}
    source_file.rows("INSERT INTO pairs SELECT * FROM gone WHERE id < 30")
    assert deleted(flow, "d2", few) == {"source_keys": 27, "target_keys": 18, "removed": 0, "returned": 9}
    back.completed("b1")
    assert ids("back") == ids("pairs")
    assert len(system.ids()) == 36
    assert deleted(merging(flow, "remove"), "d3", few)["removed"] == 9
    assert system.ids() == ids("pairs")


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.chaos
def test_keys_of_every_database_are_compared(
    new_system: NewSystem, into: Flows, out_of: Flows, source_file: SourceFile, kind: str
) -> None:
    system = new_system(kind)
    source_file.add(30)
    forward, back = into(system, "merge", key=["id"]), merging(out_of(system, "merge"), "remove")
    back.sink["key"] = ["id"]
    forward.completed("r1")
    back.completed("r1")
    source_file.rows("DELETE FROM items WHERE id > 28")
    assert deleted(merging(forward, "remove"), "d1")["removed"] == 2
    assert deleted(back, "d1") == {"source_keys": 28, "target_keys": 30, "removed": 2, "returned": 0}
    assert source_file.rows("SELECT max(id) FROM back") == [(28,)]


@pytest.mark.parametrize(("kind", "point"), KILLS)
def test_killed_and_compared_again(
    new_system: NewSystem, into: Flows, source_file: SourceFile, kind: str, point: str
) -> None:
    system = new_system(kind)
    flow = merging(into(system, "merge", key=["id"]), "remove")
    source_file.add(60)
    flow.completed("r1")
    source_file.rows("DELETE FROM items WHERE id < 11")
    assert compare(flow, "d1", f"{point}=kill") == {"killed": signal.SIGKILL}
    folder = Path(flow.task("d1")["result"]).parent
    assert len(list(folder.glob("keys-*"))) == (point != "deletes.done")
    assert len(system.ids()) == (50 if point == "deletes.done" else 60), "all of it, or nothing"
    if point != "deletes.done":
        source_file.rows("INSERT INTO items VALUES (5, 'back', 1)")
    assert deleted(flow, "d1")["removed"] == (10 if point == "deletes.done" else 9)
    assert not list(folder.glob("keys-*"))
    assert system.ids() == source_file.ids()
    flow.completed("r2")
    assert system.ids() == source_file.ids()


@pytest.mark.parametrize("kind", soon(DATABASES, "postgres", "mysql"))
def test_a_run_that_takes_over_keeps_its_rows(
    new_system: NewSystem, into: Flows, source_file: SourceFile, kind: str
) -> None:
    system = new_system(kind)
    source_file.rows("PRAGMA journal_mode = WAL")
    flow = merging(into(system, "merge", key=["id"]), "remove")
    source_file.add(40)
    flow.completed("r1")
    source_file.rows("DELETE FROM items WHERE id = 7")
    task = flow.task("d1") | {"kind": "deletes"}
    pid = flow.stopped(task, "deletes.compared")
    source_file.rows("INSERT INTO items VALUES (7, 'back', 1), (41, 'new', 1)")
    if kind == "duckdb":  # the comparison has its file
        assert flow.run("r2", without=("patience",))["error"]["code"] == "unavailable"
        assert flow.woken(pid, task)["deletes"]["removed"] == 1
        assert 7 not in system.ids()
        flow.completed("r3")
    else:
        flow.completed("r2")
        assert flow.woken(pid, task)["status"] == "fenced"
    assert system.ids() == source_file.ids()
    assert deleted(flow, "d2")["removed"] == 0


@pytest.mark.parametrize("kind", [DATABASES[0], *(pytest.param(one, marks=pytest.mark.chaos) for one in DATABASES[1:])])
def test_a_cursor_and_an_unfinished_run_keep_their_places(
    new_system: NewSystem, into: Flows, source_file: SourceFile, kind: str
) -> None:
    system = new_system(kind)
    flow = merging(into(system, "merge", key=["id"]), "deleted_at")
    flow.source["cursor"] = {"field": "id", "ordered": True}
    source_file.add(60)
    flow.completed("r1")
    source_file.rows("DELETE FROM items WHERE id < 4")
    assert deleted(flow, "d1")["removed"] == 3
    source_file.add(50)
    assert flow.run("r2", "commit.done:0=kill") == {"killed": signal.SIGKILL}
    assert "the last run has not ended" in compare(flow, "d2")["error"]["what"]
    assert flow.completed("r2") == 50, "neither fewer nor more than what is new"
    source_file.rows("DELETE FROM items WHERE id = 110")
    assert deleted(flow, "d3") == {"source_keys": 106, "target_keys": 107, "removed": 1, "returned": 0}
    checked = compare(flow, "c1", kind="check")
    assert (checked["checked"]["run"], checked["checked"]["agree"]) == ("r2", True), checked
    assert flow.completed("r3") == 0
    flow.spec["transforms"] = [{"name": "key", "set": {"id": "id + 1000"}}]
    for run in ("r4", "r5"):
        assert "--full" in compare(flow, "d4")["error"]["hint"]
        flow.completed(run)
    assert "--full" in compare(flow, "d4")["error"]["hint"], "older rows have older keys"


def test_too_many_keys_are_refused_until_approved(
    new_system: NewSystem, into: Flows, source_file: SourceFile, catalog: str
) -> None:
    system = new_system("postgres")
    flow = merging(into(system, "merge", key=["id"]), "remove", limit=0.1)
    refused = compare(flow, "d0")["error"]
    assert "nothing was loaded yet" in refused["what"]
    source_file.add(40)
    flow.completed("r1")
    source_file.rows("DELETE FROM items WHERE id <= 5")
    error = compare(flow, "d1")["error"]
    assert error["what"] == "5 of 40 keys (12.5 %) are gone from the source, more than 10 %"
    assert (error["transient"], "penstock deletes items --limit 13%" in error["hint"]) == (False, True)
    with psycopg.connect(catalog, autocommit=True) as session:
        row = (flow.task("d2")["uid"],)
        session.execute("INSERT INTO catalog.pipelines (uid, version, changed) VALUES (%s, 3, 0)", row)
    error = compare(flow, "d2", limit=0.13, letters=catalog, version=2)["error"]
    assert error["what"] == "version 3 is applied meanwhile, and the keys were compared by version 2"
    assert deleted(flow, "d2", limit=0.13, letters=catalog, version=3)["removed"] == 5
    source_file.rows("DELETE FROM items")
    for limit in (None, 0.99):
        assert "which has no rows" in compare(flow, "d3", limit=limit)["error"]["what"]
    assert len(system.ids()) == 35
    assert deleted(flow, "d4", limit=1.0)["removed"] == 35


def job_of(*, limit: float | None = 0.05, letters: str | None = "dsn", cursor: str | None = None) -> Any:
    return SimpleNamespace(
        pipeline="orders",
        write="merge",
        cursor=cursor,
        letters=letters,
        uid="u",
        sink=SimpleNamespace(object="t"),
        spec=SimpleNamespace(deletes=None if limit is None else SimpleNamespace(limit=limit)),
    )


def refusal(check: Callable[..., None], *given: Any) -> tuple[str, str] | None:
    """Return what a check refuses, and its hint; None if it refuses nothing."""
    try:
        check(*given)
    except Refused as error:
        return error.what, error.hint or ""
    return None


@pytest.mark.parametrize(
    ("gone", "source", "limit", "approved", "said"),
    [
        (5, 95, 0.05, None, None),
        (6, 94, 0.05, None, "6 of 100 keys (6 %) are gone from the source, more than 5 %"),
        (6, 94, 0.05, 0.06, None),
        (7, 93, 0.05, 0.06, "more than 6 %"),
        (1, 99, 0.05, 0.0, "more than 0 %"),
        (0, 100, None, None, None),
        (1, 99, None, None, "more than 0 %"),
        (0, 0, 0.05, None, None),
        (3, 0, 0.05, None, "3 of 100 keys (3 %) are gone from the source, which has no rows"),
        (100, 0, 0.05, 0.99, "which has no rows"),
        (100, 0, 0.05, 1.0, None),
    ],
)
def test_so_many_keys_may_be_gone_and_all_only_if_that_is_said(
    gone: int, source: int, limit: float | None, approved: float | None, said: str | None
) -> None:
    keys: Any = SimpleNamespace(gone=SimpleNamespace(rows=gone), source=source, target=100)
    found = refusal(module._Keys.check_limit, keys, job_of(limit=limit), approved)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert found[0].endswith(said)
        assert found[1].endswith(f"penstock deletes orders --limit {gone}%")


def test_keys_are_compared_only_with_rows_that_were_loaded_the_same_way() -> None:
    for write in ("merge", "replace"):
        assert refusal(module._check_loaded, job_of(), Loaded(write)) is None
        what, hint = refusal(module._check_loaded, job_of(), Loaded(write, partly=True)) or ("", "")
        assert ("has not ended" in what, hint) == (True, "penstock run orders")
    found = refusal(module._check_loaded, job_of(), Loaded("append"))
    assert found == ("the target was loaded by write: append", "penstock run orders --full")
    found = refusal(module._check_loaded, job_of(), Loaded())
    assert found == ("the target was not loaded yet", "penstock run orders")


def test_keys_that_are_made_in_another_way_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "made_by", lambda *_: "now")
    for result, cursor, ends in (
        (None, None, None),
        ({}, None, None),
        ({"keys": "now"}, None, None),
        ({"keys": "before"}, None, "run orders"),
        ({"keys": "before"}, "id", "run orders --full"),
    ):
        last = None if result is None else SimpleNamespace(result=result)
        sides = SimpleNamespace(job=job_of(cursor=cursor), mapping=None)
        target = SimpleNamespace(state=SimpleNamespace(finished=lambda last=last: last))
        found = refusal(module._check_made, sides, target)
        assert (found is None) == (ends is None)
        assert found is None or found[1].endswith(ends or "")


def test_keys_of_an_older_version_are_not_compared_once_a_newer_one_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    for mine, current, letters, refused in (
        (2, 3, "dsn", True),
        (3, 3, "dsn", False),
        (4, 3, "dsn", False),
        (None, 3, "dsn", False),
        (2, None, "dsn", False),
        (2, 3, None, False),
    ):
        monkeypatch.setattr(module, "current_version", lambda *_, current=current: current)
        found = refusal(module._check_version, job_of(letters=letters), {"version": mine})
        assert (found is not None) == refused, (mine, current, letters)


def test_the_percentage_of_the_hint_is_enough() -> None:
    for keys in (3, 7, 40, 100, 1000):
        for gone in range(1, keys + 1):
            shown = percent(gone, keys)
            assert may_be_gone(gone, keys, float(shown.rstrip("%")) / 100), (gone, keys, shown)
            assert not may_be_gone(gone + 1, keys, gone / keys)


def test_filtered_rows_are_gone_and_refused_ones_are_not(
    new_system: NewSystem, into: Flows, source_file: SourceFile
) -> None:
    """What the filter no longer lets through is gone, as for a check; a row that a step refuses keeps its key."""
    system = new_system("postgres")
    flow = merging(into(system, "merge", key=["id"]), "remove")
    source_file.add(40)
    flow.completed("r1")
    flow.spec["transforms"] = [{"name": "some", "filter": "id <= 38"}]
    flow.spec["validate"] = {"checks": {"small": "id <> 12"}}
    found = deleted(flow, "d1")
    assert (found["removed"], 12 in system.ids(), max(system.ids())) == (2, True, 38)
    flow.spec["transforms"] = [{"name": "key", "set": {"id": "id + 0"}}]
    assert "make the key otherwise" in compare(flow, "d2")["error"]["what"]
    checks = flow.spec.pop("validate")
    flow.completed("r2")
    flow.spec["validate"] = checks
    error = compare(flow, "d2")["error"]
    assert "1 rows are refused, so their keys are unknown" in error["what"]
    flow.spec["transforms"] = [{"name": "one", "deduplicate": {"by": ["name"]}}]
    for kind in ("check", "deletes"):
        assert "depend on the chunk" in compare(flow, "d3", kind=kind)["error"]["what"]


def test_rows_of_another_pipeline_are_not_gone(new_system: NewSystem, into: Flows, source_file: SourceFile) -> None:
    system = new_system("postgres")
    flow, other = merging(into(system, "merge", key=["id"]), "remove"), into(system, "merge", key=["id"])
    source_file.add(10)
    flow.completed("r1")
    other.completed("r1")
    assert "another pipeline writes to" in compare(flow, "d1")["error"]["what"]


def test_rows_of_a_pipeline_that_begins_meanwhile_are_not_gone(
    new_system: NewSystem, into: Flows, source_file: SourceFile
) -> None:
    system = new_system("postgres")
    flow, other = merging(into(system, "merge", key=["id"]), "remove"), into(system, "merge", key=["id"])
    source_file.rows("PRAGMA journal_mode = WAL")
    source_file.add(10)
    flow.completed("r1")
    source_file.rows("DELETE FROM items WHERE id = 7")
    task = flow.task("d1") | {"kind": "deletes"}
    pid = flow.stopped(task, "deletes.compared")
    source_file.rows("INSERT INTO items VALUES (7, 'other', 1)")
    other.completed("o1")
    assert "another pipeline writes to" in flow.woken(pid, task)["error"]["what"]
    assert 7 in system.ids()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"deletes": {"mark": "remove"}}, "keys of a connection of type files cannot be compared"),
        (
            {"deletes": {"mark": "remove"}, "transforms": [{"name": "each", "explode": {"column": "a"}}]},
            "became several",
        ),
        (
            {"deletes": {"mark": "remove"}, "transforms": [{"name": "one", "deduplicate": {"by": ["b"]}}]},
            "depend on the chunk",
        ),
        (
            {"check": {"every": "1d"}, "transforms": [{"name": "one", "deduplicate": {"by": ["b"]}}]},
            "depend on the chunk",
        ),
        ({"check": {"every": "1d"}, "mode": "stream"}, "rows of a connection of type kafka cannot be read back"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(tmp_path: Path, spec: dict[str, Any], why: str) -> None:
    kind = "kafka" if spec.get("mode") == "stream" else "sqlite" if "transforms" in spec else "files"
    ends = {"kafka": {"bootstrap": "localhost:1"}, "files": {"root": str(tmp_path)}, "sqlite": {"path": "/a.sqlite"}}
    source = {"type": kind, **ends[kind]}
    task = {
        "uid": "u",
        "run": "r",
        "connections": {"from": source, "to": {"type": "sqlite", "path": str(tmp_path / "b.sqlite")}},
        "pipeline": {
            "metadata": {"name": "p"},
            "spec": {
                "source": {"connection": "from", "object": "a.csv"},
                "sink": {"connection": "to", "object": "t", "write": "merge", "key": ["id"]},
                **spec,
            },
        },
    }
    with pytest.raises(Refused, match=why) as raised:
        Job.from_task(task)
    assert str(raised.value.where).startswith("p: spec.")


def test_a_mark_has_to_be_a_column_of_times(new_system: NewSystem, into: Flows, source_file: SourceFile) -> None:
    system = new_system("postgres")
    source_file.add(10)
    flow = into(system, "merge", key=["id"])
    flow.completed("r1")
    for mark, why in (("gone", "has no such column"), ("name", "writes this column itself")):
        assert why in merging(flow, mark).failed("r2")["what"]
    flow.spec["schema"] = {"additive": "apply"}
    assert "has no column `gone` yet" in compare(merging(flow, "gone"), "d0")["error"]["what"]
    flow.completed("r3")
    source_file.rows("DELETE FROM items WHERE id = 1")
    assert deleted(flow, "d1")["removed"] == 1


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("timestamp with time zone", datetime(2026, 1, 2, 3, tzinfo=UTC)),
        ("timestamp without time zone", datetime(2026, 1, 2, 3)),
        ("text", "2026-01-02T03:00:00+00:00"),
        ("a type of its own", "2026-01-02T03:00:00+00:00"),
    ],
)
def test_the_time_of_a_mark_has_the_type_of_its_column(type_: str, value: Any) -> None:
    assert time_of_mark(Column("gone", type_), datetime(2026, 1, 2, 3, tzinfo=UTC)).to_pylist() == [value]
