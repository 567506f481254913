"""The session that reads a slot for several members: what each is sent, who may join, and who reads it now."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from dataflows.connectors.postgres.cdc import hub as module
from dataflows.connectors.postgres.cdc.feed import CONFIRM, DATA, FENCED, JOINED, LATER, NEVER, PLACE, Hello, frame
from dataflows.connectors.postgres.cdc.holds import Holds
from dataflows.connectors.postgres.cdc.hub import Hub, _Member
from dataflows.connectors.postgres.cdc.pgoutput import Begin, Commit, Truncate
from dataflows.connectors.postgres.cdc.replication import Replication
from dataflows.connectors.postgres.cdc.slots import find
from penstock.errors import Unavailable


class Peer:
    """The other end of a member: what it says, and what it is sent."""

    def __init__(self, *said: bytes) -> None:
        self.said, self.sent, self.closed = list(said), bytearray(), False

    def recv(self, _: int) -> bytes:
        if not self.said:
            raise BlockingIOError
        return self.said.pop(0)

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that is at 100, between two transactions; messages of the server are as the test gives them."""
    monkeypatch.setattr(module, "parse", lambda data: data.of)
    made = Hub("none", "slot", "here", cast("Any", None), Holds(tmp_path / "slot.json"), cast("Any", None))
    made.holds.begin(50, time.monotonic(), new=True)
    made._reached = 100
    return made


class Said(bytes):
    """A message of the server that means `of`."""

    of: Any

    @classmethod
    def that(cls, of: Any, data: bytes) -> Said:
        made = cls(data)
        made.of = of
        return made


BEGIN, COMMIT = Said.that(Begin(5, 190), b"B"), Said.that(Commit(200, 7.0), b"C")


def row(table: int, text: bytes = b"row") -> bytes:
    return b"I" + table.to_bytes(4) + text


def joined(hub: Hub, uid: str, table: int = 7, begin: int = 100, kept: int = 90, generation: int = 1) -> Peer:
    """Let a member join; return its other end."""
    peer = Peer(Hello(uid, generation, table, begin, kept).line())
    member = _Member(cast("Any", peer))
    hub._members.append(member)
    hub._hear(member)
    hub._join(cast("Any", None))
    return peer


def sent(hub: Hub) -> dict[str, bytes]:
    """Return what is to be sent to each member, and forget it."""
    found = {one.hello.uid: bytes(one.out) for one in hub._members if one.hello is not None}
    for one in hub._members:
        one.out.clear()
    return found


def take(hub: Hub, *messages: tuple[bytes | None, int]) -> None:
    hub._take(cast("Any", SimpleNamespace(messages=lambda _: iter(messages))))


def test_each_member_is_sent_the_transactions_that_touch_its_table(hub: Hub) -> None:
    for uid, table in (("a", 7), ("b", 8)):
        joined(hub, uid, table)
    assert sent(hub) == dict.fromkeys("ab", frame(JOINED, 50))
    columns = b"R" + (7).to_bytes(4)
    take(hub, (columns, 1), (BEGIN, 2), (row(7), 3), (row(7, b"two"), 4), (row(9), 5), (None, 150), (COMMIT, 6))
    data = [frame(DATA, *one) for one in ((3, bytes(BEGIN)), (3, columns), (3, row(7)), (4, row(7, b"two")))]
    assert sent(hub) == {"a": b"".join(data) + frame(DATA, 6, bytes(COMMIT)), "b": b""}
    assert (hub._reached, hub._commit, hub._entered) == (200, 0, set())
    emptied = Said.that(Truncate((8, 9)), b"T")
    take(hub, (BEGIN, 7), (emptied, 8), (row(7), 9), (Said.that(Commit(210, 7.0), b"C"), 10), (None, 205), (None, 230))
    found = sent(hub)
    assert found["b"] == frame(DATA, 8, b"B") + frame(DATA, 8, b"T") + frame(DATA, 10, b"C")
    assert found["a"] == frame(DATA, 9, b"B") + frame(DATA, 9, row(7)) + frame(DATA, 10, b"C"), "its columns are known"
    assert hub._reached == 230


def test_one_that_joins_later_is_not_sent_what_it_has(hub: Hub) -> None:
    joined(hub, "a", begin=191)
    sent(hub)
    take(hub, (BEGIN, 1), (row(7), 2), (COMMIT, 3))
    assert sent(hub) == {"a": b""}
    take(hub, (Said.that(Begin(6, 191), b"B"), 4), (row(7), 5))
    assert sent(hub)["a"].startswith(frame(DATA, 5, b"B"))
    asks = joined(hub, "b", begin=300)
    assert not asks.closed
    assert [one.joined for one in hub._members] == [True, False], "a transaction is open"


def test_only_the_newest_of_a_pipeline_stays(hub: Hub) -> None:
    first = joined(hub, "a", generation=2)
    sent(hub)
    older = joined(hub, "a", generation=1)
    assert (first.closed, older.closed, bytes(older.sent)) == (False, True, frame(FENCED, hub.holds.confirmed))
    newer = joined(hub, "a", generation=3)
    assert (first.closed, newer.closed, bytes(first.sent)) == (True, False, frame(FENCED, hub.holds.confirmed))
    assert len(hub._of[7]) == 1


def test_one_that_has_less_than_the_slot_is_told_so_and_waited_for(hub: Hub) -> None:
    peer = joined(hub, "a", kept=49)
    assert (peer.closed, bytes(peer.sent)) == (True, frame(LATER, 50))
    assert hub.holds.least(time.monotonic(), 100) == (50, [])
    hub._apart["b"] = time.monotonic() + 60
    slow = joined(hub, "b")
    assert (slow.closed, bytes(slow.sent)) == (True, frame(LATER, 50))
    assert not joined(hub, "c", kept=50).closed


def test_the_slot_is_read_from_where_the_one_that_joins_is(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    joined(hub, "a")
    freed: list[str] = []
    monkeypatch.setattr(module, "connect", lambda *_, **__: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(module, "free", lambda _, name, __: freed.append(name))
    monkeypatch.setattr(hub, "_connected", lambda begin: ("from", begin))
    member = _Member(cast("Any", Peer(Hello("b", 1, 8, 60, 55).line())))
    hub._members.append(member)
    hub._hear(member)
    one = cast("Any", SimpleNamespace(close=lambda: freed.append("closed")))
    hub._restarted = time.monotonic() + 100
    assert hub._join(one) is one, "those that come together join together"
    hub._restarted = 0.0
    assert hub._join(one) == cast("Any", ("from", 60))
    assert (freed, hub._reached, [member.since for member in hub._members]) == (["closed", "slot"], 60, [100, 60])


def test_what_members_confirm_keeps_the_slot_and_one_that_leaves_is_waited_for(hub: Hub) -> None:
    peers = {uid: joined(hub, uid) for uid in ("a", "b", "c")}
    for uid, said in (("a", [150, 140]), ("b", [120]), ("c", [130, NEVER])):
        data = b"".join(CONFIRM.pack(one) for one in said)
        peers[uid].said = [data[:3], data[3:] + b"\0"]
    for member in list(hub._members):
        hub._hear(member)
        hub._hear(member)
        hub._hear(member)
        assert bytes(member.read) == b"\0"
    now = time.monotonic()
    assert hub.holds.least(now, 999) == (120, ["c"])
    peers["b"].said = [b""]
    hub._hear(hub._members[1])
    assert (peers["b"].closed, [one.hello.uid for one in hub._members if one.hello]) == (True, ["a", "c"])
    assert hub.holds.least(time.monotonic(), 999) == (120, []), "it may come back"
    assert [one.hello.uid for one in hub._of[7] if one.hello] == ["a", "c"]
    confirmed: list[tuple[int, bool]] = []
    one = cast("Any", SimpleNamespace(confirm=lambda place, *, answer: confirmed.append((place, answer))))
    hub._told = (120, time.monotonic() + 100)
    hub._confirm(one)
    assert confirmed == []
    hub._told = (120, time.monotonic() - module.BEAT_SECONDS)
    hub._confirm(one)
    hub._commit, hub._told = 190, (110, time.monotonic() + 100)
    hub._confirm(one)
    assert confirmed == [(120, True), (120, False)]


def test_one_that_only_tries_to_come_back_is_kept_for(hub: Hub) -> None:
    hub.holds.keep("a", 60)
    hub.holds.leave("a", 0.0, 1.0)
    peer = Peer(Hello("a", 1, 7, 100, 60, joins=False).line())
    for one in (peer, odd := Peer(b"another release\n")):
        hub._members.append(_Member(cast("Any", one)))
        hub._hear(hub._members[-1])
    assert (peer.closed, odd.closed, hub._members) == (True, True, [])
    assert hub.holds.least(time.monotonic(), 999) == (60, [])


def test_what_is_sent_is_a_place_now_and_then_and_one_that_takes_too_little_is_let_go(hub: Hub) -> None:
    peer = joined(hub, "a")
    (member,) = hub._members
    hub._send(member, writable=False)
    assert (bytes(peer.sent), len(member.out)) == (b"", len(frame(JOINED, 0)))
    hub._send(member, writable=True)
    assert bytes(peer.sent) == frame(JOINED, 50)
    peer.sent.clear()
    hub._send(member, writable=True)
    assert bytes(peer.sent) == frame(PLACE, 100)
    peer.sent.clear()
    member.beat = time.monotonic() + 100
    hub._send(member, writable=True)
    member.beat = 0.0
    hub._entered.add(member)
    hub._send(member, writable=True)
    assert bytes(peer.sent) == b"", "not within a transaction"
    member.out += bytes(module.BUFFER_BYTES + 1)
    hub._send(member, writable=False)
    assert member.full is not None
    hub._send(member, writable=False)
    assert not peer.closed
    member.full -= module.SLOW_SECONDS + 1
    hub._send(member, writable=False)
    assert (peer.closed, hub._members, hub._apart["a"] > time.monotonic()) == (True, [], True)


@pytest.fixture
def slot(shop: tuple[psycopg.Connection[Any], str]) -> Iterator[tuple[psycopg.Connection[Any], Hub]]:
    """A slot that a session of each name reads, and a hub of it."""
    session, dsn = shop
    made = Hub(dsn, "hub_slot", "here", cast("Any", None), cast("Any", None), cast("Any", None))
    yield session, made
    for name in ("hub_slot", "hub_other"):
        session.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s", (name,)
        )
        session.execute("SELECT pg_drop_replication_slot(%s)", (name,))
    session.execute("DROP PUBLICATION hub_slot")


@pytest.mark.xdist_group("cdc")
def test_a_session_of_this_machine_is_ended_and_one_of_another_machine_is_not(
    slot: tuple[psycopg.Connection[Any], Hub],
) -> None:
    session, hub = slot
    session.execute("CREATE PUBLICATION hub_slot")

    def read(name: str, by: str) -> Replication:
        one = Replication.connected(hub.dsn, "here", by, lambda: None)
        place, _ = one.create(name) if find(cast("Any", session), name, "here") is None else (0, "")
        one.start(name, place, "hub_slot")
        return one

    own = f"hub_slot:{socket.gethostname()}"[:63]
    with closing(read("hub_other", own)), closing(read("hub_slot", "hub_slot:elsewhere")):
        with pytest.raises(Unavailable, match="is read on another machine"):
            hub._release(cast("Any", session))
        found = find(cast("Any", session), "hub_slot", "here")
        assert found is not None
        assert found.pid is not None
    session.execute(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name LIKE 'hub_%'"
    )
    with closing(read("hub_other", "else")), closing(read("hub_slot", own)):
        hub._release(cast("Any", session))
        found = find(cast("Any", session), "hub_slot", "here")
        assert found is not None
        assert found.pid is None
