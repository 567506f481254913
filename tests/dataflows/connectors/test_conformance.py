# ruff: noqa: E501 - tables of values, one a line
"""Promises of every system that is both a source and a sink: one suite over all of them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.dataflows.connectors.conftest import CUTS, SYSTEMS
from tests.pairs import soon

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import Flow, SourceFile, System

    Flows = Callable[..., Flow]
    NewSystem = Callable[[str], System]

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
"""Columns whose type a system may widen without changing the values."""


@pytest.mark.parametrize("kind", SYSTEMS)
def test_every_type_and_text_survives_a_round_trip(
    new_database: Callable[[], str], new_system: NewSystem, into: Flows, out_of: Flows, kind: str
) -> None:
    """From PostgreSQL to the system and back: every value is unchanged, and every type, or it is widened."""
    dsn, system = new_database(), new_system(kind)
    ends = (
        {"connection": "local", "object": "public.every"},
        {"connection": "local", "object": "public.back", "write": "replace"},
    )
    forward, back = into(system, "replace"), out_of(system, "replace")
    forward.source, back.sink = ends
    for flow in (forward, back):
        flow.connections["local"] = {"type": "postgres", "dsn": dsn}
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE TABLE every ({COLUMNS})")
        session.execute(f"INSERT INTO every VALUES {', '.join(ROWS)}")
        for at, text in enumerate(TEXTS, start=5):
            session.execute("INSERT INTO every (id, x) VALUES (%s, %s)", (at, text))
        for type_ in system.refused:
            error = forward.failed("r1")
            assert error["code"] in {"refused", "schema.mismatch"}
            assert ("`by`" in error["what"], type_ in error["what"]) == (True, True), error
            session.execute("ALTER TABLE every DROP COLUMN by")
        assert forward.completed("r1") == back.completed("r1") == len(ROWS) + len(TEXTS)
        query = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        before: dict[str, str] = dict(session.execute(query, ("every",)).fetchall())
        after: dict[str, str] = dict(session.execute(query, ("back",)).fetchall())
        assert {name: after[name] for name in before if before[name] != after[name]}.items() <= WIDER.items()
        shown = ", ".join(f"{name}::jsonb::text" if name == "j" else f"{name}::text" for name in before)
        wanted, found = (
            session.execute(f"SELECT {shown} FROM {name} ORDER BY {name}.id").fetchall() for name in ("every", "back")
        )
        assert found == wanted


def test_append_reads_no_rows_then_all_then_only_new_ones(
    system: System, source_file: SourceFile, into: Flows, out_of: Flows
) -> None:
    forward, back = into(system, "append"), out_of(system, "append")
    assert forward.completed("r0") == back.completed("r0") == 0
    for run, rows in (("r1", 60), ("r2", 5)):
        source_file.add(rows)
        assert forward.completed(run) == back.completed(run) == rows
        assert system.ids() == source_file.ids()
    assert forward.completed("r3") == back.completed("r3") == 0
    assert source_file.rows("SELECT * FROM back ORDER BY id") == source_file.rows("SELECT * FROM items ORDER BY id")
    assert forward.completed("r2") == 5  # the recorded result of a finished run
    assert (system.ids(), system.leftovers(forward.uid)) == (source_file.ids(), [])


def test_wide_rows(system: System, source_file: SourceFile, into: Flows, out_of: Flows) -> None:
    names = [f"c{at}" for at in range(300)]
    source_file.rows(
        f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {', '.join(f'{one} BIGINT' for one in names)}, long TEXT)"
    )
    for at in range(3):
        values = [None if at == 1 else number * at for number in range(300)]
        source_file.rows(f"INSERT INTO wide VALUES (?{', ?' * 301})", (at, *values, "ß" * (at << 20)))
    assert into(system, "replace", "wide").completed("r1") == 3
    assert out_of(system, "replace").completed("r1") == 3
    columns = ", ".join(("id", *names, "long"))
    assert source_file.rows(f"SELECT {columns} FROM back ORDER BY id") == source_file.rows(
        "SELECT * FROM wide ORDER BY id"
    )


def test_penstocks_own_names_are_refused_as_sinks(system: System, into: Flows) -> None:
    forward = into(system, "replace")
    own = "copied/_penstock" if system.connection["type"] in {"files", "s3"} else "_penstock_runs"
    forward.sink["object"] = system.object.replace("copied", own)
    error = forward.failed("r1")
    assert (error["code"], "this name is reserved for Penstock" in error["what"]) == ("refused", True), error


PUBLISHED = {"publish.moved", "publish.done", "result.before", "result.written"}


def survives(made: Flow, system: System, source_file: SourceFile, cut: str, *, same: bool) -> None:
    """Kill a run at a failpoint, then run it (or a new one): each row is stored once; old rows stay until the swap."""
    source_file.add(60)
    before: list[int] = []
    if made.sink["write"] == "replace":
        made.completed("r0")
        before = system.ids()
        source_file.add(2)
    assert made.run("r1", f"{cut}=kill") == {"killed": signal.SIGKILL}, cut
    if before and cut not in PUBLISHED:
        assert system.ids() == before, cut
    if not same:
        source_file.add(3)
    made.completed("r1" if same else "r2")
    assert system.ids() == source_file.ids(), cut
    made.completed("r3")
    assert (system.ids(), system.leftovers(made.uid)) == (source_file.ids(), []), cut


def cut_of(name: str, write: str) -> str:
    """Return a different failpoint for each system and mode; of MySQL, a late one for each."""
    if name == "mysql":
        return {"append": "commit.sent:1", "replace": "publish.locked"}[write]
    cuts = CUTS if write == "replace" else [cut for cut in CUTS if cut != "prepare.shadow_made"]
    return cuts[(list(SYSTEMS).index(name) * 6 + (write == "replace") * 3) % len(cuts)]


@pytest.mark.parametrize(
    ("kind", "write"),
    soon(
        product(SYSTEMS, ("append", "replace")),
        ("mysql", "append"),
        ("mysql", "replace"),
        ("s3", "append"),
        ("csv", "append"),
    ),
)
def test_killed_and_run_again(
    new_system: NewSystem, source_file: SourceFile, into: Flows, kind: str, write: str
) -> None:
    """Those that are long have tests of their own that kill their runs."""
    system = new_system(kind)
    survives(into(system, write), system, source_file, cut_of(system.name, write), same=write == "append")


@pytest.mark.chaos
@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("kind", SYSTEMS)
def test_killed_or_stopped_at_every_point(
    new_system: NewSystem, source_file: SourceFile, into: Flows, kind: str, write: str, same: bool
) -> None:
    for cut in CUTS:
        if (write, cut) != ("append", "prepare.shadow_made"):
            system = new_system(kind)
            survives(into(system, write), system, source_file, cut, same=same)
            source_file.rows("DELETE FROM items")
    for point in STOPPED if same else ():
        system = new_system(kind)
        sleeps_through(into(system, write), system, source_file, point)
        source_file.rows("DELETE FROM items")


@pytest.mark.parametrize("kind", soon(SYSTEMS, "sqlite", "mysql", "s3"))
def test_a_replace_is_invisible_until_it_is_published(
    new_system: NewSystem, source_file: SourceFile, into: Flows, out_of: Flows, kind: str
) -> None:
    """The suite for connectors has this for each system, within one process."""
    system = new_system(kind)
    source_file.add(60)
    made, back = into(system, "replace"), out_of(system, "replace")
    made.completed("r1")
    old = system.ids()
    source_file.add(40)
    assert made.run("r2", "publish.begin=kill") == {"killed": signal.SIGKILL}
    assert system.ids() == old
    assert back.completed("r1") == 60
    made.completed("r2")
    assert system.ids() == source_file.ids()
    assert back.completed("r2") == 100


STOPPED = (
    "prepare.generation_raised", "prepare.planned", "read.block:1", "commit.begin:0", "commit.mid_copy:1",
    "commit.before_fence:1", "commit.sent:1", "flow.end", "publish.begin", "publish.locked", "publish.moved",
)  # fmt: skip
STOPS = {"append": "commit.before_fence:1", "replace": "commit.mid_copy:1"}


@pytest.mark.parametrize(
    ("kind", "write"),
    soon([(name, ("append", "replace")[at % 2]) for at, name in enumerate(SYSTEMS)], ("mysql", "replace")),
)
def test_a_zombie_with_a_successor_writes_nothing(
    new_system: NewSystem, source_file: SourceFile, into: Flows, kind: str, write: str
) -> None:
    sleeps_through(into(system := new_system(kind), write), system, source_file, STOPS[write])


def sleeps_through(made: Flow, system: System, source_file: SourceFile, point: str) -> None:
    """Stop a run, let its successor run, and wake it.

    A run stopped while it holds the system's lock blocks its successor, so it is not a zombie.
    """
    source_file.add(60)
    task = made.task("r1")
    zombie = made.stopped(task, point)
    successor = made.run("r2", without=("patience",))
    if successor["status"] == "completed":
        assert system.ids() == source_file.ids()
        assert made.woken(zombie, task)["status"] in {"fenced", "failed"}
    else:
        assert successor["error"]["transient"], successor
        assert made.woken(zombie, task)["status"] == "completed"
    assert system.ids() == source_file.ids()
    made.completed("r3")
    assert (system.ids(), system.leftovers(made.uid)) == (source_file.ids(), [])


def test_missing_or_forbidden_objects_give_one_clear_error(
    system: System, source_file: SourceFile, into: Flows, out_of: Flows
) -> None:
    source_file.add(3)
    into(system, "append").completed("r0")
    missing = out_of(system, "replace")
    missing.source["object"] = "nothing_of_that_name"
    error = missing.failed("r1")
    assert error["code"] == "schema.missing_table", error
    assert "nothing_of_that_name" in f"{error['where']} {error['what']}"
    denied = into(system, "replace")
    denied.connections[system.name] = system.denied
    error = denied.failed("r1")
    assert error["code"] == "unavailable.access_denied", error
    for one in (error, missing.failed("r2")):
        assert one["where"].startswith(f"items: connection {system.name}"), one
    assert system.ids() == source_file.ids()
