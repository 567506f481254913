"""Find the connector of a connection's type: a built-in one by name, or a plug-in.

Built-in connectors are named by text, so that only what a run needs is imported. Another package adds one by an entry
point of group ``penstock.connectors`` whose name is the connection's type.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final
from typing import cast as typed

from dataflows.connectors.contract import Connector
from penstock.errors import Refused
from penstock.models.connection import plugged_in

__all__ = ["connector"]

BUILT_IN: Final = {
    "postgres": "dataflows.connectors.postgres.connector:PostgresConnector",
    "files": "dataflows.connectors.files.connector:FilesConnector",
    "s3": "dataflows.connectors.files.connector:S3Connector",
    "sqlite": "dataflows.connectors.sqlite.connector:SqliteConnector",
    "duckdb": "dataflows.connectors.duckdb.connector:DuckdbConnector",
    "mysql": "dataflows.connectors.mysql.connector:MysqlConnector",
    "mariadb": "dataflows.connectors.mysql.connector:MysqlConnector",
    "http": "dataflows.connectors.http.connector:HttpConnector",
}


def connector(kind: str, where: str) -> type[Connector]:
    """The connector of a connection's type.

    Raises:
        Refused: none is known here.
    """
    if kind in BUILT_IN:
        module, _, name = BUILT_IN[kind].partition(":")
        return typed("type[Connector]", getattr(import_module(module), name))
    plugged = plugged_in(kind)
    if plugged is None:
        raise Refused(f"connections of type {kind} cannot be used in a run yet", where=where)
    return typed("type[Connector]", plugged)
