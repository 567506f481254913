"""Members of a set over one slot: what each loses or holds when others are killed, refused, stopped, added or slow."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataflows.connectors.postgres.cdc.holds import LEFT_SECONDS, Holds
from dataflows.connectors.postgres.cdc.names import publication_name
from dataflows.connectors.postgres.cdc.replication import lsn_number
from dataflows.connectors.postgres.cdc.source import PostgresChanges
from dataflows.connectors.registry import open_source
from dataflows.runs.job import Job
from tests.dataflows.connectors.postgres.cdc.conftest import Changes
from tests.dataflows.connectors.postgres.cdc.test_histories import sink
from tests.dataflows.connectors.postgres.cdc.test_slot_limits import WAL

pytestmark = pytest.mark.xdist_group("cdc")

SECONDS = 90.0
TOO_SLOW = "takes its changes too slowly"


def _is_same(one: Changes) -> bool:
    return one.differences() == 0


@dataclass
class Members:
    """Streams of one set, with the process and the attempt of each."""

    make: Callable[..., Changes]
    id: str
    folder: Path
    all: list[Changes] = field(default_factory=list)
    pids: dict[int, int] = field(default_factory=dict)
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)

    def add(self, rows: int = 20) -> Changes:
        """Return a new member; it does not run yet."""
        self.all.append(self.make("id int PRIMARY KEY, name text, price numeric(12,2), body text", rows))
        return self.all[-1]

    def task(self, one: Changes, **changes: Any) -> dict[str, Any]:
        attempt = self.attempts.get(one.number, 1)
        return one.task(attempt=attempt, **changes) | {"set_id": self.id, "shared": str(self.folder)}

    def start(self, *members: Changes, **changes: Any) -> None:
        """Start members, or start them again."""
        for one in members:
            self.attempts[one.number] = self.attempts.get(one.number, 0) + 1
            self.tasks[one.number] = self.task(one, **changes)
            self.pids[one.number] = one.launchers.start(self.tasks[one.number])

    def kill(self, one: Changes) -> None:
        os.kill(pid := self.pids.pop(one.number), signal.SIGKILL)
        one.launchers.wait(pid)

    def stop(self, *members: Changes) -> list[dict[str, Any]]:
        """Ask members to stop, all by default; return their results."""
        chosen = members or [one for one in self.all if one.number in self.pids]
        for one in chosen:
            os.kill(self.pids[one.number], signal.SIGTERM)
        return [one.launchers.ended(self.pids.pop(one.number), self.tasks[one.number]) for one in chosen]

    @property
    def slot(self) -> str:
        return publication_name(self.id)

    def slots(self) -> list[str]:
        """Return the slots of the database."""
        query = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"
        return [name for (name,) in self.all[0].session.execute(query).fetchall()]

    def until(self, what: Callable[[], bool], said: str) -> None:
        """Wait until something is true."""
        end = time.monotonic() + SECONDS
        while not what():
            assert time.monotonic() < end, f"{said}; the slots are {self.slots()}"
            time.sleep(0.05)

    def until_same(self, *members: Changes) -> None:
        """Wait until the targets of members have the rows of their tables."""
        for one in members:
            self.until(partial(_is_same, one), f"{one.target} has other rows")

    def until_shared(self) -> None:
        """Wait until there is one slot, from which all that run read."""
        running = [one for one in self.all if one.number in self.pids]
        self.until(
            lambda: self.slots() == [self.slot] and all(f'"slot":"{self.slot}"' in self.at(one) for one in running),
            "not all read from the shared slot",
        )

    def is_kept_by(self, one: Changes) -> bool:
        """True if the slot stays although a member gives it up that has all changes of it."""
        source = open_source(Job.from_task(self.task(one)).source)
        assert isinstance(source, PostgresChanges)
        try:
            source.describe()
            now = one.value("SELECT pg_current_wal_lsn()")
            source._begun.kept = lsn_number(now)
            one.do("DELETE FROM {s} WHERE id = 2", WAL)
            health = source.slot()
            assert health is not None
            assert not health.active
            assert health.retained <= one.value(f"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{now}')::bigint")
            source.give_up(self.slot)
        finally:
            source.close()
        return self.slots() == [self.slot]

    def at(self, one: Changes) -> str:
        """Return a member's position, as text."""
        if not one.value("SELECT to_regclass('w._penstock_offsets') IS NOT NULL"):
            return ""
        return one.value(f"SELECT position FROM w._penstock_offsets WHERE pipeline = '{one.uid}'") or ""

    def until_kept(self) -> None:
        """Wait until the slot is confirmed up to what the server has now."""
        place = self.all[0].value("SELECT pg_current_wal_lsn()")
        query = f"SELECT confirmed_flush_lsn >= '{place}' FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
        self.all[0].until(query)


@pytest.fixture
def members(changes: Callable[..., Changes], tmp_path: Path) -> Iterator[Members]:
    """A set without members; its processes and its slot are gone at the end."""
    made = Members(changes, f"set-{tmp_path.name}", tmp_path / "shared")
    yield made
    for one in [one for one in made.all if one.number in made.pids]:
        made.kill(one)
    session = made.all[0].session
    for action in ("pg_terminate_backend(active_pid, 5000)", "pg_drop_replication_slot(slot_name)"):
        session.execute(f"SELECT {action} FROM pg_replication_slots WHERE slot_name = %s", (made.slot,))


def change(one: Changes, chance: random.Random) -> None:
    """Change some rows."""
    number = chance.randrange(100)
    one.do(
        f"INSERT INTO {{s}} VALUES ({number}, 'new') ON CONFLICT (id) DO UPDATE SET name = 'again', price = {number}",
        f"UPDATE {{s}} SET price = price + 1 WHERE id > {number}",
        f"DELETE FROM {{s}} WHERE id = {number // 2}",
    )


def test_members_read_over_one_slot(members: Members) -> None:
    made = [members.add() for _ in range(3)]
    members.start(*made)
    members.until_shared()
    chance = random.Random(1)
    for _ in range(10):
        for one in made:
            change(one, chance)
    members.until_same(*made)
    members.until_kept()
    assert members.slots() == [members.slot]
    publications = made[0].session.execute("SELECT pubname, count(*) FROM pg_publication_tables GROUP BY 1").fetchall()
    assert (members.slot, 3) in publications
    assert all(one["error"]["what"] == "the run was asked to stop" for one in members.stop())


def test_logs_and_histories_share_it_and_logs_name_the_transaction(members: Members) -> None:
    logs, kept = [members.add(2) for _ in range(2)], members.add(2)
    ways = [(logs[0], "append"), (logs[1], "append"), (kept, "scd2")]
    for one, write in ways:
        members.start(one, **sink(one, write))
    members.until_shared()
    members.kill(logs[0])  # maybe the one that reads
    for number in range(5):
        changed = [f"UPDATE {one.source} SET name = '{number}' WHERE id = 1" for one in members.all]
        kept.do(f"BEGIN; {'; '.join(changed)}; COMMIT")
    members.start(logs[0], **sink(logs[0], "append"))
    for one in logs:
        one.until("SELECT count(*) = 5 FROM {t} WHERE _op = 'update'")
    later = "WHERE id = 1 AND valid_from > (SELECT min(valid_from) FROM {t})"
    kept.until(f"SELECT array_agg(name ORDER BY valid_from) = '{{0,1,2,3,4}}' FROM {{t}} {later}")
    places = [one.value("SELECT array_agg(_lsn ORDER BY _lsn) FROM {t} WHERE _op = 'update'") for one in logs]
    assert places[0] == places[1]
    assert len(set(places[0])) == 5
    members.stop()


@pytest.mark.parametrize(("tables", "kills"), [(8, 10), pytest.param(20, 100, marks=pytest.mark.chaos)])
def test_members_that_are_killed_lose_and_double_nothing(members: Members, tables: int, kills: int) -> None:
    made, chance = [members.add() for _ in range(tables)], random.Random(kills)
    members.start(*made)
    for _ in range(kills):
        for one in chance.sample(made, 3):
            change(one, chance)
        one = chance.choice(made)
        members.kill(one)
        change(one, chance)
        members.start(one)
    members.until_same(*made)
    members.until_shared()
    for one in made:
        change(one, chance)
    members.until_same(*made)
    members.until_kept()


def test_a_member_that_is_refused_or_stopped_stops_no_other(members: Members) -> None:
    one, refused, stopped = members.add(), members.add(), members.add()
    members.start(one, refused, stopped)
    members.until_shared()
    refused.do("ALTER TABLE {s} ALTER price TYPE int", "UPDATE {s} SET price = 5")
    error = refused.launchers.ended(members.pids.pop(refused.number), members.tasks[refused.number])["error"]
    assert "column `price` cannot be followed" in error["what"], error
    members.stop(stopped)
    chance = random.Random(3)
    for member in (one, stopped):
        change(member, chance)
    members.until_same(one)
    members.start(stopped)
    members.until_same(stopped)
    change(one, chance)
    members.until_same(one)


def test_a_member_that_is_added_has_neither_a_gap_nor_a_repeat(members: Members) -> None:
    one, chance = members.add(), random.Random(4)
    members.start(one)
    members.until_shared()
    new = members.add(rows=3000)
    members.start(new)
    for _ in range(20):
        change(new, chance)
        change(one, chance)
    members.until_same(new)
    members.until_same(one)
    members.until_shared()
    members.stop(one)  # the other one reads the slot from now on
    change(new, chance)
    members.until_same(new)
    members.until_shared()


def test_a_member_over_its_limit_lets_the_slot_go(members: Members) -> None:
    one, other = members.add(), members.add()
    members.start(one, limits={"linger": "20ms", "slot_drop": "20MB"})
    members.start(other)
    members.until_shared()
    with psycopg.connect(one.dsn) as session:
        session.execute(f"LOCK TABLE {one.target}".encode())
        one.do("DELETE FROM {s} WHERE id = 1", WAL)
        error = one.launchers.ended(members.pids.pop(one.number), members.tasks[one.number])["error"]
    assert "limits.slot_drop is 20.0 MB" in error["what"], error
    other.do("DELETE FROM {s} WHERE id = 1")
    members.until_same(other)
    members.until_kept()
    members.start(one)
    error = one.launchers.ended(members.pids.pop(one.number), members.tasks[one.number])["error"]
    assert f"replication slot {members.slot} of the set was not kept" in error["what"], error
    members.attempts[one.number] += 1
    rebuilt = members.task(one) | {"run": "r2", "begin": {"from": "earliest", "reset": True}}
    members.pids[one.number] = one.launchers.start(rebuilt)
    members.until_same(one)
    members.until_shared()


def test_the_last_member_that_is_deleted_takes_the_slot_along(members: Members) -> None:
    made = [members.add() for _ in range(2)]
    members.start(*made)
    members.until_shared()
    members.stop()
    assert members.is_kept_by(made[0]), "while no process reads it, one that has what there is drops it for nobody"
    publication = f"SELECT count(*) FROM pg_publication_tables WHERE pubname = '{members.slot}'"
    for left in (1, 0):
        cleanup = members.task(made[left]) | {"run": "r2", "kind": "cleanup"}
        assert made[0].launchers.run(cleanup)["status"] == "completed"
        assert made[0].value(publication) == left
        assert members.slots() == [members.slot] * left
    assert not list(members.folder.iterdir())


def test_a_list_of_members_that_is_lost_keeps_the_slot_for_all(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    holds = Holds(file)
    holds.begin(10, 0.0, new=True)
    holds.keep("a", 20)
    holds.keep("b", 30)
    assert holds.least(1.0, 60) == (20, [])
    holds.leave("a", 1.0)
    holds.keep("b", 40)
    assert holds.least(LEFT_SECONDS, 60) == (20, [])
    holds.renew("a", 100.0)
    assert holds.least(LEFT_SECONDS + 1, 60) == (20, [])
    again = Holds(file)
    again.begin(20, 200.0, new=False)
    again.keep("b", 40)
    assert again.least(300.0, 60) == (20, [])
    assert again.least(200.0 + LEFT_SECONDS, 60) == (40, ["a"])
    file.unlink()
    lost = Holds(file)
    lost.begin(20, 0.0, new=False)
    lost.keep("b", 50)
    assert lost.least(LEFT_SECONDS - 1, 60) == (20, [])
    assert lost.least(LEFT_SECONDS, 60) == (50, [""])
    lost.leave("b", 0.0, 0.0)
    assert lost.least(1.0, 60) == (60, ["b"])
    lost.wait("c", 30.0)  # it asks before it has caught up, and reads from the slot later on
    lost.keep("c", 60)
    file.with_suffix(".new").mkdir()
    lost.keep("d", 70)
    assert not file.exists(), "a list that cannot be written is none, not one of before"
    file.with_suffix(".new").rmdir()
    lost.leave("d", 0.0, 0.0)
    assert lost.least(2.0, 90) == (60, ["d"])
    next_one = Holds(file)
    next_one.begin(60, 2.0, new=False)
    assert next_one.least(3.0, 90) == (60, [])


@pytest.mark.chaos
def test_a_reader_of_the_slot_that_hangs_stops_no_other(members: Members) -> None:
    made = [members.add() for _ in range(3)]
    members.start(made[0])
    members.until_shared()
    members.start(*made[1:])
    members.until_shared()
    os.kill(members.pids[made[0].number], signal.SIGSTOP)
    chance = random.Random(5)
    for one in made:
        change(one, chance)
    members.until_same(*made[1:])
    os.kill(members.pids[made[0].number], signal.SIGCONT)
    members.until_same(*made)
    members.until_shared()


@pytest.mark.chaos
def test_a_member_that_is_too_slow_stops_no_other(members: Members) -> None:
    slow, other = members.add(), members.add()
    members.start(slow, other, limits={"linger": "20ms", "batch_rows": 100})
    members.until_shared()
    with psycopg.connect(slow.dsn) as session:
        session.execute(f"LOCK TABLE {slow.target}".encode())
        for number in range(1, 7):
            slow.do(
                "INSERT INTO {s} SELECT g, '', 1, repeat(md5(g::text), 500) "
                f"FROM generate_series({number}001, {number}999) g"
            )
        other.do("DELETE FROM {s} WHERE id = 1")
        members.until_same(other)
        logs = [Path(f"{members.tasks[one.number]['result']}.log") for one in (slow, other)]
        members.until(lambda: any(TOO_SLOW in one.read_text() for one in logs), "the slow one was not let go")
    members.until_same(slow)
    members.until_shared()


@pytest.mark.chaos
def test_a_zombie_of_a_member_takes_nothing_from_its_successor(members: Members) -> None:
    reads, one = members.add(), members.add()
    members.start(reads)
    members.until_shared()
    members.start(one)
    members.until_shared()
    zombie, task = members.pids.pop(one.number), members.tasks[one.number]
    os.kill(zombie, signal.SIGSTOP)
    one.do("UPDATE {s} SET name = 'one'")
    members.start(one)
    members.until_same(one)
    one.do("UPDATE {s} SET name = 'two'")
    late = one.launchers.woken(zombie, task)
    assert late["status"] in {"fenced", "failed"}, late
    members.until_same(one, reads)
    members.until_shared()
