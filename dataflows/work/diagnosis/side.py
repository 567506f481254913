"""One side of a failed run: its place, where its system listens, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dataflows.connectors.contract import Owner, Place
from penstock.errors import PenstockError
from penstock.models.connection import parse_connection, postgres_dsn
from penstock.models.pipeline import Pipeline

__all__ = ["Address", "Side", "sides"]

Address = tuple[str, int]
"""A host and a port; with port 0, the host is a path of a socket."""
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Side:
    """The source or the sink of a run, and how it is opened to look at it."""

    name: str
    """source or sink"""
    place: Place
    owner: Owner | None
    failed: bool
    """True if the error is about it."""

    @property
    def label(self) -> str:
        """Return how people name it: ``sink warehouse``."""
        return f"{self.name} {self.place.connection}"

    @property
    def dataset(self) -> str:
        """Its object, as people write it."""
        return self.place.object

    def addresses(self) -> list[Address]:
        """Return where its system listens; none for files, and for what only its own client knows.

        Raises:
            PenstockError: a secret that its address is in cannot be read.
        """
        settings = self.place.settings
        match settings.type:
            case "postgres" | "topics":
                return _of_dsn(postgres_dsn(settings, name=self.place.connection, secrets=self.place.secrets))
            case "mysql" | "mariadb":
                return [(settings.socket, 0) if settings.socket else (settings.host or "localhost", settings.port)]
            case "kafka":
                return [found for one in settings.bootstrap.split(",") if (found := _of_broker(one.strip()))]
            case "http":
                return _of_url(settings.url)
            case "s3" | "kinesis":
                return _of_url(settings.endpoint) if settings.endpoint else []
        return []

    def shown(self, address: Address) -> str:
        """Return an address as it may be recorded; one that comes out of a secret is not."""
        if "${" in str(getattr(self.place.settings, "dsn", "")):
            return "its address"
        host, port = address
        return f"{host}:{port}" if port else host

    def path(self) -> Path | None:
        """Return the folder or file on this machine that it is, if it is one."""
        found = getattr(self.place.settings, "root", None) or getattr(self.place.settings, "path", None)
        return Path(found) if isinstance(found, str) else None


def sides(task: Mapping[str, Any]) -> list[Side]:
    """Return both sides of the task's pipeline, the one that the error is about first."""
    pipeline = Pipeline.parse(task["pipeline"])
    secrets = Path(task["secrets"]) if task.get("secrets") else None
    about = task["failure"]["classified"]
    found = []
    for name, end in (("source", pipeline.spec.source), ("sink", pipeline.spec.sink)):
        settings = parse_connection(end.connection, task["connections"].get(end.connection, {}))
        topics = {"topics": end.topics, "pattern": end.pattern} if end is pipeline.spec.source else {}
        place = Place(pipeline.name, end.connection, settings, end.object, secrets, end.format, **topics)  # type: ignore[arg-type]  # as above
        owner = Owner(str(task["uid"]), pipeline.spec.source.object, pipeline.spec.sink) if name == "sink" else None
        found.append(Side(name, place, owner, about.get("origin") == name))
    return sorted(found, key=lambda side: not side.failed)


def _of_dsn(dsn: str) -> list[Address]:
    from psycopg import ProgrammingError, conninfo

    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except ProgrammingError:
        raise PenstockError("the dsn cannot be parsed") from None
    hosts = str(parts.get("host") or parts.get("hostaddr") or "localhost").split(",")
    ports = [int(port or 5432) for port in str(parts.get("port") or 5432).split(",")]
    ports += ports[-1:] * (len(hosts) - len(ports))
    return [
        (f"{host}/.s.PGSQL.{port}", 0) if host.startswith("/") else (host, port)
        for host, port in zip(hosts, ports, strict=False)
    ]


def _of_broker(broker: str) -> Address | None:
    """Return where a bootstrap server listens, as its client reads it: ``PROTO://`` and the port may be left out."""
    name = broker.rpartition("://")[2]
    host, _, port = name.rpartition(":")
    if not port.isdigit():
        host, port = name, "9092"
    return (host.strip("[]"), int(port)) if host and "$" not in host else None


def _of_url(url: str) -> list[Address]:
    parts = urlsplit(url)
    return [(parts.hostname, parts.port or _PORTS.get(parts.scheme, 443))] if parts.hostname else []
