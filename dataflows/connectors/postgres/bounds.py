"""Bounds of ranges of a key, as text.

A database of encoding SQL_ASCII stores any bytes as text, and sends only those that are UTF-8 as text; bounds of text
are asked for as bytes there.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

from dataflows.connectors.postgres.session import Session
from dataflows.connectors.sql.bounds import bound_bytes, bound_text
from dataflows.data.types import parse_type

__all__ = ["UNCHECKED", "bound_literal", "bound_of", "bound_sql", "is_unchecked", "key_range"]

UNCHECKED: Final = "SQL_ASCII"
"""Encoding of a database that stores any bytes, unchecked."""
_ENCODING: Final = f"CASE getdatabaseencoding() WHEN '{UNCHECKED}' THEN '{UNCHECKED}' ELSE 'UTF8' END"


def is_unchecked(session: Session) -> bool:
    """True if texts of the database may be bytes in any encoding."""
    return bool(session.info.parameter_status("server_encoding") == UNCHECKED)


def bound_sql(session: Session, value: str, kind: str) -> str:
    """Return the expression that gives `value`, an expression of a key's values, to `bound_of`."""
    if is_unchecked(session) and parse_type(kind).text:
        return f"convert_to(({value})::text, '{UNCHECKED}')"
    return f"({value})::text"


def bound_of(value: str | bytes | None, kind: str) -> str | None:
    """Return a key's value, as `bound_sql` gives it, as a bound."""
    if isinstance(value, bytes):
        return bound_text(value)
    return bound_text(value.encode()) if value is not None and parse_type(kind).text else value


def bound_literal(bound: str, kind: str) -> str:
    """Return the SQL expression of a bound."""
    raw = bound_bytes(bound) if parse_type(kind).text else None
    if raw is None:
        return f"{sql.Literal(bound).as_string(None)}::{kind}"
    return f"convert_from('\\x{raw.hex()}'::bytea, {_ENCODING})::{kind}"


def key_range(name: str, kind: str, lower: str | None, upper: str | None) -> str:
    """Return the condition of a range of a key; None is no bound."""
    parts = [f"{name} > {bound_literal(lower, kind)}"] if lower is not None else []
    parts += [f"{name} <= {bound_literal(upper, kind)}"] if upper is not None else []
    return " AND ".join(parts) or "true"
