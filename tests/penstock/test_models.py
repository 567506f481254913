"""The domain's models: round trips, the refusals of each validator, and their messages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import models as domain
from penstock.errors import InvalidDocument, MissingTable, Unreachable
from penstock.models.base import Model
from penstock.models.domain import Error, Schema
from penstock.models.pipeline import Pipeline, PipelineSpec
from penstock.models.policy import AgentPolicy
from tests.strategies import models

ALL = sorted(
    (found for name in domain.__all__ if isinstance(found := getattr(domain, name), type) and issubclass(found, Model)),
    key=lambda model: model.__name__,
)
ALL.remove(Model)


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_property_01_models_round_trip(model: type[Model], data: st.DataObject) -> None:
    """Property 1: Serialization round trip.

    Whatever a model holds, as a dict, as JSON and as YAML it comes back equal.

    Validates: Requirements 1.1, 2.1
    """
    one = data.draw(models(model))
    assert model.parse(one.to_dict()) == one
    assert model.from_json(one.to_json()) == one
    assert model.from_yaml(one.to_yaml()) == one


def test_every_model_of_the_package_is_tested() -> None:
    assert {"Pipeline", "Schema", "FieldMapping", "SchemaMapping", "Task", "AgentDecision", "Error", "Run"} <= {
        model.__name__ for model in ALL
    }
    assert len(ALL) >= 18


def issues(model: type[Model], data: object) -> dict[str, str]:
    with pytest.raises(InvalidDocument) as caught:
        model.parse(data)
    return {issue.path: issue.message for issue in caught.value.issues}


MINIMAL: dict[str, Any] = {"source": {"connection": "a", "object": "t"}, "sink": {"connection": "b", "object": "t"}}


def spec(**parts: Any) -> dict[str, Any]:
    return {**MINIMAL, **parts}


def sink(**parts: Any) -> dict[str, Any]:
    return spec(sink={"connection": "b", "object": "t", **parts})


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        (spec(mode="hourly"), "mode", "input should be 'batch' or 'stream', got 'hourly'"),
        (spec(schedule={"cron": "every day"}), "schedule.cron", "is not a cron expression of five fields"),
        (spec(schedule={"cron": "* * * * * *"}), "schedule.cron", "is not a cron expression of five fields"),
        (spec(schedule={"cron": "* * * * *", "timezone": "Mars/Base"}), "schedule.timezone", "unknown time zone 'Mars"),
        (spec(schedule={"cron": "* * * * *", "timezone": "../../etc/passwd"}), "schedule.timezone", "unknown time"),
        (spec(mapping={}), "mapping", "needs exactly one of `ref` and `fields`"),
        (spec(mapping={"ref": "a", "fields": []}), "mapping", "needs exactly one of `ref` and `fields`"),
        (spec(mapping={"fields": []}), "mapping", "`fields` must name at least one field"),
        (spec(mapping={"fields": [{"target": "a"}]}), "mapping.fields[0]", "needs exactly one of `from` and `sql`"),
        (spec(mapping={"fields": [{"target": "a", "sql": "a +"}]}), "mapping.fields[0].sql", "is not a SQL expression"),
        (spec(mapping={"fields": [{"target": "a", "sql": "a; b"}]}), "mapping.fields[0].sql", "must be ONE SQL"),
        (spec(mapping={"fields": [{"target": "a", "sql": " "}]}), "mapping.fields[0].sql", "is an empty expression"),
        (spec(mapping={"fields": [{"target": "a", "from": "x"}] * 2}), "mapping", "names 'a' twice"),
        (spec(transforms=[{"name": "a"}]), "transforms[0]", "needs exactly one operation of"),
        (spec(transforms=[{"name": "a", "filter": "b", "set": {"a": "b"}}]), "transforms[0]", "has set, filter"),
        (spec(transforms=[{"name": "a", "select": []}]), "transforms[0]", "`select` is empty"),
        (spec(transforms=[{"name": "a", "filter": "b"}] * 2), "", "names 'a' twice"),
        (spec(transforms=[{"name": "a", "select": ["x", "x"]}]), "transforms[0].select", "names 'x' twice"),
        (sink(write="merge"), "sink", "`write: merge` needs a `key`"),
        (sink(write="upsert"), "sink.write", "got 'upsert'"),
        (sink(key=["a", "a"]), "sink.key", "names 'a' twice"),
        (sink(connection="a"), "", "source and sink are the same object"),
        (spec(mode="stream", schedule={"cron": "* * * * *"}), "", "it takes no `schedule`"),
        (spec(mode="stream", sink={"connection": "b", "object": "t", "write": "replace"}), "", "cannot `replace`"),
        (spec(mode="stream", validate={"unique": ["a"]}), "", "`validate.unique` needs a batch"),
        *(
            (spec(sink={"connection": "b", "object": "t", "key": ["a"], "write": one}, deletes={"mark": "x"}), "", why)
            for one, why in (("append", "is for `write: merge`"), ("replace", "does not need"), ("scd2", "or allow it"))
        ),
        (spec(mode="stream", deletes={"mark": "remove"}), "", "`deletes` is for batches"),
        (
            spec(sink={"connection": "b", "object": "t", "key": ["a"], "write": "merge"}, deletes={"mark": "a"}),
            "", "which `sink` uses for something else",
        ),
        (spec(deletes={"mark": "x", "every": "0s"}), "deletes.every", "greater than or equal to"),
        (spec(check={}), "check.every", "is required"),
        (spec(errors={"retry": {"base": "10s", "max": "1s"}}), "errors.retry", "needs 0 < base <= max"),
        (spec(errors={"retry": {"base": "0s"}}), "errors.retry", "needs 0 < base <= max"),
        (spec(errors={"retry": {"base": "soon"}}), "errors.retry.base", "is not a duration such as 90s"),
        (spec(errors={"retry": {"base": 5}}), "errors.retry.base", ""),
        (spec(errors={"retry": {"base": "99999999999y"}}), "errors.retry.base", "is longer than a duration can be"),
        (spec(errors={"dead_letter": {"fail_above": "101%"}}), "errors.dead_letter.fail_above", "or equal to 1"),
        (spec(limits={"workers": 0}), "limits.workers", "greater than or equal to 1"),
        (spec(limits={"workers": "2"}), "limits.workers", "valid integer"),
        (spec(limits={"workers": True}), "limits.workers", "valid integer"),
        (spec(source={"connection": "a", "object": ""}), "source.object", "at least 1 character"),
        (spec(source={"connection": "a", "object": "x\ny"}), "source.object", "match pattern"),
        (spec(source={"connection": "A B", "object": "t"}), "source.connection", "match pattern"),
        (spec(source={"object": "t"}), "source.connection", "is required"),
        ([], "", "input should be an object"),
        ("x", "", "input should be an object"),
        (None, "", "input should be an object"),
    ],
)  # fmt: skip
def test_a_spec_is_refused_at_its_path(data: object, path: str, message: str) -> None:
    found = issues(PipelineSpec, data)
    assert path in found, found
    assert message in found[path]


def test_an_unknown_key_is_reported_with_the_nearest_known_one() -> None:
    found = issues(PipelineSpec, spec(sorce={}, source={"connection": "a", "object": "t", "cursr": {}}, zzz=1))
    assert found == {
        "sorce": "unknown key; did you mean `source`?",
        "source.cursr": "unknown key; did you mean `cursor`?",
        "zzz": "unknown key; known: mode, source, schedule, after, triggers, clean, mapping, schema, transforms, "
        "validate, sink, errors, limits, check, deletes, expect, tests, tables, appear, vanish",
    }


def test_an_unknown_key_in_a_list_is_reported() -> None:
    found = issues(PipelineSpec, spec(transforms=[{"name": "a", "filter": "b", "wen": "c"}]))
    assert found == {"transforms[0].wen": "unknown key; did you mean `when`?"}


def test_all_issues_are_reported_at_once() -> None:
    document = {"kind": "Pipeline", "metadata": {"name": "A"}, "spec": {"source": {}, "sink": {"object": "x"}}}
    assert set(issues(Pipeline, document)) == {
        "metadata.name",
        "spec.source.connection",
        "spec.source.object",
        "spec.sink.connection",
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("250ms", 0.25), ("1.5h", 5400), ("1y", 31536000)],
)
def test_durations_round_trip_in_short_form(text: str, seconds: float) -> None:
    found = PipelineSpec.parse(spec(limits={"max_lag": text})).limits.max_lag
    assert found == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "5", "5 m", "-5m", "5x", "m5", "1h 30m", "٣s5"])
def test_invalid_durations_are_refused(text: str) -> None:
    assert "limits.max_lag" in issues(PipelineSpec, spec(limits={"max_lag": text}))


def test_defaults_are_not_serialized() -> None:
    document = {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "a"}, "spec": MINIMAL}
    assert Pipeline.parse(document).to_dict() == document


def test_a_schema_is_consistent_and_has_a_fingerprint() -> None:
    fields = [{"name": "a", "type": "int"}, {"name": "b", "type": "text"}]
    one = Schema.parse({"fields": fields, "key": ["a"]})
    assert one.fingerprint == Schema.parse({"key": ["a"], "fields": fields}).fingerprint
    others = [{"fields": fields[::-1], "key": ["a"]}, {"fields": fields}, {"fields": fields[:1], "key": ["a"]}]
    assert one.fingerprint not in {Schema.parse(other).fingerprint for other in others}
    assert "has a duplicate field" in issues(Schema, {"fields": fields[:1] * 2})["fields"]
    assert "the key names c, which is not a field" in issues(Schema, {"fields": fields, "key": ["c"]})[""]


def test_counters_must_balance() -> None:
    assert "is not rows_out 1" in issues(domain.Counters, {"rows_in": 3, "rows_out": 1, "dead": 1})[""]
    assert "rows_in" in issues(domain.Counters, {"rows_in": -1})


def test_times_need_a_zone() -> None:
    run = {"id": "r", "pipeline": "p", "version": 1, "status": "queued"}
    assert (
        "should have timezone info" in issues(domain.Run, run | {"requested_at": "2026-01-01T00:00:00"})["requested_at"]
    )
    assert domain.Run.parse(run | {"requested_at": "2026-01-01T01:00:00+01:00"}).requested_at.hour in {0, 1}


def test_a_foreign_exception_is_recorded_by_its_class_only() -> None:
    found = Error.of(ValueError("secret 4711"))
    assert found == Error(code="unexpected", what="builtins.ValueError")


def test_an_error_is_recorded_without_its_value() -> None:
    found = Error.of(MissingTable("is not there", where="shop:t", value="secret", hint="create it"))
    assert found == Error(code="schema.missing_table", what="is not there", where="shop:t", hint="create it")
    assert Error.of(Unreachable("gone")).transient


def test_the_hash_of_a_policy_depends_on_its_rules_only() -> None:
    one = AgentPolicy.parse(
        {"kind": "AgentPolicy", "metadata": {"name": "a"}, "spec": {"mapping": {"act_above": "90%"}}}
    )
    same = AgentPolicy.parse(
        {"metadata": {"name": "a"}, "spec": {"mapping": {"act_above": 0.9}}, "kind": "AgentPolicy"}
    )
    other = AgentPolicy.parse(
        {"kind": "AgentPolicy", "metadata": {"name": "a"}, "spec": {"mapping": {"act_above": 0.91}}}
    )
    assert one.hash == same.hash != other.hash


def test_capacity_belongs_to_the_policy_without_labels() -> None:
    document = {"metadata": {"name": "a"}, "spec": {"applies": {"tier": "gold"}, "orchestrator": {"max_running": 2}}}
    assert "`orchestrator` is for all pipelines together" in issues(AgentPolicy, document)["spec"]


@pytest.mark.parametrize("data", [{"a": {1, 2}}, float("nan"), {"x": object()}, "[" * 3])
def test_input_that_is_not_a_document_is_refused(data: object) -> None:
    assert issues(Pipeline, data)


def test_deeply_nested_input_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert issues(Pipeline, {"spec": deep})
