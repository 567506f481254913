"""Receivers of alerts, as connections: a webhook, a channel of Slack, a mail server. No pipeline reads or writes them.

The address of a webhook is often a secret itself; what looks like one in it has to be a reference.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from penstock.models.base import Duration
from penstock.models.http import Given
from penstock.models.secrets import HOW, Secret, literal_in_query, looks_random, without_references
from penstock.models.traits import ConnectionModel

__all__ = ["RECEIVERS", "SlackConnection", "SmtpConnection", "WebhookConnection"]

RECEIVERS: Final = frozenset({"webhook", "slack", "smtp"})
"""Types of connections that take alerts, and nothing else."""
PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}
"""Default ports of mail servers, by their kind of encryption."""


def _no_secret_in(value: str) -> str:
    """Return the URL of a webhook if each secret of it is a reference. Raises ValueError."""
    plain = without_references(value)
    if "${" in plain:
        message = f"refers to neither a variable nor a file of secrets; {HOW}"
        raise ValueError(message)
    parts = urlsplit(plain)
    if parts.username is not None or parts.password is not None:
        message = "contains a user or password; put them into `headers`, by reference"
        raise ValueError(message)
    if plain != value and not parts.scheme:  # the whole of it is a secret
        return value
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment:
        message = "is not a URL such as https://alerts.example.com/hook"
        raise ValueError(message)
    if looks_random(parts.path):
        message = f"has a path that looks like a literal secret; {HOW}"
        raise ValueError(message)
    if why := literal_in_query(value):
        raise ValueError(why)
    return value


def _address(value: str) -> str:
    if _ADDRESS.fullmatch(value) is None:
        message = "is not an e-mail address such as oncall@example.com"
        raise ValueError(message)
    return value


_ADDRESS: Final = re.compile(r"[^@\s<>,;:\"\x00-\x1f\x7f-\U0010ffff]+@[A-Za-z0-9.-]+")

Url = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_no_secret_in)]
"""Address of a webhook; all of it, or parts of it, may be references to secrets."""
Address = Annotated[str, Field(max_length=254), AfterValidator(_address)]
"""An e-mail address, without a name."""
Attempt = Annotated[Duration, Field(gt=timedelta(0), le=timedelta(minutes=1))]
"""Longest time for one attempt to deliver."""
ATTEMPT: Final = timedelta(seconds=10)


class WebhookConnection(ConnectionModel):
    """A receiver of alerts as JSON by POST. With a `secret` each request is signed; `ca` is a file in PEM."""

    type: Literal["webhook"]
    receives: ClassVar[bool] = True
    url: Url
    headers: Given = {}
    secret: Secret | None = None
    ca: str | None = None
    timeout: Attempt = ATTEMPT


class SlackConnection(ConnectionModel):
    """A channel of Slack, or of what takes the same JSON (Mattermost), by its incoming webhook."""

    type: Literal["slack"]
    receives: ClassVar[bool] = True
    url: Url
    ca: str | None = None
    timeout: Attempt = ATTEMPT


class SmtpConnection(ConnectionModel):
    """A mail server that sends alerts. It has to offer encryption, unless `tls` is `none`."""

    type: Literal["smtp"]
    receives: ClassVar[bool] = True
    host: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[^@\s/]+$")]
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca: str | None = None
    user: Annotated[str, Field(min_length=1, max_length=254)] | None = None
    password: Secret | None = None
    from_: Address = Field(alias="from")
    to: Annotated[list[Address], Field(min_length=1, max_length=50)]
    timeout: Attempt = ATTEMPT

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.user is None) != (self.password is None):
            message = "needs `user` and `password` together, or none of them"
            raise ValueError(message)
        if self.tls == "none" and self.user is not None:
            message = "would send the password in the clear: write tls: starttls or tls: tls"
            raise ValueError(message)
        return self

    @property
    def at_port(self) -> int:
        """The port: its own, or the usual one of its encryption."""
        return self.port or PORTS[self.tls]
