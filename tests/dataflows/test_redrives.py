"""Dead letters are fixed and redriven: each row is written once and in order, whatever process dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.dataflows.conftest import Copy, Launchers
from tests.pairs import soon

ROWS = 600
BAD = 100
CHECKS = {"low": "price < 1000", "named": "name <> ''"}
STEPS = [{"name": "share", "set": {"price": "CAST(price + 0 / (id % 30) AS numeric(12,2))"}}]
FIX = {
    "set": {
        "price": "least(price, 999)",
        "name": "coalesce(nullif(name, ''), 'none')",
        "id": "CASE WHEN id % 30 = 0 THEN 10000 + id + 1 ELSE id END",
    }
}
"""Of each kind of bad row: a price that is too high, an empty name, and an id by which a step cannot divide."""
REPLAY = {"action": "replay"}


@dataclass
class Refused:
    """A pipeline whose first run has refused a hundred rows of three kinds."""

    copy: Copy
    catalog: str
    write: str
    version: str | None = None

    @property
    def source(self) -> str:
        return f"public.rows_{self.copy.number}"

    def task(self, run: str, order: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        found = self.copy.task(run, letters=self.catalog, **changes)
        spec = found["pipeline"]["spec"]
        spec["source"] = {"connection": "shop", "object": self.source, "cursor": {"field": "id", "ordered": True}}
        spec["sink"] |= {"key": ["id"]} if self.write == "merge" else {}
        spec["sink"] |= {"version": self.version} if self.version else {}
        spec |= {"transforms": STEPS, "validate": {"checks": CHECKS}, "errors": {"dead_letter": {"fail_above": 1.0}}}
        return found | ({"kind": "letters", "redrive": order} if order else {})

    def letters(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.catalog) as session:
            query = "SELECT (\"values\"->>'id')::int, step, reason, redrive FROM ops.dead_letters ORDER BY 1"
            return session.execute(query).fetchall()

    def ids(self) -> list[int]:
        """Return the target's ids in the order in which they were written."""
        return [row[0] for row in self.copy.session.execute(f"SELECT id FROM {self.copy.target} ORDER BY ctid")]

    def add(self, first: int, last: int) -> None:
        """Add rows to the source, of which a hundred of the first six hundred are bad."""
        self.copy.session.execute(
            f"INSERT INTO {self.source} SELECT g, CASE WHEN g <= 600 AND g %% 30 BETWEEN 1 AND 2 THEN '' ELSE 'n' END, "
            "CASE WHEN g <= 600 AND g %% 30 BETWEEN 3 AND 4 THEN 5000 ELSE 1 END, now() "
            "FROM generate_series(%s::int, %s) g WHERE g <= 600 OR g %% 30 > 0",
            (first, last),
        )


@pytest.fixture
def refused(copy: Callable[..., Copy], catalog: str, launchers: Launchers) -> Callable[..., Refused]:
    def make(write: str = "append", version: str | None = None) -> Refused:
        made = Refused(copy(write), catalog, write, version)
        made.copy.session.execute(
            f"CREATE TABLE {made.source} (id bigint PRIMARY KEY, name text, price numeric(12,2), at timestamptz)"
        )
        if write == "merge":
            made.copy.session.execute(f"ALTER TABLE {made.copy.target} ADD PRIMARY KEY (id)")
        made.add(1, ROWS)
        done = launchers.run(made.task("r1"))
        assert (done["status"], done["counters"]["dead"]) == ("completed", BAD), done["error"]
        return made

    return make


BADS = [id_ for id_ in range(1, ROWS + 1) if id_ % 30 <= 4]
FIXED = [id_ if id_ % 30 else 10001 + id_ for id_ in BADS]


@pytest.mark.parametrize("write", ["append", "merge"])
def test_letters_are_redriven_as_far_as_they_pass(
    refused: Callable[..., Refused], launchers: Launchers, write: str
) -> None:
    made = refused(write)
    done = launchers.run(made.task("d1", REPLAY | {"fix": {"set": {"name": "'named'"}, "where": "id % 30 < 3"}}))
    assert done["status"] == "completed", done["error"]
    found = done["letters"]
    assert (found["chosen"], found["written"], found["refused"], sum(found["groups"].values())) == (BAD, 40, 60, 40)
    left = made.letters()
    assert [(id_, redrive) for id_, *_, redrive in left] == [(id_, None) for id_ in BADS if id_ % 30 not in {1, 2}]
    assert {step for _, step, *_ in left} == {"share", "validate"}
    assert made.ids()[-40:] == [id_ for id_ in BADS if id_ % 30 in {1, 2}]
    done = launchers.run(made.task("d2", REPLAY | {"fix": FIX, "choice": {"column": "low"}}))
    assert done["letters"]["written"] == 40
    assert (
        launchers.run(made.task("d2", REPLAY | {"fix": FIX, "choice": {"column": "low"}}, attempt=2))["letters"]
        == done["letters"]
    )
    assert len(made.ids()) == ROWS - 20
    assert launchers.run(made.task("r2"))["counters"]["rows_in"] == 0


POINTS = ("redrive.claimed", "commit.before_fence:1", "commit.done:2", "publish.begin", "publish.moved",
          "redrive.written", "redrive.settled", "result.before")  # fmt: skip


@pytest.mark.parametrize("write", soon(("append", "merge"), "append"))
def test_a_hundred_letters_are_redriven_once_while_the_run_goes_on_and_all_are_killed(
    refused: Callable[..., Refused], launchers: Launchers, write: str
) -> None:
    made = refused(write)
    made.add(ROWS + 1, 2 * ROWS)
    run = made.task("r2", split_rows=100)
    pid = launchers.stopped(run, "commit.done:2")
    order = REPLAY | {"fix": FIX}
    for attempt, point in enumerate(POINTS, start=1):
        died = launchers.run(made.task("d1", order, attempt=attempt, split_rows=30), f"{point}=kill")
        assert "killed" in died, (point, died)
    os.kill(pid, signal.SIGKILL)
    launchers.wait(pid)
    done = launchers.run(made.task("d1", order, attempt=len(POINTS) + 1, split_rows=30))
    assert done["status"] == "completed", done["error"]
    assert (done["letters"]["written"], made.letters()) == (BAD, [])
    done = launchers.run(made.task("r2", attempt=2, split_rows=100))
    assert (done["status"], done["counters"]["rows_in"]) == ("completed", ROWS - 20)
    ids = made.ids()
    assert len(ids) == len(set(ids)) == 2 * ROWS - 20
    splits = [FIXED[at : at + 30] for at in range(0, BAD, 30)]  # a merge writes each of them in the order of its key
    expected = FIXED if write == "append" else [id_ for split in splits for id_ in sorted(split)]
    assert [id_ for id_ in ids if id_ in set(FIXED)] == expected


def test_an_older_row_never_replaces_a_newer_one(refused: Callable[..., Refused], launchers: Launchers) -> None:
    made = refused("merge", version="at")
    made.copy.session.execute(
        f"INSERT INTO {made.copy.target} VALUES (1, 'newer', 2, '2999-01-01'), (2, 'older', 2, '2000-01-01')"
    )
    done = launchers.run(made.task("d1", REPLAY | {"fix": {"set": {"name": "'fixed'"}}, "choice": {"column": "named"}}))
    assert done["status"] == "completed", done["error"]
    query = f"SELECT id, name FROM {made.copy.target} WHERE id IN (1, 2) ORDER BY id"
    assert made.copy.session.execute(query).fetchall() == [(1, "newer"), (2, "fixed")]


def test_letters_of_rows_that_are_read_again_are_held_back(
    refused: Callable[..., Refused], launchers: Launchers
) -> None:
    made = refused()
    made.copy.session.execute(f"INSERT INTO {made.source} SELECT g, '', 1, now() FROM generate_series(1001, 1200) g")
    pid = launchers.stopped(made.task("r2", split_rows=100), "commit.before_fence:1")
    assert len(made.letters()) == BAD + 200
    done = launchers.run(made.task("d1", REPLAY | {"fix": {"set": {"name": "'fixed'"}}, "choice": {"run": "r2"}}))
    assert [done["letters"][name] for name in ("written", "refused", "held_back")] == [97, 3, 100]
    os.kill(pid, signal.SIGKILL)
    launchers.wait(pid)
    assert launchers.run(made.task("r2", attempt=2, split_rows=100))["status"] == "completed"
    with psycopg.connect(made.catalog) as session:
        session.execute(
            "INSERT INTO catalog.runs (id, uid, status, reload, requested_at, changed) "
            "VALUES ('r3', %s, 'completed', '{\"rows\": \"all\"}', now() + interval '1 minute', 1)",
            (made.copy.uid,),
        )
    done = launchers.run(made.task("d2", REPLAY | {"fix": FIX}))
    assert (done["letters"]["chosen"], done["letters"]["held_back"]) == (0, BAD + 103)
