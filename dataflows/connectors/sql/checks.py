"""Checks of a table before and after rows are written, the same in every database."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.sql.names import ObjectName, quoted
from dataflows.data.tables import Column, Table
from penstock.errors import Refused, SchemaMismatch, Unavailable

__all__ = [
    "altered",
    "check_appended",
    "check_distinct",
    "check_key",
    "check_names",
    "check_sink",
    "check_untriggered",
    "duplicates",
    "interfered",
]


def check_sink(
    place: Place, owner: Owner, name: ObjectName, table: Table | None, modes: Collection[str], kinds: str = "r"
) -> None:
    """Refuse an object that cannot be written to, or not in this write mode; `kinds` are the kinds that are tables.

    Raises:
        Refused: by name.
    """
    where, write = f"{place.pipeline}: spec.sink", owner.write.write
    if write not in modes:
        *others, last = modes
        what = f"connections of type {place.settings.type} cannot `{write}`"
        raise Refused(what, where=f"{where}.write", hint=f"write: {', '.join(others)} or {last}")
    if name.name.startswith("_penstock_"):
        hint = "write to a table of another name"
        raise Refused("this name is reserved for Penstock", where=f"{where}.object", value=str(name), hint=hint)
    if table is not None and table.kind not in kinds:
        raise Refused("rows can only be written to a table", where=place.where, value=str(name))


def check_names(place: Place, name: ObjectName, columns: Sequence[Column], limit: int, encoding: str | None) -> None:
    """Refuse names that the server would shorten, and empty ones; `limit` counts bytes of `encoding`, or characters.

    Raises:
        Refused: the name, and how the server would shorten it.
    """
    for kind, text in (("table", name.name), *(("column", column.name) for column in columns)):
        if not text:
            hint = "map it to another name, or leave it out"
            raise Refused(f"a {kind} has no name", where=f"{place.pipeline}: spec.sink", value=text, hint=hint)
        size = len(text.encode(encoding) if encoding else text)
        if size > limit:
            short = text.encode(encoding)[:limit].decode(encoding, "ignore") if encoding else text[:limit]
            what = f"the name of a {kind} has {size} {'bytes' if encoding else 'characters'}, and the limit is {limit}"
            hint = f"map it to a shorter name; {place.settings.type} itself would cut it to `{short}`"
            raise Refused(what, where=f"{place.pipeline}: spec.sink", value=text, hint=hint)


def check_distinct(place: Place, columns: Sequence[Column], *, ascii_only: bool = False) -> None:
    """Refuse columns whose names the database takes for one: they differ in case, of letters of ASCII or of any.

    Raises:
        Refused: with both names.
    """
    seen: dict[str | bytes, str] = {}
    for column in columns:
        other = seen.setdefault(column.name.encode().lower() if ascii_only else column.name.lower(), column.name)
        if other != column.name:
            what = f"{place.settings.type} takes `{other}` and `{column.name}` for one column: they differ in case only"
            hint = "map one of them to another name, or leave it out"
            raise Refused(what, where=f"{place.pipeline}: spec.sink", hint=hint)


def check_key(table: Table, key: Sequence[str], where: str, hint: str | None = None) -> None:
    """Refuse to merge into a table in which two rows may have the same key.

    Raises:
        Refused: it has no unique key of exactly these columns.
    """
    if not any(set(key) == set(one) for one in table.keys):
        names = ", ".join(key)
        what = f"{table.name} has no unique key over exactly {names} without NULL"
        columns = ", ".join(quoted(name, mark=table.name.mark) for name in key)
        hint = hint or f"ALTER TABLE {table.name.sql} ADD PRIMARY KEY ({columns})"
        raise Refused(what, where=f"{where}.key", hint=hint)


def duplicates(shadow: ObjectName, columns: Sequence[str]) -> str:
    """Return a query that counts values of `columns` in several rows of a shadow table; NULL never equals NULL."""
    names = [quoted(name, mark=shadow.mark) for name in columns]
    there = " AND ".join(f"{name} IS NOT NULL" for name in names)
    each = f"SELECT 1 FROM {shadow.sql} WHERE {there} GROUP BY {', '.join(names)} HAVING count(*) > 1"
    return f"SELECT count(*) FROM ({each}) d"


def check_appended(name: ObjectName, keys: Sequence[Sequence[str]], triggers: Sequence[str], where: str) -> None:
    """Refuse to append if a trigger may change rows, and no key identifies them.

    Raises:
        Refused: by name.
    """
    if triggers and not keys:
        what = f"{', '.join(triggers)} of {name} may change rows, which only a unique key that is written would show"
        raise Refused(what, where=where, hint="give the table a unique key that is written, or drop the trigger")


def check_untriggered(name: ObjectName, triggers: Sequence[str], where: str) -> None:
    """Refuse a table with triggers, which may change rows that have to be those of the source.

    Raises:
        Refused: with their names.
    """
    if triggers:
        what = (
            f"{', '.join(triggers)} of {name} may change rows that have to be those of the source, or keep deleted ones"
        )
        raise Refused(what, where=where, hint="drop it, or write the changes to another table")


def interfered(what: str, named: Sequence[str], where: str) -> SchemaMismatch:
    """Return the error of a split of which triggers or rules of the target dropped or changed rows."""
    hint = "the split was not committed; disable or drop the trigger or rule, or let it leave these rows unchanged"
    return SchemaMismatch(f"{what} by {', '.join(named)}", where=where, hint=hint)


def altered(where: str) -> Unavailable:
    """Return the error of a split whose target was altered while it was written: what fitted before may fit no more."""
    hint = "nothing of the split was committed; the next attempt looks at the table as it is now"
    return Unavailable("the table was altered while rows were written to it", where=where, hint=hint)
