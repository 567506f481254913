"""A discovery: what a connection's system says of its objects, in pages, as JSON lines for the worker."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from catalog.profiles import Profiles
from dataflows.connectors.cataloguing import Catalog, Catalogued, Choice, Found, Sampling
from dataflows.connectors.contract import Place
from dataflows.connectors.registry import connector
from dataflows.pipeline import FirstError
from dataflows.process.reports import error_of, write_line, write_result
from dataflows.process.signals import stop_on_signal
from dataflows.work.profile import profiled
from penstock.errors import PenstockError, Refused
from penstock.models.connection import parse_connection
from penstock.models.domain import Discovery
from penstock.models.profiles import DatasetProfile
from penstock.telemetry import span

__all__ = ["open_catalog", "run_task"]

SAMPLE_SECONDS: Final = 60.0
"""Longest time for samples in one discovery."""
KEEP: Final = timedelta(days=30)
"""Time for which values are kept that discovery has seen."""


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
        settings = task["connections"][order.connection]
        with (
            closing(open_catalog(order.connection, settings, task.get("secrets"))) as found,
            closing(_Reports(order.connection, task.get("letters"))) as reports,
        ):
            samples = order.sample_rows > 0 and isinstance(found, Sampling)
            for page in found.objects(Choice(order.tables, order.except_, first.check)):
                first.check()
                reports.send(page, partial=samples)
                count += len(page)
            if samples and isinstance(found, Sampling):
                for page in found.samples(order.sample_rows, SAMPLE_SECONDS, first.check):
                    reports.send(page)
        result = {"status": "completed", "objects": count, "notes": found.notes, "error": None}
        return result | {"present": found.present}
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


class _Reports:
    """Sends pages: features to the worker, values to the catalog's store of values, if there is one."""

    def __init__(self, connection: str, catalog: str | None) -> None:
        self._connection, self._values = connection, Profiles(catalog) if catalog is not None else None

    def send(self, page: Sequence[Found], *, partial: bool = False) -> None:
        """Send a page; with `partial`, objects without statistics are sampled later."""
        lines, values = [], {}
        for one in page:
            profile, values[one.object] = profiled(one)
            hashes = {"fingerprint": one.schema.fingerprint, "profiled": profile.fingerprint}
            lines.append(_line(one, profile) | hashes | {"partial": partial and not one.statistics})
        if self._values is not None:
            self._values.put(self._connection, {name: found for name, found in values.items() if found})
        write_line({"found": lines})

    def close(self) -> None:
        """Delete values that are too old, and end."""
        if self._values is not None:
            self._values.expire(KEEP)
            self._values.close()


def _line(one: Found, profile: DatasetProfile) -> dict[str, Any]:
    return {
        "object": one.object,
        "kind": one.kind,
        "description": one.description,
        "schema": one.schema.to_dict(),
        "profile": profile.to_dict(),
    }
