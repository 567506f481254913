"""Notices by HTTP: JSON for any webhook, and what channels of Slack take.

A request goes to the URL of the connection and nowhere else: redirects are not followed. Of an answer only the status
counts. A signature is that of Standard Webhooks (https://www.standardwebhooks.com), HMAC-SHA-256 over id, time, body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from dataflows.work.notices.delivery import Later, too_slow
from dataflows.work.notices.text import body_of, facts_of, heading_of
from penstock.clock import now
from penstock.errors import AccessDenied, Refused, SettingsError, Unavailable, Unreachable
from penstock.http_clients import certificate_error, retry_after
from penstock.models.notices import Notice
from penstock.models.receivers import SlackConnection, WebhookConnection
from penstock.models.secrets import resolve, resolve_headers

__all__ = ["post", "slack_body"]

TRANSIENT: Final = {408, 425, 429}
"""Statuses after which another attempt may succeed, besides those of the server's own faults (5xx)."""
PREFIX: Final = "whsec_"
"""Beginning of a secret whose rest is in base64, as Standard Webhooks have it."""
_SLACK: Final = {"alert.opened": ":rotating_light:", "alert.changed": ":rotating_light:"}


def post(connection: WebhookConnection | SlackConnection, notice: Notice, where: str, secrets: Path | None) -> None:
    """Send a notice; return once the receiver has taken it.

    Raises:
        Later, Unavailable, Unreachable: another attempt may succeed.
        AccessDenied, Refused, SettingsError: it would not.
    """
    slack = isinstance(connection, SlackConnection)
    body = orjson.dumps(slack_body(notice) if slack else body_of(notice))
    headers = {"Content-Type": "application/json", "User-Agent": "penstock", "Idempotency-Key": notice.id}
    if isinstance(connection, WebhookConnection):
        headers |= resolve_headers(connection.headers, where=where, secrets=secrets)
        if connection.secret is not None:
            headers |= _signed(notice.id, resolve(connection.secret, where=where, secrets=secrets), body, where)
    url = resolve(connection.url, where=where, secrets=secrets)
    _send(url, headers, body, _tls(connection.ca, where), connection.timeout.total_seconds(), where)


def _send(url: str, headers: Mapping[str, str], body: bytes, tls: ssl.SSLContext, seconds: float, where: str) -> None:
    try:
        with (
            httpx.Client(verify=tls, timeout=seconds, follow_redirects=False) as session,
            session.stream("POST", url, headers=headers, content=body) as response,
        ):
            _check(response, where)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        if certificate_error(error) is not None:
            hint = "check the name in `url`; name a certificate authority of your own in `ca`"
            raise Refused("the receiver's certificate is not valid", where=where, hint=hint) from None
        raise Unreachable(
            "the receiver cannot be reached", where=where, hint="check `url`, and that it is up"
        ) from None
    except httpx.TimeoutException:
        raise too_slow(where, seconds) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL):
        raise Refused("the secret in `url` is no URL", where=where, hint="check it") from None
    except httpx.RequestError:
        what = "the connection was lost before the receiver answered"
        raise Unavailable(what, where=where, hint="it is tried again") from None


def _tls(ca: str | None, where: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca) if ca else httpx.create_ssl_context()
    except OSError as error:
        what = f"the certificate authority {ca} cannot be read: {error.strerror or 'it is not PEM'}"
        raise SettingsError(what, where=where, hint="check `ca`") from None


def _check(response: httpx.Response, where: str) -> None:
    """Raise for any status but 2xx."""
    status = response.status_code
    if response.is_success:
        return
    if status in TRANSIENT or response.is_server_error:
        error = Unavailable(f"the receiver answers {status}", where=where, hint="it is tried again")
        if (wait := retry_after(response.headers.get("Retry-After", ""))) is not None:
            raise Later(error, wait)
        raise error
    if response.is_redirect:
        hint = "write the URL that it leads to in `url`, if it is right"
        raise Refused(f"the receiver redirects ({status}): this is not followed", where=where, hint=hint)
    if status in {401, 403}:
        raise AccessDenied(f"the receiver refuses access ({status})", where=where, hint=_CHECK)
    raise Refused(f"the receiver does not take the notice ({status})", where=where, hint=_CHECK)


_CHECK: Final = "check `url`, and the secrets of the connection"


def _signed(id_: str, secret: str, body: bytes, where: str) -> dict[str, str]:
    """Return the headers by which a receiver knows who has sent the body, and when."""
    at = str(int(now().timestamp()))
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True) if secret.startswith(PREFIX) else None
    except binascii.Error:
        hint = f"after {PREFIX} it is base64; another secret is taken as it is"
        raise SettingsError("the `secret` is not valid", where=where, hint=hint) from None
    key = secret.encode() if key is None else key
    if not key:
        raise SettingsError("the `secret` is empty: anybody could sign", where=where, hint="check what it refers to")
    digest = hmac.new(key, b".".join((id_.encode(), at.encode(), body)), hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": id_, "webhook-timestamp": at, "webhook-signature": signature}


def slack_body(notice: Notice) -> dict[str, Any]:
    """Return a message for a channel: the heading as text, which notifications show, and blocks with what is known."""
    heading = _escaped(heading_of(notice))
    text = " ".join((_SLACK.get(notice.event, ":white_check_mark:"), f"*{heading}*"))
    blocks: list[dict[str, Any]] = [{"type": "section", "text": {"type": "mrkdwn", "text": text}}]
    if facts := " · ".join(f"{name} {_escaped(value)}" for name, value in facts_of(notice)):
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": facts[:3000]}]})
    return {"text": heading, "blocks": blocks}


def _escaped(text: str) -> str:
    """Return a text that mentions nobody, whatever the name of an object is: Mattermost knows a mention by its `@`."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b")
