"""A discovery: what a connection's system says of its objects, in pages, as JSON lines for the worker."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from catalog.profiles import Profiles
from dataflows.connectors.cataloguing import Catalog, Choice, Found, has_documents
from dataflows.connectors.contract import Connector, Place
from dataflows.connectors.listing import ListedObject
from dataflows.connectors.registry import connector
from dataflows.connectors.source_catalog import found_objects, open_catalog, reason_of
from dataflows.pipeline import FirstError
from dataflows.process.reports import error_of, write_line, write_result
from dataflows.process.signals import Stopped, stop_on_signal
from dataflows.work.profile import profiled
from penstock.errors import PenstockError, Unreachable
from penstock.models.connection import parse_connection
from penstock.models.domain import Discovery
from penstock.models.profiles import DatasetProfile
from penstock.telemetry import span

__all__ = ["run_task"]

SAMPLE_SECONDS: Final = 60.0
"""Longest time for samples in one discovery."""
NEVER: Final = datetime.min.replace(tzinfo=UTC)
SHOWN: Final = 200
"""Characters of a name and of a reason that a note shows."""
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
    looked = _Look(order, first.check)
    try:
        settings = parse_connection(order.connection, task["connections"][order.connection])
        secrets = Path(task["secrets"]) if task.get("secrets") else None
        place = Place("discovery", order.connection, settings, "", secrets=secrets)
        kind = connector(settings.type, place.where)
        with (
            closing(open_catalog(kind, place)) as catalog,
            closing(_Reports(order.connection, task.get("letters"))) as reports,
        ):
            looked.describe(kind, place, catalog, reports)
            looked.sample(catalog, reports)
        result = {"status": "completed", "objects": looked.count, "notes": catalog.notes, "error": None}
        return result | {"present": catalog.present}
    except PenstockError as error:
        return {"status": "failed", "objects": looked.count, "error": error_of(error)}
    except Exception as error:  # noqa: BLE001 - a defect is reported like any failure, by its name only
        traceback.print_exc()
        return {"status": "failed", "objects": looked.count, "error": error_of(error)}


class _Look:
    """One look at a connection: structure first, then samples of what has no statistics."""

    def __init__(self, order: Discovery, check: Callable[[], None]) -> None:
        self.count = 0
        self._order, self._check = order, check
        self._unmeasured: list[ListedObject] = []

    def describe(self, kind: type[Connector], place: Place, catalog: Catalog, reports: _Reports) -> None:
        """Report what the objects are, page by page."""
        choice, listed = Choice(self._order.tables, self._order.except_, self._check), dict[str, ListedObject]()
        samples = self._order.sample_rows > 0
        for page in found_objects(kind, place, catalog, choice, listed):
            self._check()
            reports.send(page, partial=samples)
            self.count += len(page)
            known = [(listed.pop(one.object, None), one) for one in page]  # the catalog may be some names ahead
            self._unmeasured += [
                one
                for one, found in known
                if one and found.schema.fields and (not found.statistics or has_documents(found))
            ]

    def sample(self, catalog: Catalog, reports: _Reports) -> None:
        """Report what a few rows of each show, those first that were never tried, or not for longest.

        A sample that fails counts as tried: else slow views would use up the time of every discovery. What the catalog
        notes when it describes an object once more was noted already.
        """
        notes, present = [*catalog.notes], [*catalog.present]
        rows, end = self._order.sample_rows, time.monotonic() + SAMPLE_SECONDS
        refused: list[str] = []
        left = self._unmeasured if rows else []
        ages = reports.ages() if left else {}
        left.sort(key=lambda one: ages.get(one.name, NEVER))
        while left and time.monotonic() < end:
            self._check()
            reports.tries(left[0].name)
            one = left.pop(0)
            try:
                pages = catalog.described([one], self._check)
                shown = [catalog.sample(found, rows, self._check) for page in pages for found in page]
            except (Unreachable, Stopped):
                raise
            except Exception as error:  # noqa: BLE001 - a defect with one object is no reason to skip the others
                refused.append(f"{one.name[:SHOWN]}: {reason_of(error)}")
            else:
                reports.send(shown)
                refused += [] if shown else [f"{one.name[:SHOWN]}: it is locked, or gone since it was described"]
        catalog.notes[:], catalog.present[:] = notes, present
        if refused:
            more = f"; and {len(refused) - 1} more" if len(refused) > 1 else ""
            catalog.notes.append(f"could not be sampled: {refused[0]}{more}")
        if left:
            catalog.notes.append(f"objects not sampled yet, as the {SAMPLE_SECONDS:g} s for it are over: {len(left)}")


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
            partly = one.empty or (partial and not one.statistics)
            how = {"partial": partly, "empty": one.empty, "looked_at": one.looked_at}
            lines.append(_line(one, profile) | hashes | how)
        if self._values is not None:
            self._values.put(self._connection, {name: found for name, found in values.items() if found})
        write_line({"found": lines})

    def tries(self, name: str) -> None:
        """Note that a sample of an object begins."""
        if self._values is not None:
            self._values.tries(self._connection, name)

    def ages(self) -> Mapping[str, datetime]:
        """Return when each object was sampled or tried last."""
        return {} if self._values is None else self._values.ages(self._connection)

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
        "well_seen": {name: [list(place) for place in places] for name, places in one.well_seen.items()},
    }
