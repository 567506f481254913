"""Values of all kinds, rows that the target refuses, and steps that changes pass."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import pytest

from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")

KINDS = """a int, b text, c smallint, d bigint NOT NULL, e real, f double precision, g numeric, h numeric(10,3),
i boolean, j date NOT NULL, k time, l timestamp, m timestamptz, n interval, o uuid, p bytea, q json, r jsonb, s int[],
t text[], u inet, v varchar(20), w char(5), x numeric(8,2)[], "odd ""name" text, PRIMARY KEY (a, b)"""
ROW = """(1, 'key', 2, 3, 1.5, 0.1, 12345678901234567890.123, 1.500, true, '2024-02-29', '12:34:56.789',
'2024-01-01 00:00:00.000001', '2024-01-01 00:00:00+02', '1 year 2 days 03:00', gen_random_uuid(), '\\x00ff',
'{"a":  1}', '{"b": [1, null, "\\u00e4"]}', '{1,NULL,3}', '{a,"b, \\"c\\"",NULL}', '10.0.0.1/8', ' v ', 'w',
'{1.50,2.25}', 'o')"""


def test_values_of_all_kinds(changes: Callable[..., Changes]) -> None:
    made = changes(KINDS, rows=0)
    sink = {"connection": "lake", "object": made.target, "write": "merge", "key": ["a", "b"]}
    made.do(f"INSERT INTO {{s}} VALUES {ROW}")
    task = made.task(sink=sink)
    pid = made.launchers.start(task)
    text = ", ".join(f"{name}::text" for name in "abcdefghijklmnopqrstuvwx") + ', "odd ""name"'
    made.until_same(text)
    made.do(
        "UPDATE {s} SET a = 5, \"odd \"\"name\" = E'a\\nb\\t\"\\\\', p = '\\x', t = '{}', b = 'x, \"y\"'",
        f"INSERT INTO {{s}} VALUES {ROW}",
        "INSERT INTO {s} (a, b, d, j) VALUES (7, '', 1, '0001-01-01')",
        "UPDATE {s} SET e = 'NaN', f = '-Infinity', g = 'NaN' WHERE a = 7",
        "INSERT INTO {s} (a, b, d, j) VALUES (8, 'gone', 1, '2024-01-01')",
        "DELETE FROM {s} WHERE a = 8",
        "UPDATE {s} SET b = 'KEY' WHERE a = 1",
    )
    made.until_same(text)
    assert made.stop(pid, task)["counters"]["dead"] == 0


def test_rows_that_the_target_refuses_become_dead_letters(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    errors = {"dead_letter": {"fail_above": 1.0}}
    made.followed(errors=errors)
    made.do("ALTER TABLE {t} ADD CHECK (price < 1000)", "UPDATE {s} SET price = 5000 WHERE id = 7")
    made.do("INSERT INTO {s} (id, price, body) VALUES (1000, 5000, repeat('x', 9000)), (1001, 1, 'ok')")
    task = made.task("r2", errors=errors)
    pid = made.launchers.start(task)
    made.until("SELECT EXISTS (SELECT FROM {t} WHERE id = 1001)")
    made.do("UPDATE {s} SET price = 2 WHERE id = 1000", "UPDATE {s} SET price = 3 WHERE id = 7")
    made.do("UPDATE {s} SET at = 'infinity' WHERE id = 8", "DELETE FROM {s} WHERE id = 9")
    made.until("SELECT NOT EXISTS (SELECT FROM {t} WHERE id = 9)")
    result = made.stop(pid, task)
    assert made.letters
    with psycopg.connect(made.letters) as session:
        rows = session.execute("SELECT code, values FROM ops.dead_letters WHERE pipeline = %s", (made.uid,)).fetchall()
    found = [(code, (json.loads(values) if isinstance(values, str) else values)["id"]) for code, values in rows]
    assert sorted(found, key=str) == sorted(
        [("23514", 7), ("23514", 1000), ("not_kept", 1000), ("not_of_type", "8")], key=str
    )
    assert result["counters"]["dead"] == 4
    assert made.differences() == 3  # row 1000, and row 8 in both


def test_steps_pass_deletions_and_values_that_were_not_sent(changes: Callable[..., Changes]) -> None:
    made = changes(
        "id int PRIMARY KEY, name text NOT NULL, price numeric(12,2), at timestamptz, body text NOT NULL", rows=0
    )
    made.do("ALTER TABLE {s} ALTER body SET STORAGE EXTERNAL")
    made.do("INSERT INTO {s} SELECT g, 'n', g, now(), repeat('b', 5000) FROM generate_series(1, 20) g")
    task = made.task(
        transforms=[
            {"name": "upper", "set": {"body": "upper(body)", "name": "name || '!'"}},
            {"name": "some", "select": ["id", "name", "body"]},
            {"name": "rename", "rename": {"body": "content"}},
        ]
    )
    pid = made.launchers.start(task)
    wanted = "SELECT id, name || '!', upper(body) FROM {s}"
    equal = (
        f"SELECT count(*) FILTER (WHERE true) = 0 FROM (({wanted} EXCEPT ALL SELECT id, name, content FROM {{t}}) "
        f"UNION ALL (SELECT id, name, content FROM {{t}} EXCEPT ALL {wanted})) x"
    )
    made.until("SELECT to_regclass('{t}') IS NOT NULL")
    made.until(equal)
    made.do(
        "DELETE FROM {s} WHERE id < 5",
        "UPDATE {s} SET name = 'm' WHERE id < 10",
        "UPDATE {s} SET id = 50 WHERE id = 11",
    )
    made.until(equal)
    assert made.stop(pid, task)["counters"]["dead"] == 0


@pytest.mark.parametrize("statement", ["DELETE FROM {s} WHERE id = 7", "TRUNCATE {s}"])
def test_a_trigger_that_keeps_deleted_rows_is_noticed(changes: Callable[..., Changes], statement: str) -> None:
    made = changes()
    made.followed()
    made.do(
        "CREATE OR REPLACE FUNCTION w.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER keep BEFORE DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION w.keep()",
        statement,
    )
    refused = made.launchers.run(made.task("r2"))["error"]
    assert "dropped or changed" in refused["what"], refused
    assert "trigger keep" in refused["what"]
    made.do("DROP TRIGGER keep ON {t}")
    made.followed("r3")
