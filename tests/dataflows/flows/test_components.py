"""Parts of Penstock that fail for real: the log says so once, an incident names them, and closes when they work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from catalog.faults import errors_of, faults, incidents
from dataflows.process import metering, sealing
from dataflows.process.site import Site
from dataflows.runtime import components
from dataflows.runtime.flows import run_flows
from penstock import postgres
from penstock.records import Record
from tests.dataflows.flows.installation import Installation, until


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (metering, sealing):
        monkeypatch.setattr(module, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(metering, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(metering, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(sealing, "SECONDS", 0.1)
    monkeypatch.setattr(components, "SETTLES", 0.3)


@contextmanager
def brain(site: Site) -> Iterator[None]:
    """Run the control plane in this process."""
    stop, failed = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            run_flows(["control", "projector"], site, stop)
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failed == []


def about(installation: Installation, type_: str, component: str) -> list[Record]:
    return [one for one in installation.of(type_) if one.key == component]


def told(session: psycopg.Connection[Any], component: str, *, open_only: bool = True) -> Any:
    found = incidents(session, component, open_only=open_only)
    assert {one.incident["component"] for one in found} <= {component}
    return found


def no_more(session: psycopg.Connection[Any], component: str) -> bool:
    return not told(session, component)


@pytest.mark.usefixtures("quick")
def test_what_fails_in_the_background_is_an_incident_until_it_works(installation: Installation) -> None:
    seals = installation.site.settings.seals_file
    seals.mkdir(parents=True)
    with postgres.connect(installation.catalog_dsn, "tests", autocommit=True) as session:
        session.execute("ALTER TABLE ops.metric_runs RENAME TO gone")
        with installation.site, brain(installation.site):
            for name in ("metering", "sealing"):
                until(partial(told, session, name), f"an incident of {name}")
            (one,) = told(session, "metering")
            assert (one.kind, one.status) == ("schema", "open")
            assert "metrics are not counted" in one.what
            assert [fault.fingerprint for fault in faults(session, "metering", 9)] == [one.fingerprint]
            (error,) = errors_of(session, one.fingerprint, 9)
            assert error.classified is not None
            assert error.classified["origin"] == "platform"
            (seal,) = told(session, "sealing")
            assert "Is a directory" in seal.what
            until(lambda: len(about(installation, "log.sealed", "log")) > 1, "further attempts")
            session.execute("ALTER TABLE ops.gone RENAME TO metric_runs")
            seals.rmdir()
            for name in ("metering", "sealing"):
                until(partial(no_more, session, name), f"the end of the incident of {name}")
                (closed,) = told(session, name, open_only=False)
                assert closed.reason == f"{name} works again"
                assert [len(about(installation, f"component.{what}", name)) for what in ("failed", "recovered")] == [
                    1,
                    1,
                ]


def test_a_process_that_ends_by_an_error_is_an_incident_until_it_works(installation: Installation) -> None:
    control = installation.start("control")
    until(lambda: installation.of("brain.started"), "the control process")
    with postgres.connect(installation.catalog_dsn, "tests", autocommit=True) as session:
        session.execute("ALTER TABLE catalog.position RENAME TO gone")
        for _ in range(3):
            assert installation.start("projector").ended() != 0
        session.execute("ALTER TABLE catalog.gone RENAME TO position")
        until(lambda: about(installation, "component.failed", "projector"), "the failure on the log")
        (failed,) = about(installation, "component.failed", "projector")
        (opened,) = until(lambda: installation.of("incident.opened"), "its incident")
        assert opened.payload["raised"] == failed.id
        assert control.running
        installation.start("projector")
        until(lambda: told(session, "projector", open_only=False), "the projector to go on")
        assert [one.what for one in told(session, "projector", open_only=False)] == [opened.payload["what"]]
        until(lambda: not told(session, "projector"), "the end of its incident")
    assert len(about(installation, "component.recovered", "projector")) == 1
