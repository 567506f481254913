"""Webhooks: a request to `/hooks/NAME` starts a run of the pipeline NAME, if it has the pipeline's secret.

The request becomes a command on the log; what it contained is not kept. A repeat with the same `Idempotency-Key` within
24 hours is the same command; without that header each request is one of its own, also if their bodies are equal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from api.client import Client, connected
from dataflows.process.condition import Report
from penstock.errors import NotFound, PenstockError
from penstock.models.secrets import resolve
from penstock.models.triggers import Webhook
from penstock.settings import Settings

__all__ = ["MAX_BODY", "PREFIX", "Hooks"]

PREFIX: Final = "/hooks/"
MAX_BODY: Final = 1 << 20
"""Bytes of a request's body."""
MAX_KEY: Final = 200
"""Characters of an idempotency key."""
RATE: Final = 20.0
"""Requests a second over a longer time, all pipelines together."""
BURST: Final = 60.0
"""Requests at once."""
SIGNATURES: Final = ("x-penstock-signature", "x-hub-signature-256")
"""Headers with ``sha256=`` and the HMAC of the body in hexadecimal digits."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")

Answer = tuple[int, str]
"""Status and body, a JSON document."""


class Hooks:
    """Answers requests to webhooks, one at a time: for one thread.

    `tell` is called with a line about what it lacks; `condition`, once it is set, returns what the errors of the
    webhook of a pipeline are reported to.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self._settings, self._tell = settings, tell
        self._open = ExitStack()
        self._client: Client | None = None
        self._left, self._at = BURST, time.monotonic()
        self.condition: Callable[[str], Report] | None = None
        self._conditions: dict[str, Report] = {}

    def admits(self) -> bool:
        """True if there are not too many requests; each one counts. May be called from another thread."""
        at = time.monotonic()
        self._left, self._at = min(BURST, self._left + (at - self._at) * RATE), at
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def answer(self, name: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Check a request, and append its command; `headers` by their names in lower case."""
        if _NAME.fullmatch(name) is None:
            return _UNKNOWN
        try:
            return self._answer(name, headers, body)
        except PenstockError as error:
            return self._failed(name, error, str(error))
        except Exception as error:  # noqa: BLE001 - a defect is told like any failure, by its name only
            return self._failed(name, error, f"a defect: {type(error).__name__}")

    def _failed(self, name: str, error: Exception, what: str) -> Answer:
        self.close()
        self._tell(f"webhook {name}: {what}")
        self._report(name, error)
        return failure(503, "unavailable", "try again later")

    def _report(self, name: str, error: Exception | None) -> None:
        """Report how a request to the webhook of a pipeline ended, if there is one."""
        if (report := self._conditions.get(name)) is not None:
            report(error)

    def _answer(self, name: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if self._client is None:
            self._client = self._open.enter_context(connected(self._settings, runs=False))
        found = _webhook(self._client, name)
        if found is None:
            return _UNKNOWN
        webhook, status = found
        if self.condition is not None and name not in self._conditions:
            self._conditions[name] = self.condition(name)
        where = f"pipeline {name}: spec.triggers.webhook"
        secret = resolve(webhook.secret, where=where, secrets=self._settings.secrets).encode()
        key = headers.get("idempotency-key")
        for wrong, refusal in (
            (not secret or not _is_from_owner(webhook, secret, headers, body), _UNAUTHORIZED),
            (status not in {"active", "paused"}, failure(409, "refused", f"the pipeline is {status}")),
            (key is not None and not 0 < len(key) <= MAX_KEY, _LONG_KEY),
        ):
            if wrong:
                return refusal
        self._client.actor = f"hook:{name}"
        trace = headers.get("traceparent")
        id_ = self._client.send("run.trigger", name, {"pipeline": name}, idempotency_key=key, traceparent=trace)
        self._report(name, None)
        return 202, json.dumps({"command": id_})

    def close(self) -> None:
        """End the session; the next request opens one."""
        self._client = None
        self._open.close()


def failure(status: int, code: str, detail: str) -> Answer:
    """Return the answer to a request that is refused."""
    return status, json.dumps({"status": status, "code": code, "detail": detail})


_UNKNOWN: Final = failure(404, "not_found", "no pipeline of this name has a webhook")
_UNAUTHORIZED: Final = failure(401, "unauthorized", "the signature or the token is missing or wrong")
_LONG_KEY: Final = failure(400, "usage", f"Idempotency-Key has 1 to {MAX_KEY} characters")


def _webhook(client: Client, name: str) -> tuple[Webhook, str] | None:
    """Return the webhook of a pipeline, and the pipeline's status; None if there is none."""
    try:
        pipeline = client.store.pipeline(name)
    except NotFound:
        return None
    written = (pipeline.pipeline["spec"].get("triggers") or {}).get("webhook")
    if written is None or pipeline.status == "deleting":
        return None
    return Webhook.parse(written), pipeline.status


def _is_from_owner(webhook: Webhook, secret: bytes, headers: Mapping[str, str], body: bytes) -> bool:
    """True if the request is signed with the secret, or has it as its token; the text of headers is their bytes."""
    if webhook.check == "bearer":
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), secret)
    expected = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    given = next((headers[name] for name in SIGNATURES if name in headers), "")
    return hmac.compare_digest(given.strip().lower().encode(), expected.encode())
