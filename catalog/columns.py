"""What tables of the catalog are made of: the schemas, and columns of the usual types."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import TIMESTAMP, BigInteger, Column, Index, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

__all__ = ["CATALOG", "OPS", "exact", "folded", "json", "metadata", "number", "text", "time"]

CATALOG: Final = "catalog"
OPS: Final = "ops"

metadata = MetaData(
    naming_convention={"pk": "%(table_name)s_pkey", "ix": "%(table_name)s_%(column_0_N_name)s_idx"},
)


def text(name: str, *, key: bool = False) -> Column[Any]:
    """Return a text."""
    return Column(name, Text, primary_key=key)


def exact(name: str) -> Column[Any]:
    """Return a text that is ordered by its characters, whatever the database's language is."""
    return Column(name, Text(collation="C"))


def time(name: str) -> Column[Any]:
    """Return a time with its zone."""
    return Column(name, TIMESTAMP(timezone=True))


def number(name: str, *, key: bool = False) -> Column[Any]:
    """Return a large whole number."""
    return Column(name, BigInteger, primary_key=key, autoincrement=False)


def json(name: str) -> Column[Any]:
    """Return a document."""
    return Column(name, JSONB(none_as_null=True))


def folded(name: str, *parts: Column[Any] | Index) -> Table:
    """Define a table of the projection; each row has the offset of the record that last touched it."""
    changed = Column("changed", BigInteger, nullable=False)
    return Table(name, metadata, *parts, changed, schema=CATALOG)
