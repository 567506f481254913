"""The reader of changes over messages that the test gives: where splits end, and what is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataflows.connectors.postgres.cdc import reader as module
from dataflows.connectors.postgres.cdc.feed import FeedLost
from dataflows.connectors.postgres.cdc.fold import Fold
from dataflows.connectors.postgres.cdc.log import History, Log
from dataflows.connectors.postgres.cdc.pgoutput import Begin, Change, Commit, Relation, Truncate
from dataflows.connectors.postgres.cdc.positions import HISTORY, LOG, MIRROR, PART, Position
from dataflows.connectors.postgres.cdc.reader import ChangeReader
from dataflows.data.changes import CHANGE, COMMITTED
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.errors import Refused

AT = Position(100, "s", 1, "own", 7, 1, {"id": (1, "bigint")}, ("id",), 1, (1,), 7)
INSERT = Change(7, "insert", (b"1",))
OTHER = Change(8, "insert", (b"1",))


class Folded:
    """What a fold does of changes: counts them, a byte each."""

    times = None

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.done.append((name, *given))

    def add(self, change: Change, layout: str) -> None:
        assert (change, layout) == (INSERT, "of 7")
        self.size += 1


class Parts:
    """What a reader needs, on a clock that goes on with each look at the messages; keeps what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *turns: list[tuple[Any, int]], **given: Any) -> None:
        self.turns, self.done = list(turns), list[Any]()
        self.seconds, self.moved, self.checked = 0.0, 0, 0
        self.drains, self.lost = given.get("drains", False), False
        self.at_check: Callable[[], None] = lambda: None
        monkeypatch.setattr(module, "parse", lambda data: data)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.seconds, sleep=self.sleep))
        names = SimpleNamespace(uid="u1")
        self.snapshot = SimpleNamespace(
            written=lambda: 500,
            names=names,
            shape=SimpleNamespace(id=7),
            seen=0,
            kept=0,
            end_turn=lambda: self.done.append("end_turn"),
            end=lambda: self.done.append("end"),
        )
        self.layouts = SimpleNamespace(
            of=lambda relation: "of 7" if relation == 7 else None,
            doubted=lambda upto: upto in given.get("doubted", ()),
            check=lambda: self.done.append("check"),
            add=self.done.append,
            emptied=lambda xid: self.done.append(("emptied", xid)),
        )
        read = SimpleNamespace(check=self.check, columns=given.get("columns", ("id", CHANGE)), batch_rows=3)
        order = SimpleNamespace(
            read=read,
            linger=2.0,
            draining=lambda: self.drains,
            moved=self.answered,
            generation=9,
            slot="00",
            first=1,
            positions={PART: str(AT)},
            key=("id",),
        )
        self.reader = ChangeReader(
            cast("Any", order),
            "items",
            cast("Any", self.snapshot),
            cast("Any", self.layouts),
            cast("Any", None),
            {},
            cast("Any", given.get("company")),
        )

    def check(self) -> None:
        self.checked += 1
        self.at_check()

    def answered(self) -> None:
        self.moved += 1

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def messages(self, wait: float) -> Iterator[tuple[Any, int]]:
        self.done.append(wait)
        self.seconds += 0.5
        yield from self.turns.pop(0) if self.turns else []

    def confirm(self, place: int, *, answer: bool = True) -> None:
        self.done.append(("confirm", place, answer))

    def close(self) -> None:
        self.done.append("close")

    def gathered(self, at: Position = AT) -> tuple[int, int]:
        """Return the number of changes that were gathered, and where the next transaction may begin."""
        self.reader._empty = lambda _: Folded()  # type: ignore[method-assign, assignment, return-value]
        fold, upto = self.reader._gathered(cast("Any", self), at)
        return len(fold), upto

    @property
    def waits(self) -> list[float]:
        return [one for one in self.done if isinstance(one, float)]


def transaction(number: int, changes: int, *, more: bool = False) -> list[tuple[Any, int]]:
    """Return the messages of a transaction of one table that ends at ten times its number."""
    made = [(Begin(number, number * 10), number), *[(INSERT, number)] * changes, (OTHER, number)]
    return made if more else [*made, (Commit(number * 10, 7.0), number)]


def test_a_split_ends_with_a_whole_transaction_once_it_has_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch, [*transaction(11, 2), *transaction(12, 1), *transaction(13, 1)])
    assert parts.gathered() == (3, 120)
    parts = Parts(monkeypatch, transaction(11, 9, more=True), [(Commit(110, 7.0), 11), *transaction(12, 1)])
    assert parts.gathered() == (9, 110), "and is longer if the transaction is"
    assert parts.moved == 12
    monkeypatch.setattr(module, "SPLIT_BYTES", 2)
    parts = Parts(monkeypatch, [*transaction(11, 2), *transaction(12, 1)])
    assert parts.gathered() == (2, 110), "or its bytes"


def test_a_split_is_closed_so_long_after_its_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch, [], transaction(11, 1), [], transaction(12, 1), [], [], transaction(13, 1))
    assert parts.gathered() == (2, 120)
    assert parts.seconds == 3.0
    parts = Parts(monkeypatch, transaction(11, 1))
    parts.reader.order.linger = 0.55  # type: ignore[misc]
    assert parts.gathered() == (1, 110)
    assert parts.waits == pytest.approx([0.1, 0.1, 0.05]), "it is not late because it waits for more"
    parts = Parts(monkeypatch, transaction(11, 1), *[[]] * 3, transaction(12, 1, more=True), *[[]] * 3)
    parts.turns.append([(Commit(120, 7.0), 12)])
    assert parts.gathered() == (2, 120), "but one that is open is waited for"


def test_an_open_transaction_and_a_layout_in_doubt_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch, transaction(11, 1, more=True), *[[]] * 9, [(Commit(110, 7.0), 11)], drains=True)
    parts.snapshot.written = lambda: 100
    assert parts.gathered() == (1, 110)
    parts = Parts(monkeypatch, transaction(11, 1), *[[]] * 9, [(None, 140)], drains=True, doubted=(110,))
    parts.snapshot.written = lambda: 100
    assert parts.gathered() == (1, 140)


def test_the_position_moves_on_without_changes_when_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch, [(None, 130)], *[[]] * 20)
    assert parts.gathered() == (0, 130)
    assert parts.seconds == module.QUIET_SECONDS
    assert parts.done[-1] == "check"
    assert parts.snapshot.seen == 130
    company = SimpleNamespace(slot="shared", due=True)
    parts = Parts(monkeypatch, [], [(None, 130)], *[[]] * 20, company=company)
    assert parts.gathered() == (0, 130)
    assert parts.seconds == 1.0, "it moves sooner on the way to the set's slot"
    parts = Parts(monkeypatch, [(None, 130)], company=company)
    assert parts.gathered(replace(AT, slot="shared")) == (0, 130)
    assert parts.seconds == module.QUIET_SECONDS


def test_a_place_within_a_transaction_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)
    fold, reader = cast("Any", Folded()), parts.reader
    assert reader._taken(fold, None, 130, 120) == (130, False)
    assert reader._taken(fold, None, 110, 120) == (120, False)
    assert reader._taken(fold, cast("Any", Begin(5, 9)), 0, 120) == (120, False)
    assert reader._taken(fold, None, 130, 120) == (120, False)
    assert reader._taken(fold, cast("Any", Commit(140, 7.0)), 0, 120) == (140, False)
    assert fold.done == [("begin", Begin(5, 9))], "a transaction of other tables has no time"
    relation = Relation(7, "t", "d", ())
    for message in (relation, Truncate((8,)), OTHER, None):
        assert reader._taken(fold, cast("Any", message or "none"), 0, 140) == (140, False)
    assert (parts.done, len(fold.done)) == ([relation], 1)
    reader._taken(fold, cast("Any", Truncate((8, 7))), 0, 140)
    assert (parts.done[1:], fold.done[1:]) == ([("emptied", 5)], [("truncate",)])
    reader._taken(fold, cast("Any", INSERT), 0, 140)
    reader._taken(fold, cast("Any", Commit(150, 8.0)), 0, 140)
    assert fold.done[2:] == [("committed", 8.0)]


def test_a_transaction_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRANSACTION_BYTES", 2)
    with pytest.raises(Refused, match="written whole or not"):
        Parts(monkeypatch, transaction(11, 3)).gathered()
    assert Parts(monkeypatch, transaction(11, 2)).gathered() == (2, 110)


def test_what_the_sink_has_is_told_when_it_changes_and_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch, [], [], [], [], transaction(11, 1, more=True), [], [(Commit(110, 7.0), 11)])
    parts.reader._confirmed = 90
    parts.reader.splits = {1: Split(1)}

    def at_check() -> None:
        if parts.checked == 2:
            parts.reader._confirmed = 95

    parts.at_check = at_check
    assert parts.gathered() == (1, 110)
    assert parts.snapshot.seen == 0, "while a split is not written, nothing else was seen"
    told = [one for one in parts.done if isinstance(one, tuple)]
    assert told[:4] == [
        ("confirm", 90, True), ("confirm", 95, True), ("confirm", 95, True), ("confirm", 95, False),
    ]  # fmt: skip
    assert len(told) == 5


def test_it_is_drained_behind_what_the_server_had_when_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)
    assert not parts.reader._is_drained(900)
    parts.drains = True
    assert [parts.reader._is_drained(one) for one in (499, 500)] == [False, True]
    parts.snapshot.written = lambda: 900
    assert parts.reader._is_drained(500), "it is asked once"


@pytest.mark.parametrize(
    ("columns", "kind", "fold"),
    [(("id", CHANGE), MIRROR, Fold), (("id", CHANGE, COMMITTED), HISTORY, History), (("id",), LOG, Log)],
)
def test_changes_are_folded_to_what_the_sink_has(
    monkeypatch: pytest.MonkeyPatch, columns: tuple[str, ...], kind: str, fold: type
) -> None:
    reader = Parts(monkeypatch, columns=columns).reader
    assert (reader._kind, type(reader._empty(AT))) == (kind, fold)


def test_splits_are_kept_until_they_are_committed_and_say_where_the_sink_is(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)
    reader = parts.reader
    for number in (1, 2, 3):
        reader._opened(Split(number, moves=(Move(PART, "", str(AT.at(number * 100))),)))
        reader.kept[number] = []
    reader.committed(2)
    assert (list(reader.splits), list(reader.kept), reader._confirmed, parts.snapshot.kept) == ([3], [3], 200, 200)
    reader.committed(2)
    assert reader._confirmed == 200
    parts.at_check = lambda: reader.committed(3) if parts.checked == 3 else None
    reader._await(2)
    assert parts.checked == 0
    reader._await(3)
    assert (parts.checked, parts.moved, list(reader.splits)) == (3, 3, [])


def test_the_sets_slot_is_asked_for_once_the_sink_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(hello: Any, _: object) -> Any:
        assert reader.splits == {}
        assert (hello.uid, hello.generation, hello.table) == ("u1", 9, 7)
        return found.pop()

    company, found = SimpleNamespace(slot="shared", due=True, asked=asked), [None, "feed"]
    parts = Parts(monkeypatch, company=company)
    reader = parts.reader
    assert (reader._may_join(AT), reader._may_join(replace(AT, slot="shared"))) == (True, False)
    company.due = False
    assert not reader._may_join(AT)
    assert not Parts(monkeypatch).reader._may_join(AT)
    for feed, done in (("feed", []), (None, ["end_turn"])):
        reader.splits = {4: Split(4, moves=(Move(PART, "", str(AT)),))}
        parts.at_check = lambda: reader.committed(4)
        assert reader._asked(AT, 5) == cast("Any", feed)
        assert parts.done == done


def test_a_reader_that_ends_lets_all_go_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)
    parts.reader.close()
    assert parts.done == [], "another one leaves the snapshot open"
    parts.reader._replication = cast("Any", parts)
    parts.reader.close()
    parts.reader.close()
    assert parts.done == ["end", "end_turn", "close"]


def test_a_feed_that_is_lost_is_followed_by_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)
    reader, feeds = parts.reader, []

    def streamed(_own: object, at: Position) -> Any:
        feeds.append(at.lsn)
        return parts

    def gathered(_one: object, at: Position) -> Any:
        if len(feeds) == 1:
            reader._open = True
            raise FeedLost("lost", where="here")
        assert not reader._open
        return Folded(), 500

    parts.layouts.position = AT
    parts.drains = True
    monkeypatch.setattr(reader, "_streamed", streamed)
    monkeypatch.setattr(reader, "_gathered", gathered)
    reader._confirmed = 77
    parts.at_check = lambda: reader.committed(4)
    found = list(reader._changes(cast("Any", None), AT, 4))
    assert (feeds, len(found)) == ([100, 100], 1)
    assert (found[0].split, found[0].last, found[0].moves[0].end) == (4, True, str(AT.at(500)))
    assert parts.done == ["close", ("confirm", 500, True)]
