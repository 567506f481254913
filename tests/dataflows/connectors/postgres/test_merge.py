"""`merge` and `scd2` on PostgreSQL: by key, by version, and after crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import product
from typing import Any

import psycopg
import pytest

from dataflows.connectors.postgres.merge import STAGE, Merge
from dataflows.connectors.postgres.tables import TableName
from dataflows.data.tables import Column
from tests.dataflows.conftest import Copy, Launchers, result
from tests.pairs import all_pairs, soon

POINTS = [
    "prepare.planned", "commit.begin:0", "commit.mid_copy:1", "commit.before_fence:1", "commit.sent:1", "commit.done:1",
    "flow.end", "publish.begin", "publish.locked", "publish.moved", "publish.done", "result.before", "result.written",
]  # fmt: skip


@pytest.fixture
def keyed(copy: Callable[..., Copy]) -> Callable[..., tuple[Copy, Callable[..., dict[str, Any]]]]:
    """Make a pipeline that merges a new table ``public.versions`` into a target of its own."""

    def make(write: str = "merge", *, arrow: bool = False, cursor: str | None = None, **sink: Any) -> Any:
        made = copy("replace")
        made.session.execute("DROP TABLE IF EXISTS versions")
        made.session.execute(
            "CREATE TABLE versions (n bigint PRIMARY KEY, id int NOT NULL, name text, v int NOT NULL, gone bool)"
        )
        made.session.execute(f"DROP TABLE {made.target}")

        def task(run: str, **changes: Any) -> dict[str, Any]:
            found = made.task(run, **changes)
            spec = found["pipeline"]["spec"]
            spec["source"] = {"connection": "shop", "object": "public.versions"}
            if cursor:
                spec["source"]["cursor"] = {"field": cursor}
            fields = [{"target": name, "from": name} for name in ("id", "name", "v")]
            if arrow:
                fields[1] = {"target": "name", "sql": "lower(name)"}
            if sink.get("delete"):
                fields.append({"target": "gone", "from": "gone"})
            spec["mapping"] = {"fields": fields}
            spec["sink"] = {"connection": "lake", "object": made.target, "write": write, "key": ["id"], **sink}
            return found

        return made, task

    return make


def put(made: Copy, *rows: tuple[Any, ...]) -> None:
    with made.session.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO versions VALUES ((SELECT coalesce(max(n), 0) + 1 FROM versions), %s, %s, %s, %s)",
            [(*row, False)[:4] if len(row) == 3 else row for row in rows],
        )


def test_a_key_of_which_one_value_has_several_texts_is_refused_as_text(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed(version="v")
    made.session.execute(f"CREATE TABLE {made.target} (id int, name text PRIMARY KEY, v int)")
    run = task("r1")
    run["pipeline"]["spec"]["sink"]["key"] = ["name"]
    for kind in ("interval", "json", "numrange", "numeric[]", "numeric"):
        made.session.execute(f"ALTER TABLE versions DROP name, ADD name {kind}")
        error = launchers.run(run)["error"]
        assert error["code"] == "refused", error
        assert f"equal values of type {kind} may differ" in error["what"]
    made.session.execute("INSERT INTO versions (n, id, v, name) VALUES (1, 1, 1, 1.0), (2, 1, 2, 1.00)")
    made.session.execute(f"ALTER TABLE {made.target} ALTER name TYPE numeric USING NULL")
    completed(launchers, run)
    assert [row[::2] for row in rows(made)] == [(1, 2)], "a numeric is one row of its own"
    made.session.execute(f"TRUNCATE {made.target}")
    made.session.execute(f"ALTER TABLE {made.target} ALTER name TYPE text")
    fields = run["pipeline"]["spec"]["mapping"]["fields"]
    fields[1] = {"target": "name", "sql": "CAST(CAST(name AS numeric(38,9)) AS text)"}
    run["run"] = "r2"
    completed(launchers, run)
    assert rows(made) == [(1, "1.000000000", 2)], "one text, one row"


def rows(made: Copy, columns: str = "id, name, v") -> list[tuple[Any, ...]]:
    return made.session.execute(f"SELECT {columns} FROM {made.target} ORDER BY 1, 3").fetchall()


def completed(launchers: Launchers, task: dict[str, Any]) -> dict[str, Any]:
    done = launchers.run(task)
    assert done["status"] == "completed", done["error"]
    return done


@pytest.mark.parametrize("arrow", [False, True])
def test_the_last_of_a_key_wins_and_the_others_stay(keyed: Any, launchers: Launchers, arrow: bool) -> None:
    made, task = keyed(arrow=arrow, version="v")
    put(made, (1, "a", 1), (2, "b", 1), (1, "a2", 3), (1, "late", 2))
    assert completed(launchers, task("r1"))["counters"]["rows_in"] == 4
    assert rows(made) == [(1, "a2", 3), (2, "b", 1)]
    made.session.execute("TRUNCATE versions")
    put(made, (2, "old", 0), (3, "c", 1), (1, "a3", 3))
    completed(launchers, task("r2"))
    assert rows(made) == [(1, "a3", 3), (2, "b", 1), (3, "c", 1)]


def test_without_a_version_the_row_that_was_read_last_wins(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed()
    put(made, (1, "a", 9), (1, "b", 1))
    completed(launchers, task("r1"))
    assert rows(made) == [(1, "b", 1)]


def test_a_cursor_reads_what_is_new_and_is_the_version(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed(cursor="v")
    put(made, (1, "a", 1), (2, "b", 2))
    completed(launchers, task("r1"))
    put(made, (1, "a2", 3))
    done = completed(launchers, task("r2"))
    assert (done["counters"]["rows_in"], rows(made)) == (1, [(1, "a2", 3), (2, "b", 2)])


def test_flagged_rows_are_deleted_unless_the_target_has_a_newer_one(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed(version="v", delete="gone")
    put(made, (1, "a", 1), (2, "b", 5), (3, "c", 1))
    completed(launchers, task("r1"))
    made.session.execute("TRUNCATE versions")
    put(made, (1, "a", 2, True), (2, "b", 4, True), (4, "d", 1, True))
    completed(launchers, task("r2"))
    assert rows(made) == [(2, "b", 5), (3, "c", 1)]


def test_a_history_has_documents_that_cannot_be_compared(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed("scd2", version="v")
    made.session.execute("ALTER TABLE versions ALTER name TYPE json USING NULL")
    put(made, (1, "{}", 1), (1, "{}", 2), (1, "[]", 3))
    completed(launchers, task("r1"))
    assert rows(made, "id, name, valid_from, valid_to") == [(1, {}, 1, 3), (1, [], 3, None)]


def test_history_is_kept_once_for_each_change(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed("scd2", version="v")
    put(made, (1, "a", 1), (2, "b", 1))
    completed(launchers, task("r1"))
    made.session.execute("TRUNCATE versions")
    put(made, (1, "a2", 5), (2, "b", 5), (3, "c", 5))
    completed(launchers, task("r2"))
    completed(launchers, task("r3"))
    made.session.execute("TRUNCATE versions")
    put(made, (1, "older", 3))
    completed(launchers, task("r4"))
    history = rows(made, "id, name, valid_from, valid_to, is_current")
    assert history == [
        (1, "a", 1, 5, False),
        (1, "a2", 5, None, True),
        (2, "b", 1, None, True),
        (3, "c", 5, None, True),
    ]


def test_a_deleted_row_is_not_brought_back_by_an_older_one_in_a_later_split(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed(version="v", delete="gone")
    put(made, (0, "gone", 9, True), *((at, f"name {at}", 5) for at in range(1, 500)), (0, "older", 3))
    done = completed(launchers, task("r1"))
    assert done["counters"]["splits"] == 1
    assert made.value(f"SELECT count(*) FROM {made.target} WHERE id = 0") == 0


def test_a_source_with_unique_keys_has_several_splits(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed(delete="gone")
    put(made, *((at, f"name {at}", 5) for at in range(600)))
    made.session.execute("ALTER TABLE versions ADD UNIQUE (id)")
    order = task("r1")
    order["pipeline"]["spec"]["limits"] = {"workers": 2}
    assert completed(launchers, order)["counters"]["splits"] == 3


def test_a_merge_that_reads_everything_leaves_the_plan_of_a_dead_run(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed(version="v")
    put(made, *((at, f"name {at}", 5) for at in range(600)))
    assert "killed" in launchers.run(task("r1"), "commit.done:0=kill")
    counters = completed(launchers, task("r2"))["counters"]
    assert (counters["rows_in"], counters["splits"]) == (600, 3)
    assert made.leftovers() == 0


def test_a_late_row_does_not_change_closed_history(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed("scd2", version="v", delete="gone")
    for run, row in enumerate(((1, "a", 1), (1, "a", 5, True), (1, "late", 3), (1, "back", 7))):
        put(made, row)
        completed(launchers, task(f"r{run}"))
        made.session.execute("TRUNCATE versions")
    history = rows(made, "id, name, valid_from, valid_to, is_current")
    assert history == [(1, "a", 1, 5, False), (1, "back", 7, None, True)]


def test_two_writers_of_a_history_leave_one_current_row_of_a_key(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed("scd2", version="v")
    put(made, *((at % 100, f"name {at}", at) for at in range(1000)))
    order = task("r1")
    order["pipeline"]["spec"]["limits"] = {"workers": 2}
    completed(launchers, order)
    current = made.session.execute(f"SELECT id, name FROM {made.target} WHERE is_current ORDER BY 1").fetchall()
    assert current == [(key, f"name {900 + key}") for key in range(100)]
    overlaps = f"SELECT count(*) FROM {made.target} a JOIN {made.target} b USING (id) WHERE a.valid_from < b.valid_from"
    assert made.value(f"{overlaps} AND (a.valid_to IS NULL OR a.valid_to > b.valid_from)") == 0


@pytest.mark.parametrize("split_rows", [1, 2, 1000])
@pytest.mark.parametrize("workers", [1, 2])
def test_each_change_of_a_run_is_a_row_of_the_history(
    keyed: Any, launchers: Launchers, workers: int, split_rows: int
) -> None:
    made, task = keyed("scd2", version="v", delete="gone")
    put(
        made,
        (1, "a", 1),
        (1, "b", 5),
        (1, "a", 3),
        (1, "a", 4),
        (2, "x", 1),
        (2, "x", 2, True),
        (2, "x", 6),
        (1, "b", 5),
    )
    order = task("r1", split_rows=split_rows)
    order["pipeline"]["spec"]["limits"] = {"workers": workers}
    completed(launchers, order)
    put(made, (1, "c", 7), (1, "c", 8, True), (1, "d", 9))
    completed(launchers, task("r2"))
    assert rows(made, "id, name, valid_from, valid_to, is_current") == [
        (1, "a", 1, 5, False),
        (1, "b", 5, 7, False),
        (1, "c", 7, 8, False),
        (1, "d", 9, None, True),
        (2, "x", 1, 2, False),
        (2, "x", 6, None, True),
    ]


def test_writers_of_a_history_take_turns(keyed: Any) -> None:
    """The second writer waits for the commit of the first, and then sees its rows."""
    made, _ = keyed("scd2", version="v")
    into = TableName.parse(made.target)
    made.session.execute(
        f"CREATE TABLE {into.sql} (id int, v int, valid_from int, valid_to int, is_current bool, PRIMARY KEY (id, v))"
    )
    merge = Merge(into, (Column("id", "integer"), Column("v", "integer")), ("id",), "v", history=True)
    with psycopg.connect(made.dsn) as one, psycopg.connect(made.dsn) as other:
        for session, version in ((one, 1), (other, 2)):
            session.execute(merge.begin)
            session.execute(f"INSERT INTO {STAGE.sql} (id, v) VALUES (1, {version})")
        one.execute(merge.end)
        other.execute("SET lock_timeout = 100")
        with pytest.raises(psycopg.errors.LockNotAvailable), other.transaction():
            other.execute(merge.end)
        one.commit()
        other.execute(merge.end)
    assert rows(made, "id, v, valid_to") == [(1, 1, None)]


def test_a_history_needs_its_columns(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed("scd2", version="v")
    made.session.execute(f"CREATE TABLE {made.target} (id int, name text, v int, valid_from int, is_current bool)")
    assert "valid_to" in launchers.run(task("r1"))["error"]["what"]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ("valid_from smallint, valid_to int, is_current bool", "`valid_from`"),
        ("valid_from int, valid_to int NOT NULL, is_current bool", "`valid_to`"),
        ("valid_from int, valid_to int, is_current text", "`is_current`"),
        ("valid_from int, valid_to int, is_current bool GENERATED ALWAYS AS (valid_to IS NULL) STORED", "`is_current`"),
    ],
)
def test_a_history_whose_columns_cannot_hold_it_is_refused(
    keyed: Any, launchers: Launchers, history: str, said: str
) -> None:
    made, task = keyed("scd2", version="v")
    made.session.execute(f"CREATE TABLE {made.target} (id int, name text, v int, {history})")
    error = launchers.run(task("r1"))["error"]
    assert (error["code"], said in error["what"]) == ("schema.mismatch", True), error


@pytest.mark.parametrize("column", ["v", "id"])
def test_an_identity_that_nobody_may_update_is_refused_outside_of_the_key(
    keyed: Any, launchers: Launchers, column: str
) -> None:
    made, task = keyed()
    kinds = dict.fromkeys(("id", "v"), "int") | {column: "int GENERATED ALWAYS AS IDENTITY"}
    made.session.execute(f"CREATE TABLE {made.target} (id {kinds['id']} PRIMARY KEY, name text, v {kinds['v']})")
    put(made, (7, "a", 1))
    done = launchers.run(task("r1"))
    if column == "id":
        assert done["status"] == "completed", done["error"]
        return
    assert (done["error"]["code"], "`v`" in done["error"]["what"]) == ("refused", True), done


def test_keys_that_the_server_makes_are_written_as_they_come(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed()
    made.session.execute(
        f"CREATE TABLE {made.target} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, v int)"
    )
    put(made, (7, "a", 1))
    completed(launchers, task("r1"))
    assert rows(made) == [(7, "a", 1)]


CHANGES = {
    "drops": "IF new.id = 2 THEN RETURN NULL; END IF; RETURN new;",
    "changes": "IF new.id = 2 THEN new.name := 'other'; END IF; RETURN new;",
    "leaves": "RETURN new;",
}


@all_pairs(write=["merge", "scd2"], there=[False, True], body=list(CHANGES))
def test_a_trigger_that_drops_or_changes_merged_rows_is_named(
    keyed: Any, launchers: Launchers, write: str, there: bool, body: str
) -> None:
    made, task = keyed(write, version="v", delete="gone")
    put(made, *([(1, "a", 1), (2, "b", 1)] if there else [(1, "a", 1)]))
    completed(launchers, task("r1"))
    before = rows(made)
    put(made, (1, "a", 2), (2, "c", 2), (3, None, 1, True))
    made.session.execute(
        f"CREATE OR REPLACE FUNCTION alter_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {CHANGES[body]} END $$;"
        f"CREATE TRIGGER alters_rows BEFORE INSERT OR UPDATE ON {made.target} FOR EACH ROW EXECUTE FUNCTION alter_row()"
    )
    done = launchers.run(task("r2"))
    if body == "leaves":
        assert done["status"] == "completed", done["error"]
        assert (2, "c", 2) in rows(made)
    else:
        assert "trigger alters_rows" in done["error"]["what"], done
        assert rows(made) == before


def test_a_rule_that_drops_merged_rows_is_named(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed()
    put(made, (1, "a", 1))
    completed(launchers, task("r1"))
    made.session.execute(f"CREATE RULE alters_rows AS ON INSERT TO {made.target} WHERE new.id = 2 DO INSTEAD NOTHING")
    put(made, (2, "b", 1))
    assert "rule alters_rows" in launchers.run(task("r2"))["error"]["what"]


def test_a_trigger_that_keeps_a_row_from_being_deleted_is_named(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed(version="v", delete="gone")
    put(made, (1, "a", 1))
    completed(launchers, task("r1"))
    made.session.execute(
        "CREATE OR REPLACE FUNCTION spare() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        f"CREATE TRIGGER sparer BEFORE DELETE ON {made.target} FOR EACH ROW EXECUTE FUNCTION spare()"
    )
    put(made, (1, "a", 2, True))
    assert "trigger sparer" in launchers.run(task("r2"))["error"]["what"]


def _in_one_split(write: str, point: str) -> str:
    """Return the same failpoint for a run of one split, as `scd2` has if its source may contain a key several times."""
    return point.replace(":1", ":0") if write == "scd2" else point


@pytest.mark.parametrize(
    ("write", "point"),
    soon(
        product(("merge", "scd2"), POINTS),
        *product(("merge",), POINTS[::2]),
        *product(("scd2",), POINTS[1::2]),
    ),
)
def test_a_merge_killed_anywhere_ends_like_an_uninterrupted_one(
    keyed: Any, launchers: Launchers, write: str, point: str
) -> None:
    made, task = keyed(write, version="v")
    put(made, *((at % 250, f"name {at}", at) for at in range(600)))
    assert "killed" in launchers.run(task("r1"), f"{_in_one_split(write, point)}=kill")
    assert completed(launchers, task("r1", attempt=2))["counters"]["rows_in"] == 600
    key, other = ("id, name, v", "") if write == "merge" else ("id, name, v", "WHERE is_current")
    found = made.session.execute(f"SELECT {key} FROM {made.target} {other} ORDER BY 1").fetchall()
    newest = {at % 250: (at % 250, f"name {at}", at) for at in range(600)}
    assert found == [newest[key] for key in sorted(newest)]


@pytest.mark.parametrize("write", ["merge", "scd2"])
def test_a_zombie_merges_nothing(keyed: Any, launchers: Launchers, write: str) -> None:
    made, task = keyed(write, version="v")
    put(made, *((at, f"name {at}", at) for at in range(600)))
    zombie = task("r1")
    pid = launchers.stopped(zombie, _in_one_split(write, "commit.before_fence:1"))
    completed(launchers, task("r1", attempt=2))
    made.session.execute("DELETE FROM versions")  # not TRUNCATE: the zombie locks its source
    put(made, *((at, "newer", 1000) for at in range(600)))
    completed(launchers, task("r2"))
    before = rows(made)
    os.kill(pid, signal.SIGCONT)
    launchers.wait(pid)
    assert result(zombie)["status"] != "completed"
    assert rows(made) == before


@pytest.mark.parametrize(
    ("sink", "words"),
    [
        ({"version": "nothing"}, "spec.sink.version"), ({"key": ["idd"]}, "spec.sink.key"),
        ({"write": "scd2"}, "needs a version"), ({"delete": "name2"}, "spec.sink.delete"),
    ],
)  # fmt: skip
def test_an_impossible_merge_is_refused_before_anything_is_changed(
    keyed: Any, launchers: Launchers, sink: dict[str, Any], words: str
) -> None:
    made, task = keyed()
    put(made, (1, "a", 1))
    order = task("r1")
    order["pipeline"]["spec"]["sink"] |= sink
    error = launchers.run(order)["error"]
    assert words in f"{error['where']}: {error['what']}"
    assert made.value(f"SELECT to_regclass('{made.target}')") is None


def test_a_history_without_a_version_takes_its_times_from_the_cursor(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed("scd2", cursor="v")
    put(made, (1, "a", 1))
    completed(launchers, task("r1"))
    assert made.session.execute(f"SELECT id, valid_from, is_current FROM {made.target}").fetchall() == [(1, 1, True)]


def test_a_target_without_a_unique_key_is_refused(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed()
    made.session.execute(f"CREATE TABLE {made.target} (id int, name text, v int)")
    error = launchers.run(task("r1"))["error"]
    assert 'ADD PRIMARY KEY ("id")' in error["hint"]


def test_two_workers_need_a_version(keyed: Any, launchers: Launchers) -> None:
    made, task = keyed()
    put(made, *((at % 100, f"name {at}", at) for at in range(600)))
    order = task("r1")
    order["pipeline"]["spec"]["limits"] = {"workers": 2}
    assert "limits.workers" in launchers.run(order)["error"]["hint"]
    order = task("r2")
    order["pipeline"]["spec"]["limits"] = {"workers": 2}
    order["pipeline"]["spec"]["sink"]["version"] = "v"
    completed(launchers, order)
    assert rows(made) == [(key, f"name {500 + key}", 500 + key) for key in range(100)]


@pytest.mark.parametrize("write", ["merge", "scd2"])
@pytest.mark.parametrize("kind", ["text COLLATE w.loose", "text", "w.code"])
def test_a_key_that_treats_different_texts_as_equal_is_refused(
    keyed: Any, launchers: Launchers, write: str, kind: str
) -> None:
    made, task = keyed(write, version="v")
    made.session.execute(
        "CREATE COLLATION IF NOT EXISTS w.loose (provider = libc, locale = 'C'); SET allow_system_table_mods = on;"
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose';"  # a build may lack ICU
        f"DROP DOMAIN IF EXISTS w.code CASCADE; CREATE DOMAIN w.code AS text COLLATE w.loose;"
        f"CREATE TABLE {made.target} (id {kind} NOT NULL, name text, v int, valid_from int, valid_to int, "
        "is_current bool)"
    )
    columns = "id COLLATE w.loose, valid_from" if write == "scd2" else "id COLLATE w.loose"
    made.session.execute(f"CREATE UNIQUE INDEX ON {made.target} ({columns})")
    order = task("r1")
    order["pipeline"]["spec"]["mapping"]["fields"][0] = {"target": "id", "sql": "CAST(id AS text)"}
    error = launchers.run(order)["error"]
    assert (error["code"], "the key `id` treats different texts as equal (loose)" in error["what"]) == (
        "refused", True,
    ), error  # fmt: skip
