"""What changes rows at the source without a change that says so: refused by name, with the way to rebuild."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dataflows.connectors.postgres.cdc.fold import Fold
from dataflows.connectors.postgres.cdc.pgoutput import Change
from penstock.errors import Refused
from tests.dataflows.connectors.postgres.cdc.conftest import Changes
from tests.dataflows.connectors.postgres.cdc.test_columns import APPLY, ended
from tests.dataflows.connectors.postgres.cdc.test_fold import LAYOUT
from tests.pairs import soon

pytestmark = pytest.mark.xdist_group("cdc")

REBUILD = "`penstock run NAME --from earliest --reset`"
FULL = "ALTER TABLE {s} REPLICA IDENTITY FULL"
SWAP = "ALTER TABLE {s} RENAME name TO x; ALTER TABLE {s} RENAME body TO name; ALTER TABLE {s} RENAME x TO body"
RENAMED = "had another name for a time"
REWRITTEN = "rows were rewritten"


CHANGES = [
    (FULL, "ALTER TABLE {s} DROP CONSTRAINT {n}_pkey", "the key is not unique any more"),
    (FULL, "ALTER TABLE {s} DROP CONSTRAINT {n}_pkey, ADD PRIMARY KEY (id) DEFERRABLE", "the key is not unique"),
    (FULL, "ALTER TABLE {s} DROP CONSTRAINT {n}_pkey, ADD PRIMARY KEY (id)", "or was not for a time"),
    ("", "ALTER TABLE {s} RENAME name TO x; UPDATE {s} SET price = 9; ALTER TABLE {s} RENAME x TO name", RENAMED),
    (
        "",
        f"{SWAP}; UPDATE {{s}} SET price = 9; {SWAP}",
        RENAMED,
    ),
    ("", "ALTER TABLE {s} ALTER price TYPE numeric(12,2) USING price * 100", REWRITTEN),
    ("", "CREATE TABLE {s}_child () INHERITS ({s})", "a table inherits from it now"),
    ("", "TRUNCATE {s}; INSERT INTO {s} VALUES (1); ALTER TABLE {s} ALTER name TYPE text USING name || '?'", REWRITTEN),
]


@pytest.mark.parametrize(("before", "statement", "what"), soon(CHANGES, *(CHANGES[at] for at in (0, 2, 4, 5, 6))))
def test_rows_that_change_without_a_change(
    changes: Callable[..., Changes], before: str, statement: str, what: str
) -> None:
    made = changes(rows=5)
    made.do(*([before] if before else []))
    made.followed()
    block = statement.replace("{n}", made.source.removeprefix("public."))
    blocks = [f"BEGIN; {block}; COMMIT"] if what == RENAMED else block.split("; ")
    task = made.task("r2")
    pid = made.launchers.start(task)
    made.do("INSERT INTO {s} (id) VALUES (-1)")
    made.until("SELECT EXISTS (SELECT FROM {t} WHERE id = -1)")
    made.do(*blocks, "INSERT INTO {s} (id) VALUES (-2)")
    error = made.launchers.ended(pid, task)["error"]
    again = made.launchers.run(made.task("r3"))["error"]
    assert what in error["what"], error
    assert REBUILD in error["hint"]
    assert not error["transient"]
    assert not again["transient"]
    assert made.value("SELECT count(*) FROM {t} WHERE id = -2") == 0


@pytest.mark.parametrize(
    ("statements", "what"),
    [
        (("ALTER TABLE {s} ADD u uuid DEFAULT gen_random_uuid()", "ALTER TABLE {s} ALTER u DROP DEFAULT"), REWRITTEN),
        (("ALTER TABLE {s} ALTER g DROP EXPRESSION",), "it was there before"),
        (
            (
                "ALTER TABLE {s} ADD u text",
                "UPDATE {s} SET u = 'old'",
                "ALTER TABLE {s} DROP u",
                "ALTER TABLE {s} ADD u text",
            ),
            "it is new, and so was a column that was dropped since",
        ),
    ],
)
def test_a_new_column_of_which_rows_have_values_is_refused(
    changes: Callable[..., Changes], statements: tuple[str, ...], what: str
) -> None:
    made = changes(
        "id int PRIMARY KEY, name text, price numeric(12,2), body text, g int GENERATED ALWAYS AS (id * 2) STORED"
    )
    task = made.task(schema=APPLY)
    pid = made.launchers.start(task)
    made.until_same("id, name, price, body")
    made.stop(pid, task)
    made.do(*statements, "INSERT INTO {s} (id) VALUES (1000)")
    error = made.launchers.run(made.task("r2", schema=APPLY))["error"]
    assert what in error["what"], error
    assert not error["transient"]


def test_an_emptied_table_is_followed_though_it_has_a_new_file(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed()
    made.do("TRUNCATE {s}", "INSERT INTO {s} (id) VALUES (1)", "ALTER TABLE {s} ALTER name SET STATISTICS 5")
    made.followed("r2")
    made.do("INSERT INTO {s} (id) VALUES (2)", "ANALYZE {s}", "TRUNCATE {s}", "INSERT INTO {s} (id) VALUES (3)")
    made.followed("r3")


def test_values_that_are_computed_from_are_not_left_out(changes: Callable[..., Changes]) -> None:
    made = changes(rows=5)
    made.do(FULL, "ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", "UPDATE {s} SET body = repeat('x', 9000)")
    steps = [{"name": "c", "set": {"name": "coalesce(body, 'LOST')"}}]
    task = made.task(transforms=steps)
    pid = made.launchers.start(task)
    made.until_same("id, price")
    made.stop(pid, task)
    error = ended(made, "ALTER TABLE {s} REPLICA IDENTITY DEFAULT; UPDATE {s} SET price = 7", transforms=steps)
    assert (error["transient"], error["what"]) == (True, "the table's replica identity is FULL no more")
    made.do(FULL)
    error = made.launchers.run(made.task("r3", transforms=steps))["error"]
    assert "was not FULL then" in error["what"], error
    assert made.value("SELECT count(*) FROM {t} WHERE name = 'LOST' AND id > 0") == 0


def test_a_column_named_as_our_own_is_refused(changes: Callable[..., Changes]) -> None:
    made = changes("id int PRIMARY KEY, _penstock_change jsonb", rows=0)
    assert "has a column `_penstock_change` of its own" in made.launchers.run(made.task())["error"]["what"]


def test_a_fold_refuses_two_rows_of_one_key() -> None:
    fold, one, two = Fold("a table"), (b"1", b"a", b"x"), (b"2", b"b", b"y")
    fold.add(Change(1, "update", (b"2", *one[1:]), one, whole=True), LAYOUT)
    with pytest.raises(Refused, match="two rows had the same key"):
        fold.add(Change(1, "update", (b"1", *two[1:]), two, whole=True), LAYOUT)
    with pytest.raises(Refused, match="two rows had the same key"):
        fold.add(Change(1, "insert", two), LAYOUT)


@pytest.mark.parametrize("mode", ["stream", "batch"])
def test_a_table_that_another_pipeline_writes_to_is_not_emptied(changes: Callable[..., Changes], mode: str) -> None:
    one, two = changes(rows=5), changes(rows=1)
    if mode == "stream":
        one.followed()
    else:
        assert one.launchers.run(one.task(mode="batch", limits={}))["status"] == "completed"
    task = two.task()
    task["pipeline"]["spec"]["sink"]["object"] = one.target
    error = two.launchers.run(task)["error"]
    assert f"another pipeline writes to {one.target}" in error["what"]
    assert one.differences() == 0


def test_of_two_streams_into_one_table_that_start_together_one_is_refused(changes: Callable[..., Changes]) -> None:
    one, two = changes(rows=5), changes(rows=3)
    task = two.task()
    task["pipeline"]["spec"]["sink"]["object"] = one.target
    late = two.launchers.stopped(task, "prepare.state_made")
    first = one.task()
    pid = one.launchers.start(first)
    one.until_same()
    error = two.launchers.woken(late, task)["error"]
    assert f"another pipeline writes to {one.target}" in error["what"]
    assert one.differences() == 0
    one.stop(pid, first)
    one.do("DELETE FROM {s} WHERE id = 1")
    one.followed("r2")


@pytest.mark.parametrize(
    ("write", "what"), [("replace", "its rows would be deleted"), ("merge", "as a mirror of its source")]
)
def test_a_batch_into_the_mirror_of_a_stream_is_refused(changes: Callable[..., Changes], write: str, what: str) -> None:
    one, two = changes(rows=5), changes(rows=3)
    one.followed()
    key = {"key": ["id"]} if write == "merge" else {}
    sink = {"connection": "lake", "object": one.target, "write": write, **key}
    error = two.launchers.run(two.task(mode="batch", limits={}, sink=sink))["error"]
    assert what in error["what"], error
    assert one.differences() == 0
