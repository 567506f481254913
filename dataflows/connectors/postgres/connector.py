"""``type: postgres``: a connection to PostgreSQL, as a source and as a sink."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.postgres.catalog import PostgresCatalog
from dataflows.connectors.postgres.session import Session, connect
from dataflows.connectors.postgres.source import PostgresSource
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.postgres.target import PostgresTarget
from penstock.models.connection import PostgresConnection, postgres_dsn

if TYPE_CHECKING:
    from dataflows.connectors.postgres.cdc.source import PostgresChanges

__all__ = ["PostgresConnector"]

LIST_SECONDS: Final = 60.0
"""Longest time for a query of all names."""


class PostgresConnector:
    """``type: postgres``."""

    model = PostgresConnection
    takes_format = False

    @staticmethod
    def named(place: Place) -> str:
        return str(TableName.parse(place.object))

    @staticmethod
    def source(place: Place) -> PostgresSource | PostgresChanges:
        if place.stream is not None:
            from dataflows.connectors.postgres.cdc.source import PostgresChanges

            return PostgresChanges(place, TableName.parse(place.object), _dsn(place))
        return PostgresSource(place, TableName.parse(place.object), _dsn(place))

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:  # noqa: ARG004 - one query has them all
        from dataflows.connectors.postgres.listing import objects_of

        with closing(_lister(place)) as session:
            yield from objects_of(session, place.where, check)

    @staticmethod
    def references_of(place: Place, targets: Collection[str], check: Callable[[], None]) -> list[tuple[str, str]]:  # noqa: ARG004 - one query has them all
        from dataflows.connectors.postgres.listing import references_of

        with closing(_lister(place)) as session:
            return references_of(session, place.where)

    @staticmethod
    def target(place: Place, owner: Owner) -> PostgresTarget:
        return PostgresTarget.opened(place, owner, TableName.parse(place.object), _dsn(place))

    @staticmethod
    def catalog(place: Place) -> PostgresCatalog:
        return PostgresCatalog(_dsn(place), place.where)


def _lister(place: Place) -> Session:
    return connect(_dsn(place), where=place.where, name="penstock:list", statement=LIST_SECONDS)


def _dsn(place: Place) -> str:
    return postgres_dsn(place.settings, name=place.connection, secrets=place.secrets)
