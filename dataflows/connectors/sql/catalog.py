"""Catalog of a database file: it is opened once for all descriptions, as opening it may take longer than they do."""

from __future__ import annotations

from collections.abc import Callable

from dataflows.connectors.contract import Place, Source
from dataflows.connectors.source_catalog import SourceCatalog
from dataflows.connectors.sql.database import Database
from dataflows.connectors.sql.names import ObjectName
from dataflows.data.tables import Table
from penstock.errors import MissingTable

__all__ = ["file_catalog"]


def file_catalog(
    place: Place,
    source: Callable[[Place], Source],
    database: Database,
    named: Callable[[str], ObjectName],
    describe: Callable[[ObjectName], Table | None],
) -> SourceCatalog:
    """Return the catalog of a file that is open as `database`; its rows are read by sources."""

    def described(name: str) -> Table:
        found = describe(named(name))
        if found is None:
            raise MissingTable("there is no such table", where=place.where, value=name, hint="it was dropped")
        return found

    return SourceCatalog(source, place, described, database.close)
