"""`plan` names what an access key may not do in a bucket, and writes nothing to find it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import AccessDenied
from tests.dataflows.conftest import task_of
from tests.s3 import GUEST, SECRET, S3Server

READS: dict[str, list[str]] = {"ListBucket": [], "GetObject": ["grants/"]}


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for the run; the bucket has a file to read."""
    monkeypatch.setenv("PENSTOCK_SECRET_USER", GUEST)
    monkeypatch.setenv("PENSTOCK_SECRET_GUEST", SECRET)
    source = s3.home / "data/lake/grants/in"
    source.mkdir(parents=True, exist_ok=True)
    (source / "t.csv").write_text("id,b\n1,x\n2,y\n")
    return tmp_path


def planned(s3: S3Server, folder: Path, into: str = "out") -> dict[str, Any]:
    connection = {"type": "s3", "url": "s3://lake/grants", "endpoint": s3.endpoint, "region": "us-east-1"}
    connection |= {"access_key": "${env:PENSTOCK_SECRET_USER}", "secret_key": "${env:PENSTOCK_SECRET_GUEST}"}
    sink = {"connection": "a", "object": into, "write": "replace"}
    spec = {"source": {"connection": "a", "object": "in/t.csv"}, "sink": sink}
    job = Job.from_task(task_of("r", "u", {"a": connection}, spec, folder))
    with opened(job) as both:
        return plan(job, both)


def test_a_prefix_that_the_key_may_not_write_is_named_and_nothing_is_written(s3: S3Server, bucket: Path) -> None:
    s3.allow(**READS, PutObject=["grants/out"], DeleteObject=["grants/out"])
    before = sorted((s3.home / "data").rglob("*"))
    with pytest.raises(AccessDenied, match=r"may not write to s3://lake/grants/closed.*s3:PutObject"):
        planned(s3, bucket, "closed")
    assert planned(s3, bucket)["exists"] is False
    assert sorted((s3.home / "data").rglob("*")) == before


@pytest.mark.parametrize("rights", [{"GetObject": ["grants/"]}, {"ListBucket": [], "GetObject": ["grants/out"]}])
def test_a_source_that_the_key_may_not_list_or_read_is_named(
    s3: S3Server, bucket: Path, rights: dict[str, list[str]]
) -> None:
    s3.allow(**rights, PutObject=["grants/out"])
    with pytest.raises(AccessDenied, match="items: connection a: the object store refuses access"):
        planned(s3, bucket)
