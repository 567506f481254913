"""MySQL's information schema: all tables and views of a database, in a few queries over many tables each.

A user sees in it what it may read. Rows and sizes are the server's own estimates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from dataflows.connectors.cataloguing import Found, clipped, paged
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.mysql.session import Session, quoted
from dataflows.connectors.mysql.tables import TableName, text_of
from dataflows.connectors.mysql.types import spelled
from dataflows.connectors.source_catalog import SourceCatalog
from penstock.models.domain import Field, ForeignKey, Schema
from penstock.models.profiles import DatasetProfile, Index, about

__all__ = ["MysqlCatalog"]

PAGE_TABLES: Final = 100


class MysqlCatalog:
    """The tables and views of the databases of a server; `rows` samples those of one."""

    def __init__(self, session: Session, rows: SourceCatalog) -> None:
        self.notes: list[str] = []
        self.present: list[str] = []
        self._session, self._rows = session, rows

    def described(self, objects: Iterable[ListedObject], check: Callable[[], None]) -> Iterator[Sequence[Found]]:
        """Yield tables and views in pages, each of one database."""
        for page in paged(objects, PAGE_TABLES):
            for schema, some in groupby(page, lambda one: one.schema):
                check()
                yield self._described(schema, [one.table for one in some])

    def sample(self, found: Found, rows: int, check: Callable[[], None]) -> Found:
        """Return it with what some rows show. Raises as `Catalog.sample`."""
        return self._rows.sample(found, rows, check)

    def _described(self, schema: str, names: Sequence[str]) -> list[Found]:
        columns, indexes = self._columns(schema, names), self._indexes(schema, names)
        foreign = self._foreign(schema, names)
        found = []
        for row in self._ask(_TABLES, schema, names):
            name = text_of(row[0])
            fields, mine = columns[name], indexes[name]
            key = next((one.columns for one in mine if one.name == "PRIMARY"), ())
            known = {field.name for field in fields}
            unique = [
                one.columns for one in mine if one.unique and one.columns != key and known.issuperset(one.columns)
            ]
            described = Schema(fields=tuple(fields), key=key, unique=tuple(unique), foreign=tuple(foreign[name]))
            profile = DatasetProfile(rows=about(row[2]), bytes=about(row[3]), indexes=tuple(mine))
            kind = "view" if "VIEW" in text_of(row[1]) else "table"
            comment = text_of(row[4]) if kind == "table" and row[4] else None
            found.append(Found(str(TableName(schema, name)), kind, described, clipped(comment), profile))
        return found

    def _columns(self, schema: str, names: Sequence[str]) -> dict[str, list[Field]]:
        rows = self._ask(_JSON, schema, names) if self._session.mariadb else []
        checks = {(text_of(table), text_of(clause)) for table, clause in rows}
        fields: dict[str, list[Field]] = defaultdict(list)
        for table, name, data, whole, nullable, default, extra, generated, comment in self._ask(
            _COLUMNS, schema, names
        ):
            is_json = (table, f"json_valid({quoted(name)})") in checks
            kinds = ("json", "json") if is_json else (text_of(data), text_of(whole))
            field = Field(
                name=name,
                type=spelled(*kinds, sink=False),
                nullable=bool(nullable),
                default=clipped(_default(default, text_of(extra or ""), text_of(generated or ""))),
                description=clipped(text_of(comment) or None),
            )
            fields[table].append(field)
        return fields

    def _indexes(self, schema: str, names: Sequence[str]) -> dict[str, list[Index]]:
        parts: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
        for table, index, column, loose, part in self._ask(_INDEXES, schema, names):
            shown = "(expression)" if column is None else f"{column}({part})" if part else column
            parts[table, index, not loose and not part].append(shown)
        found: dict[str, list[Index]] = defaultdict(list)
        for (table, index, unique), columns in parts.items():
            found[table].append(Index(name=index, columns=tuple(columns), unique=unique))
        return found

    def _foreign(self, schema: str, names: Sequence[str]) -> dict[str, list[ForeignKey]]:
        parts: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
        for table, constraint, column, other, of, to in self._ask(_FOREIGN, schema, names):
            parts[table, constraint, str(TableName(other, of))].append((column, to))
        found: dict[str, list[ForeignKey]] = defaultdict(list)
        for (table, _, of), pairs in parts.items():
            columns, to = zip(*pairs, strict=True)
            found[table].append(ForeignKey(columns=columns, object=of, references=to))
        return found

    def _ask(self, query: str, schema: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Ask about some tables."""
        marks = ", ".join("?" for _ in names)
        return self._session.rows(query.replace("(NAMES)", f"({marks})"), (schema, *names))

    def close(self) -> None:
        """End the session."""
        self._rows.close()
        self._session.close()


def _default(default: Any, extra: str, generated: str) -> str | None:
    """Return the default as the server writes it. MariaDB writes a default of NULL as an expression."""
    if generated:
        return f"GENERATED ALWAYS AS ({generated})"
    if "auto_increment" in extra.lower():
        return "AUTO_INCREMENT"
    return None if default is None or text_of(default) == "NULL" else text_of(default)


_TABLES: Final = """
SELECT table_name, table_type, table_rows, data_length + index_length, table_comment FROM information_schema.tables
WHERE table_schema = ? AND table_name IN (NAMES) AND table_type <> 'SEQUENCE' ORDER BY table_name"""
_COLUMNS: Final = """
SELECT table_name, column_name, data_type, column_type, is_nullable = 'YES', column_default, extra,
  generation_expression, column_comment
FROM information_schema.columns WHERE table_schema = ? AND table_name IN (NAMES)
ORDER BY table_name, ordinal_position"""
_JSON: Final = """
SELECT table_name, check_clause FROM information_schema.check_constraints
WHERE constraint_schema = ? AND table_name IN (NAMES)"""
_INDEXES: Final = """
SELECT table_name, index_name, column_name, non_unique, sub_part FROM information_schema.statistics
WHERE table_schema = ? AND table_name IN (NAMES)
ORDER BY table_name, index_name <> 'PRIMARY', index_name, seq_in_index"""
_FOREIGN: Final = """
SELECT table_name, constraint_name, column_name, referenced_table_schema, referenced_table_name, referenced_column_name
FROM information_schema.key_column_usage WHERE table_schema = ? AND table_name IN (NAMES)
  AND referenced_table_name IS NOT NULL ORDER BY table_name, constraint_name, ordinal_position"""
