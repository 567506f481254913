"""Catalog of a database file: its tables and views, described one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from dataflows.connectors.cataloguing import Choice, Found
from dataflows.connectors.sql.database import Database
from dataflows.connectors.sql.names import FileObjectName
from penstock.errors import PenstockError
from penstock.models.domain import DatasetRef, Schema

__all__ = ["DatabaseCatalog"]

SHOWN: Final = 200
"""Characters of a name and of a reason that a note shows."""


class DatabaseCatalog:
    """The tables and views of a file that `query` lists, by schema and name."""

    def __init__(self, database: Database, query: str) -> None:
        self.notes: list[str] = []
        self.present: list[str] = []
        self._database, self._query = database, query

    def objects(self, choice: Choice) -> Iterator[Sequence[Found]]:
        """Yield tables and views by name, each as it is read."""
        for schema, name in self._database.rows(self._query):
            named = FileObjectName(schema, name)
            if choice.takes(str(named)):
                choice.check()
                yield self._described(named)

    def _described(self, name: FileObjectName) -> list[Found]:
        try:
            table = self._database.describe(name, sink=False)
            if table is None:
                return []
            DatasetRef.parse({"connection": "file", "object": str(name)})
            fields = [{"name": one.name, "type": one.type, "nullable": one.nullable} for one in table.columns]
            key, *unique = table.keys or ((),)
            schema = Schema.parse({"fields": fields, "key": key, "unique": unique or None})
        except PenstockError as error:  # such as a name that is too long for the catalog
            self.present.append(str(name))
            self.notes.append(f"{str(name)[:SHOWN]} is left out: {error.what[:SHOWN]}")
            return []
        return [Found(str(name), "view" if table.kind == "v" else "table", schema)]

    def close(self) -> None:
        """End the session."""
        self._database.close()
