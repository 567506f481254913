"""A snapshot that several sessions read: one moment of the table, in order, and bounded in sessions and memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from dataflows.connectors import reading
from dataflows.connectors.formats.contract import Rows
from dataflows.connectors.postgres.cdc import pieces
from dataflows.connectors.postgres.cdc.pieces import AHEAD, Pieces
from dataflows.connectors.postgres.cdc.snapshot import Snapshot
from dataflows.data.splits import Split
from dataflows.pipeline import FirstError
from dataflows.runs.launcher import launch
from dataflows.runs.progress import Progress
from tests.dataflows.connectors.postgres.cdc.conftest import Changes
from tests.dataflows.connectors.postgres.cdc.test_loads import drained
from tests.dataflows.connectors.postgres.cdc.test_refusals import planned
from tests.dataflows.connectors.postgres.cdc.test_unique import LETTERS, letters

pytestmark = pytest.mark.xdist_group("cdc")

THREE = {"linger": "20ms", "workers": 3}
READING = (
    "SELECT count(*) FROM pg_locks WHERE relation = '{s}'::regclass AND mode = 'AccessShareLock' "
    "AND pid <> pg_backend_pid()"
)


def one_row(split: Split) -> Rows:
    """Return a part whose only row is the number of its split."""
    return Rows(pa.RecordBatch.from_pydict({"n": [split.number]}))


def numbers(parts: Iterator[Rows]) -> list[int]:
    return [one for part in parts for one in part.batch.column("n").to_pylist()]


def test_all_sessions_see_one_moment_and_rows_come_in_the_order_of_the_table(
    changes: Callable[..., Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sessions, seen, readers = changes(rows=3000), 0, [], []
    made.do("CREATE TABLE w.before AS TABLE {s}")
    joined = Snapshot._joined

    def join(one: Snapshot, snapshot: str) -> Any:
        nonlocal sessions
        sessions += 1
        made.do(
            f"DELETE FROM {{s}} WHERE id % 100 = {sessions}",
            f"INSERT INTO {{s}} (id) VALUES ({9000 + sessions})",
            f"UPDATE {{s}} SET name = 'later' WHERE id % 100 = 50 + {sessions}",
        )
        return joined(one, snapshot)

    def look(name: str, index: int | None = None) -> None:
        if (name, index) == ("read.block", 1):
            readers.append(made.value(READING))
        if (name, index) == ("read.begin", 2):  # the sink has the snapshot
            differing = "(TABLE w.before EXCEPT ALL TABLE {t}) UNION ALL (TABLE {t} EXCEPT ALL TABLE w.before)"
            seen.append(made.value(f"SELECT count(*) FROM ({differing}) x"))
            seen.append(made.value("SELECT bool_and(id > before) FROM (SELECT id, lag(id) OVER (ORDER BY ctid) "
                                   "AS before FROM {t}) t"))  # fmt: skip

    monkeypatch.setattr(Snapshot, "_joined", join)
    monkeypatch.setattr(reading, "failpoint", look)
    monkeypatch.setattr(pieces, "BLOCKS", 2)
    assert drained(made, limits=THREE)["status"] == "completed"
    assert (sessions, max(readers), seen) == (3, 3, [0, True])
    assert made.differences() == 0


def test_a_row_that_is_refused_is_found_among_those_of_all_sessions(
    changes: Callable[..., Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = changes(rows=2000)
    monkeypatch.setattr(pieces, "BLOCKS", 1)
    made.do("CREATE TABLE {t} (LIKE {s} INCLUDING ALL)", "ALTER TABLE {t} ADD CHECK (id <> 1900)")
    assert drained(made, limits=THREE, errors=LETTERS)["status"] == "completed"
    assert letters(made) == ["23514"]
    assert made.differences() == 1


def test_a_snapshot_that_several_sessions_read_and_that_was_killed_begins_again(
    changes: Callable[..., Changes],
) -> None:
    made = changes(rows=0)
    made.do("ALTER TABLE {s} SET (fillfactor = 10)")
    made.do("INSERT INTO {s} (id, body) SELECT g, repeat('x', 700) FROM generate_series(1, 2000) g")  # 2000 blocks
    for attempt, point in enumerate(("read.block:1", "commit.before_fence:1"), start=1):
        killed = made.launchers.run(made.task(attempt=attempt, limits=THREE), f"{point}=kill")
        assert killed == {"killed": 9}
        made.do(f"DELETE FROM {{s}} WHERE id % 10 = {attempt}", f"INSERT INTO {{s}} (id) VALUES (9000 + {attempt})")
    made.followed(attempt=3, limits=THREE)
    assert len(made.slots()) == 1


def test_a_server_with_too_few_connections_is_read_by_fewer_sessions(
    changes: Callable[..., Changes], caplog: pytest.LogCaptureFixture
) -> None:
    made = changes()
    user = f"few_{made.number}"
    made.do(
        f"CREATE ROLE {user} LOGIN REPLICATION CONNECTION LIMIT 4",  # of the source, two that read, one left free
        f"ALTER TABLE {{s}} OWNER TO {user}",
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}")
        .format(sql.Identifier(made.session.info.dbname), sql.Identifier(user))
        .as_string(None),
    )
    task = made.task(limits={"linger": "20ms", "workers": 9})
    task["connections"]["shop"] = {"type": "postgres", "dsn": psycopg.conninfo.make_conninfo(made.dsn, user=user)}
    (made.folder / "drain").touch()
    with caplog.at_level(logging.WARNING):
        result = launch(task | {"drain": str(made.folder / "drain")}, FirstError(), Progress())
    assert result["status"] == "completed", result
    assert "the snapshot is read by 2 sessions" in caplog.text
    assert made.differences() == 0


def test_the_plan_says_how_many_sessions_read(changes: Callable[..., Changes]) -> None:
    made = changes()
    assert (
        f"up to 3 sessions read the snapshot of {made.source}, one the changes"
        in (planned(made.task(limits=THREE))["notes"])
    )


def test_pieces_come_in_order_whichever_session_is_late() -> None:
    third, ahead, most = threading.Event(), [0], AHEAD * 3

    def read(_: Callable[[], None], split: Split) -> Iterator[Rows]:
        if split.number == 0:
            third.wait(10)  # the others go on meanwhile, so far as there is room
        ahead.append(split.number)
        if split.number == most - 1:
            third.set()
        yield one_row(split)

    with Pieces((Split(at) for at in range(50)), [read] * 3, lambda: None).begun() as parts:
        assert third.wait(10)
        assert max(ahead) < most + 1
        assert numbers(parts) == list(range(50))


def test_the_error_of_one_session_ends_all() -> None:
    def read(check: Callable[[], None], split: Split) -> Iterator[Rows]:
        yield one_row(split)
        if split.number == 5:
            raise ValueError("5")
        while split.number > 5:  # reads on until it is told
            check()

    pieces_ = Pieces((Split(at) for at in range(50)), [read] * 3, lambda: None)
    with pytest.raises(ValueError, match="5"), pieces_.begun() as parts:
        numbers(parts)
    assert not [one for one in threading.enumerate() if one.name == "piece"]
