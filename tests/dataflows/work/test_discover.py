"""A discovery's process: what it reports, and how samples share their time."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from catalog.database import engine
from catalog.dataset_folds import dataset_id
from catalog.evolution import compare
from catalog.profiles import Profiles
from catalog.store import MetadataStore
from dataflows.connectors.cataloguing import Found
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.source_catalog import SourceCatalog
from dataflows.work import discover
from dataflows.work.outcomes import Outcomes
from penstock.clock import now
from penstock.models.domain import DatasetRef
from penstock.records import Record
from tests.kafka import KafkaServer


@pytest.fixture
def discovery(catalog: str, tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as session:
        for name in "abc":
            session.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)")
            session.execute(f"INSERT INTO {name} VALUES (1), (2)")
        session.commit()
    order = {"id": "d", "connection": "shop", "sample_rows": 100}
    connections = {"shop": {"type": "sqlite", "path": str(file)}}
    return {"discovery": order, "connections": connections, "letters": catalog, "result": str(tmp_path / "result")}


def test_what_was_never_sampled_is_sampled_first(
    discovery: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(discover, "stop_on_signal", lambda _: None)
    with closing(sqlite3.connect(discovery["connections"]["shop"]["path"])) as session:
        session.execute("DELETE FROM b")
        session.execute("CREATE VIEW d AS SELECT id FROM a WHERE abs(-9223372036854775807 - id) > 0")
        session.commit()
    order, values = [], []
    for _ in "abcda":
        times = iter((0.0, 0.0))  # the end is set, one object is looked at, and the time is over
        monkeypatch.setattr(discover, "time", SimpleNamespace(monotonic=lambda times=times: next(times, 1e9)))
        assert discover.run_task(discovery) == 0
        pages = [json.loads(line)["found"] for line in capsys.readouterr().out.splitlines()]
        found = [one for page in pages for one in page]
        assert {one["object"] for one in found if one["partial"]} == {"a", "b", "c", "d"}, "structure comes first"
        whole = [one for one in found if not one["partial"]]
        values += [one["profile"]["columns"][0]["distinct"] for one in whole if one["object"] != "b"]
        *refused, left = json.loads(Path(discovery["result"]).read_text())["notes"]
        assert left == "objects not sampled yet, as the 60 s for it are over: 3"
        order += [one["object"] for one in whole]
        for note in refused:
            assert note.startswith("could not be sampled: d: ")
            assert "seconds" not in note
            order.append("d")
    assert set(order[:4]) == {"a", "b", "c", "d"}, "what has failed or is empty was tried, too"
    assert (order[4], set(values)) == (order[0], {2}), "then what was tried longest ago"
    with closing(Profiles(discovery["letters"])) as profiles:
        assert profiles.get("shop", "d") is None, "a sample that failed keeps no values"
        assert profiles.get("shop", "a") is not None


def test_a_defect_with_one_object_ends_no_discovery(
    discovery: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(discover, "stop_on_signal", lambda _: None)
    file = discovery["connections"]["shop"]["path"]
    described, sample = SourceCatalog._described, SourceCatalog.sample
    with closing(sqlite3.connect(file)) as session:
        session.execute("CREATE TABLE d (id)")

    def undescribed(self: SourceCatalog, one: ListedObject) -> Found:
        if one.name == "d":
            raise IndexError(one.name)
        return described(self, one)

    def unsampled(self: SourceCatalog, found: Found, *more: Any) -> Found:
        if found.object == "c":
            with closing(sqlite3.connect(file)) as session:
                session.execute("DROP TABLE b")
            raise KeyError(found.object)
        return sample(self, found, *more)

    monkeypatch.setattr(SourceCatalog, "_described", undescribed)
    monkeypatch.setattr(SourceCatalog, "sample", unsampled)
    assert discover.run_task(discovery) == 0
    out, err = capsys.readouterr()
    whole = [one["object"] for line in out.splitlines() for one in json.loads(line)["found"] if not one["partial"]]
    assert (whole, "KeyError: 'c'" in err) == (["a"], True)
    result = json.loads(Path(discovery["result"]).read_text())
    left_out = ["d is left out: a defect, IndexError", "could not be sampled: c: a defect, KeyError; and 1 more"]
    assert (result["notes"], result["present"]) == (left_out, ["d"])


@pytest.mark.xdist_group("kafka")
def test_a_field_that_messages_get_or_lose_is_a_change_of_the_schema(
    kafka: KafkaServer,
    catalog: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(discover, "stop_on_signal", lambda _: None)
    order = {"id": "d", "connection": "bus", "tables": ["shop.*"], "sample_rows": 2000}
    bus = {"type": "kafka", "bootstrap": kafka.bootstrap}
    task = {"task": "t", "worker": "w", "attempt": 1, "kind": "discover", "discovery": order}
    task |= {"connections": {"bus": bus}, "letters": catalog, "result": str(tmp_path / "result")}
    assigned = Record(type="task.assigned", key="t", at=now(), actor="agent:orchestrator", payload=task)
    with closing(MetadataStore(engine(catalog))) as store:
        offsets, outcomes = count(1), Outcomes("worker:w", store)

        def columns() -> tuple[int | None, list[str]]:
            """Discover; return the version of the schema, and its columns."""
            assert discover.run_task(task) == 0
            for line in capsys.readouterr().out.splitlines():
                store.write([(next(offsets), one) for one in outcomes.found(1, assigned, json.loads(line)["found"])])
            found = store.dataset_of(DatasetRef(connection="bus", object="shop.orders"))
            return found.version, [one.name for one in store.schema_at(found.id).schema.fields]

        kafka.create("shop.orders")
        assert columns() == (1, []), "a topic without messages is there, and has no columns"
        kafka.send("shop.orders", *(json.dumps({"id": at, "old": "x", "rare": at or None}).encode() for at in range(2)))
        assert columns() == (2, ["id", "old", "rare"])
        kafka.send("shop.orders", *(json.dumps({"id": at, "new": {"a": 1}}).encode() for at in range(1000)))
        version, names = columns()
        assert names == ["id", "new"], "of the newest 1,000 messages none has the others"
        kafka.send("shop.orders", *(json.dumps({"id": at}).encode() for at in range(5)))
        assert columns() == (version, names)
        before, after = (one.schema for one in store.schema_history(dataset_id("bus", "shop.orders"))[-2:])
        changes = {(one.kind, one.path) for one in compare(before, after)}
        assert changes == {("removed", ("old",)), ("removed", ("rare",)), ("added", ("new",))}
        assert [one.name for one in after.fields[1].fields or ()] == ["a"], "the sample has looked into the documents"
