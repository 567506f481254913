"""The pipeline file that `penstock discover --write` proposes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from api.cli.proposal import Described, Wanted, pipeline_file
from penstock.models.domain import Field, Schema
from penstock.models.pipeline import Pipeline
from penstock.models.sets import check_written, placeholder_issue


def dataset(name: str, kind: str, schema: Schema) -> Described:
    return Described(name, kind, schema, 1200, 5_000_000)


TIME = "timestamp with time zone"


def field(name: str, type_: str = "text", *, nullable: bool = False) -> Field:
    return Field(name=name, type=type_, nullable=nullable)


FOUND = [
    dataset("public.orders", "table", Schema(fields=(field("id"), field("updated_at", TIME)), key=("id",))),
    dataset(
        "public.maybe", "table", Schema(fields=(field("id"), field("updated_at", TIME, nullable=True)), key=("id",))
    ),
    dataset("public.keyless", "table", Schema(fields=(field("x"),))),
    dataset("Odd Schema.Kunden: #1", "table", Schema(fields=(field("a b"), field("no")), unique=(("a b", "no"),))),
    dataset("public.recent", "view", Schema(fields=(field("x"),))),
    dataset("public.two\nlines", "table", Schema(fields=(field("x"),))),
    dataset("public.tmp_1", "table", Schema(fields=(field("x"),))),
]


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


def test_changes_are_followed_where_there_is_a_primary_key() -> None:
    text = pipeline_file(Wanted("shop", "shop", "warehouse", changes=True), FOUND)
    spec = yaml.safe_load(text)["spec"]
    check_written(Pipeline.parse(yaml.safe_load(text)))
    assert (spec["mode"], spec["schedule"]) == ("stream", {"cron": "*/5 * * * *"})
    off = {"disabled": True}
    assert spec["tables"] == {"public.keyless": off, "Odd Schema.Kunden: #1": off, "public.tmp_1": off}
    assert "public.keyless: about 1,200 rows, 5.0 MB, 1 columns, no primary key: its changes cannot be applied" in text


@pytest.mark.parametrize(
    ("source", "sink", "spec"),
    [
        ("postgres", "duckdb", {"object": "{schema}.{table}", "write": "merge", "key": "auto"}),
        ("mysql", "sqlite", {"object": "{schema}_{table}", "write": "merge", "key": "auto"}),
        ("postgres", "mysql", {"object": "house.{schema}_{table}", "write": "merge", "key": "auto"}),
        ("sqlite", "postgres", {"object": "public.{table}", "write": "merge", "key": "auto"}),
        ("duckdb", "s3", {"object": "{schema}/{table}", "write": "replace"}),
        ("files", "duckdb", {"object": "main.{table}", "write": "replace"}),
        ("s3", "mysql", {"object": "house.{table}", "write": "replace"}),
        ("kafka", "postgres", {"object": "public.{table}", "write": "append", "mode": "stream"}),
        ("kinesis", "files", {"object": "{table}", "write": "append", "mode": "stream"}),
    ],
)
def test_the_targets_are_named_as_both_systems_allow(source: str, sink: str, spec: dict[str, Any]) -> None:
    found = [Described("dot.ted")] if source in {"files", "s3", "kafka", "kinesis"} else FOUND[:1]
    text = pipeline_file(Wanted("all", "a", "b", source_type=source, sink_type=sink, database="house"), found)
    document = yaml.safe_load(text)
    check_written(Pipeline.parse(document))
    wanted = {"connection": "b", **spec}
    assert document["spec"].get("mode") == wanted.pop("mode", None)
    assert document["spec"]["sink"] == wanted
    assert placeholder_issue(spec["object"], source) is None
    patterns = ["public.*"] if source in {"postgres", "mysql", "duckdb"} else ["*"]
    assert document["spec"]["source"]["objects"] == patterns
