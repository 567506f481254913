"""Connectors for files in a folder of this machine (`files`) and in a bucket (`s3`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.files.arrivals import FilesWatch
from dataflows.connectors.files.names import FileSet
from dataflows.connectors.files.source import FilesSource
from dataflows.connectors.files.store import LocalStore, Store
from dataflows.connectors.files.target import FilesTarget
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.source_catalog import SourceCatalog
from penstock.models.connection import FilesConnection, S3Connection

__all__ = ["FilesConnector", "S3Connector"]

MOST_LISTED: Final = 100_000
"""Files of one object that a discovery lists: a hundred requests to an object store."""


class FilesConnector:
    """``type: files``: files in a folder of this machine; an object is a file, a folder or a pattern."""

    model: type[FilesConnection | S3Connection] = FilesConnection
    takes_format = True

    @staticmethod
    def named(place: Place) -> str:
        return FileSet.parse(place.object, place.where).pattern

    @staticmethod
    def source(place: Place) -> FilesSource:
        return FilesSource(place, _store(place))

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:
        from dataflows.connectors.files.listing import objects_of

        yield from objects_of(_store(place), patterns, check, any_ending=place.format is not None)

    @staticmethod
    def watch(place: Place) -> FilesWatch:
        return FilesWatch(place, _store(place))

    @staticmethod
    def catalog(place: Place) -> SourceCatalog:
        return SourceCatalog(lambda one: FilesSource(one, _store(one), MOST_LISTED), place)

    @staticmethod
    def target(place: Place, owner: Owner) -> FilesTarget:
        return FilesTarget.open(place, owner, _store(place))


class S3Connector(FilesConnector):
    """``type: s3``: files in a bucket of an object store; an object is a key, a prefix or a pattern."""

    model = S3Connection


def _store(place: Place) -> Store:
    if place.settings.type == "files":
        return LocalStore(Path(place.settings.root), place.where)
    from dataflows.connectors.files.s3 import S3Store

    return S3Store.of(place.settings, name=place.connection, where=place.where, secrets=place.secrets)
