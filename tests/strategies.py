"""Hypothesis strategies: valid values of every model, valid records of every type, and valid pipeline documents.

A model's strategy is read off its fields, so that a new field is tried at once. What a validator of the model couples
is written here by hand, and `test_strategies.py` shows that nothing which comes out is refused.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, BeforeValidator, JsonValue
from pydantic.fields import FieldInfo

from penstock.models import (
    base,
    connection,
    domain,
    formats,
    http,
    letters,
    notices,
    pipeline,
    receivers,
    schedule,
    secrets,
    transforms,
)
from penstock.models.base import Model
from penstock.models.policy import AgentPolicy, AgentPolicySpec
from penstock.records import Record, commands, coordination, shapes
from penstock.records.families import TYPES

__all__ = ["SQL", "identifiers", "json_values", "logs", "models", "pipelines", "records", "texts", "times"]

Strategy = st.SearchStrategy[Any]

SQL: Final = ("price * quantity", "a", "upper(name)", "a <> 'x'", "coalesce(a, 0) + 1", "cast(a AS numeric(15, 2))")
identifiers = st.sampled_from(["a", "b", "c", "d"])
"""Few, so that records share subjects."""
texts = st.text(max_size=12)
times = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))
MOST: Final = timedelta(milliseconds=10**12)


def _durations(least: timedelta, most: timedelta) -> Strategy:
    unit = timedelta(milliseconds=1)
    return st.integers(least // unit, most // unit).map(lambda n: n * unit)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, json_values, max_size=3)
_IDS = {"id", "uid", "run", "task", "command", "worker", "timer", "subject", "correlation", "key", "raised", "incident"}


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


BY_VALIDATOR: Final[Mapping[Callable[..., Any], Strategy]] = {
    base._sql: st.sampled_from(SQL),
    schedule._cron: st.sampled_from(["*/15 * * * *", "0 3 * * 1", "30 4 1,15 * 5"]),
    schedule.time_zone: st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    formats._encoding: st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16"]),
    secrets._no_literal: st.sampled_from(["${env:PENSTOCK_SECRET_A}", "${file:/run/secrets/a}"]),
    secrets._without_literal: st.sampled_from(["postgresql://u@h/d", "host=h dbname=d", "${env:PENSTOCK_SECRET_A}"]),
    http._plain_url: st.sampled_from(["https://api.example.com/v1", "http://127.0.0.1:8080"]),
    receivers._no_secret_in: st.sampled_from(["https://a.example.com/hook", "${env:PENSTOCK_SECRET_URL}"]),
    receivers._address: st.sampled_from(["a@example.com", "b.c@mail.example.org"]),
    secrets.none_literal: st.sampled_from([{}, {"Accept": "*/*"}, {"X-Api-Key": "${env:PENSTOCK_SECRET_A}"}]),
}
"""Values that a validator accepts, for fields whose type alone does not suffice."""


def models(model: type[Model], **fixed: Strategy) -> st.SearchStrategy[Any]:
    """Valid instances of `model`; `fixed` maps fields to strategies for them, which are always drawn."""
    return _with(model, fixed) if fixed else _any(model)


@cache
def _any(model: type[Model]) -> Strategy:
    return BY_MODEL[model]() if model in BY_MODEL else _with(model, {})


def _with(model: type[Model], fixed: Mapping[str, Strategy]) -> Strategy:
    required: dict[str, Strategy] = {}
    optional: dict[str, Strategy] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        drawn = fixed[name] if name in fixed else _field(name, field)
        (required if field.is_required() or name in fixed else optional)[key] = drawn
    return st.fixed_dictionaries(required, optional=optional).map(model.model_validate)


def _field(name: str, field: FieldInfo) -> Strategy:
    if name in _IDS and field.annotation in (str, str | None, domain.Id | None, shapes.FolderName | None):
        return identifiers if field.annotation is str else st.none() | identifiers
    return _values(field.annotation, field.metadata)


def _values(annotation: Any, metadata: Sequence[Any] = ()) -> Strategy:
    """Valid values of a type with its constraints."""
    for one in metadata:
        if isinstance(one, AfterValidator) and one.func in BY_VALIDATOR:
            return BY_VALIDATOR[one.func]
        if isinstance(one, BeforeValidator) and one.func is shapes._moment:
            return times
        if isinstance(one, AfterValidator) and one.func in DOCUMENTS:
            return st.deferred(DOCUMENTS[one.func])
    unique = any(isinstance(one, AfterValidator) and one.func is transforms.unique for one in metadata)
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _values(inner, [*metadata, *_flat(more)])
    if annotation is JsonValue:
        return json_values
    found = _structure(annotation, metadata)
    return found.map(_distinct) if unique else found


def _flat(metadata: Sequence[Any]) -> list[Any]:
    return [part for one in metadata for part in (one.metadata if isinstance(one, FieldInfo) else [one])]


def _structure(annotation: Any, metadata: Sequence[Any]) -> Strategy:  # noqa: PLR0911 - one for each kind of type
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_values(one, metadata) for one in inner])
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        least = max((getattr(one, "min_length", None) or 0 for one in metadata), default=0)
        many = st.lists(_values(inner[0]), min_size=least, max_size=max(least, 3)).map(tuple)
        return many if inner[-1] is Ellipsis else st.tuples(*map(_values, inner))
    if origin is list:
        return st.lists(_values(inner[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(_values(inner[0]), _values(inner[1]), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return models(annotation)
    return _scalar(annotation, metadata)


def _scalar(annotation: Any, metadata: Sequence[Any]) -> Strategy:
    bounds = {
        name: value
        for one in metadata
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
        if (value := getattr(one, name, None)) is not None
    }
    if annotation is int:
        low = bounds.get("ge", 0)
        return st.integers(low, min(bounds.get("le", low + 9), low + 9))
    if annotation is float:
        low = bounds.get("ge", math.nextafter(bounds["gt"], math.inf) if "gt" in bounds else -1e9)
        return st.floats(low, bounds.get("le", 1e9))
    if annotation is str:
        return _strings(**bounds)
    if annotation is timedelta:
        least = bounds.get("ge", timedelta(milliseconds=int("gt" in bounds)))
        return _durations(least, bounds.get("le", MOST))
    plain: dict[Any, Strategy] = {
        bool: st.booleans(),
        Any: json_values,
        date: st.dates(date(1990, 1, 1), date(2090, 1, 1)),
        datetime: times,
        domain.Timestamp: times,
        type(None): st.none(),
    }
    return plain[annotation]


def _strings(pattern: str | None = None, min_length: int = 0, max_length: int = 12, **_: Any) -> Strategy:
    if pattern is None:
        return st.text(min_size=min_length, max_size=min(max(max_length, min_length), 12))
    if pattern == NAME:
        return st.sampled_from(["a", "orders", "b-1"]) | st.from_regex(pattern, fullmatch=True)
    if pattern == PIPELINE_NAME:
        return names | st.sampled_from(["shop/public.orders", "shop/a.B {x}"])
    return st.from_regex(pattern, fullmatch=True).filter(lambda text: min_length <= len(text) <= max(max_length, 64))


NAME: Final = r"^[a-z][a-z0-9_-]{0,62}$"
PIPELINE_NAME: Final = r"^[a-z][a-z0-9_-]{0,62}(/[^\x00-\x1f]{1,512})?$"
names = _strings(NAME)


def _counters() -> Strategy:
    counts = st.integers(0, 2**40)
    return st.builds(
        lambda out, filtered, dead, size: domain.Counters(
            rows_in=out + filtered + dead, rows_out=out, filtered=filtered, dead=dead, bytes=size
        ),
        counts,
        counts,
        counts,
        counts,
    )


def schema_fields(depth: int = 1) -> st.SearchStrategy[domain.Field]:
    """Fields with parts, down to `depth`."""
    parts = st.lists(schema_fields(depth - 1), max_size=2, unique_by=lambda one: one.name) if depth else st.none()
    return _with(domain.Field, {"fields": parts})


@st.composite
def _schema(draw: st.DrawFn) -> domain.Schema:
    fields = draw(st.lists(models(domain.Field), max_size=4, unique_by=lambda field: field.name))
    some = st.lists(st.sampled_from([field.name for field in fields]), unique=True, min_size=1).map(tuple)
    if not fields:
        return domain.Schema(fields=())
    foreign = st.builds(domain.ForeignKey, columns=some, object=st.just("a.b"), references=some)
    return domain.Schema(
        fields=tuple(fields),
        key=draw(st.just(()) | some),
        unique=draw(st.none() | st.lists(some, max_size=2).map(tuple)),
        foreign=draw(st.none() | st.lists(foreign, max_size=2).map(tuple)),
    )


def _schema_rules() -> Strategy:
    fields = {name: _field(name, field) for name, field in pipeline.SchemaRules.model_fields.items()}
    old = {name: one for name, one in fields.items() if name not in {"types", "lost"}}
    new = {name: one for name, one in fields.items() if name != "breaking"}
    drawn = st.fixed_dictionaries({}, optional=old) | st.fixed_dictionaries({}, optional=new)
    return drawn.map(pipeline.SchemaRules.model_validate)


def _field_rule() -> Strategy:
    origin = st.one_of(st.fixed_dictionaries({"from": _columns}), st.fixed_dictionaries({"sql": st.sampled_from(SQL)}))
    return st.tuples(_columns, origin).map(lambda p: transforms.FieldRule.model_validate({"target": p[0], **p[1]}))


def _mapping_rule() -> Strategy:
    fields = st.lists(_field_rule(), min_size=1, max_size=4, unique_by=lambda rule: rule.target)
    return st.one_of(
        names.map(lambda name: transforms.MappingRule(ref=name)),
        fields.map(lambda found: transforms.MappingRule(fields=tuple(found))),
    )


_columns = st.sampled_from(["id", "name", "total", "Order Id", "größe"])
_OPERATIONS: Final[dict[str, Strategy]] = {
    "rename": st.dictionaries(_columns, _columns, min_size=1, max_size=2),
    "select": st.lists(_columns, min_size=1, unique=True).map(tuple),
    "cast": st.dictionaries(_columns, st.sampled_from(["text", "timestamptz"]), min_size=1, max_size=2),
    "set": st.dictionaries(_columns, st.sampled_from(SQL), min_size=1, max_size=2),
    "filter": st.sampled_from(SQL),
    "mask": st.dictionaries(_columns, st.sampled_from(["hash", "sha256", "redact"]), min_size=1, max_size=2),
    "deduplicate": st.builds(dict, by=st.just(("id",)), keep=st.sampled_from(["first", "last"])),
    "lookup": st.builds(
        dict, connection=names, object=st.just("public.rates"), on=st.just({"id": "code"}), take=st.just({"rate": "r"}),
        missing=st.sampled_from(["null", "refuse"]),
    ),
    "explode": st.builds(lambda column: {"column": column, "as": "bigint"}, _columns),
    "python": st.just({"call": "shop.steps:clean", "columns": {"name": "text"}}),
}  # fmt: skip


@st.composite
def _step(draw: st.DrawFn) -> transforms.TransformStep:
    operation = draw(st.sampled_from(sorted(_OPERATIONS)))
    found = {
        "name": draw(names),
        "when": draw(st.none() | st.sampled_from(SQL)) if operation in transforms.CONDITIONAL else None,
        operation: draw(_OPERATIONS[operation]),
    }
    return transforms.TransformStep.model_validate(found)


@st.composite
def _sink(draw: st.DrawFn) -> pipeline.Sink:
    write = draw(st.sampled_from(["append", "replace", "merge", "scd2"]))
    key = draw(st.lists(_columns, min_size=1 if write in {"merge", "scd2"} else 0, unique=True))
    return pipeline.Sink(connection=draw(names), object="sink." + draw(_columns), write=write, key=tuple(key))


@st.composite
def _retry(draw: st.DrawFn) -> pipeline.Retry:
    first, second = sorted(draw(st.tuples(st.integers(1, 10**9), st.integers(1, 10**9))))
    return pipeline.Retry(
        base=timedelta(milliseconds=first),
        max=timedelta(milliseconds=second),
        factor=draw(st.floats(1, 100)),
        attempts=draw(st.integers(1, 1000)),
    )


@st.composite
def _spec(draw: st.DrawFn) -> pipeline.PipelineSpec:
    steps = draw(st.lists(_step(), max_size=3, unique_by=lambda step: step.name))
    tests = draw(st.lists(models(pipeline.PipelineTest), max_size=2, unique_by=lambda test: test.name))
    sink = draw(_sink())
    streams = draw(st.booleans()) and sink.write != "replace"
    other: dict[str, Strategy] = {"cursor": st.none()} if streams else {"from_": st.none()}
    other |= {"objects": st.just(()), "except_": st.just(())}
    source = draw(models(pipeline.Source, object=_columns.map("source.{}".format), **other))
    parts: dict[str, Any] = {
        "mode": "batch",
        "source": source,
        "sink": sink,
        "transforms": tuple(steps),
        "tests": tuple(tests),
        "mapping": draw(st.none() | _mapping_rule()),
        "schema": draw(models(pipeline.SchemaRules)),
        "errors": draw(models(pipeline.ErrorRules)),
        "limits": draw(models(pipeline.Limits)),
    }
    if streams:
        return pipeline.PipelineSpec.model_validate({**parts, "mode": "stream"})
    rest = {"schedule": draw(st.none() | models(schedule.Schedule)), "validate": draw(models(transforms.Validation))}
    others = st.lists(st.sampled_from(["up_one", "up_two", "up_three"]), min_size=1, unique=True).map(tuple)
    spans = _field("fresh", schedule.Dependencies.model_fields["fresh"]).filter(bool)
    free, held = {"fresh": st.none()}, {"on": st.just("success"), "fresh": spans}
    how = free if rest["schedule"] is None else held
    rest["after"] = draw(st.none() | models(schedule.Dependencies, pipelines=others, **how))
    return pipeline.PipelineSpec.model_validate(parts | rest)


def _policy_spec() -> Strategy:
    return models(AgentPolicySpec, applies=st.just({}))


def _reload() -> Strategy:
    bound = st.text("0123456789-", min_size=1, max_size=20)
    window = st.builds(lambda first, end: {"rows": "window", "from": first, "to": end}, bound, bound)
    return st.one_of(st.just({"rows": "all"}), window).map(domain.Reload.model_validate)


def _mysql() -> Strategy:
    place = st.sampled_from([{"host": "db.example.com"}, {"host": "127.0.0.1", "port": 3307}, {"socket": "/run/s"}])
    fields = connection.MysqlConnection.model_fields
    others = {name: _field(name, fields[name]) for name in ("database", "password", "tls")}
    drawn = st.fixed_dictionaries({"type": st.sampled_from(["mysql", "mariadb"]), "user": identifiers}, optional=others)
    return st.builds(lambda one, two: connection.MysqlConnection.model_validate(one | two), place, drawn)


def _kinesis() -> Strategy:
    fields = connection.KinesisConnection.model_fields
    place = {name: _field(name, fields[name]) for name in ("region", "endpoint")}
    secret = _field("access_key", fields["access_key"]).filter(bool)
    keys = st.fixed_dictionaries({"access_key": secret, "secret_key": secret}, optional={"session_token": secret})
    drawn = st.fixed_dictionaries({"type": st.just("kinesis"), **place})
    return st.builds(lambda one, two: connection.KinesisConnection.model_validate(one | two), drawn, st.just({}) | keys)


def _smtp() -> Strategy:
    fields = connection.SmtpConnection.model_fields
    secret = _field("password", fields["password"]).filter(bool)
    login = st.fixed_dictionaries({"user": identifiers, "password": secret}) | st.just({"user": None, "password": None})
    addresses = st.lists(BY_VALIDATOR[receivers._address], min_size=1, max_size=3)
    others = {"host": st.sampled_from(["mail.example.com", "127.0.0.1"]), "tls": st.sampled_from(["starttls", "tls"])}
    drawn = {name: _field(name, fields[name]) for name in ("port", "ca", "timeout")}
    place = st.fixed_dictionaries({"type": st.just("smtp"), "from": BY_VALIDATOR[receivers._address]} | others | drawn)
    return st.builds(
        lambda one, two, to: connection.SmtpConnection.model_validate(one | two | {"to": to}), place, login, addresses
    )


OF_PIPELINES: Final[dict[str, Strategy]] = {
    "kind": st.sampled_from(["pipeline", "cleanup"]), "pipeline": identifiers, "discovery": st.none(),
    "letters": st.none(), "notice": st.none(),
}  # fmt: skip


def _of_discoveries() -> dict[str, Strategy]:
    found = models(domain.Discovery)
    others = dict.fromkeys(("pipeline", "letters", "notice"), st.none())
    return {"kind": st.just("discover"), "discovery": found, **others}


def _of_notices() -> dict[str, Strategy]:
    others = dict.fromkeys(("pipeline", "letters", "discovery"), st.none())
    return {"kind": st.just("notify"), "notice": models(notices.Notice), **others}


def _task() -> Strategy:
    of_letters = OF_PIPELINES | {"kind": st.just("letters"), "letters": models(letters.LettersOrder)}
    kinds = (OF_PIPELINES, of_letters, _of_discoveries(), _of_notices())
    return st.one_of([_with(domain.Task, one) for one in kinds])


def _letters(model: type[letters.LettersOrder]) -> Strategy:
    deletes = {"action": st.sampled_from(["discard", "erase"]), "reason": identifiers, "fix": st.none()}
    return _with(model, {"action": st.just("replay"), "reason": st.none()}) | _with(model, deletes)


def _assigned() -> Strategy:
    parts = {"uid": identifiers, "spec": st.deferred(lambda: pipelines)}
    of_pipelines = _with(coordination.TaskAssigned, OF_PIPELINES | parts)
    none = dict.fromkeys(parts, st.none())
    alone = [_with(coordination.TaskAssigned, one | none) for one in (_of_discoveries(), _of_notices())]
    return st.one_of(of_pipelines, *alone)


BY_MODEL: Final[dict[type[BaseModel], Callable[[], Strategy]]] = {
    connection.KinesisConnection: _kinesis,
    connection.MysqlConnection: _mysql,
    connection.SmtpConnection: _smtp,
    domain.Counters: _counters,
    domain.Reload: _reload,
    domain.Field: schema_fields,
    domain.Schema: _schema,
    domain.Task: _task,
    letters.LetterFix: lambda: _with(letters.LetterFix, {"set": _OPERATIONS["set"]}),
    letters.LettersOrder: lambda: _letters(letters.LettersOrder),
    commands.LettersStart: lambda: _letters(commands.LettersStart),
    coordination.TaskAssigned: _assigned,
    transforms.FieldRule: _field_rule,
    transforms.MappingRule: _mapping_rule,
    transforms.TransformStep: _step,
    pipeline.SchemaRules: _schema_rules,
    pipeline.Sink: _sink,
    pipeline.Retry: _retry,
    pipeline.PipelineSpec: _spec,
    AgentPolicySpec: _policy_spec,
}

pipelines: st.SearchStrategy[dict[str, Any]] = models(
    pipeline.Pipeline, metadata=models(pipeline.Metadata, name=names)
).map(lambda one: one.to_dict())
"""Valid pipeline documents, as in a file."""
DOCUMENTS: Final[Mapping[Callable[..., Any], Callable[[], Strategy]]] = {
    shapes._pipeline: lambda: pipelines,
    shapes._policy: lambda: models(AgentPolicy).map(lambda one: one.to_dict()),
}
"""Documents in payloads."""


@st.composite
def records(draw: st.DrawFn, type_: str | None = None) -> Record:
    """A valid record of `type_`, or of any."""
    name = type_ or draw(st.sampled_from(sorted(TYPES)))
    known = TYPES[name]
    payload: dict[str, Any] = draw(models(known.payload)).to_dict()
    agent = draw(st.none() | st.sampled_from(["lifecycle", "orchestrator"]))
    return Record(
        id=draw(st.uuids(version=4)).hex if known.kind != "command" else draw(identifiers),
        kind=known.kind,
        type=name,
        key=draw(identifiers),
        at=draw(times),
        actor=f"agent:{agent}" if agent else "user:ann",
        cause=draw(st.none() | st.tuples(st.integers(0, 99), st.integers(0, 9))),
        correlation=draw(st.none() | identifiers),
        traceparent=draw(st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
        brain=draw(st.integers(0, 3)) if agent else None,
        payload=payload,
    )


@st.composite
def logs(draw: st.DrawFn, max_size: int = 40) -> list[Record]:
    """Records in any order, of few types or of all, about the same few subjects."""
    few = st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=6, unique=True)
    types_ = draw(few | st.just(sorted(TYPES)))
    some = st.sampled_from(types_).flatmap(records)
    size = draw(st.integers(0, max_size))
    found = [draw(some) for _ in range(size)]
    decided = draw(st.booleans())
    return found if decided else [record.replaced(brain=None) for record in found]
