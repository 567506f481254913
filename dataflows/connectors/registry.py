"""Find the connector of a connection's type: a built-in one by name, or a plug-in.

Built-in connectors are named by text, so that only what a run needs is imported. Another package adds one by an entry
point of group ``penstock.connectors`` whose name is the connection's type.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final
from typing import cast as typed

from dataflows.connectors.contract import Connector, Owner, Place, Source, Target
from dataflows.connectors.inspection import check_connector, check_source, check_target
from penstock.errors import Refused
from penstock.models.connection import plugged_in
from penstock.models.receivers import RECEIVERS

__all__ = ["BUILT_IN", "connector", "open_source", "open_target"]

BUILT_IN: Final = {
    "postgres": "dataflows.connectors.postgres.connector:PostgresConnector",
    "files": "dataflows.connectors.files.connector:FilesConnector",
    "s3": "dataflows.connectors.files.connector:S3Connector",
    "sqlite": "dataflows.connectors.sqlite.connector:SqliteConnector",
    "duckdb": "dataflows.connectors.duckdb.connector:DuckdbConnector",
    "mysql": "dataflows.connectors.mysql.connector:MysqlConnector",
    "mariadb": "dataflows.connectors.mysql.connector:MysqlConnector",
    "http": "dataflows.connectors.http.connector:HttpConnector",
    "kafka": "dataflows.connectors.kafka.connector:KafkaConnector",
    "kinesis": "dataflows.connectors.kinesis.connector:KinesisConnector",
    "topics": "dataflows.connectors.topics.connector:TopicsConnector",
}


def connector(kind: str, where: str) -> type[Connector]:
    """Return the connector of a connection's type.

    Raises:
        Refused: there is none, or it does not fulfil the contract.
    """
    if kind in BUILT_IN:
        module, _, name = BUILT_IN[kind].partition(":")
        kind_class = getattr(import_module(module), name)
    elif kind in RECEIVERS:
        hint = "name it in `monitor.routes` of a policy"
        raise Refused(f"connections of type {kind} take alerts only: they have no rows", where=where, hint=hint)
    elif (kind_class := plugged_in(kind)) is None:
        raise Refused(f"connections of type {kind} cannot be used in a run yet", where=where)
    check_connector(kind_class, where)
    return typed("type[Connector]", kind_class)


def open_source(place: Place) -> Source:
    """Connect a source.

    Raises:
        Refused: it cannot be read from, or does not fulfil the contract.
    """
    source = connector(place.settings.type, place.where).source(place)
    check_source(source, place.where)
    return source


def open_target(place: Place, owner: Owner) -> Target:
    """Connect a target.

    Raises:
        Refused: it cannot be written to in this mode, or does not fulfil the contract.
    """
    target = connector(place.settings.type, place.where).target(place, owner)
    check_target(target, place.where)
    return target
