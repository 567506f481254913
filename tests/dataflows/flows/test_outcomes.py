"""Reports of a worker on tasks that never began, or that left an invalid result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from catalog.database import engine
from catalog.store import MetadataStore
from dataflows.work.outcomes import Outcomes
from dataflows.work.processes import Ended, Processes
from penstock.clock import now
from penstock.models.domain import DatasetRef, Schema
from penstock.models.profiles import DatasetProfile
from penstock.records import Record
from penstock.records.execution import DatasetProfiled, SchemaObserved
from penstock.records.families import body
from penstock.settings import Settings
from tests.agents.control_plane import pipeline

ASSIGNED: dict[str, Any] = {
    "task": "t", "worker": "w", "attempt": 1, "kind": "pipeline", "pipeline": "orders", "uid": "u", "run": "r",
    "version": 1, "spec": pipeline("orders"), "connections": {},
}  # fmt: skip


@pytest.fixture
def outcomes(catalog: str) -> Iterator[Outcomes]:
    with closing(MetadataStore(engine(catalog))) as store:
        yield Outcomes("worker:w", store)


def assigned() -> Record:
    return Record(type="task.assigned", key="t", at=now(), actor="agent:orchestrator", payload=ASSIGNED)


def test_a_process_that_cannot_be_started_is_a_temporary_failure(outcomes: Outcomes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("no folder")
    with pytest.raises(OSError, match="Not a directory") as caught:
        Processes(Settings(project=tmp_path, home=home)).begin(ASSIGNED, None)
    raised, failed = outcomes.not_started(7, assigned(), caught.value)
    assert (raised.type, failed.type) == ("error.raised", "task.failed")
    assert failed.payload["error"]["transient"]
    assert "Not a directory" in failed.payload["error"]["what"]
    assert failed.cause == (7, 0)
    body(raised)
    body(failed)


@pytest.mark.parametrize(
    ("counters", "rows"),
    [({"rows_in": 5, "rows_out": 5, "bytes": 9}, 5), ({"rows_in": 5, "rows_out": 4}, 0), ({}, 0), (None, 0)],
)
def test_a_failed_run_reports_its_committed_rows(
    outcomes: Outcomes, counters: dict[str, int] | None, rows: int
) -> None:
    error = {"code": "data.bad", "what": "bad", "where": None, "hint": None, "transient": False}
    ended = Ended("t", 1, 1, {"status": "failed", "counters": counters, "error": error})
    _, failed = outcomes.of(7, assigned(), ended)
    assert failed.payload["counters"]["rows_out"] == rows
    body(failed)


def test_a_process_that_dies_without_a_result_has_crashed(outcomes: Outcomes) -> None:
    _, failed = outcomes.of(7, assigned(), Ended("t", 1, -9, None))
    assert failed.payload["error"]["code"] == "run.crashed"
    assert "SIGKILL" in failed.payload["error"]["what"]


def test_a_completed_run_reports_its_notes(outcomes: Outcomes) -> None:
    note = "12 rows have a cursor later than now (`at`)"
    order = assigned()
    order.payload["spec"] = {"spec": {"source": {}, "sink": {}}}
    *_, completed = outcomes.of(7, order, Ended("t", 1, 0, {"status": "completed", "notes": [note]}))
    assert (completed.type, completed.payload["notes"]) == ("task.completed", [note])
    body(completed)


def test_a_schema_is_reported_when_it_differs_from_the_last_one_on_the_log(outcomes: Outcomes) -> None:
    task = assigned()
    task = task.replaced(payload=ASSIGNED | {"spec": {"spec": pipeline("orders")["spec"]}})

    def reported(kind: str) -> list[Record]:
        schemas = {"source": {"fields": [{"name": "id", "type": kind}]}}
        ended = Ended("t", 1, 0, {"status": "completed", "counters": {}, "schemas": schemas})
        return [one for one in outcomes.of(7, task, ended) if one.type == "schema.observed"]

    (first,) = reported("bigint")
    (again,) = reported("bigint")  # not on the log yet
    assert again.payload == first.payload
    outcomes.note_schema(first)
    assert reported("bigint") == []
    (other,) = reported("text")
    outcomes.note_schema(other)  # as if another worker had written it
    assert reported("text") == []
    assert len(reported("bigint")) == 1


def test_a_sample_of_a_run_loses_nothing_that_discovery_knows(outcomes: Outcomes, catalog: str) -> None:
    task = assigned()
    task = task.replaced(payload=ASSIGNED | {"spec": {"spec": pipeline("orders")["spec"]}})
    spec = pipeline("orders")["spec"]["source"]
    ref = DatasetRef(connection=spec["connection"], object=spec["object"])
    columns = Schema.parse({"fields": [{"name": name, "type": "text"} for name in ("id", "rare")]})

    def reported(**more: Any) -> list[list[str]]:
        schemas = {"source": [{"name": name, "type": "text", "nullable": True} for name in ("new", "id")], **more}
        ended = Ended("t", 1, 0, {"status": "completed", "counters": {}, "schemas": schemas})
        seen = [one.payload for one in outcomes.of(7, task, ended) if one.type == "schema.observed"]
        return [[one["name"] for one in payload["schema"]["fields"]] for payload in seen]

    assert reported(inferred=True) == [["new", "id"]], "nothing is known yet"
    with closing(MetadataStore(engine(catalog))) as store:
        store.put_dataset(SchemaObserved(dataset=ref, schema_=columns, discovered=True), at=now(), offset=1)
        profile = DatasetProfiled(dataset=ref, profile=DatasetProfile()).to_dict()
        store.write([(2, Record(type="dataset.profiled", key=str(ref), at=now(), actor="w", payload=profile))])
    assert reported(inferred=True) == [["id", "rare", "new"]]
    assert reported() == [["new", "id"]], "what is declared is a fact"


def test_an_object_is_recorded_and_counted_once_also_if_the_catalog_is_late(outcomes: Outcomes) -> None:
    order = {"id": "d", "connection": "shop"}
    task = assigned().replaced(
        payload={"task": "t", "worker": "w", "attempt": 1, "kind": "discover", "discovery": order}
    )
    schema = Schema.parse({"fields": [{"name": "id", "type": "text"}]})
    line: dict[str, Any] = {
        "object": "a",
        "kind": "table",
        "description": None,
        "schema": schema.to_dict(),
        "profile": {},
    }
    line |= {"fingerprint": schema.fingerprint, "profiled": "p", "partial": True, "empty": False, "looked_at": None}
    assert [one.type for one in outcomes.found(7, task, [line])] == ["schema.observed", "dataset.profiled"]
    assert [one.type for one in outcomes.found(7, task, [line | {"partial": False}])] == ["dataset.profiled"]
    result = {"status": "completed", "objects": 1, "notes": [], "present": []}
    *_, completed = outcomes.of(7, task, Ended("t", 1, 0, result))
    assert completed.payload["found"] == {"objects": 1, "changed": 1}
    outcomes.found(8, task, [line])
    *_, failed = outcomes.of(8, task, Ended("t", 1, 1, {"status": "failed"}))
    kept = (outcomes._reported, outcomes._seen)
    assert (failed.type, kept) == ("task.failed", ({}, {})), "nothing is kept of what has ended"


def test_a_crashed_run_reports_the_rows_that_it_told_last(outcomes: Outcomes) -> None:
    told = {"phase": "flow", "rows_in": 7, "rows_out": 7, "filtered": 0, "dead": 0, "bytes": 9}
    _, failed = outcomes.of(7, assigned(), Ended("t", 1, -9, None, None, told))
    assert failed.payload["error"]["code"] == "run.crashed"
    assert failed.payload["counters"]["rows_in"] == 7
