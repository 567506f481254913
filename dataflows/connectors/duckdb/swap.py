"""Swap of a `replace` for tables whose key is made after each load.

DuckDB keeps a key's whole index in memory while rows are added, and needs more than that to delete and insert the rows
of a table with a key in one transaction. A table that Penstock created with the source's key is therefore loaded
without it: the shadow gets the key at the end, then the table's name. A comment on the table says so, and keeps the
key's columns. A table to which a person has added an index, or whose comment is another one, is a person's own: it
stays, and is refilled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.sql.names import ObjectName, quoted
from penstock.errors import BadData

if TYPE_CHECKING:
    from dataflows.connectors.sql.database import Database

__all__ = ["DuckKeys"]

LATE: Final = "Penstock makes the key after each load: "
"""Beginning of the comment; the rest is the key's columns as JSON."""
_OF: Final = "database_name = current_database() AND schema_name = ? AND table_name = ?"
_COLUMNS: Final = f"""
SELECT column_name, data_type, is_nullable, column_default, comment FROM duckdb_columns() WHERE {_OF}
ORDER BY column_index"""


@dataclass(frozen=True, slots=True)
class DuckKeys:
    """Keys that are made after each load, over one session."""

    database: Database

    def mark(self, name: ObjectName, key: tuple[str, ...]) -> None:
        self.database.change(f"COMMENT ON TABLE {name.sql} IS {_literal(LATE + json.dumps(key))}")

    def of(self, name: ObjectName) -> tuple[str, ...]:
        query = f"SELECT comment FROM duckdb_tables() WHERE {_OF} AND starts_with(comment, ?)"
        found = self.database.rows(query, (*_of(name), LATE))
        if not found or self.database.rows(f"SELECT 1 FROM duckdb_indexes() WHERE {_OF} LIMIT 1", _of(name)):
            return ()
        return tuple(json.loads(found[0][0].removeprefix(LATE)))

    def shadow(self, name: ObjectName, other: ObjectName) -> str:
        """Return the statement that creates `other`, if it is missing, like the table but without a key."""
        lines = [
            f"{quoted(column)} {kind}{f' DEFAULT {default}' if default else ''}{'' if nullable else ' NOT NULL'}"
            for column, kind, nullable, default, _ in self.database.rows(_COLUMNS, _of(name))
        ]
        return f"CREATE TABLE IF NOT EXISTS {other.sql} ({', '.join(lines)})"

    def swap(self, name: ObjectName, shadow: ObjectName, *, keyed: bool) -> None:
        key = self.of(name)
        comments = [(row[0], row[4]) for row in self.database.rows(_COLUMNS, _of(name)) if row[4] is not None]
        if keyed:
            self._make(name, shadow, key)
        self.database.change(f"DROP TABLE {name.sql}")
        self.database.change(f"ALTER TABLE {shadow.sql} RENAME TO {quoted(name.name)}")
        self.mark(name, key)
        for column, comment in comments:
            self.database.change(f"COMMENT ON COLUMN {name.sql}.{quoted(column)} IS {_literal(comment)}")

    def _make(self, name: ObjectName, shadow: ObjectName, key: tuple[str, ...]) -> None:
        try:
            self.database.change(f"ALTER TABLE {shadow.sql} ADD PRIMARY KEY ({', '.join(map(quoted, key))})")
        except RowRefused as error:
            what = f"the key ({', '.join(key)}) cannot be made: rows repeat it"
            hint = "nothing was published; does a step, or a change of keys while they were read, repeat rows?"
            raise BadData(what, where=f"{error.where}: {name}", hint=hint) from None


def _of(name: ObjectName) -> tuple[str, str]:
    return name.schema, name.name


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
