"""One session that reads a slot for all members of a set, and passes each the transactions that touch its table.

It runs in a thread of one member's process; if that ends, another one begins where the slot is. The slot is confirmed
to the least place that a member's sink has. A member that has left keeps it for a while, since most come back at once.
A member joins between two transactions: if it has read less than the others, the slot is read from there once more,
and what the others have is passed over.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import IO, Any, Final

from dataflows.connectors.postgres.cdc.feed import CONFIRM, DATA, FENCED, JOINED, LATER, NEVER, PLACE, Hello, frame
from dataflows.connectors.postgres.cdc.holds import Holds
from dataflows.connectors.postgres.cdc.pgoutput import Begin, Commit, Truncate, parse
from dataflows.connectors.postgres.cdc.replication import Replication
from dataflows.connectors.postgres.cdc.slots import drop_slot, find, free
from dataflows.connectors.postgres.session import Session, connect, one_row, translated
from penstock.errors import PenstockError, Unavailable

__all__ = ["Hub"]

_log = logging.getLogger(__name__)

ASK_SECONDS: Final = 30.0
"""Seconds for which it waits for a member that it is ahead of, and that reads on from a slot of its own."""
BUFFER_BYTES: Final = 32 << 20
SLOW_SECONDS: Final = 5.0
"""Longest time for which all wait for a member whose buffer is full."""
BEAT_SECONDS: Final = 1.0
REJOIN_SECONDS: Final = 0.3
"""Shortest time between two times that the slot is read once more: those that come together join together."""
APART_SECONDS: Final = 60.0
"""Seconds for which a member that took its changes too slowly stays apart."""
_CHANGES: Final = b"IUD"
_READER: Final = """
SELECT r.application_name FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
WHERE s.slot_name = %s"""


@dataclass(slots=True, eq=False)
class _Member:
    peer: socket.socket
    hello: Hello | None = None
    joined: bool = False
    since: int = 0
    """It has all transactions whose commit is before."""
    told: bytes | None = None
    """Description of its table that it was sent last."""
    beat: float = 0.0
    full: float | None = None
    """When its buffer became full."""
    kept: int = 0
    """Its sink has everything before."""
    gives_up: bool = False
    out: bytearray = field(default_factory=bytearray)
    read: bytearray = field(default_factory=bytearray)


@dataclass
class Hub:
    """Reads the slot `name` of a publication of that name; `listener` is where members join.

    `lock` is held as long as it runs.
    """

    dsn: str
    name: str
    where: str
    listener: socket.socket
    holds: Holds
    lock: IO[bytes]
    error: BaseException | None = field(default=None, init=False)
    _reached: int = field(default=0, init=False)
    """Everything before it was passed on."""
    _commit: int = field(default=0, init=False)
    """Place of the open transaction's commit; 0 outside of one."""
    _begin: bytes = field(default=b"", init=False)
    _members: list[_Member] = field(default_factory=list, init=False)
    _of: dict[int, list[_Member]] = field(default_factory=dict, init=False)
    """Those that have joined, by their table."""
    _entered: set[_Member] = field(default_factory=set, init=False)
    """Those that are sent the open transaction."""
    _apart: dict[str, float] = field(default_factory=dict, init=False)
    _relations: dict[int, bytes] = field(default_factory=dict, init=False)
    _restarted: float = field(default=0.0, init=False)
    _told: tuple[int, float] = field(default=(0, 0.0), init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="hub")
        self._thread.start()

    def stop(self) -> None:
        """End it; another process may take its place."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)

    @property
    def alive(self) -> bool:
        """True while it runs."""
        return self._thread is not None and self._thread.is_alive()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Unavailable("the reader of the set's slot was stopped", where=self.where)

    def _run(self) -> None:
        one: Replication | None = None
        try:
            self._reached = self._found()
            one = self._connected(self._reached)
            while not self._stop.is_set():
                one = self._turn(one)
        except PenstockError as error:
            self.error = error
            if not self._stop.is_set():
                _log.warning("%s: the set's slot is not read any more: %s", self.where, error)
        except Exception as error:  # noqa: BLE001 - a defect; the members look for another one that reads
            self.error = error
            _log.exception("%s: the set's slot is not read any more", self.where)
        finally:
            if one is not None:
                one.close()
            for member in self._members:
                member.peer.close()
            self.listener.close()
            self.lock.close()

    # -- the slot --

    def _found(self) -> int:
        """Return the place up to which the slot is confirmed; make it if it is missing."""
        with contextlib.closing(connect(self.dsn, where=self.where, name="penstock:source")) as session:
            slot = find(session, self.name, self.where)
            if slot is not None and slot.status == "lost":  # those that stand on it are refused, and others can join
                drop_slot(session, self.name, self.where)
                slot = None
            if slot is not None:
                if slot.pid is not None:
                    self._release(session)
                self.holds.begin(slot.confirmed, time.monotonic(), new=False)
                return slot.confirmed
            with contextlib.closing(self._replication()) as one:
                place, _ = one.create(self.name)
            with translated(self.where):
                query = "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = %s)"
                if not one_row(session, query, (self.name,))[0]:  # the set was deleted meanwhile
                    drop_slot(session, self.name, self.where)
                    raise Unavailable("the set's publication is gone", where=self.where, hint="try again")
            self.holds.begin(place, time.monotonic(), new=True)
            return place

    def _release(self, session: Session) -> None:
        """End the session of a process of this machine that has held the lock before.

        Raises:
            Unavailable: it is one of another machine.
        """
        with translated(self.where):
            row = session.execute(_READER, (self.name,)).fetchone()
        if row is not None and row[0] != self._session_name:
            raise Unavailable("the set's slot is read on another machine", where=self.where, hint="try again")
        free(session, self.name, self.where)

    @property
    def _session_name(self) -> str:
        return f"{self.name}:{socket.gethostname()}"[:63]

    def _replication(self) -> Replication:
        return Replication.connected(self.dsn, self.where, self._session_name, self._check)

    def _connected(self, begin: int) -> Replication:
        one = self._replication()
        try:
            one.start(self.name, begin, self.name)
        except BaseException:
            one.close()
            raise
        self._relations.clear()
        self._restarted = time.monotonic()
        return one

    # -- one turn --

    def _turn(self, one: Replication) -> Replication:
        blocked = any(len(member.out) > BUFFER_BYTES for member in self._members)
        source = one.session.pgconn.socket
        reads: list[Any] = [self.listener, *(member.peer for member in self._members)]
        waits = [member.peer for member in self._members if member.out]
        asking = any(member.hello and not member.joined for member in self._members)
        rest = REJOIN_SECONDS / 3 if asking or blocked else BEAT_SECONDS / 2
        ready, writable, _ = select.select(reads if blocked else [*reads, source], waits, [], rest)
        if self.listener in ready:
            self._accept()
        for member in [one for one in self._members if one.peer in ready]:
            self._hear(member)
        if not blocked:
            self._take(one)
        one = self._join(one)
        for member in list(self._members):
            self._send(member, writable=member.peer in writable or not blocked)
        self._confirm(one)
        return one

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            peer, _ = self.listener.accept()
            peer.settimeout(0)
            self._members.append(_Member(peer))

    def _hear(self, member: _Member) -> None:
        try:
            came = member.peer.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            came = b""
        if not came:
            self._leave(member)
            return
        member.read += came
        if member.hello is None and b"\n" in member.read:
            self._greet(member)
        if member.joined and member.hello is not None:
            whole = len(member.read) // CONFIRM.size * CONFIRM.size
            places = [place for (place,) in CONFIRM.iter_unpack(member.read[:whole])]
            del member.read[:whole]
            member.gives_up |= NEVER in places
            member.kept = max([member.kept, *(one for one in places if one != NEVER)])
            if member.gives_up:
                self.holds.leave(member.hello.uid, time.monotonic(), 0.0)
            else:
                self.holds.keep(member.hello.uid, member.kept)

    def _greet(self, member: _Member) -> None:
        line, _, rest = bytes(member.read).partition(b"\n")
        try:
            member.hello, member.read = Hello.parse(line), bytearray(rest)
        except (ValueError, TypeError):  # of another release
            self._leave(member)
            return
        if not member.hello.joins:
            self.holds.renew(member.hello.uid, time.monotonic())
            self._leave(member)

    def _leave(self, member: _Member) -> None:
        if member not in self._members:
            return
        self._members.remove(member)
        member.peer.close()
        if member.joined and member.hello is not None:
            self._of[member.hello.table].remove(member)
            self._entered.discard(member)
            if not member.gives_up:
                self.holds.leave(member.hello.uid, time.monotonic())

    def _take(self, one: Replication) -> None:
        for data, place in one.messages(0.0):
            if data is None:
                self._reached = self._reached if self._commit else max(self._reached, place)
            elif data[:1] in _CHANGES:
                self._pass(int.from_bytes(data[1:5]), data, place)
            elif data[:1] == b"R":
                self._relations[int.from_bytes(data[1:5])] = data
            else:
                self._take_rest(data, place)

    def _take_rest(self, data: bytes, place: int) -> None:
        message = parse(data)
        if isinstance(message, Begin):
            self._commit, self._begin = message.commit, data
        elif isinstance(message, Commit):
            for member in self._entered:
                member.out += frame(DATA, place, data)
            self._entered.clear()
            self._commit, self._reached = 0, message.end
        elif isinstance(message, Truncate):
            for relation in message.relations:
                self._pass(relation, data, place)

    def _pass(self, table: int, data: bytes, place: int) -> None:
        """Pass a message on to the members that read this table."""
        for member in self._of.get(table, ()):
            if self._commit < member.since:
                continue
            if member not in self._entered:
                self._entered.add(member)
                member.out += frame(DATA, place, self._begin)
            if (told := self._relations.get(table)) is not None and told is not member.told:
                member.told = told
                member.out += frame(DATA, place, told)
            member.out += frame(DATA, place, data)

    def _join(self, one: Replication) -> Replication:
        """Let those join that have asked: between two transactions, and all at once if they have to be read again."""
        asking = [member for member in self._members if member.hello is not None and not member.joined]
        if not asking or self._commit or time.monotonic() - self._restarted < REJOIN_SECONDS:
            return one
        begins = [hello.begin for member in asking if (hello := member.hello) and self._takes(member, hello)]
        if not begins or min(begins) >= self._reached:
            return one
        for member in self._members:
            if member not in asking:
                member.since = max(member.since, self._reached)
        self._reached = min(begins)
        one.close()
        with contextlib.closing(connect(self.dsn, where=self.where, name="penstock:source")) as session:
            free(session, self.name, self.where)
        return self._connected(self._reached)

    def _takes(self, member: _Member, hello: Hello) -> bool:
        """Let a member join; False if it cannot yet, or is not the newest of its pipeline."""
        if self._apart.get(hello.uid, 0.0) > time.monotonic():
            self._dismiss(member, LATER)
            return False
        if hello.kept < self.holds.confirmed:
            self.holds.wait(hello.uid, time.monotonic() + ASK_SECONDS)
            self._dismiss(member, LATER)
            return False
        for other in [one for one in self._members if one.joined and one.hello and one.hello.uid == hello.uid]:
            assert other.hello is not None  # noqa: S101 - it has joined
            if other.hello.generation > hello.generation:
                self._dismiss(member, FENCED)
                return False
            self._dismiss(other, FENCED)
        self.holds.keep(hello.uid, hello.kept)
        member.joined, member.since, member.kept = True, hello.begin, hello.kept
        self._of.setdefault(hello.table, []).append(member)
        member.out += frame(JOINED, self.holds.confirmed)
        return True

    def _dismiss(self, member: _Member, kind: bytes) -> None:
        with contextlib.suppress(OSError):
            if not member.out:  # else it may be amid a frame, and sees the end of the connection
                member.peer.send(frame(kind, self.holds.confirmed))
        self._leave(member)

    def _send(self, member: _Member, *, writable: bool) -> None:
        now = time.monotonic()
        if member.joined and member not in self._entered and now - member.beat >= BEAT_SECONDS / 5 and not member.out:
            member.beat = now
            member.out += frame(PLACE, max(self._reached, member.since))
        if member.out and writable:
            try:
                del member.out[: member.peer.send(member.out)]
            except BlockingIOError:
                pass
            except OSError:
                self._leave(member)
                return
        if len(member.out) <= BUFFER_BYTES:
            member.full = None
        elif member.full is None:
            member.full = now
        elif now - member.full > SLOW_SECONDS:
            self._expel(member)

    def _expel(self, member: _Member) -> None:
        """Let a member that takes too little go, so that the others do not wait for it; it may be amid a frame."""
        assert member.hello is not None  # noqa: S101 - only those that have joined are sent anything
        told = "%s: %s takes its changes too slowly, and reads from a slot of its own"
        _log.warning(told, self.where, member.hello.uid)
        self._apart[member.hello.uid] = time.monotonic() + APART_SECONDS
        self._leave(member)

    def _confirm(self, one: Replication) -> None:
        now = time.monotonic()
        place, gone = self.holds.least(now, self._reached)
        for uid in gone:
            _log.warning("%s: the slot is not kept for %s any more", self.where, uid or "members that are not known")
        if self._told[0] != place or now - self._told[1] >= BEAT_SECONDS:
            self._told = place, now
            one.confirm(place, answer=not self._commit)
