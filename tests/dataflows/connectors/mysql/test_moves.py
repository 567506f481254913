"""Behaviour specific to MySQL: the fence alone, merges, engines, waiting for writers, errors in one line."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from dataflows.connectors.contract import Owner, Place, ReadOrder, WriterOrder
from dataflows.connectors.mysql.connector import MysqlConnector
from dataflows.connectors.mysql.state import END_SECONDS, _name, mark_session
from dataflows.connectors.mysql.target import MysqlTarget
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.cursors import Window
from dataflows.data.splits import Split
from dataflows.data.tables import Column
from penstock.errors import Fenced, PenstockError
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink
from tests.dataflows.conftest import Launchers
from tests.mariadb import MysqlServer
from tests.pairs import soon

_numbers = count(1)
COLUMNS = (Column("id", "bigint", nullable=False), Column("name", "text"))


@dataclass
class Shop:
    """A database, and pipelines within it from ``source`` to ``sink``."""

    server: MysqlServer
    database: str
    folder: Path
    launchers: Launchers
    number: int = field(default_factory=lambda: next(_numbers))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.server.query(query, self.database)

    def script(self, *statements: str) -> None:
        for statement in statements:
            self.rows(statement)

    def settings(self, **changes: Any) -> dict[str, Any]:
        return self.server.connection(**{"database": self.database} | changes)

    def place(self, name: str, **changes: Any) -> Place:
        return Place("items", "shop", parse_connection("shop", self.settings(**changes)), name, self.server.home)

    def target(self, write: str = "append", generation: int = 0, uid: str = "u1", **sink: Any) -> MysqlTarget:
        spec = Sink.parse({"connection": "shop", "object": "sink", "write": write, **sink})
        return MysqlConnector.target(self.place("sink"), Owner(uid, "source", spec, generation, 2.0))

    @property
    def uid(self) -> str:
        return f"00000000-0000-4000-a000-{self.number:012d}"

    def task(self, run: str, write: str, cursor: str | None = None, **sink: Any) -> dict[str, Any]:
        source = {"connection": "shop", "object": "source"} | (
            {"cursor": {"field": cursor, "ordered": True}} if cursor else {}
        )
        return {
            "run": run,
            "attempt": 1,
            "uid": self.uid,
            "connections": {"shop": self.settings()},
            "pipeline": {
                "apiVersion": "penstock/v1",
                "kind": "Pipeline",
                "metadata": {"name": "items"},
                "spec": {"source": source, "sink": {"connection": "shop", "object": "sink", "write": write, **sink}},
            },
            "result": str(self.folder / f"{next(_numbers)}.json"),
            "progress": None,
            "split_rows": 2,
            "secrets": str(self.server.home),
        }

    def run(self, run: str, write: str, failpoint: str | None = None, **sink: Any) -> dict[str, Any]:
        return self.launchers.run(self.task(run, write, **sink), failpoint)

    def completed(self, run: str, write: str, **sink: Any) -> dict[str, Any]:
        found = self.run(run, write, **sink)
        assert found["status"] == "completed", found["error"]
        return found

    def error(self, run: str, write: str, **sink: Any) -> dict[str, Any]:
        found = self.run(run, write, **sink)
        assert found["status"] == "failed", found
        return dict(found["error"])


@pytest.fixture
def shop(mariadb: MysqlServer, new_schema: Callable[[], str], tmp_path: Path, launchers: Launchers) -> Shop:
    return Shop(mariadb, new_schema(), tmp_path, launchers)


def chunks(*rows: tuple[int, str]) -> list[Chunk]:
    batch = pa.RecordBatch.from_pydict(
        {"id": pa.array([one for one, _ in rows], pa.int64()), "name": pa.array([two for _, two in rows], pa.string())}
    )
    size = len(rows)
    return [Chunk("00", 0, 0, batch, size, read=size), Chunk("00", 0, 1, None, size, last=True, read=size)]


def test_the_fence_alone_keeps_an_older_generation_out(shop: Shop) -> None:
    """The older writer's session is not ended here; a commit with the current generation is the control."""
    with closing(shop.target()) as target:
        target.make(COLUMNS)
        target.state.make()
        claim = target.state.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        with target.state.owned(claim.generation):
            target.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), (Split(0), Split(1)))
        for generation, done in ((claim.generation - 1, False), (claim.generation, True)):
            committed: list[Counters] = []
            order = WriterOrder("sink", COLUMNS, True, "00", "r1", generation, lambda: None, committed.append)  # noqa: FBT003 - `arrow` is the third
            with closing(target.writer(order)) as writer:
                writer.open()
                first, marker = chunks((1, "a"), (2, "b"))
                writer.write(first)
                if done:
                    writer.write(marker)
                else:
                    with pytest.raises(Fenced):
                        writer.write(marker)
            assert (shop.rows("SELECT count(*) FROM sink")[0][0], len(committed)) == ((2, 1) if done else (0, 0))


def test_a_split_is_committed_once(shop: Shop) -> None:
    with closing(shop.target()) as target:
        target.make(COLUMNS)
        target.state.make()
        claim = target.state.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        with target.state.owned(claim.generation):
            target.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), (Split(0),))
        order = WriterOrder("sink", COLUMNS, True, "00", "r1", claim.generation, lambda: None, lambda _: None)  # noqa: FBT003 - `arrow` is the third
        with closing(target.writer(order)) as writer:
            writer.open()
            for piece in chunks((1, "a")):
                writer.write(piece)
            first, marker = chunks((1, "a"))
            writer.write(first)
            with pytest.raises(Fenced):
                writer.write(marker)
        assert shop.rows("SELECT * FROM sink") == [(1, "a")]
        assert target.state.counters().rows_out == 1


def test_a_claim_ends_the_session_of_an_older_writer_and_of_nobody_else(shop: Shop) -> None:
    with closing(shop.target()) as target, ExitStack() as stack:
        older, other = (stack.enter_context(closing(target.another(lambda: None))) for _ in range(2))
        target.state.make()
        target.state.claim(("00", "01", "02"), "r1")
        mark_session(older, "u1", "01")  # no writer has slot 00
        mark_session(other, "u2", "01")
        older.change("CREATE TABLE bulky AS SELECT 0 AS n WHERE false")
        older.change("START TRANSACTION")
        older.change("INSERT INTO bulky SELECT seq FROM seq_1_to_20000")  # its rollback takes a while
        begun = time.monotonic()
        target.state.claim(("00", "01", "02"), "r2")
        assert target.session.value("SELECT IS_USED_LOCK(?)", (_name("u1", "01"),)) is None, "the session has ended"
        assert time.monotonic() - begun < END_SECONDS, "waited no longer than that"
        with pytest.raises(PenstockError):
            older.value("SELECT 1")
        assert other.value("SELECT 1") == 1


VERSIONS = "CREATE TABLE source (n BIGINT PRIMARY KEY, id INT NOT NULL, name TEXT, v INT NOT NULL, gone BOOL)"
BY: dict[str, Any] = {"key": ["id"], "version": "v", "delete": "gone"}


def put(shop: Shop, *rows: str) -> None:
    for row in rows:
        shop.rows(f"INSERT INTO source SELECT coalesce(max(n), 0) + 1, {row} FROM source")


def test_merge_takes_the_newer_and_deletes_what_is_flagged(shop: Shop) -> None:
    shop.script(VERSIONS)
    put(shop, "1, 'a', 1, false", "2, 'b', 5, NULL", "1, 'a2', 3, false", "1, 'late', 2, false", "3, '🐎', 1, false")
    done = shop.completed("r1", "merge", **BY)
    assert done["counters"]["rows_in"] == done["counters"]["rows_out"] == 5
    assert shop.rows("SELECT id, name, v FROM sink ORDER BY id") == [(1, "a2", 3), (2, "b", 5), (3, "🐎", 1)]
    shop.script("DELETE FROM source")
    put(shop, "1, 'a', 4, true", "2, 'old', 4, true", "3, 'older', 0, false", "3, 'same', 1, false", "4, 'd', 1, true")
    shop.completed("r2", "merge", **BY)
    assert shop.rows("SELECT id, name, v FROM sink ORDER BY id") == [(2, "b", 5), (3, "same", 1)]
    shop.completed("r3", "merge", **BY)
    assert shop.rows("SELECT id, name, v FROM sink ORDER BY id") == [(2, "b", 5), (3, "same", 1)]


CUTS = (
    "prepare.planned", "commit.begin:0", "commit.mid_copy:0", "commit.before_fence:0", "commit.sent:0", "commit.done:0",
    "publish.begin", "publish.locked", "publish.moved", "publish.done", "result.before", "result.written",
)  # fmt: skip


def filled(shop: Shop) -> list[tuple[Any, ...]]:
    shop.script(VERSIONS, "CREATE TABLE sink (id INT PRIMARY KEY, name TEXT, v INT, n BIGINT)")
    shop.script("INSERT INTO sink VALUES (1, 'old', 1, 0), (2, 'newer', 9, 0), (3, 'gone', 1, 0)")
    put(shop, "1, 'a', 2, false", "2, 'b', 5, false", "3, 'c', 5, true", "4, 'd', 1, false", "5, 'e', 1, false")
    return [(1, "a", 2), (2, "newer", 9), (4, "d", 1), (5, "e", 1)]


@pytest.mark.parametrize("cut", ["commit.before_fence:0", "commit.sent:0", *CUTS[-6:]])
def test_a_killed_merge_is_applied_once(shop: Shop, cut: str) -> None:
    wanted = filled(shop)
    assert shop.run("r1", "merge", f"{cut}=kill", **BY) == {"killed": signal.SIGKILL}
    shop.completed("r1", "merge", **BY)
    assert shop.rows("SELECT id, name, v FROM sink ORDER BY id") == wanted


@pytest.mark.chaos
@pytest.mark.parametrize("run", ["r1", "r2"])
@pytest.mark.parametrize("cut", CUTS)
def test_a_merge_killed_anywhere_is_applied_once(shop: Shop, cut: str, run: str) -> None:
    wanted = filled(shop)
    assert shop.run("r1", "merge", f"{cut}=kill", **BY) == {"killed": signal.SIGKILL}
    shop.completed(run, "merge", **BY)
    assert shop.rows("SELECT id, name, v FROM sink ORDER BY id") == wanted


def test_a_suspended_merge_writes_nothing_once_it_has_a_successor(shop: Shop) -> None:
    wanted = filled(shop)
    task = shop.task("r1", "merge", **BY)
    pid = shop.launchers.stopped(task, "commit.before_fence:0")
    shop.completed("r2", "merge", **BY)
    assert shop.rows("SELECT id, name, v FROM sink ORDER BY id") == wanted
    os.kill(pid, signal.SIGCONT)
    assert shop.launchers.wait(pid)["code"] == 1
    assert json.loads(Path(task["result"]).read_text())["status"] in {"failed", "fenced"}
    assert shop.rows("SELECT id, name, v FROM sink ORDER BY id") == wanted


ITEMS = "CREATE TABLE source (id BIGINT PRIMARY KEY, name VARCHAR(20))"


def test_the_next_run_drops_what_a_killed_replace_left(shop: Shop) -> None:
    shop.script(ITEMS, "INSERT INTO source VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    shop.completed("r0", "replace")
    assert shop.run("r1", "replace", "commit.sent:0=kill") == {"killed": signal.SIGKILL}
    shadows = "SELECT table_name FROM information_schema.tables WHERE table_schema = database() AND table_name REGEXP "
    kept = f"{shadows}'^_penstock_[0-9a-f]{{12}}_'"
    assert len(shop.rows(kept)) == 1
    shop.completed("r2", "replace")
    assert shop.rows(kept) == []


@pytest.mark.parametrize(
    "change", ["DROP TABLE sink", "ALTER TABLE sink ADD more INT", "ALTER TABLE sink DROP PRIMARY KEY"]
)
def test_a_table_that_is_changed_while_a_replace_loads_is_not_replaced(shop: Shop, change: str) -> None:
    shop.script(ITEMS, "INSERT INTO source VALUES (1, 'a'), (2, 'b')")
    shop.completed("r0", "replace")
    task = shop.task("r1", "replace")
    pid = shop.launchers.stopped(task, "publish.begin")
    shop.script(change)
    os.kill(pid, signal.SIGCONT)
    assert shop.launchers.wait(pid)["code"] == 1
    error = json.loads(Path(task["result"]).read_text())["error"]
    assert (error["code"], "was changed while the run loaded" in error["what"]) == ("refused", True), error
    if "DROP TABLE" not in change:
        assert shop.rows("SELECT id, name FROM sink ORDER BY id") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("table", "write", "sink", "what"),
    [
        ("(id BIGINT, name TEXT) ENGINE = MyISAM", "append", {}, "a table of engine MyISAM has no transactions"),
        ("(id BIGINT, name TEXT)", "merge", {"key": ["id"]}, "has no unique key over exactly id"),
        ("(id BIGINT PRIMARY KEY, name VARCHAR(9) UNIQUE)", "merge", {"key": ["id"]}, "has another unique key, name"),
        (
            "(id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(9) NOT NULL UNIQUE)",
            "merge",
            {"key": ["name"]},
            "has another unique key, PRIMARY",
        ),
        ("(id BIGINT PRIMARY KEY, name TEXT)", "scd2", {"key": ["id"], "version": "id"}, "cannot `scd2`"),
        ("(id BIGINT, name GEOMETRY)", "append", {}, "does not fit into `name` of type mysql geometry"),
        ("(id YEAR, name TEXT)", "append", {}, "bigint does not fit into `id` of type mysql year"),
        ("(id BIGINT, name TEXT, more INT NOT NULL)", "append", {}, "needs values for `more`"),
    ],
)
def test_an_unwritable_target_is_refused_before_anything_is_changed(
    shop: Shop, table: str, write: str, sink: dict[str, Any], what: str
) -> None:
    shop.script(ITEMS, f"CREATE TABLE sink {table}")
    task = shop.task("r1", write, cursor="id" if write == "append" else None, **sink)
    error = shop.launchers.run(task)["error"]
    assert what in error["what"], error
    assert shop.rows("SHOW TABLES LIKE '\\_penstock%'") == []


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        ("VARCHAR(9) CHARACTER SET latin1", "'🐎'", "the target cannot hold a value (column `name`)"),
        ("ENUM('a', 'b')", "'A'", "the target cannot hold a value (column `name`)"),
        ("ENUM('a', 'b')", "'2'", "the target cannot hold a value (column `name`)"),
        ("VARCHAR(9) UNIQUE", "'twice'", "a row has the same key as another one"),
        ("VARCHAR(9) CHECK (name <> 'no')", "'no'", "a row breaks a constraint of the target"),
    ],
)
def test_a_refused_value_is_named_by_its_column_and_nothing_is_written(
    shop: Shop, kind: str, value: str, what: str
) -> None:
    shop.script(ITEMS, f"CREATE TABLE sink (id BIGINT, name {kind})")
    shop.script(f"INSERT INTO source VALUES (1, 'a'), (2, {value}), (3, {value})")
    error = shop.launchers.run(shop.task("r1", "append", cursor="id") | {"split_rows": 9})["error"]
    assert (error["code"], error["what"].startswith(what)) == ("data.bad", True), error
    assert value not in error["what"]
    assert shop.rows("SELECT * FROM sink") == []


def test_an_enum_takes_its_labels(shop: Shop) -> None:
    shop.script(ITEMS, "CREATE TABLE sink (id BIGINT, name ENUM('a', 'it''s, b'))")
    shop.script("INSERT INTO source VALUES (1, 'a'), (2, 'it''s, b'), (3, NULL)")
    assert shop.launchers.run(shop.task("r1", "append", cursor="id"))["status"] == "completed"
    assert shop.rows("SELECT name FROM sink ORDER BY id") == [("a",), ("it's, b",), (None,)]


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT UNSIGNED"])
def test_a_trigger_that_changes_digits_of_a_float_that_are_not_shown_is_named(shop: Shop, kind: str) -> None:
    """MySQL shows six digits of a FLOAT."""
    shop.script("CREATE TABLE source (id BIGINT PRIMARY KEY, x FLOAT)", "INSERT INTO source VALUES (1, 16777216)")
    shop.script(f"CREATE TABLE sink (id BIGINT, x {kind})", "INSERT INTO sink VALUES (1, 0)")
    shop.script("CREATE TRIGGER adds BEFORE INSERT ON sink FOR EACH ROW SET NEW.x = NEW.x + 2")
    assert "1 rows were changed by trigger adds" in shop.error("r1", "replace")["what"]
    assert shop.rows("SELECT id, x FROM sink") == [(1, 0.0)]


def test_a_replace_keeps_indexes_triggers_and_what_refers_to_it(shop: Shop) -> None:
    shop.script(ITEMS, "INSERT INTO source VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    shop.script("CREATE TABLE sink (id BIGINT, name VARCHAR(20), KEY of_name (name), CHECK (id > 0))")
    shop.completed("r1", "replace")
    assert shop.rows("SELECT id FROM sink ORDER BY id") == [(1,), (2,), (3,)]
    assert "of_name" in shop.rows("SHOW CREATE TABLE sink")[0][1]
    shop.script("CREATE TRIGGER t BEFORE INSERT ON sink FOR EACH ROW SET NEW.name = trim(NEW.name)")
    shop.completed("r2", "replace")
    assert shop.rows("SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = database()") == [
        ("t",)
    ]
    shop.script("ALTER TABLE sink ADD PRIMARY KEY (id)")
    shop.script("CREATE TABLE other (id BIGINT, CONSTRAINT needs FOREIGN KEY (id) REFERENCES sink (id))")
    assert shop.error("r3", "replace")["what"] == "`replace` would break foreign key needs of other"


def test_a_run_waits_for_writers(shop: Shop) -> None:
    """A row whose key was drawn before the window's end, and that is committed later, belongs to the run."""
    shop.script("CREATE TABLE source (id BIGINT AUTO_INCREMENT PRIMARY KEY, name TEXT)")
    with closing(shop.server.session(shop.database, autocommit=False)) as slow:
        cursor = slow.cursor()
        cursor.execute("INSERT INTO source (name) VALUES ('late')")
        shop.script("INSERT INTO source (name) VALUES ('early')")
        timer = threading.Timer(1.0, slow.commit)
        timer.start()
        found = shop.launchers.run(shop.task("r1", "append", cursor="id"))
        timer.join()
    assert found["status"] == "completed", found["error"]
    assert shop.rows("SELECT name FROM sink ORDER BY id") == [("late",), ("early",)]


def test_the_wait_for_a_lock_is_bounded(shop: Shop) -> None:
    shop.script("CREATE TABLE sink (id BIGINT PRIMARY KEY, name TEXT)", "INSERT INTO sink VALUES (1, 'a')")
    with (
        closing(shop.target()) as target,
        closing(shop.server.session(shop.database, autocommit=False)) as other,
    ):
        other.cursor().execute("UPDATE sink SET name = 'b'")
        began = time.monotonic()
        with pytest.raises(PenstockError) as error:
            target.session.change("UPDATE sink SET name = 'c'")
        assert (error.value.code, error.value.transient) == ("unavailable", True)
        assert time.monotonic() - began < 10


def test_cursors_that_are_null_are_refused(shop: Shop) -> None:
    shop.script("CREATE TABLE source (id BIGINT PRIMARY KEY, at DATETIME(6))", "INSERT INTO source VALUES (1, NULL)")
    error = shop.launchers.run(shop.task("r1", "append", cursor="at"))["error"]
    assert (error["code"], "`at` IS NULL" in error["what"]) == ("data.bad", True)


@pytest.mark.parametrize(
    ("changes", "code", "what"),
    [
        ({"password": "${file:HOME/wrong}"}, "unavailable.access_denied", "refuses this user or password"),
        ({"port": 1}, "unavailable.unreachable", "cannot be made"),
        ({"database": "nowhere"}, "not_found", "no such database"),
        ({"user": "stranger"}, "unavailable.access_denied", "a privilege is missing"),
        ({"host": None, "socket": "/nowhere/s"}, "unavailable.unreachable", "cannot be made"),
    ],
)
def test_a_connection_error_is_one_line(shop: Shop, changes: dict[str, Any], code: str, what: str) -> None:
    values = {
        name: value.replace("HOME", str(shop.server.home)) if name == "password" else value
        for name, value in changes.items()
    }
    settings = {name: value for name, value in shop.settings(**values).items() if value is not None}
    place = Place("items", "shop", parse_connection("shop", settings), "source", shop.server.home)
    with pytest.raises(PenstockError) as error:
        MysqlConnector.source(place)
    assert (error.value.code, what in error.value.what) == (code, True), error.value
    assert "\n" not in str(error.value)


def test_rows_of_many_packets_are_complete(shop: Shop) -> None:
    """A row above 16 MB is several packets of the protocol."""
    shop.script(
        "SET GLOBAL max_allowed_packet = 67108864", "CREATE TABLE source (id INT PRIMARY KEY, a LONGTEXT, b TEXT)"
    )
    shop.rows(
        "INSERT INTO source VALUES (1, repeat('x', 20000000), 'after'), (2, 'y', NULL), (3, repeat('z', 16777206), '')"
    )
    with closing(MysqlConnector.source(shop.place("source"))) as source:
        table = source.describe()
        schema = pa.schema([("id", pa.int32()), ("a", pa.string()), ("b", pa.string())])
        order = ReadOrder(table, schema.names, source.split_key(table), schema, 1000, lambda: None)
        with closing(source.reader(order)) as reader:
            splits = source.plan(table, source.split_key(table), Window(None, None), 10, 0)
            found = [chunk.data for split in splits for chunk in reader.read("00", split) if chunk.data is not None]
    rows = pa.Table.from_batches(found).to_pylist()
    assert [(row["id"], len(row["a"]), row["b"]) for row in rows] == [
        (1, 20000000, "after"),
        (2, 1, None),
        (3, 16777206, ""),
    ]
    shop.script("SET GLOBAL max_allowed_packet = 16777216")


REJECTED = {
    "VARCHAR(20) CHARACTER SET latin1": ("'🐎'", "1366"),
    "ENUM('a', 'b')": ("'A'", "1265"),
    "VARCHAR(20) CHECK (name <> 'no')": ("'no'", "4025"),
}
"""A value that a type refuses, and the error's number."""
WRITES = ("append", "replace", "merge")


@pytest.mark.parametrize(("write", "kind"), soon(product(WRITES, REJECTED), *zip(WRITES, REJECTED, strict=True)))
def test_rows_that_the_server_refuses_are_dead_letters(shop: Shop, catalog: str, write: str, kind: str) -> None:
    value, code = REJECTED[kind]
    sink = {"key": ["id"]} if write == "merge" else {}
    shop.script(ITEMS, f"CREATE TABLE sink (id BIGINT PRIMARY KEY, name {kind})")
    shop.script(f"INSERT INTO source VALUES (1, 'a'), (2, {value}), (3, 'b'), (4, {value}), (5, NULL)")
    task = shop.task("r1", write, cursor=None if write == "replace" else "id", **sink) | {"letters": catalog}
    task["pipeline"]["spec"]["errors"] = {"dead_letter": {"fail_above": "50%"}}
    done = shop.launchers.run(task)
    assert done["status"] == "completed", done["error"]
    assert (done["counters"]["rows_in"], done["counters"]["rows_out"], done["counters"]["dead"]) == (5, 3, 2)
    assert shop.rows("SELECT id, name FROM sink ORDER BY id") == [(1, "a"), (3, "b"), (5, None)]
    with psycopg.connect(catalog) as session:
        found = session.execute("SELECT code, \"values\"->>'id' FROM ops.dead_letters ORDER BY 2").fetchall()
    assert [row[1] for row in found] == ["2", "4"]
    if shop.server.mariadb:
        assert {row[0] for row in found} == {code}


def test_keys_equal_by_collation_are_dead_letters(shop: Shop, catalog: str) -> None:
    shop.script("CREATE TABLE source (name VARCHAR(20) COLLATE utf8mb4_bin, id BIGINT PRIMARY KEY)")
    shop.script("CREATE TABLE sink (name VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, id BIGINT)")
    shop.script("INSERT INTO source VALUES ('abc', 1), ('ABC', 2), ('d', 3), ('äbc', 4)")
    task = shop.task("r1", "merge", cursor="id", key=["name"]) | {"letters": catalog}
    task["pipeline"]["spec"]["errors"] = {"dead_letter": {"fail_above": "50%"}}
    done = shop.launchers.run(task)
    assert done["status"] == "completed", done["error"]
    assert (done["counters"]["rows_out"], done["counters"]["dead"]) == (2, 2)
    assert shop.rows("SELECT name FROM sink ORDER BY id") == [("abc",), ("d",)]


@pytest.mark.parametrize("write", ["append", "merge"])
def test_rows_that_a_trigger_refuses_are_dead_letters(shop: Shop, catalog: str, write: str) -> None:
    shop.script(ITEMS, "CREATE TABLE sink (id BIGINT PRIMARY KEY, name VARCHAR(20))")
    raises = "IF NEW.name = 'no' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"
    shop.script(f"CREATE TRIGGER strict BEFORE INSERT ON sink FOR EACH ROW {raises}")
    shop.script("INSERT INTO source VALUES (1, 'a'), (2, 'no'), (3, 'b')")
    sink = {"key": ["id"]} if write == "merge" else {}
    task = shop.task("r1", write, cursor="id", **sink) | {"letters": catalog}
    task["pipeline"]["spec"]["errors"] = {"dead_letter": {"fail_above": "50%"}}
    done = shop.launchers.run(task)
    assert done["status"] == "completed", done["error"]
    assert (done["counters"]["rows_out"], done["counters"]["dead"]) == (2, 1)
    assert shop.rows("SELECT id FROM sink ORDER BY id") == [(1,), (3,)]


SIZES = {"TINYTEXT": 256, "TEXT": 65536, "TINYBLOB": 256, "VARBINARY(8)": 9}
"""How long a value is too long for a type."""


@pytest.mark.parametrize(("write", "kind"), soon(product(WRITES, SIZES), *zip((*WRITES, "append"), SIZES, strict=True)))
def test_a_text_that_is_too_long_for_its_type_is_a_dead_letter(shop: Shop, catalog: str, write: str, kind: str) -> None:
    size = SIZES[kind]
    source = "LONGTEXT" if "TEXT" in kind else "LONGBLOB"
    shop.script(f"CREATE TABLE source (id BIGINT PRIMARY KEY, name {source})")
    shop.script(f"CREATE TABLE sink (id BIGINT PRIMARY KEY, name {kind})")
    shop.script(f"INSERT INTO source VALUES (1, repeat('x', {size - 1})), (2, repeat('x', {size})), (3, NULL)")
    sink = {"key": ["id"]} if write == "merge" else {}
    task = shop.task("r1", write, cursor=None if write == "replace" else "id", **sink) | {"letters": catalog}
    task["pipeline"]["spec"]["errors"] = {"dead_letter": {"fail_above": "50%"}}
    done = shop.launchers.run(task)
    assert done["status"] == "completed", done["error"]
    assert shop.rows("SELECT id, length(name) FROM sink ORDER BY id") == [(1, size - 1), (3, None)]
    with psycopg.connect(catalog) as session:
        found = session.execute("SELECT code, reason, \"values\"->>'id' FROM ops.dead_letters").fetchall()
    assert [(row[0] in {"1265", "1406"}, "`name`" in row[1], row[2]) for row in found] == [(True, True, "2")], found


@pytest.mark.parametrize(("write", "kind", "given"), [("append", "CHAR(3)", "'ab '"), ("merge", "BINARY(3)", "'ab'")])
def test_a_value_that_the_server_would_strip_or_pad_is_a_dead_letter(
    shop: Shop, catalog: str, write: str, kind: str, given: str
) -> None:
    shop.script(
        f"CREATE TABLE source (id BIGINT PRIMARY KEY, v {'TEXT' if kind == 'CHAR(3)' else 'BLOB'})",
        f"CREATE TABLE sink (id BIGINT PRIMARY KEY, v {kind})",
        f"INSERT INTO source VALUES (1, 'abc'), (2, {given}), (3, NULL), (4, 'abcd'), (5, ' bc')",
    )
    sink = {"key": ["id"]} if write == "merge" else {}
    task = shop.task("r1", write, cursor="id", **sink) | {"letters": catalog, "split_rows": 100}
    task["pipeline"]["spec"]["errors"] = {"dead_letter": {"fail_above": "50%"}}
    done = shop.launchers.run(task)
    assert (done["status"], done["counters"]["dead"]) == ("completed", 2), done
    kept = [
        (one, other and bytes(other, "utf8") if isinstance(other, str) else other)
        for one, other in shop.rows("SELECT * FROM sink ORDER BY id")
    ]
    assert kept == [(1, b"abc"), (3, None), (5, b" bc")]


def test_a_target_that_a_replace_creates_has_the_sources_key_and_not_nulls(shop: Shop) -> None:
    shop.script("CREATE TABLE source (a INT, b BIGINT, name VARCHAR(20) NOT NULL, more TEXT, PRIMARY KEY (b, a))")
    shop.script("INSERT INTO source VALUES (1, 2, 'x', NULL), (2, 1, 'y', 'z')")
    for run in ("r1", "r2"):
        shop.completed(run, "replace")
        query = (
            "SELECT column_name, is_nullable, column_key FROM information_schema.columns WHERE table_name = 'sink' AND "
        )
        found = shop.rows(f"{query} table_schema = database() ORDER BY ordinal_position")
        assert found == [("a", "NO", "PRI"), ("b", "NO", "PRI"), ("name", "NO", ""), ("more", "YES", "")]
        assert shop.rows("SELECT * FROM sink ORDER BY a") == [(1, 2, "x", None), (2, 1, "y", "z")]


KEYED = "SELECT column_name, column_key, column_type FROM information_schema.columns WHERE table_name = 'sink' AND "


@pytest.mark.parametrize(
    ("parts", "made"),
    [
        ("name VARCHAR(768) COLLATE utf8mb4_bin", [("name", "varchar(768)")]),
        ("name VARCHAR(765) COLLATE utf8mb4_bin, b BIGINT, c INT", "all"),
        ("name VARCHAR(700) COLLATE utf8mb4_bin, b BIGINT, c NUMERIC(30), d TIME(6)", "all"),
        (
            "name VARCHAR(3000) CHARACTER SET latin1",
            "(name) takes up to 12000 bytes, and an index of this server 3072",
        ),
        (
            "name VARCHAR(400) CHARACTER SET latin1, more VARCHAR(400) CHARACTER SET latin1",
            "(name, more) takes up to 3200 bytes",
        ),
        ("name ENUM('1', '2')", "`name` becomes a text without a length"),
        ("name VARBINARY(20)", "`name` becomes a bytea without a length"),
    ],
)
def test_a_key_of_texts_is_made_if_an_index_can_hold_it(
    shop: Shop, parts: str, made: list[tuple[str, str]] | str
) -> None:
    """Otherwise a note says why there is none."""
    names = [part.split()[0] for part in parts.split(", ") if part[0].isalpha()]
    shop.script(f"CREATE TABLE source ({parts}, PRIMARY KEY ({', '.join(names)}))")
    shop.script(f"INSERT INTO source VALUES ({', '.join(['1'] * len(names))})")
    done = shop.launchers.run(shop.task("r1", "replace"))
    assert done["status"] == "completed", done["error"]
    found = shop.rows(f"{KEYED} table_schema = database() AND column_key = 'PRI' ORDER BY ordinal_position")
    if made == "all":
        assert [row[0] for row in found] == names
    elif isinstance(made, list):
        assert [(row[0], row[2]) for row in found] == made
    else:
        assert (found, [made in note for note in done["notes"]]) == ([], [True]), done["notes"]
    assert shop.launchers.run(shop.task("r2", "replace"))["notes"] == []


def test_a_merge_key_that_no_index_can_hold_is_refused_by_plan(shop: Shop) -> None:
    shop.script("CREATE TABLE source (name VARCHAR(800) CHARACTER SET latin1 PRIMARY KEY, more INT)")
    task = shop.task("r1", "merge")
    task["pipeline"]["spec"]["sink"]["key"] = ["name"]
    error = shop.launchers.run(task)["error"]
    assert (error["code"], "takes up to 3200 bytes" in error["what"]) == ("refused", True), error


HARMFUL = {
    "sql_select_limit": "2", "sql_auto_is_null": "1", "unique_checks": "0", "foreign_key_checks": "0",
    "check_constraint_checks": "0", "max_error_count": "0", "sql_notes": "0", "completion_type": "'CHAIN'",
    "group_concat_max_len": "4", "system_versioning_asof": "'2001-01-01 00:00:00'",
}  # fmt: skip
"""Settings of a server by which its sessions would leave out rows in silence, or take rows that break a constraint."""


@pytest.fixture
def harmful_defaults(shop: Shop) -> Iterator[None]:
    """Let the server's new sessions have settings that lose rows."""
    there = {name: value for name, value in HARMFUL.items() if shop.rows(f"SHOW VARIABLES LIKE '{name}'")}
    before = {name: shop.rows(f"SELECT @@GLOBAL.{name}")[0][0] for name in there}
    try:
        for name, value in there.items():
            shop.rows(f"SET GLOBAL {name} = {value}")
        yield
    finally:
        for name, value in before.items():
            shop.rows(f"SET GLOBAL {name} = {value if isinstance(value, int) or value == 'DEFAULT' else repr(value)}")


@pytest.mark.parametrize(("write", "cursor", "sink"), [("append", "id", {}), ("merge", None, {"key": ["id"]})])
def test_settings_of_the_server_lose_no_rows_and_allow_no_wrong_ones(
    shop: Shop, harmful_defaults: None, write: str, cursor: str | None, sink: dict[str, Any]
) -> None:
    kept = " WITH SYSTEM VERSIONING" if shop.server.mariadb else ""
    shop.script(
        f"CREATE TABLE source (id BIGINT PRIMARY KEY, n BIGINT){kept}",
        "INSERT INTO source VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)",
        "CREATE TABLE other (n BIGINT PRIMARY KEY)",
        "INSERT INTO other VALUES (1), (2), (3), (4), (5), (60)",
        "CREATE TABLE sink (id BIGINT PRIMARY KEY, n BIGINT CHECK (n < 50), FOREIGN KEY (n) REFERENCES other (n))",
    )
    task = shop.task("r1", write, cursor, **sink) | {"split_rows": 100}
    found = shop.launchers.run(task)
    assert (found["status"], found.get("counters", {}).get("rows_out")) == ("completed", 5), found
    assert len(shop.rows("SELECT * FROM (SELECT * FROM sink LIMIT 100) s LIMIT 100")) == 5
    for run, wrong in (("r2", 60), ("r3", 7)):  # breaks the check; breaks the foreign key
        shop.script("DELETE FROM source WHERE id > 5", f"INSERT INTO source VALUES ({wrong}, {wrong})")
        error = shop.error(run, write, **({"cursor": cursor} if cursor else {}), **sink)
        assert error["code"] == "data.bad", error
