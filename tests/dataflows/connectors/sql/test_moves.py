# ruff: noqa: E501 - tables of statements, one a line; what is parametrized comes by position
"""Moves between database files: each row once, whatever is killed or stopped; readers see complete rows at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from dataflows.connectors.contract import PublishOrder, WriterOrder
from dataflows.connectors.state import RunRow
from dataflows.data import positions
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.splits import Split
from dataflows.data.tables import Column
from dataflows.runs.job import Job
from dataflows.runs.survey import opened
from penstock.errors import Fenced, Unavailable
from penstock.failpoints import POINTS
from tests.dataflows.conftest import task_of
from tests.pairs import all_pairs, soon

if TYPE_CHECKING:
    from tests.dataflows.connectors.sql.conftest import File, Move

    Make = Callable[..., Move]

PAIRS = [("sqlite", "duckdb"), ("duckdb", "sqlite")]


@pytest.mark.parametrize(
    ("source", "sink", "write"),
    soon(
        [(*pair, write) for pair in PAIRS for write in ("append", "replace", "merge")],
        ("sqlite", "duckdb", "append"),
        ("duckdb", "sqlite", "replace"),
        ("sqlite", "duckdb", "merge"),
    ),
)
def test_all_rows_and_then_only_new_ones(move: Make, source: str, sink: str, write: str) -> None:
    made = move(source, sink, write)
    assert made.completed("r1")["rows_out"] == 600
    assert made.rows() == made.wanted()
    assert made.completed("r1")["rows_out"] == 600  # from the recorded result
    made.add(5)
    assert made.completed("r2")["rows_in"] == (605 if write == "replace" else 5)
    assert made.completed("r3")["rows_in"] == (605 if write == "replace" else 0)
    assert made.rows() == made.wanted()
    assert made.leftovers() == []


@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_all_rows_are_read_again_and_then_only_new_ones(move: Make, source: str, sink: str) -> None:
    made = move(source, sink, "append")
    made.completed("r1")
    made.sink.rows("UPDATE copied SET name = 'damaged' WHERE id < 100")
    found = made.launchers.run(made.task("r2", reload={"rows": "all"}))
    assert (found["status"], found["counters"]["rows_out"]) == ("completed", 600), found
    assert made.rows() == made.wanted()
    made.add(4)
    assert made.completed("r3")["rows_in"] == 4
    assert (made.rows(), made.leftovers()) == (made.wanted(), [])
    window = {"rows": "window", "from": "1", "to": "9"}
    error = made.launchers.run(made.task("r4", reload=window))["error"]
    assert (error["code"], error["what"]) == ("refused", f"rows in {sink} cannot be replaced by windows")


CUTS = tuple(
    cut
    for point in POINTS
    for cut in ([f"{point}:{at}" for at in range(3)] if point.startswith(("read.", "commit.")) else [point])
)
PUBLISHED = {"publish.done", "result.before", "result.written"}


def survives(made: Move, cut: str, *, same: bool) -> None:
    if cut == "prepare.shadow_made" and made.write != "replace":
        return
    before = made.wanted()
    if made.write == "replace":  # the old rows stay readable until the new ones are published
        made.completed("r0")
    made.add(2)
    assert made.run("r1", f"{cut}=kill") == {"killed": signal.SIGKILL}, cut
    if made.write == "replace" and cut not in PUBLISHED:
        assert made.rows() == before, cut
    if not same:
        made.add(3)
    counters = made.completed("r1" if same else "r2")
    assert made.rows() == made.wanted(), cut
    assert counters["rows_in"] == counters["rows_out"] + counters["filtered"] + counters["dead"]
    if same:
        assert counters["rows_in"] == len(made.wanted()), cut
    made.completed("r3")
    assert made.rows() == made.wanted(), cut
    assert made.leftovers() == [], cut


QUICK = [
    ("duckdb", "sqlite", "append", True, ("prepare.begin", "commit.begin:2", "publish.done", "result.before")),
    ("duckdb", "sqlite", "replace", False, ("commit.copied:2", "publish.begin", "publish.moved")),
    ("duckdb", "sqlite", "merge", True, ("commit.done:2", "flow.end", "publish.locked", "result.written")),
    ("sqlite", "duckdb", "append", False, ("prepare.generation_raised", "commit.mid_copy:2", "commit.done:1", "publish.locked")),
    ("sqlite", "duckdb", "replace", True, ("commit.before_fence:2", "publish.begin", "publish.moved", "result.written")),
    ("sqlite", "duckdb", "merge", False, ("read.block:0", "commit.sent:2", "publish.done", "result.before")),
]  # fmt: skip


def test_each_point_after_the_last_split_is_a_cut_of_each_kind() -> None:
    late = [cut for cut in CUTS if cut.startswith(("publish.", "result."))]
    for kind in ("sqlite", "duckdb"):
        cuts = [cut for _, sink, *_, some in QUICK if sink == kind for cut in some]
        assert [cut for cut in late if cut not in cuts] == []
        assert len(cuts) >= 10


@pytest.mark.parametrize(("source", "sink", "write", "same", "cuts"), QUICK)
def test_killed_at_a_failpoint_and_run_again(
    move: Make, source: str, sink: str, write: str, same: bool, cuts: tuple[str, ...]
) -> None:
    for cut in cuts:
        survives(move(source, sink, write), cut, same=same)


@pytest.mark.chaos
@pytest.mark.parametrize(("source", "sink"), PAIRS)
@pytest.mark.parametrize("write", ["append", "replace", "merge"])
@pytest.mark.parametrize("same", [True, False])
def test_killed_at_every_cut_of_every_kind(move: Make, source: str, sink: str, write: str, same: bool) -> None:
    for cut in CUTS:
        survives(move(source, sink, write), cut, same=same)
    if sink == "sqlite":
        for point in (*FREE, *HOLDING):
            sleeps_through(move(source, sink, write), point)


FREE = (
    "prepare.generation_raised", "prepare.planned", "read.block:1", "commit.begin:0", "commit.mid_copy:1",
    "commit.copied:1", "commit.sent:1", "flow.end", "publish.begin",
)  # fmt: skip
"""Failpoints at which a stopped process does not lock an SQLite file."""
HOLDING = ("prepare.claiming", "commit.before_fence:1", "publish.locked", "publish.moved")
"""Failpoints at which it does."""


def sleeps_through(made: Move, point: str) -> bool:
    """Stop a run at a failpoint, let its successor run, and resume it; return whether the successor could run.

    It cannot while a thread of the stopped run is in a transaction, which locks the file.
    """
    task = made.task("r1")
    zombie = made.launchers.stopped(task, point)
    successor = made.run("r2", without=("patience",))
    if successor["status"] == "completed":
        assert made.rows() == made.wanted(), point
        late = made.launchers.woken(zombie, task)
        assert late["status"] in {"fenced", "failed"}, (point, late)
    else:
        kept_out(successor)
        assert made.launchers.woken(zombie, task)["status"] == "completed", point
    assert made.rows() == made.wanted(), point
    made.completed("r3")
    assert made.rows() == made.wanted(), point
    assert made.leftovers() == [], point
    return bool(successor["status"] == "completed")


def kept_out(found: dict[str, Any]) -> None:
    assert found["status"] == "failed"
    assert found["error"]["transient"], found["error"]
    assert found["error"]["code"] == "unavailable", found["error"]


@pytest.mark.parametrize("write", ["append", "replace"])
def test_a_zombie_without_a_lock_is_fenced_when_it_resumes(move: Make, write: str) -> None:
    points = FREE[write == "replace" :: 4]
    ran = [sleeps_through(move("duckdb", "sqlite", write), at) for at in points]
    # Another thread may be in a transaction when the process stops, seldom each time.
    assert any(ran) or any(sleeps_through(move("duckdb", "sqlite", write), at) for at in points * 3)


def test_a_zombie_that_locks_the_file_blocks_others_until_it_resumes(move: Make) -> None:
    assert not sleeps_through(move("duckdb", "sqlite", "append"), "commit.before_fence:1")
    made = move("sqlite", "duckdb", "replace")
    task = made.task("r1")
    zombie = made.launchers.stopped(task, "commit.mid_copy:1")
    kept_out(made.run("r2", without=("patience",)))
    assert made.launchers.woken(zombie, task)["status"] == "completed"
    assert made.rows() == made.wanted()


def test_a_killed_zombie_releases_the_file(move: Make) -> None:
    for source, sink in PAIRS:
        made = move(source, sink, "append")
        zombie = made.launchers.stopped(made.task("r1"), "commit.before_fence:1")
        os.kill(zombie, signal.SIGKILL)
        assert made.launchers.wait(zombie)["code"] == -signal.SIGKILL
        made.completed("r2")
        assert made.rows() == made.wanted()
        assert made.leftovers() == []


def test_of_two_files_the_same_one_is_waited_for_first(files: Callable[[str], File], tmp_path: Path) -> None:
    """Runs that read and write two files crosswise would else wait in a circle, each with the file it reads open."""
    both = [files("duckdb"), files("duckdb")]
    for file in both:
        file.rows("CREATE TABLE items (id INTEGER)")
    hold = "import duckdb, sys; held = [*map(duckdb.connect, sys.argv[1:])]; print(flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", hold, *(str(file.path) for file in both)]
    waited = set()
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for source, sink in (both, both[::-1]):
            ends = {"source": {"connection": "from", "object": "items"}, "sink": {"connection": "to", "object": "t"}}
            connections = {"from": source.connection, "to": sink.connection}
            spec = ends | {"sink": ends["sink"] | {"write": "replace"}}
            job = Job.from_task(task_of("r1", "u", connections, spec, tmp_path))
            job = replace(job, source=replace(job.source, patience=0.1), sink=replace(job.sink, patience=0.1))
            with pytest.raises(Unavailable) as refused, opened(job):
                """It does not get so far."""
            waited.add({"from": source, "to": sink}[str(refused.value.where).rpartition(" ")[2]].path)
        holder.communicate()
    assert len(waited) == 1


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_positions_of_a_stream_move_with_the_fence_and_only_from_where_they_stand(
    files: Callable[[str], File], kind: str
) -> None:
    state = files(kind).target("t", "append").state
    state.make()
    assert (state.positions(), state.last_split()) == ({}, 0)
    state.make_positions()
    old = state.claim(("00",), "r1").generation
    with state.owned(old):
        state.begin({"a/0": "5", "a/1": "7"})
    new = state.claim(("00",), "r2").generation
    with state.owned(new):
        state.begin({"a/0": "0", "a/2": "1"})  # the first keeps its position
    moves = (positions.Move("a/0", "5", "6"), positions.Move("a/1", "7", "9"))

    def moved(generation: int, *found: positions.Move) -> None:
        with state.session.transaction():
            state.fence("00", 4, "r2", generation, Counters(rows_in=1, rows_out=1), found)

    for generation, found in (
        (old, moves),
        (new, (moves[0], positions.Move("a/1", "8", "9"))),
        (new, (positions.Move("b", "1", "2"),)),
    ):
        with pytest.raises(Fenced):
            moved(generation, *found)
        assert (state.positions(), state.last_split()) == ({"a/0": "5", "a/1": "7", "a/2": "1"}, 0)
    moved(new, *moves)
    assert (state.positions(), state.last_split()) == ({"a/0": "6", "a/1": "9", "a/2": "1"}, 4)
    with pytest.raises(Fenced):
        moved(new, *moves)
    assert state.counters().rows_in == 1
    with state.owned(new):
        state.restart({"a/1": "0"})
    assert (state.positions(), state.last_split()) == ({"a/1": "0"}, 4)
    state.drop()
    assert state.positions() == {}


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_the_fence_alone_keeps_an_older_generation_out(files: Callable[[str], File], kind: str) -> None:
    """In one process, so that no lock of the file separates the two generations."""
    file = files(kind)
    target = file.target("t", "append")
    target.state.make()
    column = Column("id", "bigint")
    target.make((column,))
    old = target.state.claim(("00",), "r1").generation
    with target.state.owned(old):
        target.state.write_plan(RunRow("r1", "append", "id", None, "9", Counters()), (Split(0),))
    order = WriterOrder("t", (column,), True, "00", "r1", old, lambda: None, lambda _: None)  # noqa: FBT003 - `arrow` is the third
    writer = target.writer(order)
    writer.open()
    batch = pa.RecordBatch.from_pydict({"id": [1, 2]})
    writer.write(Chunk("00", 0, 0, batch, 2, read=2))
    new = target.state.claim(("00",), "r2").generation
    assert new == old + 1
    with pytest.raises(Fenced):
        writer.write(Chunk("00", 0, 1, None, 2, last=True, read=2))
    with pytest.raises(Fenced):
        target.publish(PublishOrder("r1", old, "9", ("id",), {}, None))
    writer.close()
    target.close()
    assert file.rows("SELECT count(*) FROM t") == [(0,)]
    assert file.rows("SELECT count(*) FROM _penstock_splits WHERE done = 1") == [(0,)]


def test_a_file_that_another_process_is_creating_is_waited_for(move: Make, files: Callable[[str], File]) -> None:
    made, other = move("sqlite", "duckdb", "append"), files("duckdb")
    other.script("CREATE TABLE there (id INTEGER)", "CHECKPOINT")
    made.sink.path.touch()
    pid = made.launchers.start(task := made.task("r1"))
    assert made.launchers.wait(pid, 0.5) == {"running": True}
    made.sink.path.write_bytes(other.path.read_bytes())
    assert made.launchers.ended(pid, task)["status"] == "completed"
    assert made.rows() == made.wanted()


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_source_and_sink_in_one_file(move: Make, kind: str) -> None:
    made = move(kind, kind, "replace")
    made.sink = made.source
    assert made.completed("r1")["rows_out"] == 600
    assert made.rows() == made.wanted()


@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_two_writers(move: Make, source: str, sink: str) -> None:
    for write in ("append", "replace"):
        made = move(source, sink, write, limits={"workers": 2})
        made.split_rows = 50
        assert made.completed("r1")["rows_out"] == 600
        assert made.rows() == made.wanted()


@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_a_deleted_pipeline_keeps_or_drops_its_table(move: Make, source: str, sink: str) -> None:
    for table in (False, True):
        made = move(source, sink, "replace")
        made.completed("r1")
        made.run("r2", "commit.done:1=kill")
        task = made.task("r3", kind="cleanup", drop_table=table)
        assert made.launchers.run(task)["status"] == "completed"
        assert (made.rows() == []) == table
        assert made.leftovers() == []
        assert made.run("r4")["status"] == "fenced"


@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_a_replace_keeps_the_table_and_what_depends_on_it(move: Make, source: str, sink: str) -> None:
    made = move(source, sink, "replace")
    made.sink.script(
        "CREATE TABLE copied (id BIGINT NOT NULL PRIMARY KEY, name TEXT DEFAULT 'none', price DOUBLE, note TEXT DEFAULT 'x')",
        "CREATE VIEW shown AS SELECT id FROM copied WHERE price > 3",
        "INSERT INTO copied (id) VALUES (1), (99999)",
    )
    for run in ("r1", "r2"):
        made.completed(run)
        assert made.rows() == made.wanted()
    assert made.sink.rows("SELECT count(*), min(note) FROM copied") == [(600, "x")]
    assert made.sink.rows("SELECT count(*) FROM shown")[0][0] > 0


@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_a_merge_puts_changes_and_deletes_into_the_table(move: Make, source: str, sink: str) -> None:
    made = move(source, sink, "merge")
    made.source.script(
        "CREATE TABLE changes (id INTEGER PRIMARY KEY, k BIGINT, v VARCHAR, seq INTEGER, gone BOOLEAN)",
        "INSERT INTO changes VALUES (1, 1, 'old', 5, false), (2, 1, 'new', 7, false), (3, 1, 'late', 6, false), "
        "(4, 2, 'x', 1, false), (5, 3, 'y', 1, false), (6, 3, NULL, 2, true), (7, 4, 'z', 1, NULL)",
    )
    task = made.task("r1")
    spec = task["pipeline"]["spec"]
    spec["source"] = {"connection": "from", "object": "changes"}
    spec["mapping"] = {"fields": [{"target": name, "from": name} for name in ("k", "v", "seq", "gone")]}
    spec["sink"] = {
        "connection": "to",
        "object": "kept",
        "write": "merge",
        "key": ["k"],
        "version": "seq",
        "delete": "gone",
    }
    found = made.launchers.run(task)
    assert found["status"] == "completed", found
    assert made.sink.rows("SELECT k, v, seq FROM kept ORDER BY k") == [(1, "new", 7), (2, "x", 1), (4, "z", 1)]
    made.source.script(
        "DELETE FROM changes",
        "INSERT INTO changes VALUES (8, 1, 'older', 6, false), (9, 2, 'x2', 1, false)",
        "INSERT INTO changes VALUES (10, 4, NULL, 0, true), (11, 5, 'n', 9, false)",
    )
    assert made.launchers.run(task | {"run": "r2"})["counters"]["rows_out"] == 4
    assert made.sink.rows("SELECT k, v, seq FROM kept ORDER BY k") == [
        (1, "new", 7),
        (2, "x2", 1),
        (4, "z", 1),
        (5, "n", 9),
    ]


def test_scd2_is_refused_before_anything_is_made(move: Make) -> None:
    for source, sink in PAIRS:
        made = move(source, sink, "append")
        task = made.task("r1")
        task["pipeline"]["spec"]["sink"] |= {"write": "scd2", "key": ["id"], "version": "id"}
        found = made.launchers.run(task)
        assert found["status"] == "failed"
        assert f"connections of type {sink} cannot `scd2`" in found["error"]["what"]
        assert not made.sink.path.exists()


@all_pairs(
    kind=["sqlite", "duckdb"],
    write=["append", "merge", "replace"],
    rule=[
        "id INTEGER PRIMARY KEY CHECK (id % 100 <> 7), name VARCHAR",
        "id INTEGER PRIMARY KEY, name VARCHAR CHECK (name NOT LIKE '%07' AND name <> 'item 7')",
    ],
)
def test_rows_that_the_file_refuses_are_dead_letters(
    move: Make, catalog: str, kind: str, write: str, rule: str
) -> None:
    made = move(kind, kind, write, errors={"dead_letter": {"fail_above": "5%"}})
    made.sink.script(f"CREATE TABLE copied ({rule}, price DOUBLE)")
    done = made.launchers.run(made.task("r1", letters=catalog))
    assert done["status"] == "completed", done["error"]
    with psycopg.connect(catalog) as session:
        found = session.execute('SELECT "values"->>\'id\' FROM ops.dead_letters ORDER BY "row", split').fetchall()
    bad = {int(row[0]) for row in found}
    by_name = "LIKE" in rule
    assert bad == {row[0] for row in made.wanted() if row[0] % 100 == 7 and not (by_name and not row[1])}
    assert (done["counters"]["rows_in"], done["counters"]["dead"]) == (600, len(bad))
    assert made.rows() == [row for row in made.wanted() if row[0] not in bad]


@pytest.mark.parametrize("write", ["append", "replace", "merge"])
def test_texts_that_are_not_utf_8_are_dead_letters_as_key_and_cursor(move: Make, catalog: str, write: str) -> None:
    made = move("sqlite", "duckdb", write, rows=1, errors={"dead_letter": {"fail_above": "90%"}})
    made.split_rows = 3
    made.source.script("CREATE TABLE texts (k TEXT NOT NULL PRIMARY KEY, x TEXT)")
    rounds = [
        (["'a'", "x'62ff'", "'b'", "x'6200c3'", "'c'", "'d'", "x'65fe'"], ["a", "b", "c", "d"]),
        (["x'65ff'", "'f'", "'\\x66'"], ["f"]),
        (["'g'", "x'f0'"], ["g"]),
    ]
    letters: set[str] = set()
    wanted: list[str] = []
    for at, (added, valid) in enumerate(rounds):
        made.source.rows(f"INSERT INTO texts (k) VALUES {', '.join(f'(CAST({one} AS TEXT))' for one in added)}")
        task = made.task(f"r{at}", letters=catalog)
        task["pipeline"]["spec"]["source"]["object"] = "texts"
        if write != "replace":
            task["pipeline"]["spec"]["source"]["cursor"]["field"] = "k"
            task["pipeline"]["spec"]["sink"] |= {"key": ["k"]} if write == "merge" else {}
        done = made.launchers.run(task)
        assert done["status"] == "completed", done["error"]
        wanted += valid
        letters |= {one for one in added if one.startswith("x'")}
        late = ["\\x66"] if at and write == "replace" else []  # sorts below what the others have read
        assert [row[0] for row in made.sink.rows("SELECT k FROM copied ORDER BY k")] == sorted([*late, *wanted])
        with psycopg.connect(catalog) as session:
            found = session.execute("SELECT DISTINCT \"values\"->>'k' FROM ops.dead_letters").fetchall()
        assert {row[0] for row in found} == {f"\\x{one[2:-1]}" for one in letters}


@all_pairs(
    kind=["sqlite", "duckdb"],
    write=["append", "replace"],
    rule=["UNIQUE (name)", 'CREATE UNIQUE INDEX "of (name" ON "copied" (name)'],
)
def test_a_value_that_has_to_be_unique_is_written_once(
    move: Make, catalog: str, kind: str, write: str, rule: str
) -> None:
    made = move(kind, kind, write, errors={"dead_letter": {"fail_above": "90%"}})
    made.source.script("UPDATE items SET name = 'item ' || id WHERE name = '' AND id % 70 <> 1")  # 9 stay, in 3 splits
    inside, *after = ("", rule) if rule.startswith("CREATE") else (f", {rule}",)
    made.sink.script(f"CREATE TABLE copied (id INTEGER, name VARCHAR, price DOUBLE{inside})", *after)
    done = made.launchers.run(made.task("r1", letters=catalog))
    assert done["status"] == "completed", done["error"]
    names = [row[1] for row in made.wanted()]
    kept = [row for at, row in enumerate(made.wanted()) if row[1] is None or row[1] not in names[:at]]
    assert done["counters"]["dead"] == len(names) - len(kept) > 0
    assert made.rows() == kept


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_replace_keeps_what_depends_on_the_table(move: Make, kind: str) -> None:
    made = move(kind, kind, "replace")
    made.sink.script(
        "CREATE TABLE copied (id INTEGER PRIMARY KEY, name VARCHAR DEFAULT 'none', price DOUBLE, CHECK (id > 0))",
        "CREATE INDEX by_price ON copied (price)",
        "CREATE VIEW cheap AS SELECT id FROM copied WHERE price < 9",
    )
    if kind == "sqlite":
        made.sink.script("CREATE TABLE log (id INTEGER)")
        made.sink.rows("CREATE TRIGGER told AFTER INSERT ON copied BEGIN INSERT INTO log VALUES (NEW.id); END")
    catalog = "sqlite_master" if kind == "sqlite" else "duckdb_tables()"
    before = made.sink.rows(f"SELECT sql FROM {catalog} WHERE sql LIKE '%copied%' ORDER BY 1")
    assert made.completed("r1")["rows_out"] == made.completed("r2")["rows_out"] == 600
    assert made.sink.rows(f"SELECT sql FROM {catalog} WHERE sql LIKE '%copied%' ORDER BY 1") == before
    assert made.sink.rows("SELECT count(*) FROM cheap")[0][0] > 0
    assert made.rows() == made.wanted()


def test_a_replace_that_would_break_a_foreign_key_is_refused(move: Make) -> None:
    made = move("sqlite", "duckdb", "replace")
    made.sink.script(
        "CREATE TABLE copied (id INTEGER PRIMARY KEY, name VARCHAR, price DOUBLE)",
        "CREATE TABLE child (of INTEGER REFERENCES copied (id))",
    )
    error = made.launchers.run(made.task("r1"))["error"]
    assert (error["code"], "would break foreign key" in error["what"]) == ("refused", True), error


@all_pairs(
    write=["append", "replace", "merge"],
    rule=[
        "name VARCHAR UNIQUE ON CONFLICT {}, price DOUBLE",
        "name VARCHAR, price DOUBLE, UNIQUE (name) on  conflict {}",
    ],
    action=["REPLACE", "IGNORE"],
)
def test_a_table_whose_constraints_drop_rows_in_silence_is_refused(
    move: Make, write: str, rule: str, action: str
) -> None:
    made = move("sqlite", "sqlite", write)
    made.sink.script(f"CREATE TABLE copied (id INTEGER PRIMARY KEY, {rule.format(action)})")
    error = made.launchers.run(made.task("r1"))["error"]
    assert (error["code"], f"ON CONFLICT {action}" in error["what"]) == ("refused", True), error
    made.sink.script(
        "DROP TABLE copied",
        "CREATE TABLE copied (id INTEGER PRIMARY KEY ON CONFLICT ABORT, name VARCHAR DEFAULT 'ON CONFLICT IGNORE' "
        "/* on conflict replace */, price DOUBLE)",
    )
    assert made.completed("r2")["rows_out"] == 600


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_key_that_treats_different_texts_as_equal_is_refused(move: Make, kind: str) -> None:
    made = move(kind, kind, "merge")
    made.sink.script("CREATE TABLE copied (id INTEGER, name VARCHAR COLLATE NOCASE PRIMARY KEY NOT NULL, price DOUBLE)")
    task = made.task("r1")
    task["pipeline"]["spec"]["sink"]["key"] = ["name"]
    error = made.launchers.run(task)["error"]
    assert (error["code"], "the key `name` treats different texts" in error["what"]) == ("refused", True), error
