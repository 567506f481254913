"""Connections from URLs, such as ``postgresql://me:secret@host/shop``: the parts, and the secrets apart from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from psycopg import ProgrammingError, conninfo

from penstock.errors import UsageError

__all__ = ["FORMS", "connection_of"]

FORMS: Final = (
    "postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, sqlite:PATH, duckdb:PATH, a folder, "
    "s3://BUCKET/PREFIX?endpoint=URL, kafka://HOST:PORT, or kinesis://REGION"
)
ENDINGS: Final = {".sqlite": "sqlite", ".sqlite3": "sqlite", ".db": "sqlite", ".duckdb": "duckdb"}
"""Types of database files by their ending."""


def connection_of(url: str, name: str, secrets: Path) -> tuple[dict[str, Any], dict[Path, str]]:
    """Return the connection of a URL, and the contents of the files below `secrets` that it refers to.

    Raises:
        UsageError: it is not a URL of a system that can be connected to.
    """
    parts = urlsplit(url)
    kind = parts.scheme.lower()
    secret: dict[str, str | None]
    if kind in {"postgresql", "postgres"}:
        found, secret = _postgres(url, parts), {"password": _plain(parts.password)}
    elif kind in {"mysql", "mariadb"}:
        found, secret = _mysql(kind, parts), {"password": _plain(parts.password)}
    elif kind in {"sqlite", "duckdb"}:
        found, secret = {"type": kind, "path": _path(url[len(kind) + 1 :])}, {}
    elif kind == "s3":
        query = dict(parse_qsl(parts.query))
        prefix = parts.path.rstrip("/")
        found = {"type": "s3", "url": f"s3://{parts.hostname}{prefix}", **query}
        secret = {"access_key": _plain(parts.username), "secret_key": _plain(parts.password)}
    elif kind == "kafka" and parts.netloc and "@" not in parts.netloc:
        found, secret = {"type": "kafka", "bootstrap": parts.netloc}, {}
    elif kind == "kinesis" and parts.hostname:
        found = {"type": "kinesis", "region": parts.hostname, **dict(parse_qsl(parts.query))}
        secret = {"access_key": _plain(parts.username), "secret_key": _plain(parts.password)}
    elif re.match(r"\s*\w+\s*=", url):
        found, secret = _words(url)
    elif kind in {"", "file"}:
        found, secret = _local(url), {}
    else:
        raise UsageError("is not the URL of a system that can be connected to", value=kind, hint=f"write {FORMS}")
    return _referring(found, name, secrets, secret)


def _referring(
    found: dict[str, Any], name: str, secrets: Path, given: Mapping[str, str | None]
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Return a connection that refers to its secrets, and their files."""
    files = {key: (secrets / f"{name}_{key}", value) for key, value in given.items() if value}
    references = {key: f"${{file:{path}}}" for key, (path, _) in files.items()}
    return found | references, dict(files.values())


def _postgres(url: str, parts: SplitResult) -> dict[str, Any]:
    secret = f":{parts.password}@" if parts.password is not None else ""
    return {"type": "postgres", "dsn": url.replace(secret, "@", 1) if secret else url}


def _words(text: str) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Return the connection of libpq's ``host=… dbname=…``, and its password."""
    try:
        words = {key: str(value) for key, value in conninfo.conninfo_to_dict(text).items() if value is not None}
    except ProgrammingError as error:
        raise UsageError("is no connection string of PostgreSQL", hint=f"write {FORMS}") from error
    password = words.pop("password", None)
    return {"type": "postgres", "dsn": conninfo.make_conninfo(**words)}, {"password": password}


def _mysql(kind: str, parts: SplitResult) -> dict[str, Any]:
    query = dict(parse_qsl(parts.query))
    at = {"socket": query["socket"]} if "socket" in query else {"host": parts.hostname, "port": parts.port or 3306}
    user = {"user": unquote(parts.username)} if parts.username else {}
    database = unquote(parts.path.strip("/"))
    return {"type": kind, **at, **user, **({"database": database} if database else {})}


def _local(url: str) -> dict[str, Any]:
    """Return the connection of a path: a folder, or a database file by its ending."""
    path = Path(_path(url.removeprefix("file:")))
    if path.suffix in ENDINGS and not path.is_dir():
        return {"type": ENDINGS[path.suffix], "path": str(path)}
    if not path.is_dir():
        raise UsageError("there is no such folder", value=str(path), hint=f"create it, or write {FORMS}")
    return {"type": "files", "root": str(path)}


def _plain(text: str | None) -> str | None:
    return text and unquote(text)


def _path(text: str) -> str:
    """Return the absolute path of ``///a/b``, ``/a/b`` or ``b``."""
    local = f"/{text.lstrip('/')}" if text.startswith("/") else text
    return str(Path(unquote(local)).expanduser().absolute())
