"""``type: mysql``, or ``mariadb``: tables and views of a server of either kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.mysql.catalog import MysqlCatalog
from dataflows.connectors.mysql.session import LOCK_SECONDS, Session, connect
from dataflows.connectors.mysql.source import MysqlSource
from dataflows.connectors.mysql.state import MysqlState
from dataflows.connectors.mysql.tables import TableName
from dataflows.connectors.mysql.target import MysqlTarget
from dataflows.connectors.source_catalog import SAMPLE_SECONDS, SourceCatalog
from penstock.models.connection import MysqlConnection

__all__ = ["MysqlConnector"]

SOURCE_LOCK_SECONDS = 10.0


class MysqlConnector:
    """``type: mysql``; an object is ``database.table``, or a bare name in the connection's database."""

    model = MysqlConnection
    takes_format = False

    @staticmethod
    def named(place: Place) -> str:
        return str(_name(place))

    @staticmethod
    def source(place: Place) -> MysqlSource:
        name = _name(place)
        return _source(place, name, _sessions(place, name, write=False, lock=SOURCE_LOCK_SECONDS))

    @staticmethod
    def target(place: Place, owner: Owner) -> MysqlTarget:
        name = _name(place)
        patience = LOCK_SECONDS if owner.patience is None else owner.patience
        first = _sessions(place, name, write=True, lock=patience, seconds=owner.patience)(lambda: None)
        another = _sessions(place, name, write=True, lock=LOCK_SECONDS)
        state = MysqlState(
            first, owner.uid, owner.source, str(name), place.where, schema=name.schema, patience=patience
        )
        return MysqlTarget(place, owner, name, first, another, state)

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:  # noqa: ARG004 - names are few
        from dataflows.connectors.mysql.listing import objects_of

        database = place.settings.database
        at = TableName(database or "information_schema", "")
        with closing(_sessions(place, at, write=False, lock=SOURCE_LOCK_SECONDS)(check)) as session:
            yield from objects_of(session, database, check)

    @staticmethod
    def references_of(place: Place, targets: Collection[str], check: Callable[[], None]) -> list[tuple[str, str]]:
        from dataflows.connectors.mysql.listing import references_of

        databases = sorted({TableName.parse(one, place.settings.database, place.where).schema for one in targets})
        at = TableName("information_schema", "")
        with closing(_sessions(place, at, write=False, lock=SOURCE_LOCK_SECONDS)(check)) as session:
            return references_of(session, databases, check)

    @staticmethod
    def catalog(place: Place) -> MysqlCatalog:
        at = TableName(place.settings.database or "information_schema", "")
        session = _sessions(place, at, write=False, lock=SOURCE_LOCK_SECONDS)(lambda: None)
        return MysqlCatalog(session, SourceCatalog(_sample, place))


def _name(place: Place) -> TableName:
    return TableName.parse(place.object, place.settings.database, place.where)


def _source(place: Place, name: TableName, another: Callable[[Callable[[], None]], Session]) -> MysqlSource:
    return MysqlSource(place, name, another(lambda: None), another)


def _sample(place: Place) -> MysqlSource:
    """Open an object for a sample: the server itself ends a query that nobody waits for any more."""
    name = _name(place)
    another = _sessions(place, name, write=False, lock=SOURCE_LOCK_SECONDS)

    def limited(check: Callable[[], None]) -> Session:
        session = another(check)
        session.limit(SAMPLE_SECONDS)
        return session

    return _source(place, name, limited)


def _sessions(
    place: Place, name: TableName, *, write: bool, lock: float, seconds: float | None = None
) -> Callable[[Callable[[], None]], Session]:
    limits = {} if seconds is None else {"seconds": seconds}

    def opened(check: Callable[[], None]) -> Session:
        return connect(
            place.settings,
            place.where,
            database=name.schema,
            secrets=place.secrets,
            write=write,
            lock=lock,
            check=check,
            **limits,
        )

    return opened
