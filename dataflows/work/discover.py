"""A discovery: what a connection's system says of its objects, in pages, as JSON lines for the worker."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from dataflows.connectors.cataloguing import Catalog, Catalogued, Choice, Found
from dataflows.connectors.contract import Place
from dataflows.connectors.registry import connector
from dataflows.pipeline import FirstError
from dataflows.process.reports import error_of, write_line, write_result
from dataflows.process.signals import stop_on_signal
from penstock.errors import PenstockError, Refused
from penstock.models.connection import parse_connection
from penstock.models.domain import Discovery
from penstock.telemetry import span

__all__ = ["open_catalog", "run_task"]


def run_task(task: Mapping[str, Any]) -> int:
    """Carry out one discovery in this process; return 0 if it completed."""
    first = FirstError()
    stop_on_signal(first.put)
    order = Discovery.parse(task["discovery"])
    with span("discovery", task.get("traceparent"), connection=order.connection, attempt=task.get("attempt")):
        result = _result(order, task, first)
    write_result(Path(task["result"]), result)
    return 0 if result["status"] == "completed" else 1


def _result(order: Discovery, task: Mapping[str, Any], first: FirstError) -> dict[str, Any]:
    count = 0
    try:
        with closing(
            open_catalog(order.connection, task["connections"][order.connection], task.get("secrets"))
        ) as found:
            for page in found.objects(Choice(order.tables, order.except_, first.check)):
                first.check()
                write_line({"found": [_line(one) for one in page]})
                count += len(page)
        return {"status": "completed", "objects": count, "notes": found.notes, "error": None}
    except PenstockError as error:
        return {"status": "failed", "objects": count, "error": error_of(error)}
    except Exception as error:  # noqa: BLE001 - a defect is reported like any failure, by its name only
        traceback.print_exc()
        return {"status": "failed", "objects": count, "error": error_of(error)}


def open_catalog(name: str, settings: Mapping[str, Any], secrets: str | None) -> Catalog:
    """Open the catalog of a connection's system.

    Raises:
        Refused: its connector cannot list objects.
    """
    parsed = parse_connection(name, settings)
    place = Place("discovery", name, parsed, "", secrets=Path(secrets) if secrets else None)
    kind: object = connector(parsed.type, place.where)
    if not isinstance(kind, Catalogued):
        hint = "name its objects in pipelines"
        raise Refused(f"connections of type {parsed.type} cannot list their objects", where=place.where, hint=hint)
    return kind.catalog(place)


def _line(one: Found) -> dict[str, Any]:
    return {
        "object": one.object,
        "kind": one.kind,
        "description": one.description,
        "schema": one.schema.to_dict(),
        "profile": one.profile.to_dict(),
    }
