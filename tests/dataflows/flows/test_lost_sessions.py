"""A lost session ends a flow with one line in its log: no panic of Rust, no traceback of Python."""

from __future__ import annotations

import pytest

from penstock import postgres
from tests.dataflows.flows.installation import Installation, until

BRAIN = ("control", "projector", "scheduler")


@pytest.mark.parametrize(
    ("names", "lost"),
    [
        (BRAIN, "penstock:%"),
        (BRAIN, "penstock:control"),
        (BRAIN, "penstock:control-tail"),
        (BRAIN, "penstock:projector"),
        (BRAIN, "penstock:scheduler"),
        (("projector",), "penstock:projector-tail"),
        (("worker",), "penstock:worker-%"),
        (("worker",), "penstock:worker-tail-%"),
    ],
    ids=lambda one: one if isinstance(one, str) else "+".join(one),
)
def test_a_lost_session_leaves_one_line(busy: Installation, names: tuple[str, ...], lost: str) -> None:
    flow = busy.start(*names)
    if names == BRAIN:
        busy.all_answered()
        busy.projected()
    else:
        until(lambda: _sessions(busy, "penstock:%-tail%"), "its last session")
    assert _end(busy, lost)
    if names == BRAIN:
        busy.send("pipeline.pause", name="p0")
    assert flow.ended() == 1
    (line,) = [line for line in flow.said.splitlines() if line.strip()]
    assert "ERROR" in line
    assert "unavailable" in line or "fenced" in line


def test_a_server_that_restarts_leaves_one_line(busy: Installation) -> None:
    flows = [busy.start(*BRAIN), busy.start("worker")]
    busy.all_answered()
    until(lambda: _sessions(busy, "penstock:worker-tail-%"), "its last session")
    for dsn in (busy.log_dsn, busy.catalog_dsn):
        with postgres.connect(dsn, "tests") as session:
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    for flow in flows:
        assert flow.ended() == 1
        assert len([line for line in flow.said.splitlines() if line.strip()]) == 1, flow.said
    busy.log.close()
    busy.connect()


def _sessions(busy: Installation, name: str) -> int:
    return _counted(busy, name, "count(*)")


def _end(busy: Installation, name: str) -> int:
    return _counted(busy, name, "count(pg_terminate_backend(pid))")


def _counted(busy: Installation, name: str, what: str) -> int:
    found = 0
    for dsn in (busy.log_dsn, busy.catalog_dsn):
        with postgres.connect(dsn, "tests") as session:
            row = session.execute(
                f"SELECT {what} FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s"
                " AND application_name <> 'penstock:tests' AND pid <> pg_backend_pid()",
                [name],
            ).fetchone()
            found += row[0] if row else 0
    return found
