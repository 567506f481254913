"""``type: http``: an HTTP API as a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.http.source import HttpSource
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.source_catalog import SourceCatalog
from penstock.errors import Refused
from penstock.models.connection import HttpConnection
from penstock.models.secrets import literal_in_query

__all__ = ["HttpConnector"]


class HttpConnector:
    """``type: http``; an object is a path below the connection's `url`, with an optional query."""

    model = HttpConnection
    takes_format = False

    @staticmethod
    def named(place: Place) -> str:
        return place.object.strip("/")

    @staticmethod
    def source(place: Place) -> HttpSource:
        return HttpSource(place, _url(place), place.settings.endpoint(place.object))

    @staticmethod
    def objects_of(place: Place, patterns: Sequence[str], check: Callable[[], None]) -> Iterator[ListedObject]:  # noqa: ARG004 - the connection has them all
        """Yield the `endpoints` of the connection; an API lists none itself."""
        for name in place.settings.endpoints:
            path = name.partition("?")[0].strip("/")
            yield ListedObject(name, "", path.rpartition("/")[2] or path or name, kind="endpoint")

    @staticmethod
    def catalog(place: Place) -> SourceCatalog:
        return SourceCatalog(HttpConnector.source, place, declared=True)

    @staticmethod
    def target(place: Place, owner: Owner) -> Any:  # noqa: ARG004 - refused for any owner
        raise Refused("an HTTP API cannot be a sink", where=place.where, hint="name another connection for the sink")


def _url(place: Place) -> httpx.URL:
    """Return the URL of an object.

    Raises:
        Refused: it leads out of the connection's URL, or contains a secret.
    """
    path, _, query = place.object.strip("/").partition("?")
    if ".." in path.split("/") or "#" in place.object or "\\" in path:
        what = "the object is not a path below the connection's `url`"
        raise Refused(what, where=place.where, value=path, hint="such as /orders")
    url = httpx.URL(f"{place.settings.url.rstrip('/')}/{path}")
    parameters = httpx.QueryParams(query)
    if why := literal_in_query(place.object):
        hint = "name it in the connection's `parameters`, by reference"
        raise Refused(f"in the object, {why}", where=place.where, hint=hint)
    return url.copy_merge_params(parameters) if parameters else url
