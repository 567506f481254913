"""Changes of a table in every sink that can hold them: row for row what the source has, whatever is killed between."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.dataflows.connectors.conftest import System
from tests.dataflows.connectors.ducks import query_file
from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")

SINKS: Final = ("postgres", "mysql", "sqlite", "duckdb")
FILES: Final = ("sqlite", "duckdb")
SOON: Final = ("mysql", "sqlite", pytest.param("duckdb", marks=pytest.mark.chaos))
"""Without PostgreSQL, which other tests have; what SQLite and DuckDB share is told by one of them."""
LETTERS: Final = {"dead_letter": {"fail_above": 1.0}}
POINTS: Final = (
    "read.block:1", "commit.mid_copy", "commit.copied", "commit.before_fence", "commit.sent",
    "commit.done", "cdc.gathered",
)  # fmt: skip
SHOWN: Final = 100
COLUMNS: Final = "id int, part text, name text, price numeric(12,2), body text, PRIMARY KEY (part, id)"


@dataclass
class Mirror:
    """Stream of the changes of a table to a table `copied` of another system."""

    made: Changes
    system: System

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run a statement in the sink; return its rows."""
        connection = self.system.connection
        if self.system.name == "mysql":
            return self.system.rows(query)
        if self.system.name == "duckdb":
            return query_file(Path(connection["path"]), query)
        if self.system.name == "sqlite":
            with closing(sqlite3.connect(connection["path"], isolation_level=None)) as session:
                return session.execute(query).fetchall()
        with psycopg.connect(connection["dsn"], autocommit=True) as session:
            done = session.execute(query.encode())
            return done.fetchall() if done.description else []

    def task(self, run: str, key: tuple[str, ...] = ("id",), **changes: Any) -> dict[str, Any]:
        """Return the task of a run that ends after what is there now, if nothing ends it before."""
        folder = self.made.folder
        drain = folder / "drain"
        drain.touch()
        sink = self.system.sink("merge", key=list(key))
        task = self.made.task(run, **({"sink": sink} | changes))
        task["connections"][self.system.name] = self.system.connection
        return task | {"drain": str(drain), "secrets": str(folder)}

    def run(self, run: str, key: tuple[str, ...] = ("id",), **changes: Any) -> dict[str, Any]:
        """Run until all that is there now is in the sink; return the result."""
        result = self.made.launchers.run(self.task(run, key, **changes))
        assert result["status"] == "completed", result
        return result

    def refused(self, run: str, **changes: Any) -> dict[str, Any]:
        """Run; return the error."""
        return dict(self.made.launchers.run(self.task(run, **changes))["error"])

    def same(self, *columns: str) -> None:
        """Check that both tables have the same values, as texts."""
        names = ", ".join(columns)
        source = self.made.session.execute(f"SELECT {names} FROM {self.made.source}").fetchall()
        assert plain(self.rows(f"SELECT {names} FROM {self.system.object}")) == plain(source)

    def codes(self) -> list[str]:
        """Return the codes of the dead letters."""
        assert self.made.letters
        with psycopg.connect(self.made.letters) as session:
            query = "SELECT code FROM ops.dead_letters WHERE pipeline = %s ORDER BY 1"
            return [code for (code,) in session.execute(query, (self.made.uid,)).fetchall()]


def plain(rows: list[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    """Return rows, in order, with each value as a text that is the same in every system."""
    return sorted(tuple(map(_text, row)) for row in rows)


def _text(value: Any) -> str:
    """Return a value as a text; files of SQLite have times and booleans as texts and numbers."""
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, datetime):
        utc = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return utc.isoformat(" ", "microseconds")
    if isinstance(value, timedelta):
        value = (datetime(2000, 1, 1) + value).time()
    if isinstance(value, clock_time):
        return value.isoformat("microseconds")
    if isinstance(value, bool):
        return str(int(value))
    text = str(value).removesuffix("Z")
    return text if len(text) < SHOWN else f"{len(text)} {hash(text)}"


@pytest.fixture
def mirrors(changes: Callable[..., Changes], new_system: Callable[[str], System]) -> Callable[..., Mirror]:
    """Make a stream into an unused table of a system."""

    def make(name: str, columns: str = COLUMNS) -> Mirror:
        return Mirror(changes(columns, 0), new_system(name))

    return make


# -- whole transactions, at random --

KEYS: Final = tuple((part, number) for part in ("a", "A", "a ") for number in range(3))


def transaction(chance: random.Random) -> str:
    """Return a random transaction over few keys."""
    steps = [statement(chance) for _ in range(chance.randrange(1, 6))]
    return f"BEGIN; {'; '.join(steps)}; {chance.choice(['COMMIT', 'COMMIT', 'COMMIT', 'ROLLBACK'])}"


def statement(chance: random.Random) -> str:
    (part, number), (other, another) = chance.sample(KEYS, 2)
    one, two = f"(part, id) = ('{part}', {number})", f"(part, id) = ('{other}', {another})"
    values = f"{number}, '{part}', 'n', {chance.randrange(99)}, repeat(md5(random()::text), 300)"
    swap = (
        f"UPDATE {{s}} SET id = -1 WHERE {one}; UPDATE {{s}} SET part = '{part}', id = {number} WHERE {two}; "
        f"UPDATE {{s}} SET part = '{other}', id = {another} WHERE id = -1"
    )
    return chance.choice(
        [
            f"INSERT INTO {{s}} VALUES ({values}) ON CONFLICT (part, id) DO UPDATE SET price = excluded.price",
            f"UPDATE {{s}} SET price = price + 1, name = NULL WHERE {one}",
            f"UPDATE {{s}} SET body = repeat('{chance.randrange(10)}', 9000) WHERE {one}",
            f"UPDATE {{s}} SET body = NULL WHERE {one}",
            f"DELETE FROM {{s}} WHERE {one}",
            f"DELETE FROM {{s}} WHERE {two}; UPDATE {{s}} SET part = '{other}', id = {another} WHERE {one}",
            swap,
            *(["TRUNCATE {s}"] if chance.random() < 0.2 else []),
        ]
    )


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(3, 1), *(pytest.param(60, seed, marks=pytest.mark.chaos) for seed in (2, 3))],
)
@pytest.mark.parametrize("name", [pytest.param("postgres", marks=pytest.mark.chaos), *SINKS[1:]])
def test_random_transactions_are_equal_after_kills(
    mirrors: Callable[..., Mirror], name: str, kills: int, seed: int
) -> None:
    one, chance, key = mirrors(name), random.Random(seed), ("part", "id")
    one.made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", *(transaction(chance) for _ in range(20)))
    points = [POINTS[0], *chance.choices(POINTS[1:], k=kills - 1)]
    for at, point in enumerate(points):
        one.made.do(f"INSERT INTO {{s}} VALUES ({at}, 'at least one change')")
        killed = one.made.launchers.run(one.task(f"r{at // 10}", key) | {"attempt": at + 1}, f"{point}=kill")
        assert killed == {"killed": 9}, (point, killed.get("error"))
        one.made.do(*(transaction(chance) for _ in range(chance.randrange(1, 20))))
        if at % 10 == 9:
            one.run(f"r{at // 10}", key)
            one.same("id", "part", "name", "price", "body")
    one.made.do("UPDATE {s} SET id = id + 1000", "UPDATE {s} SET name = 'last'")
    assert one.run("last", key)["counters"]["dead"] == 0
    one.same("id", "part", "name", "price", "body")


# -- values --

KINDS: Final = """id int PRIMARY KEY, a smallint, b bigint, c real, d double precision, e numeric, f numeric(10,3),
g boolean, h date, i time, j timestamp, k timestamptz, l interval, m uuid, n bytea, o json, p jsonb, q int[], r text[],
s inet, t varchar(20), u char(5), v numeric(8,2)[], w text"""
ROWS: Final = """(1, 3, 4, 1.5, 0.1, 12345678901234567890.123, 1.500, true, '2024-02-29', '12:34:56.789',
'2024-01-01 00:00:00.000001', '2024-01-01 00:00:00+02', '1 year 2 days 03:00', '00000000-0000-4000-8000-00000000000a',
'\\x00ff', '{"a":  1}', '{"b": [1, null, "ä"]}', '{1,NULL,3}', '{a,"b, \\"c\\"",NULL}', '10.0.0.1/8', ' v ', 'w',
'{1.50,2.25}', E'o\\n''"\\\\'), (2, -3, -4, 0, -1e10, -0.1, -0.001, false, '1999-12-31', '00:00', '2000-02-28 23:59:59',
'2037-01-01 00:00+00', '-1 day', '00000000-0000-4000-8000-00000000000b', '', '[]', '{}', '{}', '{}', '::1', '', '',
'{}', ''), (3)"""


@pytest.mark.parametrize("name", SOON)
def test_values_are_those_of_a_batch(mirrors: Callable[..., Mirror], name: str) -> None:
    one = mirrors(name, KINDS)
    one.made.do(f"INSERT INTO {{s}} VALUES {ROWS.replace('(3)', '(3' + ', NULL' * 23 + ')')}")
    one.run("r1")
    snapshot = plain(one.rows(f"SELECT * FROM {one.system.object}"))
    batch = {"connection": one.system.name, "object": one.system.object.replace("copied", "batch"), "write": "replace"}
    source = {"connection": "shop", "object": one.made.source}
    task = one.task("b1", mode="batch", source=source, sink=batch) | {"uid": "00000000-0000-4000-b000-000000000001"}
    done = one.made.launchers.run(task)
    assert done["status"] == "completed", done["error"]
    read = plain(one.rows(f"SELECT * FROM {batch['object']}"))
    assert snapshot == read
    one.made.do("UPDATE {s} SET id = id + 10", "UPDATE {s} SET id = id - 10")
    one.made.do("DELETE FROM {s} WHERE id = 3", "INSERT INTO {s} (id) VALUES (3)")
    one.run("r2")
    assert plain(one.rows(f"SELECT * FROM {one.system.object}")) == read


BEFORE: Final = {
    "bigint": ("7", "8"), "numeric(10,3)": ("1.500", "2.500"), "boolean": ("false", "true"),
    "date": ("'2024-02-29'", "'2024-03-01'"), "time": ("'12:34:56.5'", "'12:34:57'"),
    "timestamp": ("'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.1'"),
    "timestamptz": ("'2024-01-01 00:00:00+02'", "'2024-01-01 00:00:01.5+02'"),
    "uuid": ("'00000000-0000-4000-8000-00000000000a'", "'00000000-0000-4000-8000-00000000000b'"),
    "bytea": ("'\\x00ff'", "'\\x00fe'"), "varchar(9)": ("'a, \"b\"'", "'c'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOON)
def test_values_that_were_not_sent_follow_a_key_of_any_type(mirrors: Callable[..., Mirror], name: str) -> None:
    columns = [f"k{at} {kind}" for at, kind in enumerate(BEFORE)]
    keys = [f"k{at}" for at in range(len(BEFORE))]
    made = mirrors(name, f"{', '.join(columns)}, body text, more text, PRIMARY KEY ({', '.join(keys)})")
    made.made.do(
        "ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL",
        f"INSERT INTO {{s}} VALUES ({', '.join(one for one, _ in BEFORE.values())}, "
        "repeat('b', 9000), repeat('m', 9000))",
        "INSERT INTO {s} SELECT 1, " + ", ".join(keys[1:]) + ", repeat('c', 9000), repeat('n', 9000) FROM {s}",
    )
    made.run("r1", tuple(keys))
    for at, (_, new) in enumerate(BEFORE.values()):
        made.made.do(f"UPDATE {{s}} SET k{at} = {new}, more = repeat('{at}', 9000) WHERE k0 <> 1")
        if at == len(keys) // 2:
            made.run(f"r{at}", tuple(keys))
    assert made.run("last", tuple(keys))["counters"]["dead"] == 0
    made.same(*keys, "body", "more")


# -- what the target refuses --


@pytest.mark.parametrize("name", SINKS[1:])
def test_rows_that_the_target_refuses_become_dead_letters(mirrors: Callable[..., Mirror], name: str) -> None:
    one = mirrors(name, "id int PRIMARY KEY, price int, body text")
    one.rows("CREATE TABLE copied (id int NOT NULL PRIMARY KEY, price int CHECK (price < 1000), body text)")
    one.made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    one.made.do("INSERT INTO {s} SELECT g, g, repeat('x', 9000) FROM generate_series(1, 20) g")
    one.run("r1", errors=LETTERS)
    one.made.do("INSERT INTO {s} VALUES (500, 5000, repeat('y', 9000))")
    one.made.do("BEGIN; UPDATE {s} SET id = id + 100 WHERE id < 8; UPDATE {s} SET price = 2000 WHERE id = 9; COMMIT")
    one.made.do("BEGIN; DELETE FROM {s} WHERE id = 10; UPDATE {s} SET id = 10 WHERE id = 11; COMMIT")
    one.run("r2", errors=LETTERS)
    one.made.do("UPDATE {s} SET price = 1 WHERE id = 500", "UPDATE {s} SET price = 0 WHERE id = 9")
    one.made.do("INSERT INTO {s} VALUES (501, 1, 'b')")
    one.run("r3", errors=LETTERS)
    assert len(one.codes()) == 3
    assert "not_kept" in one.codes()
    assert one.rows(f"SELECT count(*) FROM {one.system.object}") == [(20,)]
    one.made.do("DELETE FROM {s} WHERE id = 500")
    one.same("id", "price", "body")


@pytest.mark.parametrize("name", FILES)
def test_values_of_another_unique_key_move_between_rows(mirrors: Callable[..., Mirror], name: str) -> None:
    one = mirrors(name, "id int PRIMARY KEY, email text UNIQUE, price int")
    one.rows("CREATE TABLE copied (id int NOT NULL PRIMARY KEY, email text UNIQUE, price int CHECK (price < 1000))")
    one.made.do("INSERT INTO {s} SELECT g, chr(96 + g), g FROM generate_series(1, 9) g")
    one.run("r1", errors=LETTERS)
    to = "UPDATE {s} SET email ="
    one.made.do(
        f"BEGIN; {to} NULL WHERE id = 1; {to} 'a' WHERE id = 2; {to} 'b' WHERE id = 1; COMMIT",
        f"BEGIN; DELETE FROM {{s}} WHERE id = 3; INSERT INTO {{s}} VALUES (30, 'c', 3); {to} 'd2' WHERE id = 4; COMMIT",
    )
    one.run("r2", errors=LETTERS)
    one.same("id", "email", "price")
    one.made.do(
        "BEGIN; INSERT INTO {s} VALUES (500, 'bad', 5000); "
        f"{to} NULL WHERE id = 1; {to} 'b' WHERE id = 2; {to} 'a' WHERE id = 1; COMMIT"
    )
    one.run("r3", errors=LETTERS)
    assert len(one.codes()) == 1
    one.made.do("DELETE FROM {s} WHERE id = 500")
    one.same("id", "email", "price")


TABLE: Final = "CREATE TABLE copied (id int NOT NULL PRIMARY KEY, email varchar(20)"
TRIGGER: Final = "CREATE TRIGGER keeps BEFORE DELETE ON copied FOR EACH ROW"
REFUSED: Final = [
    ("sqlite", [f"{TABLE})", f"{TRIGGER} BEGIN SELECT RAISE(IGNORE); END"], "trigger keeps of copied may change rows"),
    ("mysql", [f"{TABLE})", f"{TRIGGER} SET @a = 1"], "trigger keeps of"),
    ("mysql", [f"{TABLE} UNIQUE)"], "has another unique key, email, by which a row could replace an unrelated one"),
    *((name, [f"{TABLE} UNIQUE, own int)"], "would be written anew, and lose column `own`") for name in FILES),
    *(
        (name, [f"{TABLE})", "CREATE TABLE child (id int, FOREIGN KEY (id) REFERENCES copied (id))"], "foreign key")
        for name in ("mysql", "duckdb")
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "statements", "what"), REFUSED, ids=[f"{one[0]}-{at}" for at, one in enumerate(REFUSED)]
)
def test_a_table_that_cannot_be_a_mirror_is_refused(
    mirrors: Callable[..., Mirror], name: str, statements: list[str], what: str
) -> None:
    one = mirrors(name, "id int PRIMARY KEY, email text")
    for statement_ in statements:
        one.rows(statement_)
    assert what in one.refused("r1")["what"]


@pytest.mark.parametrize("name", SOON)
def test_nobody_else_writes_to_a_mirror(mirrors: Callable[..., Mirror], name: str) -> None:
    one = mirrors(name)
    one.made.do("INSERT INTO {s} VALUES (1, 'a', 'n', 1, 'b')")
    other = {"uid": "00000000-0000-4000-b000-000000000002"}
    batch = {"connection": name, "object": "copied", "write": "append"}
    source = {"connection": "shop", "object": one.made.source, "cursor": {"field": "id", "ordered": True}}
    key = ("part", "id")
    append = one.task("b1", key, mode="batch", source=source, sink=batch) | other
    done = one.made.launchers.run(append)
    assert done["status"] == "completed", done["error"]
    second = one.made.launchers.run(one.task("r1", key))["error"]
    assert "another pipeline writes to" in second["what"], second
    one.rows("DROP TABLE copied")
    for table in ("positions", "runs", "splits"):
        one.rows(f"DELETE FROM _penstock_{table}")
    one.run("r2", key)
    first = one.made.launchers.run(append | {"run": "b2"})["error"]
    assert "a stream of changes keeps" in first["what"], first


def shared(one: Mirror, write: str) -> dict[str, Any]:
    """Create the mirror's table; return the task of a batch of another pipeline into it."""
    one.rows(f"CREATE TABLE {one.system.object} (id int NOT NULL PRIMARY KEY, email text)")
    one.made.do("CREATE TABLE {s}_other AS SELECT 9 AS id", "INSERT INTO {s} VALUES (1, 'a')")
    cursor = {"cursor": {"field": "id", "ordered": True}} if write == "append" else {}
    source = {"connection": "shop", "object": f"{one.made.source}_other", **cursor}
    task = one.task("b1", mode="batch", source=source, sink=one.system.sink(write))
    return task | {"uid": "00000000-0000-4000-b000-000000000003"}


@pytest.mark.parametrize(("write", "what"), [("append", "a stream of changes keeps"), ("replace", "never come back")])
@pytest.mark.parametrize("name", SINKS[:3])
def test_of_a_batch_and_a_mirror_that_begin_together_the_second_is_refused(
    mirrors: Callable[..., Mirror], name: str, write: str, what: str
) -> None:
    one = mirrors(name, "id int PRIMARY KEY, email text")
    batch = shared(one, write)
    late = one.made.launchers.stopped(batch, "prepare.before_plan")
    one.run("r1")
    refused = one.made.launchers.woken(late, batch)["error"]
    assert what in refused["what"], refused
    one.run("r2")
    one.same("id", "email")


@pytest.mark.parametrize("name", SINKS[:3])
def test_a_batch_waits_for_a_mirror_that_is_beginning(mirrors: Callable[..., Mirror], name: str) -> None:
    one = mirrors(name, "id int PRIMARY KEY, email text")
    batch, stream = shared(one, "append"), one.task("r1")
    late = one.made.launchers.stopped(stream, "cdc.begun")
    other = one.made.launchers.start(batch)
    time.sleep(1)
    assert one.made.launchers.woken(late, stream)["status"] == "completed"
    refused = one.made.launchers.ended(other, batch)["error"]
    assert "a stream of changes keeps" in refused["what"], refused
    one.same("id", "email")


# -- columns --


@pytest.mark.parametrize("name", SINKS[1:])
def test_a_new_column_with_a_default_comes_with_the_values_of_older_rows(
    mirrors: Callable[..., Mirror], name: str
) -> None:
    one = mirrors(name, "id int PRIMARY KEY, body text")
    more: dict[str, Any] = {"schema": {"additive": "apply"}}
    one.made.do("INSERT INTO {s} SELECT g, repeat('x', 3000) FROM generate_series(1, 9) g")
    one.run("r1", **more)
    one.made.do(
        "ALTER TABLE {s} ADD a int NOT NULL DEFAULT 7, ADD b timestamptz DEFAULT '2024-01-01 00:00:00+02', "
        "ADD c bytea DEFAULT '\\x00ff', ADD d boolean DEFAULT true, ADD e numeric(9,2) DEFAULT 1.50, "
        "ADD f text DEFAULT 'it''s', ADD g text, ADD h int[] DEFAULT '{1,2}'",
        "UPDATE {s} SET a = 8, g = 'g' WHERE id = 1",
    )
    columns = ["id", "a", "b", "c", "d", "e", "f", "g", "h"]
    results = [one.made.launchers.run(one.task(f"r{at}", **more)) for at in (2, 3)]
    assert results[-1]["status"] == "completed", [one["error"] for one in results]
    source = one.made.session.execute(f"SELECT {', '.join(columns)} FROM {one.made.source}").fetchall()
    found = plain(one.rows(f"SELECT {', '.join(columns)} FROM copied"))
    assert [row[:8] for row in found] == [row[:8] for row in plain(source)]
    assert {row[8] for row in found} == {"{1,2}"}
