"""The pipeline file that `penstock discover --write` proposes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import yaml

from api.cli.proposal import Wanted, pipeline_file
from catalog.entries import Dataset
from penstock.models.domain import Field, Schema
from penstock.models.pipeline import Pipeline
from penstock.models.sets import check_written

AT = datetime(2026, 1, 1, tzinfo=UTC)


def dataset(name: str, kind: str = "table") -> Dataset:
    counted: dict[str, Any] = {"rows": 1200, "bytes": 5_000_000, "profile": {}, "profiled_at": AT}
    seen: dict[str, Any] = {"first_offset": 0, "first_at": AT, "last_offset": 0, "last_at": AT, "changed": 0}
    named: dict[str, Any] = {"id": name, "connection": "shop", "object": name, "kind": kind, "description": None}
    return Dataset(**named, tags=(), version=1, fingerprint="x", compatibility=None, **counted, **seen)


TIME = "timestamp with time zone"


def field(name: str, type_: str = "text", *, nullable: bool = False) -> Field:
    return Field(name=name, type=type_, nullable=nullable)


FOUND = [
    (dataset("public.orders"), Schema(fields=(field("id"), field("updated_at", TIME)), key=("id",))),
    (dataset("public.maybe"), Schema(fields=(field("id"), field("updated_at", TIME, nullable=True)), key=("id",))),
    (dataset("public.keyless"), Schema(fields=(field("x"),))),
    (dataset("Odd Schema.Kunden: #1"), Schema(fields=(field("a b"), field("no")), unique=(("a b", "no"),))),
    (dataset("public.recent", "view"), Schema(fields=(field("x"),))),
    (dataset("public.two\nlines"), Schema(fields=(field("x"),))),
    (dataset("public.tmp_1"), Schema(fields=(field("x"),))),
]  # fmt: skip


def test_keys_and_cursors_are_proposed_and_estimates_are_comments() -> None:
    text = pipeline_file(Wanted("shop", "shop", "warehouse", except_=("*.tmp_*",)), FOUND)
    document = yaml.safe_load(text)
    check_written(Pipeline.parse(document))
    spec = document["spec"]
    assert spec["source"]["objects"] == ["public.*", "Odd Schema.*"]
    assert spec["source"]["except"] == ["*.tmp_*"]
    assert "# 4 tables of shop" in text
    assert spec["sink"] == {"connection": "warehouse", "object": "{schema}.{table}", "write": "merge", "key": "auto"}
    assert spec["tables"] == {
        "public.orders": {"source": {"cursor": {"field": "updated_at", "lag": "5m"}}},
        "public.keyless": {"sink": {"write": "replace", "key": []}},
        "Odd Schema.Kunden: #1": {"sink": {"key": ["a b", "no"]}},
    }
    assert "# public.maybe: about 1,200 rows, 5.0 MB, 2 columns, key id" in text


def test_only_the_objects_that_are_asked_for_are_in_the_file() -> None:
    text = pipeline_file(Wanted("shop", "shop", "warehouse", tables=("public.o*",)), FOUND)
    found = yaml.safe_load(text)
    assert found["spec"]["source"] == {"connection": "shop", "objects": ["public.o*"]}
    assert list(found["spec"]["tables"]) == ["public.orders"]
