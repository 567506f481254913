"""Promises of a target of changes: each split leaves the rows that the source had then, and none is half applied."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dataflows.connectors import PenstockError, Split
from dataflows.connectors.abilities import ChangeTarget, LastKept
from dataflows.connectors.conformance.case import Case, Pipeline, Row
from dataflows.data.changes import DELETE, TRUNCATE, keep

SPLITS = 25


@pytest.fixture
def pipeline(case: Case) -> Iterator[Pipeline]:
    """Fixture: a pipeline of changes into the object under test, which is dropped afterwards."""
    made = replace(case.pipeline("merge"), changes=True)
    with made.target() as target:
        if not (isinstance(target, ChangeTarget) and target.applies_changes):
            pytest.skip("it applies no changes")
        if isinstance(target, LastKept) and target.keeps_last:
            pytest.skip("it cannot keep a value that is not sent")
    yield made
    made.drop()


def changed(chance: random.Random, rows: dict[int, Row]) -> list[Row]:
    """Change the rows at random; return the changes of one split, at most one for each key."""
    before, found = dict(rows), list[Row]()
    empties = chance.random() < 1 / 8
    if empties:
        rows.clear()
        found.append((None, None, None, TRUNCATE))
    free = chance.sample(range(12), 8)
    while len(free) > 1:
        one, other = free.pop(), free.pop()
        name, price = chance.choice([None, "", "größe", f"n{one}"]), one / 4
        if one in before and not empties and chance.random() < 1 / 2:  # values of `name` are not sent
            key = chance.choice([one, other])
            if key != one:
                del rows[one]
                found.append((one, None, None, DELETE))
            rows[key] = (key, before[one][1], price)
            found.append((key, None, price, keep(["name"], None if key == one else [str(one)])))
        elif chance.random() < 1 / 3:
            rows.pop(one, None)
            found.append((one, None, None, DELETE))
        else:
            rows[one] = (one, name, price)
            found.append((one, name, price, None))
    later = found[int(empties) :]
    chance.shuffle(later)
    return [*found[: int(empties)], *later]


def test_random_changes_leave_the_rows_of_a_model(pipeline: Pipeline) -> None:
    chance, rows = random.Random(5), dict[int, Row]()  # noqa: S311 - no secret
    with pipeline.run("r1", [Split(at) for at in range(SPLITS)]) as run, run.writer() as writer:
        for at in range(SPLITS):
            some = changed(chance, rows)
            writer.write(run.chunk(at, some))
            run.end(writer, at, len(some))
            assert run.committed[-1].rows_out == len(some)
            if at % 5 == 0 or at == SPLITS - 1:
                assert pipeline.rows() == sorted(rows.values())


def test_a_change_of_a_row_that_is_not_there_leaves_the_split_out(pipeline: Pipeline) -> None:
    first: list[Row] = [(1, "one", 1.0, None), (2, "two", 2.0, None)]
    with pipeline.run("r1", [Split(0), Split(1)]) as run:
        run.write(0, first)
        with pytest.raises(PenstockError, match="leaves out values"):
            run.write(1, [(1, None, None, DELETE), (3, None, 3.0, keep(["name"]))])
        assert pipeline.rows() == [one[:3] for one in first]
        run.write(1, [(1, None, None, DELETE), (3, None, 3.0, keep(["name"], ["1"]))])
    assert pipeline.rows() == [(2, "two", 2.0), (3, "one", 3.0)]
