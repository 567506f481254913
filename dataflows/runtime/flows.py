"""Run flows of the control plane in this process, by name, any number of them in one Dataflow."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from dataflows.control import add_control
from dataflows.process.condition import SETTLES
from dataflows.process.lifeline import watch_lifeline
from dataflows.process.site import Site
from dataflows.projector import add_projector
from dataflows.runtime.components import condition, process_condition
from dataflows.scheduler import add_scheduler
from dataflows.work.child import fork_in_advance
from dataflows.worker import add_worker
from penstock import settings, telemetry
from penstock.collector import collect_rarely
from penstock.errors import PenstockError, UsageError
from penstock.topics.operators import Wakeup

__all__ = ["FLOWS", "main", "run_flows"]


def _add_openlineage(flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup) -> None:
    """Add the lineage flow, whose client of HTTP few installations need."""
    from dataflows.openlineage import add_openlineage

    add_openlineage(flow, site, stop, wakeup, partial(condition, site))


def _add_projector(flow: Dataflow, site: Site, stop: threading.Event, wakeup: Wakeup) -> None:
    add_projector(flow, site, stop, wakeup, partial(condition, site))


FLOWS: Final[dict[str, Callable[[Dataflow, Site, threading.Event, Wakeup], None]]] = {
    "control": add_control,
    "openlineage": _add_openlineage,
    "projector": _add_projector,
    "scheduler": add_scheduler,
    "worker": add_worker,
}
"""Every flow that runs as long as the installation does."""

REPORT_SECONDS: Final = 3.0
"""Seconds that the end of a process waits for its error to be recorded: the log may be what it has lost."""

_log = logging.getLogger(__name__)


def run_flows(names: Sequence[str], site: Site, stop: threading.Event) -> None:
    """Run the flows of `names` in one Dataflow, on this thread, until `stop` is set.

    Raises:
        PenstockError: the error that ended them, not the engine's wrapper.
        ForeignLog: the catalog was not made from this log.
    """
    with site.open_log("check") as log:
        site.check(log)
    flow, wakeup = Dataflow("penstock_" + "_".join(names)), Wakeup()
    for name in names:
        FLOWS[name](flow, site, stop, wakeup)
    run_flow(flow)
    wakeup.check()


def run_flow(flow: Dataflow) -> None:
    """Run `flow` to its end; raise the error that ends it early without Bytewax's wrapper."""
    try:
        run_main(flow)
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, PenstockError):
            found = found.__cause__
        if found is None:
            raise
        raise found from None


@contextmanager
def _reporting(site: Site, names: Sequence[str]) -> Iterator[None]:
    """Record the error that ends this process, and that it works again once it has for a while."""

    def report(error: Exception | None) -> None:
        with suppress(PenstockError, OSError):  # the server of the log may not even have started
            process_condition(site, names)(error)

    works = threading.Timer(SETTLES, report, [None])
    works.daemon = True
    works.start()
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        works.cancel()
        telling = threading.Thread(target=report, args=[error], daemon=True)
        telling.start()
        telling.join(REPORT_SECONDS)
        raise
    finally:
        works.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flows named as arguments: ``python -m dataflows.runtime.flows control projector …``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(FLOWS))
    parser.add_argument("--project", type=Path)
    parser.add_argument("--lifeline", type=int, help="a file descriptor; end when it is closed at its other end")
    options = parser.parse_args(arguments)
    telemetry.add_trace_ids(handler := logging.StreamHandler(), "%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.basicConfig(force=True, level=logging.INFO, handlers=[handler])
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of sessions that end before they are closed
    collect_rarely()
    stop = threading.Event()
    try:
        loaded = settings.load(options.project)
        if "worker" in options.names:
            fork_in_advance(loaded.project)
        if options.lifeline is not None:
            watch_lifeline(options.lifeline, stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        telemetry.set_up("penstock-" + "-".join(options.names))
        site = Site(loaded)
        with _reporting(site, options.names), site:
            run_flows(options.names, site, stop)
    except UsageError as error:
        _log.error("%s", error)
        return error.exit_code
    except PenstockError as error:
        _log.error("%s: %s", error.code, error)
        return error.exit_code
    finally:
        telemetry.shut_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
