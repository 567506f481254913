"""The catalog's database: connect, migrate its schemas to this release, reset the projection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import orjson
import psycopg
from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine
from sqlalchemy.exc import DBAPIError

from catalog.migrations import REVISIONS
from catalog.tables import CATALOG, OPS, metadata
from penstock.errors import SettingsError
from penstock.postgres import address, connect, translated

__all__ = ["driver_of", "engine", "migrate", "reset"]

OLDEST_SERVER: Final = 150000
_LOCK: Final = 0x70656E63
"""The advisory lock that is held while the schemas change."""


def engine(dsn: str, *, pool_size: int = 4) -> Engine:
    """Create an engine on the database at `dsn` (a libpq conninfo or URL); sessions are in UTC.

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
    """Return JSON, by orjson unless a number has more than 64 bits, which it refuses."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)


def version(connection: psycopg.Connection[Any]) -> str | None:
    """Return the revision of the database, or None."""
    exists = connection.execute("SELECT to_regclass('ops.alembic_version')").fetchone()
    if exists is None or exists[0] is None:
        return None
    row = connection.execute("SELECT version_num FROM ops.alembic_version").fetchone()
    return None if row is None else str(row[0])


def migrate(dsn: str) -> bool:
    """Migrate schemas `catalog` and `ops` to this release; True if there was anything to do.

    Safe when several processes start at once; atomic, in one transaction. Quick if there is nothing to do (one
    connection, three small queries).

    Raises:
        SettingsError: the server is older than PostgreSQL 15, or a newer release created the database.
        Unavailable: the server cannot be used, or this user may not create schemas there.
    """
    with closing(connect(dsn, "penstock:migrate", autocommit=True)) as connection:
        _check_server(connection, address(dsn))
        if _is_current(version(connection), address(dsn)):
            return False
    return _upgrade(dsn)


def reset(dsn: str) -> None:
    """Recreate schema `catalog` empty, keeping `ops`; the projector then starts again at offset 0.

    A projector that is running gets Fenced. Calls `migrate` first, and raises as it does.
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
        raise SettingsError("is an unsupported version of PostgreSQL", where=where, value=number // 10000, hint=hint)


def _is_current(found: str | None, where: str) -> bool:
    if found is not None and found not in REVISIONS:
        hint = "run that release or a newer one, or use another database"
        raise SettingsError("was created by a newer release of Penstock", where=where, value=found, hint=hint)
    return found == REVISIONS[-1]


def _upgrade(dsn: str) -> bool:
    # Takes 100 ms to import, and is needed only if there is something to do.
    from alembic import command  # noqa: PLC0415 - only migrations need Alembic
    from alembic.config import Config  # noqa: PLC0415 - only migrations need Alembic

    with _locked(dsn) as connection:
        if _is_current(version(driver_of(connection)), address(dsn)):
            return False
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {OPS}")
        config = Config()
        config.set_main_option("script_location", "catalog:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return True


@contextmanager
def _locked(dsn: str) -> Iterator[Connection]:
    """Open a transaction that excludes other processes from changing the schemas."""
    source = engine(dsn, pool_size=1)
    try:
        with source.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translated(error.orig, where=address(dsn)) from error
        raise
    finally:
        source.dispose()


def driver_of(connection: Connection | PoolProxiedConnection) -> psycopg.Connection[Any]:
    """Return psycopg's connection below SQLAlchemy's, in the same transaction. Raises SettingsError for others."""
    proxied = connection.connection if isinstance(connection, Connection) else connection
    driver = proxied.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise SettingsError("does not use psycopg 3", where="engine", hint="create it by catalog.database.engine")
    return driver
