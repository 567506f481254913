"""Tables and commands at which readers of changes are known to have failed: each is followed, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")


def followed(made: Changes, *statements: str, columns: str = "*", **spec: Any) -> None:
    """Follow the snapshot, then the changes of the statements."""
    task = made.task(**spec)
    pid = made.launchers.start(task)
    made.until_same(columns)
    made.do(*statements)
    made.until_same(columns)
    assert made.stop(pid, task)["counters"]["dead"] == 0


def test_a_key_that_is_stored_out_of_line(changes: Callable[..., Changes]) -> None:
    made = changes("id text PRIMARY KEY, name text, body text", rows=0)
    made.do("ALTER TABLE {s} ALTER id SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL")
    made.do("INSERT INTO {s} SELECT repeat(chr(64 + g), 2500), 'n', repeat('b', 5000) FROM generate_series(1, 5) g")
    followed(
        made,
        "UPDATE {s} SET name = 'changed' WHERE id LIKE 'A%'",
        "UPDATE {s} SET id = 'short' WHERE id LIKE 'B%'",
        "UPDATE {s} SET id = repeat('z', 2500), name = 'long' WHERE id = 'short'",
        "DELETE FROM {s} WHERE id LIKE 'C%'",
    )
    assert made.value("SELECT count(*) FROM {t} WHERE length(body) = 5000") == 4


def test_types_that_users_make(changes: Callable[..., Changes]) -> None:
    made = changes("id int PRIMARY KEY", rows=0)
    number = made.number
    made.do(
        f"CREATE TYPE mood_{number} AS ENUM ('low', 'high')",
        f"CREATE DOMAIN short_{number} AS text DEFAULT 'd' CHECK (length(VALUE) < 9)",
        f"CREATE TYPE pair_{number} AS (a int, b text)",
        f"ALTER TABLE {{s}} ADD m mood_{number}, ADD d short_{number}, ADD p pair_{number}, ADD r int4range, "
        "ADD v bit varying(9)",
        "INSERT INTO {s} VALUES (1, 'low', 'a', '(1,\"x, y\")', '[1,5)', '101')",
    )
    text = "id, m::text, d::text, p::text, r::text, v::text"
    followed(
        made,
        "INSERT INTO {s} VALUES (2, 'high', 'b', '(,)', 'empty', '')",
        f"ALTER TYPE mood_{number} ADD VALUE 'middle' BEFORE 'high'",
        "UPDATE {s} SET m = 'middle', p = NULL, r = '(,7]' WHERE id = 1",
        columns=text,
    )


def test_names_that_need_quotes(changes: Callable[..., Changes]) -> None:
    made = changes('id int PRIMARY KEY, "Größe" int, "select" text, "a.b" text, "%s" text', rows=0)
    made.do("INSERT INTO {s} VALUES (1, 2, 'x', 'y', 'z')")
    plain = made.source
    made.do(f'ALTER TABLE {plain} RENAME TO "Odd, {made.number} %s ""name"""')
    odd = f'public."Odd, {made.number} %s ""name"""'
    task = made.task(source={"connection": "shop", "object": f'public.Odd, {made.number} %s "name"'})
    pid = made.launchers.start(task)
    same = f"SELECT NOT EXISTS ((TABLE {odd} EXCEPT ALL TABLE {{t}}) UNION ALL (TABLE {{t}} EXCEPT ALL TABLE {odd}))"
    made.until("SELECT to_regclass('{t}') IS NOT NULL")
    made.until(same)
    made.do(f"""INSERT INTO {odd} VALUES (2, 3, 'q''', 'a"b', NULL)""", f"UPDATE {odd} SET id = id + 5, \"%s\" = ''")
    made.until(same)
    made.stop(pid, task)


def test_what_was_rolled_back_does_not_come(changes: Callable[..., Changes]) -> None:
    made = changes()
    followed(
        made,
        "BEGIN; INSERT INTO {s} (id) VALUES (500); SAVEPOINT a; UPDATE {s} SET id = -id WHERE id < 50; "
        "SAVEPOINT b; DELETE FROM {s}; ROLLBACK TO a; UPDATE {s} SET name = 'kept' WHERE id = 500; COMMIT",
        "BEGIN; UPDATE {s} SET name = 'never'; ROLLBACK",
        "DO $$ BEGIN FOR g IN 1..40 LOOP BEGIN UPDATE {s} SET price = g WHERE id = g; IF g % 2 = 0 THEN "
        "RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$",
    )
    assert made.value("SELECT name FROM {t} WHERE id = 500") == "kept"


def test_a_table_that_was_renamed_is_refused(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed()
    made.do("DELETE FROM {s} WHERE id = 1", f"ALTER TABLE {{s}} RENAME TO s{made.number}_old")
    assert made.launchers.run(made.task("r2"))["error"]["code"] == "schema.missing_table"
    made.do("CREATE TABLE {s} (id int PRIMARY KEY, name text, price numeric(12,2), at timestamptz, body text)")
    refused = made.launchers.run(made.task("r2", 2))["error"]
    assert "the table was dropped and made again" in refused["what"]
    made.do("DROP TABLE {s}", f"ALTER TABLE s{made.number}_old RENAME TO s{made.number}")
    made.followed("r2", 3)


def test_a_row_that_moves_to_the_key_of_one_that_is_deleted_before(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL", "UPDATE {s} SET body = repeat(id::text, 3000)")
    followed(
        made,
        "BEGIN; DELETE FROM {s} WHERE id = 1; UPDATE {s} SET id = 1 WHERE id = 2; "
        "INSERT INTO {s} (id, body) VALUES (2, 'new'); UPDATE {s} SET id = 300 WHERE id = 1; "
        "UPDATE {s} SET id = 1 WHERE id = 2; UPDATE {s} SET name = 'third' WHERE id = 300; COMMIT",
    )
    assert made.value("SELECT left(body, 3) FROM {t} WHERE id = 300") == "222"


def test_rows_written_without_triggers_come_as_well(changes: Callable[..., Changes]) -> None:
    made = changes()
    followed(made, "BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM {s} WHERE id < 40; COMMIT")
