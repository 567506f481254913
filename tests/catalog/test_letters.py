from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from catalog.letters import _LOCK, DeadLetters, KeptLetter, Letter, letters
from catalog.letters import letter as by_id
from catalog.redrives import _OVERTAKE
from penstock.clock import now
from penstock.errors import Fenced, Unavailable
from penstock.models.letters import LetterChoice
from penstock.postgres import connect

KEEP = timedelta(days=30)
ALL = LetterChoice()


def letter(row: int) -> Letter:
    return Letter(row, "cast", "bad_text", "`price` is no numeric(12,2)", '{"id": 1, "name": "ä\\n\\t\\\\"}')


def rows(dsn: str, **where: str) -> list[tuple[str, int, int]]:
    with closing(connect(dsn, "tests")) as session:
        return sorted(
            (it.run, it.split, it.row)
            for it in letters(session, LetterChoice(run=where.get("run")), 100, name=where.get("name"))
        )


def test_letters_round_trip(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "orders")) as dead:
        one = dead.begin({"r1": [0, 1]}, KEEP)
        dead.put(one, "r1", 0, [letter(3), letter(4)])
    with closing(connect(catalog, "tests")) as session:
        found = letters(session, LetterChoice(run="r1"), 10, name="orders")
    assert [(one.row, one.step, one.code, one.reason) for one in found] == [
        (3, "cast", "bad_text", "`price` is no numeric(12,2)"),
        (4, "cast", "bad_text", "`price` is no numeric(12,2)"),
    ]
    assert found[0].values == {"id": 1, "name": "ä\n\t\\"}


def test_a_split_that_is_read_again_has_its_letters_once(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "orders")) as dead:
        one = dead.begin({"r1": [0, 1]}, KEEP)
        dead.put(one, "r1", 0, [letter(1)])
        dead.put(one, "r1", 1, [letter(5), letter(6)])
    with closing(DeadLetters(catalog, "u1", "orders")) as again:
        two = again.begin({"r2": [1], "r1": [1]}, KEEP)  # split 0 was committed, split 1 goes to another run
        again.put(two, "r2", 1, [letter(6), letter(5)])
    assert rows(catalog) == [("r1", 0, 1), ("r2", 1, 5), ("r2", 1, 6)]


def test_what_one_pipeline_does_leaves_the_letters_and_states_of_others(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "shop/orders")) as one, closing(DeadLetters(catalog, "u2", "shop2")) as two:
        tokens = [dead.begin({"r1": None}, KEEP) for dead in (one, two)]
        for dead, token in zip((one, two), tokens, strict=True):
            for run, split in (("r1", 0), ("r1", 1), ("r2", 0)):
                dead.put(token, run, split, [letter(split)])
            dead.remember_state("sink", f"of {token}")
        two.put(tokens[1], "r1", 0, [letter(7)], instead=True)
        others = [("r1", 0, 0), ("r1", 1, 1), ("r2", 0, 0)]
        assert (rows(catalog, name="shop2"), rows(catalog, name="shop")) == (
            [("r1", 0, 7), ("r1", 1, 1), ("r2", 0, 0)],
            others,
        )
        assert rows(catalog, name="shop2", run="r2") == [("r2", 0, 0)]
        two.begin({"r1": [1]}, KEEP)
        assert rows(catalog, name="shop2") == [("r1", 0, 7), ("r2", 0, 0)]
        two.begin({"r1": None}, KEEP)
        assert rows(catalog, name="shop2") == [("r2", 0, 0)]
        two.forget()
        assert (rows(catalog), two.known_state("sink")) == (others, None)
        assert one.known_state("sink") == f"of {tokens[0]}"
        one.put(tokens[0], "r3", 0, [letter(1)])


def test_no_other_run_takes_over_while_letters_are_written(catalog: str) -> None:
    """The fence is a lock until the letters are committed, so that who takes over drops them."""
    with closing(DeadLetters(catalog, "u1", "orders")) as dead, closing(DeadLetters(catalog, "u1", "orders")) as new:
        token = dead.begin({}, KEEP)
        new.session.execute("SET lock_timeout = '50ms'")
        dead.session.execute("BEGIN")
        dead.put(token, "r1", 0, [letter(1)])
        with pytest.raises(Unavailable):
            new.begin({"r1": None}, KEEP)
        dead.session.execute("COMMIT")
        new.begin({"r1": None}, KEEP)
    assert rows(catalog) == []


def test_the_commonest_letter_of_a_run_and_one_by_its_id(catalog: str) -> None:
    rare, often = Letter(9, "a", "rare", "", "{}"), [Letter(n, "cast", "often", f"of {n}", "{}") for n in (3, 4)]
    with closing(DeadLetters(catalog, "u1", "orders")) as dead, closing(DeadLetters(catalog, "u2", "other")) as other:
        token = dead.begin({}, KEEP)
        assert dead.commonest("r1") is None
        dead.put(token, "r1", 0, [rare, *often])
        dead.put(token, "r2", 0, [rare])
        other.put(other.begin({}, KEEP), "r1", 0, [Letter(n, "a", "rare", "", "{}") for n in range(3)])
        assert dead.commonest("r1") == ("cast", "often", "of 3")
        found = kept(dead)
        assert all(by_id(dead.session, one.id) == one for one in found)
        assert by_id(dead.session, "") is by_id(dead.session, "no") is None
        assert [one.run for one in letters(dead.session, ALL, 2)] == [one.run for one in found[:2]]
        dead.session.execute("UPDATE ops.dead_letters SET at = at - interval '1 hour' WHERE run = 'r1'")
        assert kept(dead)[0].run == "r2", "the newest first"


def kept(dead: DeadLetters) -> list[KeptLetter]:
    return letters(dead.session, ALL, 100)


def test_a_superseded_process_cannot_add_letters(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "orders")) as old, closing(DeadLetters(catalog, "u1", "orders")) as new:
        one = old.begin({"r1": None}, KEEP)
        two = new.begin({"r1": None}, KEEP)
        with pytest.raises(Fenced):
            old.put(one, "r1", 0, [letter(1)])
        new.put(two, "r1", 0, [letter(1)])
    assert rows(catalog) == [("r1", 0, 1)]


def test_old_letters_and_their_partitions_are_dropped(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "orders")) as dead:
        one = dead.begin({"r1": None}, KEEP)
        dead.put(one, "r1", 0, [letter(1)])
        with closing(connect(catalog, "tests", autocommit=True)) as session:
            session.execute(
                "CREATE TABLE ops.dead_letters_20200101 PARTITION OF ops.dead_letters "
                "FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')"
            )
            session.execute(
                "INSERT INTO ops.dead_letters SELECT '2020-01-01', gen_random_uuid(), pipeline, name, run, "
                "split, row, step, code, reason, values, '2020-01-01' FROM ops.dead_letters"
            )
        assert len(rows(catalog)) == 2
        dead.begin({"r2": [0]}, now() - datetime(2019, 1, 1, tzinfo=UTC))
        assert len(rows(catalog)) == 2
        dead.begin({"r2": [0]}, KEEP)
        assert rows(catalog) == [("r1", 0, 1)]
        with closing(connect(catalog, "tests")) as session:
            assert session.execute("SELECT to_regclass('ops.dead_letters_20200101')").fetchone() == (None,)


def test_partitions_are_made_and_dropped_by_one_process_at_a_time(catalog: str) -> None:
    with (
        closing(DeadLetters(catalog, "u1", "orders")) as dead,
        closing(connect(catalog, "tests", autocommit=True)) as other,
    ):
        token = dead.begin({}, KEEP)
        other.execute(
            "CREATE TABLE ops.dead_letters_20200101 PARTITION OF ops.dead_letters "
            "FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')"
        )
        other.execute(f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})")
        dead.session.execute("SET lock_timeout = '50ms'")
        with pytest.raises(Unavailable):
            dead.put(token, "r1", 0, [letter(1)])
        with pytest.raises(Unavailable):
            dead.begin({}, KEEP)
        other.execute("COMMIT")
        token = dead.begin({}, KEEP)
        dead.put(token, "r1", 0, [letter(1)])


def test_a_deleted_pipeline_has_no_letters_and_gets_none(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "orders")) as dead:
        one = dead.begin({"r1": None}, KEEP)
        dead.put(one, "r1", 0, [letter(1)])
        dead.forget()
        assert rows(catalog) == []
        with pytest.raises(Fenced):
            dead.put(one, "r1", 0, [letter(1)])


def test_letters_that_are_no_changes_are_not_compared_with_each_other(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "orders")) as dead:
        dead.put(dead.begin({"r1": [0]}, KEEP), "r1", 0, [letter(number) for number in range(6000)])
    with closing(connect(catalog, "tests")) as session:
        session.execute("UPDATE ops.dead_letters SET redrive = 't1'")
        session.execute("SET enable_hashjoin = off; SET enable_mergejoin = off; SET statement_timeout = '1s'")
        assert session.execute(_OVERTAKE, ("u1", "t1", "t1")).rowcount == 0
