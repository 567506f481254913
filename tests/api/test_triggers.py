"""Triggers, by real runs: files that arrive, an updated dataset, and requests to a webhook."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.hooks import MAX_BODY, Hooks
from api.hooks import _is_from_owner as is_from_owner
from api.starter import WAREHOUSE
from penstock.models.triggers import Webhook
from penstock.settings import load
from tests.api.project import Project, until

SECRET = "a-secret-of-the-tests"
NAMES = ("lake_in", "lake_copy", "lake_hook")
CONNECTION = "lake: {{type: files, root: {root}}}\n"
ARRIVING = """\
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: lake_in}
spec:
  source: {connection: lake, object: "in/*.csv", cursor: {field: _modified}, format: {type: csv, columns: {id: bigint}}}
  sink: {connection: warehouse, object: public.lake_in, write: append}
  triggers: {files: {every: 1s, settled: 0s}, webhook: {secret: "${file:SECRETS/hook}"}}
---
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: lake_copy}
spec:
  source: {connection: warehouse, object: public.lake_in}
  sink: {connection: warehouse, object: public.lake_copy, write: replace}
  triggers: {datasets: ["warehouse:public.lake_in"]}
---
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: lake_hook}
spec:
  source: {connection: warehouse, object: public.lake_in}
  sink: {connection: warehouse, object: public.lake_hook, write: replace}
  triggers: {webhook: {secret: "${file:SECRETS/hook}", check: bearer}}
"""


@pytest.fixture(scope="module")
def lake(running: Project) -> Iterator[Path]:
    """Apply three pipelines with triggers; return the folder that is watched."""
    root = running.folder / "lake"
    (root / "in").mkdir(parents=True)
    secrets = running.folder / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "hook").write_text(SECRET)
    connections, pipelines = root / "connections.yaml", root / "pipelines.yaml"
    connections.write_text(CONNECTION.format(root=json.dumps(str(root))))
    pipelines.write_text(ARRIVING.replace("SECRETS", str(secrets)))
    for name in NAMES:
        running.sql(WAREHOUSE, f"CREATE TABLE {name} (id bigint)")
    running.done("apply", connections, pipelines)
    yield root
    for name in NAMES:
        running.done("stop", name)


def runs(project: Project, name: str) -> list[dict[str, Any]]:
    return list(project.done("runs", name))


def completed(project: Project, name: str, count: int) -> None:
    def done() -> bool:
        found = runs(project, name)
        return len(found) == count and all(one["status"] == "completed" for one in found)

    until(done, f"{count} runs of {name}")


def ask(project: Project, name: str, body: bytes = b"", method: str = "POST", **headers: str) -> tuple[int, Any]:
    """Send a request to a webhook; return status and body."""
    parts = urlsplit(project.address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, f"/hooks/{name}", body, named)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    return answer.status, found


def signed(body: bytes) -> str:
    return "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def test_a_file_that_arrives_starts_a_run_and_what_it_writes_starts_another(running: Project, lake: Path) -> None:
    (lake / "in" / "a.csv").write_text("id\n1\n2\n")
    completed(running, "lake_in", 1)
    completed(running, "lake_copy", 1)
    assert running.sql(WAREHOUSE, "SELECT count(*) FROM lake_copy") == [(2,)]
    why = running.do("why", runs(running, "lake_in")[0]["id"]).out
    assert "1 file has arrived: in/a.csv for lake_in" in why
    why = running.do("why", runs(running, "lake_copy")[0]["id"]).out
    assert "lake_copy runs since warehouse:public.lake_in was updated" in why
    lines = running.do("status", "lake_in").out
    assert "runs when files arrive: lake:in/*.csv, looks every 1s" in lines
    assert "runs when POST /hooks/lake_in is called" in lines
    assert (
        "runs when warehouse:public.lake_in is updated, which lake_in writes" in running.do("status", "lake_copy").out
    )


def test_a_webhook_starts_a_run_for_its_owner_only(running: Project, lake: Path) -> None:
    body = b'{"order": 7}'
    token: dict[str, Any] = {"Authorization": f"Bearer {SECRET}"}
    assert ask(running, "lake_hook", body, Authorization="Bearer no")[0] == 401
    assert ask(running, "lake_hook", body, X_Hub_Signature_256=signed(body))[0] == 401
    assert ask(running, "lake_in", body, X_Hub_Signature_256=signed(b"another"))[0] == 401
    assert ask(running, "lake_in", body, **token)[0] == 401
    assert ask(running, "nobody", body, **token)[0] == 404
    assert ask(running, "orders", body, **token)[0] == 404
    assert ask(running, "Lake Hook".replace(" ", "%20"), body, **token)[0] == 404
    assert ask(running, "lake_hook", b"", "GET", **token)[0] == 405
    assert ask(running, "lake_hook", b"", Content_Length=str(MAX_BODY + 1), **token)[0] == 413
    assert ask(running, "lake_hook", body, Idempotency_Key="k" * 201, **token)[0] == 400
    assert runs(running, "lake_hook") == []

    status, first = ask(running, "lake_hook", body, Idempotency_Key="k1", **token)
    assert status == 202
    completed(running, "lake_hook", 1)
    assert ask(running, "lake_hook", body, Idempotency_Key="k1", **token) == (202, first)
    assert ask(running, "lake_hook", body, Idempotency_Key="k2", **token)[1] != first
    completed(running, "lake_hook", 2)
    why = running.do("why", runs(running, "lake_hook")[0]["id"]).out
    assert "the webhook of lake_hook was called" in why
    assert "order" not in running.do("events", "--type", "run.trigger", "--json").out.replace("orders", "")

    before = len(runs(running, "lake_in"))
    assert ask(running, "lake_in", body, X_Penstock_Signature=signed(body))[0] == 202
    completed(running, "lake_in", before + 1)


def test_a_paused_pipeline_runs_once_when_it_is_resumed_and_a_stopped_one_refuses(running: Project, lake: Path) -> None:
    token: dict[str, Any] = {"Authorization": f"Bearer {SECRET}"}
    before = len(runs(running, "lake_hook"))
    running.done("pause", "lake_hook")
    commands = [ask(running, "lake_hook", **token)[1]["command"] for _ in range(3)]
    until(lambda: all(running.do("why", one).code == 0 for one in commands), "the answers")
    running.done("resume", "lake_hook")
    completed(running, "lake_hook", before + 1)
    running.done("stop", "lake_hook")
    assert ask(running, "lake_hook", **token)[0] == 409
    running.done("resume", "lake_hook")


def test_a_webhook_whose_secret_is_gone_is_an_incident_until_it_is_back(running: Project, lake: Path) -> None:
    secret, token = running.folder / "secrets" / "hook", dict[str, Any](Authorization=f"Bearer {SECRET}")
    secret.rename(secret.with_name("aside"))
    assert [ask(running, "lake_hook", **token)[0] for _ in range(2)] == [503, 503]
    (one,) = until(lambda: incidents_of(running, "lake_hook"), "an incident")
    assert one["kind"] == "config"
    assert "a webhook is not answered" in one["what"]
    secret.with_name("aside").rename(secret)
    assert ask(running, "lake_hook", **token)[0] == 202
    until(lambda: not incidents_of(running, "lake_hook"), "its end")


def incidents_of(project: Project, hook: str) -> list[dict[str, Any]]:
    found = [one["incident"] for one in project.done("errors", "--incidents")]
    return [one for one in found if one.get("facts", {}) | {"component": "webhooks", "subject": hook} == one["facts"]]


def test_too_many_requests_are_refused(tmp_path: Path) -> None:
    hooks = Hooks(load(tmp_path), print)
    admitted = sum(hooks.admits() for _ in range(500))
    assert 60 <= admitted < 500


def test_a_request_that_cannot_be_answered_is_told_and_names_are_checked_first(tmp_path: Path) -> None:
    told: list[str] = []
    hooks = Hooks(load(tmp_path), told.append)
    assert hooks.answer("[/red]\x1b", {}, b"")[0] == 404
    assert hooks.answer("a", {}, b"")[0] == 503, "there is no project"
    hooks._client = object()  # type: ignore[assignment]  # a defect of what it is connected to
    assert hooks.answer("a", {}, b"")[0] == 503
    assert [line.partition(":")[0] for line in told] == ["webhook a", "webhook a"]
    assert told[1].endswith("a defect: AttributeError")


def test_a_token_is_compared_by_its_bytes() -> None:
    hook, secret = Webhook.parse({"secret": "${env:PENSTOCK_SECRET_HOOK}", "check": "bearer"}), "schlüssel€"
    headers = {"authorization": "Bearer " + secret.encode().decode("latin-1")}
    assert is_from_owner(hook, secret.encode(), headers, b"")
    assert not is_from_owner(hook, b"another", headers, b"")
