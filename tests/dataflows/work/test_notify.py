"""A notice reaches a real webhook, channel or mail server, and what goes wrong is worth another attempt, or not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataflows.work import notify
from dataflows.work.notices.text import heading_of
from penstock.clock import now
from penstock.models.notices import Notice
from tests.dataflows.connectors.certificates import Certificates
from tests.dataflows.work.receivers import Mail, Web, mail_server, web_server

SECRET = "t0k3n-Of-The-Receiver"
ALERT = {
    "alert": "a1", "cause": "volume orders", "pipeline": "orders", "kind": "volume", "metric": "rows_out", "part": "",
    "severity": "critical", "summary": "orders wrote 12 rows <b>, 1000 & more were expected\nBcc: x@example.com",
    "value": 12.0, "expected": 1000.25, "score": -9.5, "since": "2026-03-01T12:00:00+00:00",
}  # fmt: skip
CLOSED = {"alert": "a1", "cause": "volume orders", "pipeline": "orders", "reason": "back to normal",
          "summary": "orders writes as usual", "lasted_s": 90.0}  # fmt: skip


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as made:
        yield made


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "stop_on_signal", lambda _: None)
    monkeypatch.setenv("PENSTOCK_SECRET_TOKEN", SECRET)
    monkeypatch.setenv("PENSTOCK_SECRET_EMPTY", "whsec_")


def sent(tmp_path: Path, connection: dict[str, Any], event: str = "alert.opened", **alert: Any) -> dict[str, Any]:
    """Send a notice as a worker's process does; return its result."""
    of_event = {"alert.closed": CLOSED, "route.try": {}}.get(event, ALERT)
    notice = {"id": "n1", "route": "oncall", "event": event, "at": "2026-03-01T12:00:05+00:00"}
    task = {"notice": notice | {"alert": of_event | alert}, "connections": {"oncall": connection}}
    result = tmp_path / "result.json"
    assert notify.run_task({**task, "result": str(result)}) == 0, "its process can be used again"
    found: dict[str, Any] = json.loads(result.read_text())
    assert SECRET not in result.read_text()
    return found


def test_a_webhook_gets_json_with_the_id_of_the_notice(web: Web, tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer ${env:PENSTOCK_SECRET_TOKEN}"}
    found = sent(tmp_path, {"type": "webhook", "url": web.url, "headers": headers}, hint=None)
    assert found["status"] == "completed"
    ((path, received, body),) = web.requests
    assert (path, received["content-type"], received["idempotency-key"]) == ("/hook", "application/json", "n1")
    assert received["authorization"] == f"Bearer {SECRET}"
    event = {"id": "n1", "event": "alert.opened", "at": "2026-03-01T12:00:05+00:00"}
    assert json.loads(body) == {**event, "alert": ALERT}


@pytest.mark.parametrize("encoded", [False, True])
def test_a_signature_covers_id_time_and_body(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, encoded: bool
) -> None:
    if encoded:
        monkeypatch.setenv("PENSTOCK_SECRET_TOKEN", f"whsec_{base64.b64encode(SECRET.encode()).decode()}")
    sent(tmp_path, {"type": "webhook", "url": web.url, "secret": "${env:PENSTOCK_SECRET_TOKEN}"})
    ((_, headers, body),) = web.requests
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-id"] == "n1"
    assert abs(int(headers["webhook-timestamp"]) - now().timestamp()) < 60


def test_a_channel_gets_text_and_blocks_that_mention_nobody(web: Web, tmp_path: Path) -> None:
    for event in ("alert.opened", "alert.changed", "alert.closed", "route.try"):
        found = sent(tmp_path, {"type": "slack", "url": web.url}, event, reason="`<!here>` is @channel now")
        assert found["status"] == "completed"
    bodies = [json.loads(body) for _, _, body in web.requests]
    assert [one["text"].partition(":")[0] for one in bodies] == ["critical", "now critical", "resolved", "test"]
    assert "12 rows &lt;b&gt;, 1000 &amp; more" in bodies[0]["text"]
    assert "\n" not in bodies[0]["text"]
    assert "*critical: orders wrote 12 rows" in bodies[0]["blocks"][0]["text"]["text"]
    assert (
        "pipeline orders · kind volume · metric rows_out · value 12 · expected 1000.25"
        in (bodies[0]["blocks"][1]["elements"][0]["text"])
    )
    assert bodies[2]["blocks"][1]["elements"][0]["text"].endswith(
        "reason `&lt;!here&gt;` is @\u200bchannel now · alert a1 · lasted 1m30s"
    )


@pytest.mark.parametrize(
    ("answer", "transient", "wait", "what"),
    [
        ((500, {}), True, None, "the receiver answers 500"),
        ((503, {"Retry-After": "7"}), True, 7.0, "the receiver answers 503"),
        ((429, {"Retry-After": "120"}), True, 120.0, "the receiver answers 429"),
        ((429, {"Retry-After": "soon"}), True, None, "the receiver answers 429"),
        ((429, {"Retry-After": "9" * 30}), True, 86_400.0, "the receiver answers 429"),
        ((401, {}), False, None, "the receiver refuses access (401)"),
        ((403, {}), False, None, "the receiver refuses access (403)"),
        ((404, {}), False, None, "the receiver does not take the notice (404)"),
    ],
)
def test_a_status_says_if_another_attempt_may_succeed(
    web: Web, tmp_path: Path, answer: Any, transient: bool, wait: float | None, what: str
) -> None:
    web.answers.append(answer)
    found = sent(tmp_path, {"type": "webhook", "url": web.url})
    assert (found["status"], found["error"]["transient"], found.get("wait")) == ("failed", transient, wait)
    assert (found["error"]["what"], found["error"]["where"]) == (what, "connection oncall")
    assert web.requests == []


def test_a_redirect_is_not_followed(web: Web, tmp_path: Path) -> None:
    with web_server() as other:
        web.answers.append((307, {"Location": f"{other.url}?token={SECRET}"}))
        found = sent(
            tmp_path, {"type": "webhook", "url": web.url, "headers": {"X-Key": "${env:PENSTOCK_SECRET_TOKEN}"}}
        )
        assert other.asked == []
    what = "the receiver redirects (307): this is not followed"
    assert (found["error"]["transient"], found["error"]["what"]) == (False, what)


def test_a_receiver_that_hangs_or_is_down_is_tried_again_later(web: Web, tmp_path: Path) -> None:
    web.answers.append(5.0)
    began = time.monotonic()
    found = sent(tmp_path, {"type": "webhook", "url": web.url, "timeout": "300ms"})
    assert time.monotonic() - began < 2
    assert (found["error"]["transient"], "within 0.3 s" in found["error"]["what"]) == (True, True)
    with web_server() as gone:
        pass
    found = sent(tmp_path, {"type": "webhook", "url": gone.url})
    assert (found["error"]["code"], found["error"]["transient"]) == ("unavailable.unreachable", True)


@pytest.mark.parametrize(
    ("connection", "what"),
    [
        ({}, "there is no such connection any more"),
        ({"type": "sqlite", "path": "/x"}, "is of type sqlite, which takes no alerts"),
        ({"type": "webhook", "url": "${env:PENSTOCK_SECRET_TOKEN}"}, "the secret in `url` is no URL"),
        ({"type": "webhook", "url": "${env:PENSTOCK_SECRET_GONE}"}, "the variable PENSTOCK_SECRET_GONE is not set"),
        ({"type": "webhook", "url": "https://127.0.0.1:1/", "ca": "/x.pem"}, "the certificate authority /x.pem"),
        ({"type": "webhook", "url": "http://x/", "secret": "${env:PENSTOCK_SECRET_EMPTY}"}, "the `secret` is"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_connection_is_not_tried_again(
    tmp_path: Path, connection: dict[str, Any], what: str
) -> None:
    found = sent(tmp_path, connection)
    assert (found["error"]["what"].startswith(what), found["error"]["transient"]) == (True, False), found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


def test_certificates_of_webhooks_are_checked(tmp_path: Path, certificates: Certificates, tls: ssl.SSLContext) -> None:
    with web_server(tls) as web:
        url = f"https://localhost:{web.port}/hook"
        found = sent(tmp_path, {"type": "webhook", "url": url})
        assert (found["error"]["what"], found["error"]["transient"]) == (
            "the receiver's certificate is not valid",
            False,
        )
        known = {"type": "webhook", "url": url, "ca": str(certificates.authority)}
        assert sent(tmp_path, known)["status"] == "completed"


def smtp(mail: Mail, **more: Any) -> dict[str, Any]:
    place = {"type": "smtp", "host": "localhost", "port": mail.port, "tls": "none"}
    return {**place, "from": "penstock@example.com", "to": ["ann@example.com", "bob@example.com"], **more}


def test_a_mail_has_all_facts_and_the_thread_of_its_alert(tmp_path: Path) -> None:
    with mail_server() as mail:
        for event in ("alert.opened", "alert.opened", "alert.closed"):
            assert sent(tmp_path, smtp(mail), event)["status"] == "completed"
    (to, first), (_, again), (_, closed) = mail.messages
    assert to == ["ann@example.com", "bob@example.com"]
    assert first["Subject"].startswith("[penstock] critical: orders wrote 12 rows")
    assert (first["Bcc"], first["Auto-Submitted"]) == (None, "auto-generated")
    assert first["Message-ID"] == again["Message-ID"] == "<n1@example.com>"
    assert first["References"] == closed["References"] == "<alert-a1@example.com>"
    lines = first.get_content().splitlines()
    assert "expected: 1000.25" in lines
    assert lines[-4:] == ["since: 2026-03-01 12:00:00 UTC", "alert: a1", "", "penstock alerts show a1"]
    assert closed["Subject"] == "[penstock] resolved: orders writes as usual"


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # by `tls`, which the server overlooks
@pytest.mark.parametrize("by", ["starttls", "tls"])
def test_a_mail_server_is_encrypted_and_logged_in_to(
    tmp_path: Path, certificates: Certificates, tls: ssl.SSLContext, by: str
) -> None:
    login = {
        "user": "penstock",
        "password": "${env:PENSTOCK_SECRET_TOKEN}",
        "tls": by,
        "ca": str(certificates.authority),
    }
    with mail_server(**{by: tls, "login": ("penstock", SECRET)}) as mail:  # type: ignore[arg-type]
        assert sent(tmp_path, smtp(mail, **login))["status"] == "completed"
        found = sent(tmp_path, smtp(mail, **login | {"user": "other"}))
        assert (found["error"]["code"], found["error"]["transient"]) == ("unavailable.access_denied", False)
        found = sent(tmp_path, smtp(mail, **login | {"user": "Jörg"}))
        assert "characters that a login does not take" in found["error"]["what"]
        found = sent(tmp_path, smtp(mail, **login | {"ca": None}))
        assert "certificate is not valid" in found["error"]["what"]
    assert len(mail.messages) == 1


def test_a_mail_server_without_encryption_gets_nothing(tmp_path: Path) -> None:
    with mail_server() as mail:
        found = sent(tmp_path, smtp(mail, tls="starttls"))
        assert (found["error"]["what"], found["error"]["transient"]) == (
            "the mail server does not offer encryption", False
        )  # fmt: skip
        assert "TLS" in sent(tmp_path, smtp(mail, tls="tls"))["error"]["what"]
    assert mail.messages == []


@pytest.mark.parametrize(
    ("answer", "transient", "what"),
    [
        ("451 4.3.0 out of memory for pa55word", True, "the mail server puts it off (451 4.3.0)"),
        ("554 5.7.1 spam by pa55word", False, "the mail server does not take the notice (554 5.7.1)"),
    ],
)
def test_answers_of_mail_servers(tmp_path: Path, answer: str, transient: bool, what: str) -> None:
    with mail_server() as mail:
        mail.answers.append(answer)
        found = sent(tmp_path, smtp(mail))
    assert (found["error"]["what"], found["error"]["transient"]) == (what, transient)


def test_recipients_that_are_refused(tmp_path: Path) -> None:
    with mail_server() as mail:
        mail.refused["bob@example.com"] = "450 4.2.0 greylisted"
        found = sent(tmp_path, smtp(mail))
        assert (found["error"]["transient"], len(mail.messages)) == (True, 1), "all get it once more"
        mail.refused["bob@example.com"] = "550 5.1.1 no such user"
        found = sent(tmp_path, smtp(mail))
    assert (found["error"]["transient"], "1 of 2 recipients (550 5.1.1)" in found["error"]["what"]) == (False, True)
    assert "bob@example.com" in found["error"]["hint"]


def test_a_mail_server_that_hangs_is_abandoned(tmp_path: Path) -> None:
    with mail_server() as mail:
        mail.hangs = True
        began = time.monotonic()
        found = sent(tmp_path, smtp(mail, timeout="300ms"))
        assert time.monotonic() - began < 2
    assert found["error"]["transient"]


def test_a_notice_of_an_unknown_form_still_has_a_heading() -> None:
    notice = Notice.parse({"id": "n", "route": "r", "event": "alert.opened", "at": "2026-03-01T12:00:00Z", "alert": {}})
    assert heading_of(notice) == "alert: n"
