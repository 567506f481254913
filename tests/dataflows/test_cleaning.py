"""NUL characters in text: refused if the target cannot store them, stripped or replaced if the pipeline says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from psycopg.rows import scalar_row

from dataflows.runs.job import Job
from dataflows.transforms.cleaning import Cleaning
from penstock.errors import Refused
from penstock.models.transforms import Clean

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers


def test_zero_dates_null_survives_a_round_trip() -> None:
    assert Clean.parse({"zero_dates": None}).zero_dates == "null"
    assert Clean.parse({"nul": "strip"}).zero_dates is None
    assert Clean.parse(Clean.parse({"zero_dates": None}).model_dump(exclude_none=True)).zero_dates == "null"


def test_nul_is_cleaned_in_text_and_in_json_escapes() -> None:
    texts = pa.array(["a\0\0b", None, "\\u0000"])
    documents = pa.array(['["\\u0000\\u0000x", "\\\\u0000"]', None, "1"])
    batch = pa.RecordBatch.from_arrays([texts, documents, pa.array([1, 2, 3])], names=["t", "j", "n"])
    stripped = Cleaning("strip", frozenset({"j"}))(batch)
    assert stripped.column("t").to_pylist() == ["ab", None, "\\u0000"]
    assert stripped.column("j").to_pylist() == ['["x", "\\\\u0000"]', None, "1"]
    replaced = Cleaning("replace", frozenset({"j"}))(batch)
    assert replaced.column("t").to_pylist() == ["a\ufffd\ufffdb", None, "\\u0000"]
    assert replaced.column("j").to_pylist() == ['["\ufffd\ufffdx", "\\\\u0000"]', None, "1"]


@pytest.mark.parametrize("clean", [{}, {"nul": "strip"}])
def test_text_with_nul_is_refused_or_cleaned_for_postgres(
    database: str, catalog: str, tmp_path: Path, launchers: Launchers, clean: dict[str, str]
) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,v\n1,ok\n2,a\0b\n3,fine\n")
    task: dict[str, Any] = {
        "run": "r1",
        "attempt": 1,
        "uid": "00000000-0000-4000-9000-000000000001",
        "letters": catalog,
        "connections": {
            "files": {"type": "files", "root": str(tmp_path)},
            "to": {"type": "postgres", "dsn": database},
        },
        "pipeline": {
            "apiVersion": "penstock/v1",
            "kind": "Pipeline",
            "metadata": {"name": "items"},
            "spec": {
                "source": {"connection": "files", "object": "a.csv"},
                "sink": {"connection": "to", "object": "public.t", "write": "replace"},
                "errors": {"dead_letter": {"fail_above": "100%"}},
                "clean": clean,
            },
        },
        "result": str(tmp_path / "result.json"),
        "progress": None,
    }
    found = launchers.run(task)
    assert found["status"] == "completed", found
    with psycopg.connect(database, row_factory=scalar_row) as session:
        rows = session.execute("SELECT v FROM t ORDER BY id").fetchall()
    assert rows == (["ok", "ab", "fine"] if clean else ["ok", "fine"])
    assert found["counters"]["dead"] == (0 if clean else 1)


@pytest.mark.parametrize(
    ("source", "clean", "what"),
    [
        ({"type": "files", "root": "/data"}, {"zero_dates": None}, "a source of type files has no zero dates"),
        ({"type": "postgres", "dsn": "host=x"}, {"nul": "strip"}, "a source of type postgres has no characters with"),
    ],
)
def test_a_clean_that_no_row_of_the_source_can_need_is_refused(
    source: dict[str, Any], clean: dict[str, Any], what: str
) -> None:
    spec = {
        "source": {"connection": "from", "object": "a.t"},
        "sink": {"connection": "to", "object": "b.t", "write": "replace"},
        "clean": clean,
    }
    pipeline = {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "items"}, "spec": spec}
    connections = {"from": source, "to": {"type": "postgres", "dsn": "host=x"}}
    with pytest.raises(Refused, match=what):
        Job.from_task({"uid": "u", "run": "r", "pipeline": pipeline, "connections": connections})
