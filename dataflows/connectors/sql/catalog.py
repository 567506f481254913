"""What a database file has: its tables and views, described one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dataflows.connectors.cataloguing import Choice, Found
from dataflows.connectors.sql.database import Database
from dataflows.connectors.sql.names import FileObjectName
from penstock.errors import PenstockError
from penstock.models.domain import Field, Schema

__all__ = ["DatabaseCatalog"]


class DatabaseCatalog:
    """The tables and views of a file that `query` lists, by schema and name."""

    def __init__(self, database: Database, query: str) -> None:
        self.notes: list[str] = []
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
        except PenstockError as error:
            self.notes.append(f"{name} is left out: {error.what}")
            return []
        if table is None:
            return []
        fields = tuple(Field(name=one.name, type=one.type, nullable=one.nullable) for one in table.columns)
        key, *unique = table.keys or ((),)
        return [
            Found(
                str(name),
                "view" if table.kind == "v" else "table",
                Schema(fields=fields, key=key, unique=tuple(unique)),
            )
        ]

    def close(self) -> None:
        """End the session."""
        self._database.close()
