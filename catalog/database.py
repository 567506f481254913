"""The catalog's database: connecting, bringing its schemas up to this release, and starting the projection over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import orjson
import psycopg
from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine
from sqlalchemy.exc import DBAPIError

from catalog.migrations import REVISIONS
from catalog.tables import CATALOG, OPS, metadata
from penstock.errors import SettingsError
from penstock.postgres import connect, place, translated

__all__ = ["driver_of", "engine", "migrate", "reset", "version"]

OLDEST_SERVER: Final = 150000
_LOCK: Final = 0x70656E63
"""The advisory lock under which the schemas change."""


def engine(dsn: str, *, pool_size: int = 4) -> Engine:
    """An engine on the database at `dsn` (a libpq conninfo or URL); sessions are in UTC.

    Connections are opened when first used; those that died while idle are replaced. Dispose of it after use.
    """
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(dsn, "penstock:catalog", autocommit=False),
        pool_size=pool_size,
        max_overflow=4 * pool_size,
        pool_pre_ping=True,
        json_serializer=_json,
    )


def _json(value: Any) -> str:
    """JSON, by the quick writer where that can: numbers beyond 64 bits it refuses."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)


def version(connection: psycopg.Connection[Any]) -> str | None:
    """The revision that the database is at, None where there is none."""
    exists = connection.execute("SELECT to_regclass('ops.alembic_version')").fetchone()
    if exists is None or exists[0] is None:
        return None
    row = connection.execute("SELECT version_num FROM ops.alembic_version").fetchone()
    return None if row is None else str(row[0])


def migrate(dsn: str) -> bool:
    """Bring schemas `catalog` and `ops` to this release; whether there was anything to do.

    Safe when several processes start at once; one transaction, so that it is done as a whole or not at all. Quick where
    there is nothing to do (one connection, three small queries).

    Raises:
        SettingsError: the server is older than PostgreSQL 15, or the database was made by a newer release.
        Unavailable: the server cannot be used, or this user may not create schemas there.
    """
    with closing(connect(dsn, "penstock:migrate", autocommit=True)) as connection:
        _check_server(connection, place(dsn))
        if _is_current(version(connection), place(dsn)):
            return False
    return _upgrade(dsn)


def reset(dsn: str) -> None:
    """Drop schema `catalog` and make it anew and empty, keeping `ops`; the projector then starts over at offset 0.

    A projector that is at work meets Fenced. Raises as `migrate` does, which it calls first.
    """
    migrate(dsn)
    with _locked(dsn) as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {CATALOG} CASCADE")
        connection.exec_driver_sql(f"CREATE SCHEMA {CATALOG}")
        metadata.create_all(connection, [t for t in metadata.sorted_tables if t.schema == CATALOG], checkfirst=False)


def _check_server(connection: psycopg.Connection[Any], where: str) -> None:
    number = connection.info.server_version
    if number < OLDEST_SERVER:
        hint = "set PENSTOCK_DATABASE_URL to PostgreSQL 15 or newer, or leave it out for the embedded server"
        raise SettingsError("is too old a PostgreSQL", where=where, value=number // 10000, hint=hint)


def _is_current(found: str | None, where: str) -> bool:
    if found is not None and found not in REVISIONS:
        hint = "run the release that made it, or newer; or use another database"
        raise SettingsError("was made by a newer release of Penstock", where=where, value=found, hint=hint)
    return found == REVISIONS[-1]


def _upgrade(dsn: str) -> bool:
    # 100 ms to import, and needed only where something is to be done.
    from alembic import command  # noqa: PLC0415 - only migrations need Alembic
    from alembic.config import Config  # noqa: PLC0415 - only migrations need Alembic

    with _locked(dsn) as connection:
        if _is_current(version(driver_of(connection)), place(dsn)):
            return False
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {OPS}")
        config = Config()
        config.set_main_option("script_location", "catalog:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        _extend(connection)
        return True


@contextmanager
def _locked(dsn: str) -> Iterator[Connection]:
    """A transaction in which no other process changes the schemas."""
    source = engine(dsn, pool_size=1)
    try:
        with source.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translated(error.orig, where=place(dsn)) from error
        raise
    finally:
        source.dispose()


def _extend(connection: Connection) -> None:
    """Add pg_trgm where this user may: the fuzzy search uses it, and does without where it is missing."""
    with suppress(DBAPIError), connection.begin_nested():
        connection.exec_driver_sql(f"CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA {OPS}")


def driver_of(connection: Connection | PoolProxiedConnection) -> psycopg.Connection[Any]:
    """The driver's connection below SQLAlchemy's, in the same transaction. Raises SettingsError: not psycopg's."""
    proxied = connection.connection if isinstance(connection, Connection) else connection
    driver = proxied.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise SettingsError(
            "does not speak through psycopg 3", where="engine", hint="make it by catalog.database.engine"
        )
    return driver
