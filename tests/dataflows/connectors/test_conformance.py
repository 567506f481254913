# ruff: noqa: E501 - tables of values, one a line; what is parametrized comes by position
"""What every system must hold that rows come from and go to: one suite over all of them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.dataflows.connectors.conftest import CUTS, SYSTEMS

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import Flow, SourceFile, System

    Flows = Callable[..., Flow]
    Worlds = Callable[[str], System]

COLUMNS = """id bigint PRIMARY KEY, s smallint, i integer, b bigint, r real, d double precision, t boolean, n numeric(38,10),
c character varying(9), x text, da date, ts timestamp, tz timestamptz, ti time, u uuid, j jsonb, by bytea"""
ROWS = (
    (
        "(1, -32768, 2147483647, -9223372036854775808, 1.5, 0.1, true, 1234567890123456789012345678.0123456789, 'ü', "
        "E'line\\n\"quoted\\'\\\\ \\t🜛', '0001-01-01', '9999-12-31 23:59:59.999999', '1999-01-01 00:00:00.000001+05', "
        "'23:59:59.999999', '00000000-0000-0000-0000-0000000000ff', '{\"a\": [1, null]}', '\\x00ff10')"
    ),
    (
        "(2, 0, 0, 9223372036854775807, 3.4e38, 1e308, false, -0.0000000001, '', '', '2024-02-29', "
        "'1969-12-31 23:59:59.5', '2024-06-01 12:00:00+00', '00:00', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '1', '')"
    ),
    "(3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    (
        "(4, 7, -7, 1, -0.0, 5e-324, true, 0, '1e5', '1e5', '1970-01-01', '2000-01-01', '2000-01-01', '12:00', "
        "'12345678-1234-1234-1234-123456789012', '\"7\"', '\\x31')"
    ),
)
TEXTS = (
    "NULL", "\\N", "null", "  ", ",", '"', '""', "'", "\r\n", "\u2028", "\ufeff", "e\u0301", "\u05d0\u202e", "𝄞", "\x01",
    "true", "007", "2024-01-01", "{}", "\x7f", "ﬀ",
)  # fmt: skip
WIDER = {"c": "text", "j": "json"}
"""Columns whose type a system may widen: the values are the same."""


def test_every_type_and_text_there_and_back(
    new_database: Callable[[], str], world: System, into: Flows, out_of: Flows
) -> None:
    """PostgreSQL, the world, and PostgreSQL again: each value as it was, and each type, or the one that it widens to."""
    dsn = new_database()
    ends = (
        {"connection": "hub", "object": "public.every"},
        {"connection": "hub", "object": "public.back", "write": "replace"},
    )
    there, back = into(world, "replace"), out_of(world, "replace")
    there.source, back.sink = ends
    for flow in (there, back):
        flow.connections["hub"] = {"type": "postgres", "dsn": dsn}
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE TABLE every ({COLUMNS})")
        session.execute(f"INSERT INTO every VALUES {', '.join(ROWS)}")
        for at, text in enumerate(TEXTS, start=5):
            session.execute("INSERT INTO every (id, x) VALUES (%s, %s)", (at, text))
        for kind in world.refused:
            error = there.failed("r1")
            assert error["code"] in {"refused", "schema.mismatch"}
            assert ("`by`" in error["what"], kind in error["what"]) == (True, True), error
            session.execute("ALTER TABLE every DROP COLUMN by")
        assert there.completed("r1") == back.completed("r1") == len(ROWS) + len(TEXTS)
        query = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        before: dict[str, str] = dict(session.execute(query, ("every",)).fetchall())
        after: dict[str, str] = dict(session.execute(query, ("back",)).fetchall())
        assert {name: after[name] for name in before if before[name] != after[name]}.items() <= WIDER.items()
        shown = ", ".join(f"{name}::jsonb::text" if name == "j" else f"{name}::text" for name in before)
        wanted, found = (
            session.execute(f"SELECT {shown} FROM {name} ORDER BY {name}.id").fetchall() for name in ("every", "back")
        )
        assert found == wanted


def test_nothing_then_all_and_then_only_what_is_new(world: System, hub: SourceFile, into: Flows, out_of: Flows) -> None:
    there, back = into(world, "append"), out_of(world, "append")
    assert there.completed("r0") == back.completed("r0") == 0
    for run, rows in (("r1", 60), ("r2", 5)):
        hub.add(rows)
        assert there.completed(run) == back.completed(run) == rows
        assert world.look() == hub.ids()
    assert there.completed("r3") == back.completed("r3") == 0
    assert hub.rows("SELECT * FROM back ORDER BY id") == hub.rows("SELECT * FROM items ORDER BY id")
    assert there.completed("r2") == 5  # a finished run's recorded result, and nothing else
    assert (world.look(), world.leftovers(there.uid)) == (hub.ids(), [])


def test_wide_rows(world: System, hub: SourceFile, into: Flows, out_of: Flows) -> None:
    names = [f"c{at}" for at in range(300)]
    hub.rows(f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {', '.join(f'{one} BIGINT' for one in names)}, long TEXT)")
    for at in range(3):
        values = [None if at == 1 else number * at for number in range(300)]
        hub.rows(f"INSERT INTO wide VALUES (?{', ?' * 301})", (at, *values, "ß" * (at << 20)))
    assert into(world, "replace", "wide").completed("r1") == 3
    assert out_of(world, "replace").completed("r1") == 3
    columns = ", ".join(("id", *names, "long"))
    assert hub.rows(f"SELECT {columns} FROM back ORDER BY id") == hub.rows("SELECT * FROM wide ORDER BY id")


def test_names_of_penstocks_own_are_no_sinks(world: System, into: Flows) -> None:
    there = into(world, "replace")
    own = "copied/_penstock" if world.connection["type"] in {"files", "s3"} else "_penstock_runs"
    there.sink["object"] = world.object.replace("copied", own)
    error = there.failed("r1")
    assert (error["code"], "this name is reserved for Penstock" in error["what"]) == ("refused", True), error


PUBLISHED = {"publish.moved", "publish.done", "result.before", "result.written"}


def survives(made: Flow, world: System, hub: SourceFile, cut: str, *, same: bool) -> None:
    """Kill a run at a cut and run it, or a new one: each row is there once, and old rows until the new ones are whole."""
    hub.add(60)
    before: list[int] = []
    if made.sink["write"] == "replace":
        made.completed("r0")
        before = world.look()
        hub.add(2)
    assert made.run("r1", f"{cut}=kill") == {"killed": signal.SIGKILL}, cut
    if before and cut not in PUBLISHED:
        assert world.look() == before, cut
    if not same:
        hub.add(3)
    made.completed("r1" if same else "r2")
    assert world.look() == hub.ids(), cut
    made.completed("r3")
    assert (world.look(), world.leftovers(made.uid)) == (hub.ids(), []), cut


def cut_of(name: str, write: str) -> str:
    """Another cut for each system and mode."""
    cuts = CUTS if write == "replace" else [cut for cut in CUTS if cut != "prepare.shadow_made"]
    return cuts[(list(SYSTEMS).index(name) * 6 + (write == "replace") * 3) % len(cuts)]


@pytest.mark.parametrize("write", ["append", "replace"])
def test_killed_and_run_again(world: System, hub: SourceFile, into: Flows, write: str) -> None:
    survives(into(world, write), world, hub, cut_of(world.name, write), same=write == "append")


@pytest.mark.chaos
@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("system", SYSTEMS)
def test_killed_or_stopped_at_every_point(
    worlds: Worlds, hub: SourceFile, into: Flows, system: str, write: str, same: bool
) -> None:
    for cut in CUTS:
        if (write, cut) != ("append", "prepare.shadow_made"):
            world = worlds(system)
            survives(into(world, write), world, hub, cut, same=same)
            hub.rows("DELETE FROM items")
    for point in STOPPED if same else ():
        world = worlds(system)
        sleeps_through(into(world, write), world, hub, point)
        hub.rows("DELETE FROM items")


def test_a_replace_is_seen_by_nobody_until_it_is_published(
    world: System, hub: SourceFile, into: Flows, out_of: Flows
) -> None:
    hub.add(60)
    made, back = into(world, "replace"), out_of(world, "replace")
    made.completed("r1")
    old = world.look()
    hub.add(40)
    assert made.run("r2", "publish.begin=kill") == {"killed": signal.SIGKILL}
    assert world.look() == old
    assert back.completed("r1") == 60
    made.completed("r2")
    assert world.look() == hub.ids()
    assert back.completed("r2") == 100


STOPPED = (
    "prepare.generation_raised", "prepare.planned", "read.block:1", "commit.begin:0", "commit.mid_copy:1",
    "commit.before_fence:1", "commit.sent:1", "flow.end", "publish.begin", "publish.locked", "publish.moved",
)  # fmt: skip
STOPS = {"append": "commit.before_fence:1", "replace": "commit.mid_copy:1"}


@pytest.mark.parametrize(
    ("system", "write"), [(name, ("append", "replace")[at % 2]) for at, name in enumerate(SYSTEMS)]
)
def test_a_zombie_writes_nothing_once_it_has_a_successor(
    worlds: Worlds, hub: SourceFile, into: Flows, system: str, write: str
) -> None:
    sleeps_through(into(world := worlds(system), write), world, hub, STOPS[write])


def sleeps_through(made: Flow, world: System, hub: SourceFile, point: str) -> None:
    """Stop a run, let its successor run, and wake it.

    One that is stopped while it holds the system's lock keeps others out, and is no zombie.
    """
    hub.add(60)
    task = made.task("r1")
    zombie = made.stopped(task, point)
    successor = made.run("r2")
    if successor["status"] == "completed":
        assert world.look() == hub.ids()
        assert made.woken(zombie, task)["status"] in {"fenced", "failed"}
    else:
        assert successor["error"]["transient"], successor
        assert made.woken(zombie, task)["status"] == "completed"
    assert world.look() == hub.ids()
    made.completed("r3")
    assert (world.look(), world.leftovers(made.uid)) == (hub.ids(), [])


def test_what_is_missing_or_not_allowed_is_one_clear_error(
    world: System, hub: SourceFile, into: Flows, out_of: Flows
) -> None:
    hub.add(3)
    into(world, "append").completed("r0")
    missing = out_of(world, "replace")
    missing.source["object"] = "nothing_of_that_name"
    error = missing.failed("r1")
    assert error["code"] == "schema.missing_table", error
    assert "nothing_of_that_name" in f"{error['where']} {error['what']}"
    denied = into(world, "replace")
    denied.connections[world.name] = world.denied
    error = denied.failed("r1")
    assert error["code"] == "unavailable.access_denied", error
    for one in (error, missing.failed("r2")):
        assert one["where"].startswith(f"items: connection {world.name}"), one
    assert world.look() == hub.ids()
