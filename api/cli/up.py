"""`penstock up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial

import click

from api.cli.console import escape
from api.cli.main import State, command
from api.client import UP
from api.health import Health
from api.hooks import Hooks
from api.measures import Measures
from api.policy_files import PolicyFiles
from api.prometheus import exposition
from catalog.database import engine
from catalog.store import MetadataStore
from dataflows.process.condition import Report
from dataflows.process.site import ACTIVE_CONTROL, Site
from dataflows.runtime.components import condition, report_killed
from dataflows.runtime.supervisor import Supervisor
from penstock.errors import NotFound, Refused, Unavailable
from penstock.topics.log import TopicLog

POLL_SECONDS = 0.5
"""Seconds between two polls at the child processes."""


@command(name="up")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port of /healthz, /readyz, /metrics and /hooks/ (default: settings).",
)
def up_(state: State, port: int | None) -> None:
    """Run all in one: the embedded server if none is set, one process for control, projector and scheduler, one worker.

    Health is at /healthz, readiness at /readyz, metrics for Prometheus at /metrics, webhooks of pipelines at
    /hooks/NAME, on loopback.
    """
    settings = state.settings
    settings.check_project()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    hooks = Hooks(settings, lambda line: state.output.errors.print(escape(line)))
    with Health(settings.host, settings.port if port is None else port, hooks) as health, Site(settings) as site:
        supervisor, measures = Supervisor(settings, killed=partial(report_killed, site)), Measures(site)
        hooks.condition = partial(condition, site, "webhooks")
        health.measures = lambda: exposition(measures.look())
        try:
            while not stop.is_set():
                _serve(state, stop, site, health, supervisor, measures)
        finally:
            supervisor.stop()
    state.output.say("stopped")


def _serve(
    state: State, stop: threading.Event, site: Site, health: Health, supervisor: Supervisor, measures: Measures
) -> None:
    """Serve until `stop` is set, or until the database is lost: then start it again and return."""
    tell = lambda line: state.output.errors.print(escape(line))  # noqa: E731 - a line about a policy's file
    try:
        with site.open_log(UP) as log, MetadataStore(engine(site.catalog_dsn, pool_size=1)) as store:
            if not log.lock(UP, wait=False):
                where, hint = str(site.settings.project), "use it: commands find it; or end it by Ctrl-C where it runs"
                raise Refused("`penstock up` is already running here", where=where, hint=hint)
            site.check(log)
            if not supervisor.pids():
                supervisor.start()  # before any thread, so that the children can be forked
            health.start()
            _wait_until_ready(stop, log, store, supervisor, state)
            health.ready.set()
            logs = site.settings.home / "logs"
            with (
                closing(PolicyFiles(site.settings, tell, partial(condition, site, "policy_files"))),
                _exported(measures, condition(site, "metrics_export")),
            ):
                state.output.say(f"Penstock is up: {health.url}/readyz, logs in {logs}. Ctrl-C stops it.")
                state.output.data({"status": "up", "health": health.url, "pids": supervisor.pids()})
                while not stop.is_set() and log.holder(UP):
                    _check_project(site)
                    _look_after(supervisor, state)
                    stop.wait(POLL_SECONDS)
    except Unavailable as error:
        _check_project(site)
        state.output.errors.print(f"[yellow]warning:[/yellow] {error.what}; starting it again")
        supervisor.check()
        stop.wait(POLL_SECONDS)
        with suppress(Unavailable):
            site.revive()
    finally:
        health.ready.clear()


@contextmanager
def _exported(measures: Measures, report: Report) -> Iterator[None]:
    """Export measures as the variables of OpenTelemetry say; where they ask for nothing, its library is not loaded."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or os.environ.get("OTEL_METRICS_EXPORTER", "none") in {"", "none"}:
        yield
        return
    from api.otel_metrics import Exporting

    with closing(Exporting(measures.look, report=report)):
        yield


def _check_project(site: Site) -> None:
    """Raise NotFound if the project was deleted: the server ends with this process, and nothing is created again."""
    if site.server is not None and site.server.gone:
        hint = "`penstock destroy --orphans` deletes data that it had elsewhere"
        raise NotFound("the project's folder is gone", where=str(site.settings.home), hint=hint)


def _wait_until_ready(
    stop: threading.Event, log: TopicLog, store: MetadataStore, supervisor: Supervisor, state: State
) -> None:
    """Wait until control is active and a worker has joined; each change of the catalog wakes it."""
    while not stop.is_set():
        seen = store.commits.listen()
        if log.holder(ACTIVE_CONTROL) and any(worker.status == "joined" for worker in store.workers()):
            return
        _look_after(supervisor, state)
        store.commits.wait(seen, POLL_SECONDS)


def _look_after(supervisor: Supervisor, state: State) -> None:
    for line in supervisor.check():
        state.output.errors.print(f"[yellow]warning:[/yellow] {line}")
