from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import pytest

from catalog.letters import DeadLetters, Letter, letters
from penstock.errors import Fenced
from penstock.postgres import connect

KEEP = timedelta(days=30)


def letter(row: int) -> Letter:
    return Letter(row, "cast", "bad_text", "`price` is no numeric(12,2)", '{"id": 1, "name": "ä\\n\\t\\\\"}')


def rows(dsn: str, **where: str) -> list[tuple[str, int, int]]:
    with closing(connect(dsn, "tests")) as session:
        return sorted((it.run, it.split, it.row) for it in letters(session, where.get("name"), where.get("run"), 100))


def test_letters_round_trip(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "orders")) as dead:
        one = dead.begin({"r1": [0, 1]}, KEEP)
        dead.put(one, "r1", 0, [letter(3), letter(4)])
    with closing(connect(catalog, "tests")) as session:
        found = letters(session, "orders", "r1", 10)
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
        dead.begin({"r2": [0]}, KEEP)
        assert rows(catalog) == [("r1", 0, 1)]
        with closing(connect(catalog, "tests")) as session:
            assert session.execute("SELECT to_regclass('ops.dead_letters_20200101')").fetchone() == (None,)


def test_a_deleted_pipeline_has_no_letters_and_gets_none(catalog: str) -> None:
    with closing(DeadLetters(catalog, "u1", "orders")) as dead:
        one = dead.begin({"r1": None}, KEEP)
        dead.put(one, "r1", 0, [letter(1)])
        dead.forget()
        assert rows(catalog) == []
        with pytest.raises(Fenced):
            dead.put(one, "r1", 0, [letter(1)])
