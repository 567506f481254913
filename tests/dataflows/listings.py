"""Listings and descriptions of a connection's objects in tests, and a look at each by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataflows.connectors.cataloguing import Choice, Found
from dataflows.connectors.contract import Place
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.registry import connector
from dataflows.connectors.source_catalog import found_objects, open_catalog
from dataflows.data.statistics import Statistics
from dataflows.data.tables import Table
from dataflows.runs.listing import listed_objects
from dataflows.runs.references import references
from penstock.models.connection import parse_connection
from penstock.models.domain import Field, Schema
from penstock.models.pipeline import Pipeline
from penstock.models.sets import FoundObject, Members

__all__ = ["Discovered", "before", "columns", "discovered", "found", "outline"]


def found(
    connection: Mapping[str, Any], *patterns: str, secrets: Path | None = None, **source: Any
) -> dict[str, ListedObject]:
    """Return what a set of these patterns selects, by name, in the order of first loads."""
    end = {"connection": "here", "objects": list(patterns), **source}
    sink = {"connection": "there", "object": "x.{table}"}
    kind = {"apiVersion": "penstock/v1", "kind": "Pipeline"}
    document = Pipeline.parse({**kind, "metadata": {"name": "all"}, "spec": {"source": end, "sink": sink}}).to_dict()
    return {one.name: one for one in listed_objects(document, {"here": connection}, secrets, lambda: None)}


def before(sink: Mapping[str, Any], *targets: str, secrets: Path | None = None) -> dict[str, list[str]] | None:
    """Return which of these targets of a set refer to which, by foreign keys that the sink enforces."""
    exact = {one: {"sink": {"object": one}} for one in targets}
    sink_end = {"connection": "here", "object": "x.{table}"}
    spec = {"source": {"connection": "there", "objects": ["*"]}, "sink": sink_end, "tables": exact}
    rule = Members({"metadata": {"name": "all"}, "spec": spec}, str(sink["type"]))
    objects = [FoundObject(object=one, table=one) for one in targets]
    return references(rule, {"here": dict(sink)}, secrets, objects, lambda: None)


def columns(connection: Mapping[str, Any], name: str, secrets: Path | None = None) -> list[str]:
    """Return the columns of the object that a member's pipeline would read under this name."""
    return [one.name for one in _described(connection, name, secrets).columns if not one.name.startswith("_")]


def outline(connection: Mapping[str, Any], name: str, secrets: Path | None = None) -> str:
    """Return the hash of what a run sees of an object."""
    columns = [one for one in _described(connection, name, secrets).columns if not one.hidden]
    return Schema(fields=tuple(Field(name=one.name, type=one.type, nullable=one.nullable) for one in columns)).outline


def _described(connection: Mapping[str, Any], name: str, secrets: Path | None) -> Table:
    settings = parse_connection("here", connection)
    place = Place("all", "here", settings, name, secrets)
    with closing(connector(settings.type, place.where).source(place)) as source:
        return source.describe()


@dataclass(frozen=True)
class Discovered:
    """What a discovery finds: objects by name, statistics of those that were sampled, and what is left out."""

    objects: Mapping[str, Found]
    samples: Mapping[str, Mapping[str, Statistics]]
    notes: Sequence[str]
    present: Sequence[str]

    def columns(self, name: str) -> dict[str, str]:
        """Return the types of an object's columns."""
        return {one.name: one.type for one in self.objects[name].schema.fields}


def discovered(
    connection: Mapping[str, Any],
    *tables: str,
    except_: tuple[str, ...] = (),
    secrets: Path | None = None,
    rows: int = 0,
) -> Discovered:
    """Return what a connection has; with `rows`, sample so many of each object without statistics."""
    settings = parse_connection("here", dict(connection))
    place = Place("discovery", "here", settings, "", secrets)
    kind = connector(settings.type, place.where)
    with closing(open_catalog(kind, place)) as catalog:
        choice = Choice(tables or ("*",), except_)
        objects = {one.object: one for page in found_objects(kind, place, catalog, choice) for one in page}
        lacking = [one for one in objects.values() if rows and one.schema.fields and not one.statistics]
        shown = {one.object: catalog.sample(one, rows, lambda: None) for one in lacking}
        samples = {name: one.statistics for name, one in shown.items()}
        return Discovered(objects | shown, samples, catalog.notes, catalog.present)
