"""Listings of a connection in tests, and a look at each listed object by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataflows.connectors.contract import Place
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.registry import connector
from dataflows.runs.listing import listed_objects
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Pipeline

__all__ = ["columns", "found"]


def found(
    connection: Mapping[str, Any], *patterns: str, secrets: Path | None = None, **source: Any
) -> dict[str, ListedObject]:
    """Return what a set of these patterns selects, by name, in the order of first loads."""
    end = {"connection": "here", "objects": list(patterns), **source}
    sink = {"connection": "there", "object": "x.{table}"}
    kind = {"apiVersion": "penstock/v1", "kind": "Pipeline"}
    document = Pipeline.parse({**kind, "metadata": {"name": "all"}, "spec": {"source": end, "sink": sink}}).to_dict()
    return {one.name: one for one in listed_objects(document, {"here": connection}, secrets, lambda: None)}


def columns(connection: Mapping[str, Any], name: str, secrets: Path | None = None) -> list[str]:
    """Return the columns of the object that a member's pipeline would read under this name."""
    settings = parse_connection("here", connection)
    place = Place("all", "here", settings, name, secrets)
    source = connector(settings.type, place.where).source(place)
    try:
        return [one.name for one in source.describe().columns if not one.name.startswith("_")]
    finally:
        source.close()
