"""Files of a project: YAML's traps, the location of errors, and secrets."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import conninfo
from psycopg.conninfo import conninfo_to_dict

from penstock.errors import InvalidDocument, NotFound, SettingsError
from penstock.models.connection import PostgresConnection, parse_connections, postgres_dsn
from penstock.models.documents import read_documents, read_project
from penstock.models.pipeline import Pipeline
from penstock.models.secrets import literal_secret, literals, literals_in_prose, resolve
from tests.strategies import pipelines

Break = Callable[[dict[str, Any]], None]


def put(path: str, value: Any) -> Break:
    """Return a function that sets `value` at `path` and creates missing parents."""
    *parents, last = path.split(".")

    def apply(document: dict[str, Any]) -> None:
        for part in parents:
            document = document.setdefault(part, {})
        document[last] = value

    return apply


def drop(path: str) -> Break:
    *parents, last = path.split(".")

    def apply(document: dict[str, Any]) -> None:
        for part in parents:
            document = document[part]
        del document[last]

    return apply


def batch(*more: Break) -> Break:
    """Return a function that makes it a batch, so that nothing else is wrong, and then applies `more`."""

    def apply(document: dict[str, Any]) -> None:
        document["spec"].pop("mode", None)
        for one in more:
            one(document)

    return apply


def stream(*more: Break) -> Break:
    def apply(document: dict[str, Any]) -> None:
        spec = document["spec"]
        spec["mode"] = "stream"
        spec.pop("schedule", None)
        spec.pop("validate", None)
        spec["sink"] = {name: spec["sink"][name] for name in ("connection", "object")}
        for one in more:
            one(document)

    return apply


def same_ends(document: dict[str, Any]) -> None:
    spec = document["spec"]
    spec["sink"] |= {"connection": spec["source"]["connection"], "object": spec["source"]["object"]}


FIELD: Final = {"target": "a", "from": "b"}
STEP: Final = {"name": "one", "filter": "a > 1"}
BREAKAGES: Final[dict[str, tuple[Break, str]]] = {
    "unknown kind": (put("kind", "Pipeln"), "kind"),
    "no kind": (drop("kind"), "kind"),
    "wrong apiVersion": (put("apiVersion", "penstock/v9"), "apiVersion"),
    "no metadata": (drop("metadata"), "metadata"),
    "no name": (drop("metadata.name"), "metadata.name"),
    "a name of capitals": (put("metadata.name", "Orders"), "metadata.name"),
    "a name that is too long": (put("metadata.name", "a" * 64), "metadata.name"),
    "an owner that is a number": (put("metadata.owner", 7), "metadata.owner"),
    "a label that is a number": (put("metadata.labels", {"tier": 1}), "metadata.labels.tier"),
    "an unknown key on top": (put("status", {}), "status"),
    "an unknown key in metadata": (put("metadata.lables", {}), "metadata.lables"),
    "an unknown key in the spec": (put("spec.sinks", {}), "spec.sinks"),
    "an unknown key in the source": (put("spec.source.tabel", "x"), "spec.source.tabel"),
    "no spec": (drop("spec"), "spec"),
    "no source": (drop("spec.source"), "spec.source"),
    "no sink": (drop("spec.sink"), "spec.sink"),
    "a source that is text": (put("spec.source", "shop:orders"), "spec.source"),
    "an object that is empty": (put("spec.source.object", ""), "spec.source.object"),
    "an object with a line break": (put("spec.sink.object", "a\nb"), "spec.sink.object"),
    "a connection that is no name": (put("spec.sink.connection", "My Lake"), "spec.sink.connection"),
    "an unknown mode": (put("spec.mode", "hourly"), "spec.mode"),
    "an unknown way to write": (put("spec.sink.write", "upsert"), "spec.sink.write"),
    "a merge without a key": (
        batch(put("spec.sink", {"connection": "z", "object": "z", "write": "merge"})), "spec.sink",
    ),
    "a duplicate key": (put("spec.sink.key", ["a", "a"]), "spec.sink.key"),
    "source and sink the same": (batch(same_ends), "spec"),
    "a cron expression that is none": (batch(put("spec.schedule", {"cron": "daily"})), "spec.schedule.cron"),
    "a time zone that is none": (
        batch(put("spec.schedule", {"cron": "0 3 * * *", "timezone": "Berlin"})), "spec.schedule.timezone",
    ),
    "a schedule on a stream": (stream(put("spec.schedule", {"cron": "0 3 * * *"})), "spec"),
    "a stream that replaces": (stream(put("spec.sink.write", "replace")), "spec"),
    "a stream with unique": (stream(put("spec.validate", {"unique": ["a"]})), "spec"),
    "a mapping of both forms": (put("spec.mapping", {"ref": "a", "fields": [FIELD]}), "spec.mapping"),
    "a mapping of no field": (put("spec.mapping", {"fields": []}), "spec.mapping"),
    "a duplicate target": (put("spec.mapping", {"fields": [FIELD, FIELD]}), "spec.mapping"),
    "a field without an origin": (put("spec.mapping", {"fields": [{"target": "a"}]}), "spec.mapping.fields[0]"),
    "a field's SQL that does not parse": (
        put("spec.mapping", {"fields": [FIELD, {"target": "c", "sql": "price *"}]}), "spec.mapping.fields[1].sql",
    ),
    "a step without an operation": (put("spec.transforms", [{"name": "one"}]), "spec.transforms[0]"),
    "a step of two operations": (put("spec.transforms", [STEP | {"select": ["a"]}]), "spec.transforms[0]"),
    "a step without a name": (put("spec.transforms", [STEP, {"filter": "a"}]), "spec.transforms[1].name"),
    "a filter that does not parse": (
        put("spec.transforms", [STEP, {"name": "two", "filter": "a >"}]), "spec.transforms[1].filter",
    ),
    "an unknown mask": (
        put("spec.transforms", [{"name": "one", "mask": {"phone": "rot13"}}]), "spec.transforms[0].mask.phone",
    ),
    "a check that does not parse": (
        batch(put("spec.validate", {"checks": {"positive": "a >="}})), "spec.validate.checks.positive",
    ),
    "an additive rule that is none": (put("spec.schema.additive", "maybe"), "spec.schema.additive"),
    "a duration that is none": (put("spec.errors.retry", {"base": "soon"}), "spec.errors.retry.base"),
    "a wait above its maximum": (put("spec.errors.retry", {"base": "2m", "max": "1m"}), "spec.errors.retry"),
    "a share above one": (put("spec.errors.dead_letter", {"fail_above": 1.5}), "spec.errors.dead_letter.fail_above"),
    "no worker": (put("spec.limits.workers", 0), "spec.limits.workers"),
    "workers as text": (put("spec.limits.workers", "2"), "spec.limits.workers"),
    "transforms that are no list": (put("spec.transforms", {}), "spec.transforms"),
    "a test without rows": (put("spec.tests", [{"name": "one"}]), "spec.tests[0].given"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKAGES)
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(document=pipelines, suffix=st.sampled_from(["yaml", "json"]))
def test_property_18_invalid_pipeline_configurations_are_rejected(
    tmp_path: Path, name: str, document: dict[str, Any], suffix: str
) -> None:
    """Property 18: Invalid pipeline configurations are rejected.

    A valid pipeline file is read; with one thing broken it is refused, with an issue at exactly that path and with the
    file and a line of it.

    Validates: Requirements 1.1, 2.1
    """
    assume(not re.search(r'"[^"]*:[^"]*@', json.dumps(document)))  # it would be taken for a user with a password
    file = tmp_path / f"pipeline.{suffix}"
    written = json.dumps if suffix == "json" else yaml.safe_dump
    file.write_text(written(document))
    assert [pipeline.to_dict() for pipeline in read_documents([file]).pipelines] == [document]
    apply, path = BREAKAGES[name]
    apply(document)
    file.write_text(written(document))
    with pytest.raises(InvalidDocument) as caught:
        read_documents([file])
    places = [issue.path.removeprefix(f"{file}:") for issue in caught.value.issues]
    lines = len(file.read_text().splitlines())
    found = {}
    for place in places:
        line, _, at = place.partition(": ")
        assert 1 <= int(line) <= lines
        found[at] = line
    assert path in found, places


def test_many_kinds_of_invalid_files_are_generated() -> None:
    assert len(BREAKAGES) >= 25
    assert len({path for _, path in BREAKAGES.values()}) >= 25


PIPELINE: Final = """\
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: NAME}
spec:
  source: {connection: shop, object: public.orders}
  sink: {connection: lake, object: orders}
"""


def write(folder: Path, text: str, name: str = "p.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InvalidDocument) as caught:
        read_documents([path])
    return str(caught.value)


def test_a_duplicate_key_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, PIPELINE + "  sink: {connection: lake, object: other}\n")
    assert f"{path}:7: is not YAML: duplicate key 'sink'" in refused(path)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "2026-01-01", "2026-01-01T00:00:00Z"])
def test_yaml_words_such_as_yes_and_no_stay_text(tmp_path: Path, word: str) -> None:
    path = write(tmp_path, PIPELINE.replace("NAME", f"orders, owner: {word}"))
    assert read_documents([path]).pipelines[0].metadata.owner == word


def test_true_and_false_are_booleans(tmp_path: Path) -> None:
    path = write(tmp_path, PIPELINE.replace("NAME", "orders, owner: true"))
    assert "metadata.owner" in refused(path)


@pytest.mark.parametrize(
    "text", ["a: [", "\t- x", "a: !!python/object/apply:os.system [ls]", "? [a]\n: b", "{[a]: b}", "\x00"]
)
def test_invalid_yaml_is_reported_and_not_executed(tmp_path: Path, text: str) -> None:
    assert "p.yaml" in refused(write(tmp_path, text))


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    assert "cannot be read" in refused(path)
    with pytest.raises(NotFound):
        read_documents([tmp_path / "nowhere.yaml"])


def test_an_error_names_the_line_of_its_key(tmp_path: Path) -> None:
    path = write(tmp_path, PIPELINE.replace("NAME", "orders") + "  limits:\n    in_flight: 5\n    workers: 0\n")
    assert f"{path}:9: spec.limits.workers" in refused(path)


def test_a_file_may_contain_many_documents(tmp_path: Path) -> None:
    path = write(tmp_path, PIPELINE.replace("NAME", "a") + "---\n" + PIPELINE.replace("NAME", "b"))
    assert [pipeline.name for pipeline in read_documents([path]).pipelines] == ["a", "b"]
    twice = write(tmp_path, PIPELINE.replace("NAME", "a"), "q.yaml")
    with pytest.raises(InvalidDocument, match=r"Pipeline 'a' is also defined at .*p\.yaml:1"):
        read_documents([path, twice])


def test_all_files_of_a_project_are_read(tmp_path: Path) -> None:
    write(tmp_path, "shop: {type: postgres, dsn: dbname=shop}\n", "connections.yaml")
    write(tmp_path, PIPELINE.replace("NAME", "a"), "pipelines/a.yaml")
    write(tmp_path, "{kind: AgentPolicy, metadata: {name: default}}", "policies/default.yml")
    found = read_project(tmp_path)
    assert (set(found.connections), [p.name for p in found.pipelines], [p.name for p in found.policies]) == (
        {"shop"},
        ["a"],
        ["default"],
    )
    with pytest.raises(NotFound, match="penstock init"):
        read_project(tmp_path / "pipelines")


# --- secrets


@pytest.mark.parametrize(
    ("connection", "path"),
    [
        ({"type": "postgres", "dsn": "postgresql://u:secret@h/d"}, "shop.dsn"),
        ({"type": "postgres", "dsn": "host=h password=secret"}, "shop.dsn"),
        ({"type": "postgres", "dsn": "dbname=d", "password": "secret"}, "shop.password"),
        ({"type": "postgres", "dsn": "dbname=d", "password": "x${env:PENSTOCK_SECRET_A}"}, "shop.password"),
        ({"type": "s3", "url": "s3://b", "secret_key": "secret"}, "shop.secret_key"),
        ({"type": "kafka", "bootstrap": "h:1", "security": {"password": "secret"}}, "shop.security.password"),
        (
            {"type": "kinesis", "region": "r", "access_key": "${env:PENSTOCK_SECRET_A}", "secret_key": "secret"},
            "shop.secret_key",
        ),
    ],
)
def test_a_literal_secret_is_refused_and_not_repeated(connection: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_connections({"shop": connection})
    assert [issue.path for issue in caught.value.issues] == [path]
    assert "secret@" not in str(caught.value)
    assert "'secret'" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"shop": {"type": "oracle"}}, "shop"),
        ({"shop": {"dsn": "dbname=a"}}, "shop"),
        ({"Shop": {"type": "postgres", "dsn": "dbname=a"}}, "Shop"),
        ({"shop": {"type": "postgres", "dns": "dbname=a", "dsn": "dbname=a"}}, "shop.dns"),
        ({"shop": {"type": "postgres", "dsn": "no dsn at all"}}, "shop.dsn"),
        ({"shop": "postgres"}, "shop"),
        ({"shop": {"type": "kinesis"}}, "shop.region"),
        ({"shop": {"type": "kinesis", "region": "r", "access_key": "${env:PENSTOCK_SECRET_A}"}}, "shop"),
        (["shop"], ""),
    ],
)
def test_a_wrong_connection_is_refused_at_its_path(data: object, path: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_connections(data)
    assert [issue.path for issue in caught.value.issues] == [path]


LITERAL = {
    "beside a reference": {"type": "postgres", "dsn": "postgresql://u:hunter@h:1/${env:PENSTOCK_SECRET_DB}"},
    "partly a reference": {"type": "postgres", "dsn": "postgresql://u:hunter${env:PENSTOCK_SECRET_P}@h/d"},
    "sslpassword": {"type": "postgres", "dsn": "host=h dbname=x sslpassword=hunter"},
    "oauth": {"type": "postgres", "dsn": "host=h dbname=x oauth_client_secret=hunter"},
    "in a query": {"type": "postgres", "dsn": "postgresql://u@h/d?password=hunter"},
    "s3 url": {"type": "s3", "url": "s3://AKIA:hunter@bucket/x"},
    "s3 endpoint": {"type": "s3", "url": "s3://bucket/x", "endpoint": "http://user:hunter@127.0.0.1:9"},
    "http url": {"type": "http", "url": "http://user:hunter@127.0.0.1:9"},
    "kafka": {"type": "kafka", "bootstrap": "kafka://u:hunter@h:1"},
    "kinesis": {"type": "kinesis", "region": "r", "endpoint": "http://u:hunter@h:1"},
    **{
        f"header {name}": {"type": "http", "url": "http://h/v1", "headers": {name: "hunter"}}
        for name in ("auth", "sig", "X-Auth", "jwt", "bearer", "pwd", "sessionid", "code", "X-API-Key", "Cookie")
    },
    **{
        f"value {value[:6]}": {"type": "http", "url": "http://h/v1", "parameters": {"x": value}}
        for value in (
            "hunter9f8e7d6c5b4a", "Basic aHVudGVyOmh1bnRlcg==", "ghp_hunter", "sk_live_hunter",
            "eyJhbGciOiJIUzI1NiJ9.hunter", "hunterQwErTyUiOpAsDfGhJkL", "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", LITERAL)
def test_every_literal_secret_is_refused_and_not_repeated(kind: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_connections({"shop": LITERAL[kind]})
    assert "literal" in str(caught.value) or "contains a user or password" in str(caught.value)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Accept", "application/vnd.github.v3+json"), ("User-Agent", "penstock-integration-tests/0.1.0 (Linux x86_64)"),
        ("country_code", "DE"), ("sort_key", "created_at"), ("since", "2026-01-01T00:00:00Z"), ("per_page", "100"),
        ("Authorization", "Bearer ${env:PENSTOCK_SECRET_A}"), ("fields", "id,name,customer_address_line_2,updated_at"),
        ("tenant", "acme-production-eu-west-1"), ("X-Request-Source", "https://example.com/path/to/docs2"),
    ],
)  # fmt: skip
def test_what_only_looks_long_is_no_secret(name: str, value: str) -> None:
    assert literal_secret(name, value) is None


def test_a_secret_in_a_dsn_is_a_value_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_P", "a@b/c d#e?host=evil' \\")
    for dsn in (
        "postgresql://u:${env:PENSTOCK_SECRET_P}@h:5/d?sslmode=disable",
        "host=h port=5 user=u password=${env:PENSTOCK_SECRET_P} dbname=d sslmode=disable",
        "host=h port=5 user=u password='${env:PENSTOCK_SECRET_P}' dbname=d sslmode=disable",
    ):
        made = postgres_dsn(PostgresConnection.parse({"type": "postgres", "dsn": dsn}), name="shop")
        assert conninfo.conninfo_to_dict(made) == {
            "host": "h", "port": "5", "user": "u", "password": "a@b/c d#e?host=evil' \\", "dbname": "d",
            "sslmode": "disable",
        }  # fmt: skip


def test_secrets_come_only_from_variables_with_our_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_A", "s3cret")
    monkeypatch.setenv("HOME_SECRET", "other")
    assert resolve("x-${env:PENSTOCK_SECRET_A}-y", where="here") == "x-s3cret-y"
    for reference in ("${env:HOME_SECRET}", "${env:PATH}", "${env:}"):
        with pytest.raises(SettingsError, match="is not allowed"):
            resolve(reference, where="here")
    with pytest.raises(SettingsError, match="PENSTOCK_SECRET_B is not set"):
        resolve("${env:PENSTOCK_SECRET_B}", where="here")


def test_secret_files_must_be_below_the_secrets_folder(tmp_path: Path) -> None:
    inside = write(tmp_path, "s3cret\n", "secrets/a")
    outside = write(tmp_path, "other", "b")
    link = tmp_path / "secrets/link"
    link.symlink_to(outside)
    folder = tmp_path / "secrets"
    assert resolve(f"${{file:{inside}}}", where="here", secrets=folder) == "s3cret"
    for escape in (outside, link, folder / "../b", Path("/etc/passwd"), Path("/run/secrets/../../etc/passwd")):
        with pytest.raises(SettingsError, match="is not allowed"):
            resolve(f"${{file:{escape}}}", where="here", secrets=folder)
    with pytest.raises(SettingsError, match="is not allowed"):
        resolve(f"${{file:{inside}}}", where="here")
    with pytest.raises(SettingsError, match="cannot read the secret file"):
        resolve(f"${{file:{folder / 'nowhere'}}}", where="here", secrets=folder)


def test_a_password_is_added_to_its_dsn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_A", "it's a \\ secret")
    connection = PostgresConnection(type="postgres", dsn="host=h dbname=d", password="${env:PENSTOCK_SECRET_A}")
    parts = conninfo_to_dict(postgres_dsn(connection, name="shop"))
    assert parts == {"host": "h", "dbname": "d", "password": "it's a \\ secret"}


def test_pipelines_are_read_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, PIPELINE.replace("NAME", "orders"))
    (found,) = read_documents([path]).pipelines
    assert found == Pipeline.parse(yaml.safe_load(PIPELINE.replace("NAME", "orders")))


def test_a_small_file_with_exploding_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidDocument, match="more than 100000 values"):
        read_documents([path])


def test_a_long_text_that_is_repeated_by_aliases_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    text = "x" * 500_000
    path.write_text(f"a: &a {text}\nlist: [{', '.join(['*a'] * 9)}]\n")
    with pytest.raises(InvalidDocument, match="more than 4 MiB of text when its aliases are expanded"):
        read_documents([path])


HOSTILE = (
    "a", "a://", "a://b?", "a://b?a=b&", ":", "x:", "eyJ-", "a1", "Bearer ", "password ", "a=b&", "${env:", "${file:/",
    "${file:a/", "/", "-----BEGIN ", "a@b:", "${env:PENSTOCK_SECRET_A", "{", "a.b-c+",
)  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize("head", ["", "${file:"])
def test_a_long_text_is_searched_for_secrets_in_no_time(part: str, head: str) -> None:
    text = head + part * (300_000 // len(part))
    began = time.process_time()
    for search in (literals, literals_in_prose):
        list(search({"a": text, text: "a"}))
    literal_secret("a", text)
    assert time.process_time() - began < 3
