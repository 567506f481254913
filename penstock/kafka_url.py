"""The address of a log on Apache Kafka, as the setting `log_url` has it; parsed without loading the client library.

``kafka://HOST:PORT[,HOST:PORT]?security.protocol=SASL_SSL&username=app&password=${env:PENSTOCK_SECRET_KAFKA}``
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from penstock.errors import SettingsError, did_you_mean

__all__ = ["KafkaUrl", "is_kafka"]

SCHEME: Final = "kafka://"
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{0,100}")
_REPLICATION: Final = re.compile(r"[1-9]")
_SECRET: Final = {"password", "ssl.key.password"}
_CLIENT: Final = {
    "security.protocol": "security.protocol",
    "sasl.mechanism": "sasl.mechanism",
    "username": "sasl.username",
    "password": "sasl.password",
    "ssl.ca.location": "ssl.ca.location",
    "ssl.certificate.location": "ssl.certificate.location",
    "ssl.key.location": "ssl.key.location",
    "ssl.key.password": "ssl.key.password",
}
"""Parameters of the URL, and the client's names for them."""
_CHOICES: Final = {
    "security.protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "sasl.mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
}
_OWN: Final = {"prefix": _PREFIX, "replication": _REPLICATION}
_WHERE: Final = "PENSTOCK_LOG_URL"


def is_kafka(url: str) -> bool:
    """True if `url` is the address of a log on Kafka, not a PostgreSQL connection string."""
    return url.startswith(SCHEME)


@dataclass(frozen=True, slots=True)
class KafkaUrl:
    """Brokers, the prefix of the topics' names, copies of each topic, and what the client needs to log in.

    `replication` None leaves the number of copies to the cluster's default. Secrets are references until `client`.
    """

    brokers: str
    prefix: str = "penstock."
    replication: int | None = None
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> KafkaUrl:
        """Parse `url`; raises SettingsError, which never contains a value that may be a secret."""
        rest = url.removeprefix(SCHEME)
        brokers, _, query = rest.partition("?")
        if "@" in brokers:
            hint = "write ?username=…&password=${env:PENSTOCK_SECRET_KAFKA}"
            raise _wrong("a user stands before the host", hint)
        brokers = brokers.removesuffix("/") if brokers.count("/") == 1 else brokers
        if not all(_HOST.fullmatch(one) for one in brokers.split(",")):
            raise _wrong("is not a list of brokers", "write kafka://HOST:PORT[,HOST:PORT][?prefix=…&…]")
        found: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name in found:
                raise _wrong(f"`{name}` stands there twice", "keep one")
            found[name] = _checked(name, value)
        copies = found.get("replication")
        return cls(
            brokers=brokers,
            prefix=found.get("prefix", "penstock."),
            replication=None if copies is None else int(copies),
            options=_complete({name: value for name, value in found.items() if name in _CLIENT}),
        )

    @property
    def where(self) -> str:
        """The place as errors name it, without a secret."""
        return f"topic log {self.shown}"

    @property
    def shown(self) -> str:
        """The URL without the login."""
        prefix = "" if self.prefix == "penstock." else f"?prefix={self.prefix}"
        return f"{SCHEME}{self.brokers}{prefix}"

    def client(self, secrets: Path | None = None) -> dict[str, str]:
        """Return the client library's configuration with secrets resolved; raises SettingsError."""
        from penstock.models.secrets import resolve

        options = {
            _CLIENT[name]: resolve(value, where=f"{_WHERE}: {name}", secrets=secrets) if name in _SECRET else value
            for name, value in self.options.items()
        }
        return {"bootstrap.servers": self.brokers, **options}


def _checked(name: str, value: str) -> str:
    known = {*_CLIENT, *_OWN}
    if name not in known:
        raise _wrong(f"`{name}` is not a parameter", did_you_mean(name, known) or f"known: {', '.join(sorted(known))}")
    from penstock.models.secrets import is_reference

    if name in _SECRET and not is_reference(value):
        raise _wrong(f"`{name}` must be a reference to a secret", "write ${env:PENSTOCK_SECRET_KAFKA} or ${file:…}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise _wrong(f"`{name}` has an unknown value", f"write one of {', '.join(_CHOICES[name])}")
    if name in _OWN and not _OWN[name].fullmatch(value):
        what = "letters, digits, dot, underscore and dash" if name == "prefix" else "1 to 9"
        raise _wrong(f"`{name}` has an invalid value", f"write {what}")
    return value


def _complete(options: dict[str, str]) -> dict[str, str]:
    """Check that a login is whole, so that no client waits for one that cannot succeed."""
    sasl = options.get("security.protocol", "PLAINTEXT").startswith("SASL")
    login = [name for name in ("sasl.mechanism", "username", "password") if name in options]
    if sasl and len(login) < 3:  # noqa: PLR2004 - the three of the line above
        raise _wrong("a login by SASL needs `sasl.mechanism`, `username` and `password`", "add what is missing")
    if login and not sasl:
        raise _wrong(f"`{login[0]}` needs a login by SASL", "add security.protocol=SASL_SSL")
    return options


def _wrong(what: str, hint: str) -> SettingsError:
    return SettingsError(what, where=_WHERE, hint=hint)
