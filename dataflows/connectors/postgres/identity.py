"""Identity of a PostgreSQL database: a table keeps its number there for ever, whatever its name."""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from dataflows.connectors.postgres.session import Session, one_row, translated

__all__ = ["database_of"]

_DATABASE: Final = """
SELECT oid::text, datname,
  coalesce(has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()'), 'execute'), false)
FROM pg_database WHERE datname = current_database()"""
_DATABASES: Final[WeakKeyDictionary[Session, str]] = WeakKeyDictionary()
"""What is known of the database of each session: sessions are kept from one run to the next."""


def database_of(session: Session, where: str) -> str:
    """Return the database's number, the server's where the role may read it, and the database's name."""
    if session not in _DATABASES:
        with translated(where):
            number, name, readable = one_row(session, _DATABASE)
            query = "SELECT system_identifier::text FROM pg_control_system()"
            server = one_row(session, query)[0] if readable else ""
        _DATABASES[session] = f"{number}:{server}:{name}"
    return _DATABASES[session]
